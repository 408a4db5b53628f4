"""Cookies, credentials, redirects, proxies, requests prepared by hand, and settings of the session."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from http.cookiejar import CookieJar
from typing import Any

import requests
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from requests.cookies import create_cookie

from .rows import TIMEOUT, Row, changed, made, plain
from .rows_of_bodies import from_generator, positioned


def _jar() -> CookieJar:
    jar = requests.cookies.RequestsCookieJar()
    jar.set_cookie(create_cookie("everywhere", "1"))
    jar.set_cookie(create_cookie("below", "2", path="/below"))
    jar.set_cookie(create_cookie("elsewhere", "3", domain="example.com"))
    jar.set_cookie(create_cookie("secure", "4", secure=True))
    return jar


def _auth_changing_all(request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["X-Signed"] = "yes"
    request.url = f"{request.url}?signature=1"
    request.prepare_body(b"another body, longer than the first", None)
    return request


COOKIES = {
    "cookies of a call": plain("GET", cookies={"a": "1", "b": "2"}),
    "cookies of a call in a jar": made("GET", cookies=_jar),
    "cookies for a path": made("GET", "/below/x", cookies=_jar),
    "cookies of the session": changed({"cookies": {"s": "1"}}, plain("GET")),
    "cookies of the session and a call": changed(
        {"cookies": {"s": "1"}}, plain("GET", cookies={"a": "2", "s": "3"})
    ),
    "cookies and a header": changed({"cookies": {"s": "1"}}, plain("GET", headers={"Cookie": "by=hand"})),
    "cookies with odd values": plain("GET", cookies={"a": "b c;d", "e": '"f"', "g": ""}),
    "cookies that are empty": plain("GET", cookies={}),
    "cookies and a body": plain("POST", cookies={"a": "1"}, json={}),
    "cookies that an answer set": lambda session, url: (
        session.get(url + "/set-cookie", timeout=TIMEOUT) and session.get(url + "/a", timeout=TIMEOUT)
    ),
    "cookies that a redirect set": plain("GET", "/with-cookie", cookies={"a": "1"}),
}

AUTH = {
    "auth pair": plain("GET", auth=("user", "pässword")),
    "auth list": plain("GET", auth=["user", "password"]),
    "auth of bytes": plain("GET", auth=(b"user", b"p\xff")),
    "auth object": plain("GET", auth=HTTPBasicAuth("user", "password")),
    "auth function": plain("POST", data=b"body", auth=_auth_changing_all),
    "auth over a header": plain("GET", auth=("user", "password"), headers={"authorization": "x"}),
    "auth of the session": changed({"auth": ("user", "password")}, plain("GET")),
    "auth of session and call": changed({"auth": ("user", "password")}, plain("GET", auth=("other", "one"))),
    "auth by digest": made("GET", "/digest", auth=lambda: HTTPDigestAuth("user", "password")),
    "auth and a redirect": plain("GET", "/302", auth=("user", "password")),
    "auth in the address": lambda session, url: session.get(
        url.replace("://", "://us%20er:pass@word@") + "/a", timeout=TIMEOUT
    ),
    "auth in the address and an argument": lambda session, url: session.get(
        url.replace("://", "://user:password@") + "/a", auth=("other", "one"), timeout=TIMEOUT
    ),
}

REDIRECTS = {
    **{
        f"redirect {status} of a {method}": plain(
            method,
            f"/{status}",
            data=None if method == "GET" else b"body",
            headers={"X-Kept": "1", "Authorization": "x"},
        )
        for status in (301, 302, 303, 307, 308)
        for method in ("GET", "POST", "PUT", "DELETE")
    },
    "redirect of a head": plain("HEAD", "/302", allow_redirects=True),
    "redirect not followed": plain("GET", "/302", allow_redirects=False),
    "redirect to a relative address": plain("GET", "/relative/page#kept"),
    "redirect to a redirect": plain("POST", "/twice", json={"a": 1}),
    "redirect in a circle": changed({"max_redirects": 3}, plain("GET", "/round")),
    "redirect with letters to encode": plain("GET", "/unicode"),
    "redirect of a form": plain("POST", "/307", data={"a": "1"}),
    "redirect of a file": made("POST", "/307", data=lambda: io.BytesIO(b"of a file")),
    "redirect of a file read before": made("POST", "/307", data=positioned),
    "redirect of a generator": made("POST", "/307", data=from_generator),
    "redirect of a generator, method changed": made("POST", "/303", data=from_generator),
    "redirect of files": plain("POST", "/308", files={"f": b"x"}),
    "redirect with cookies": plain("GET", "/302", cookies={"a": "1"}),
    "redirect with params": plain("GET", "/302", params={"a": "1"}),
    "redirect followed by hand": lambda session, url: session.send(
        session.get(url + "/302", allow_redirects=False, timeout=TIMEOUT).next, timeout=TIMEOUT
    ),
    "redirect with stream": plain("GET", "/302", stream=True),
}


def _prepared(
    change: Callable[[requests.PreparedRequest], object], *, by_session: bool = True, **kind: Any
) -> Row:
    def row(session: requests.Session, url: str) -> requests.Response:
        request = requests.Request("POST", url + "/a", **kind)
        prepared = session.prepare_request(request) if by_session else request.prepare()
        change(prepared)
        return session.send(prepared, timeout=TIMEOUT)

    return row


def _sets(**values: Any) -> Callable[[requests.PreparedRequest], object]:
    return lambda prepared: prepared.__dict__.update(values)


PREPARED = {
    "prepared by the session": _prepared(lambda _: None, json={"a": 1}),
    "prepared without a session": _prepared(lambda _: None, by_session=False, data=b"body"),
    "prepared, a header added": _prepared(lambda prepared: prepared.headers.update({"X-Late": "1"})),
    "prepared, a header replaced": _prepared(
        lambda prepared: prepared.headers.update({"user-agent": "late"})
    ),
    "prepared, a header removed": _prepared(lambda prepared: prepared.headers.pop("Accept-Encoding")),
    "prepared, a header that cannot be sent": _prepared(
        lambda prepared: prepared.headers.update({"X": "a\r\nb"})
    ),
    "prepared, a header that is a number": _prepared(lambda prepared: prepared.headers.update({"X": 1})),
    "prepared, a host added": _prepared(lambda prepared: prepared.headers.update({"Host": "other.example"})),
    "prepared, headers of another kind": _prepared(_sets(headers={"X-Plain": "dict"})),
    "prepared, method in lower case": _prepared(_sets(method="post"), data=b"body"),
    "prepared, method changed": _prepared(_sets(method="GET"), data=b"body"),
    "prepared, no length": _prepared(lambda prepared: prepared.headers.pop("Content-Length"), data=b"body"),
    "prepared, body as text": _prepared(_sets(body="täxt"), data=b"12345"),
    "prepared, body as array": _prepared(_sets(body=bytearray(b"bytes")), data=b"12345"),
    "prepared, address changed": _prepared(
        lambda prepared: _sets(url=prepared.url + "?late=ü b%2f%zz")(prepared)
    ),
    "prepared, address with a part": _prepared(lambda prepared: _sets(url=prepared.url + "#part")(prepared)),
    "prepared, sent twice": lambda session, url: _twice(
        session, session.prepare_request(requests.Request("GET", url))
    ),
    "prepared, copied": lambda session, url: session.send(
        session.prepare_request(requests.Request("POST", url + "/a", json={"a": 1})).copy(), timeout=TIMEOUT
    ),
}


def _twice(session: requests.Session, prepared: requests.PreparedRequest) -> requests.Response:
    session.send(prepared, timeout=TIMEOUT)
    return session.send(prepared, timeout=TIMEOUT)


def _answering_hook(response: requests.Response, **_settings: Any) -> requests.Response:
    again = response.request.copy()
    again.headers["X-Again"] = "1"
    again.hooks = {"response": []}
    return response.connection.send(again, timeout=TIMEOUT)


OTHERS = {
    "hook": plain("GET", hooks={"response": lambda response, **_settings: None}),
    "hook that sends once more": plain("GET", hooks={"response": [_answering_hook]}),
    "hook of the session": changed({"hooks": {"response": [_answering_hook]}}, plain("GET")),
    "stream": plain("GET", stream=True),
    "stream of the session": changed({"stream": True}, plain("POST", json={})),
    "no verification": plain("GET", verify=False),
    "verification by a file": plain("GET", verify="/dev/null"),
    "time-out as a pair": lambda session, url: session.get(url + "/a", timeout=(5, 6.5)),
    "no time-out": lambda session, url: session.get(url + "/a", timeout=None),
    "time-out of no sense": lambda session, url: session.get(url + "/a", timeout=-1),
    "time-out as text": lambda session, url: session.get(url + "/a", timeout="1"),
    "proxies that do not matter": plain("GET", proxies={"https": "http://127.0.0.1:9"}),
    "scheme in upper case": lambda session, url: session.get(
        url.replace("http", "HTTP") + "/a", timeout=TIMEOUT
    ),
    "blanks round the address": lambda session, url: session.get(f" {url}/a", timeout=TIMEOUT),
    "address of bytes": lambda session, url: session.get(f"{url}/a".encode(), timeout=TIMEOUT),
    "name in upper case": lambda session, url: session.get(
        url.replace("127.0.0.1", "LocalHost") + "/a", timeout=TIMEOUT
    ),
    "no scheme": lambda session, url: session.get(url.removeprefix("http:") + "/a", timeout=TIMEOUT),
    "unknown scheme": lambda session, url: session.get(url.replace("http", "gopher") + "/a", timeout=TIMEOUT),
    "port of no sense": lambda session, url: session.get("http://127.0.0.1:x/a", timeout=TIMEOUT),
    "json that is text already": plain(
        "PUT", data=json.dumps({"a": 1}), headers={"Content-Type": "application/json"}
    ),
}

PROXIED = {
    "proxy": lambda session, url: session.get(
        "http://example.invalid/a?b#c", proxies={"http": url}, timeout=TIMEOUT
    ),
    "proxy of the session": lambda session, url: changed(
        {"proxies": {"http": url}},
        lambda each, _: each.post("http://example.invalid/a", json={}, timeout=TIMEOUT),
    )(session, url),
    "proxy with a password": lambda session, url: session.get(
        "http://example.invalid/a", proxies={"all": url.replace("://", "://us%40er:pass@")}, timeout=TIMEOUT
    ),
    "proxy and a name with umlauts": lambda session, url: session.get(
        "http://bücher.example/ü", proxies={"http": url}, timeout=TIMEOUT
    ),
    "proxy and a name with a dot behind": lambda session, url: session.get(
        "http://example.invalid./a", proxies={"http": url}, timeout=TIMEOUT
    ),
    "proxy and IPv6": lambda session, url: session.get(
        "http://[2001:db8::1]:81/a", proxies={"http": url}, timeout=TIMEOUT
    ),
    "proxy and a redirect": lambda session, url: session.get(
        url + "/302", proxies={"http": url}, timeout=TIMEOUT
    ),
    "tunnel": lambda session, url: session.get(
        "https://example.invalid/a", proxies={"https": url}, timeout=TIMEOUT
    ),
    "tunnel with a password": lambda session, url: session.get(
        "https://example.invalid/a", proxies={"https": url.replace("://", "://user:pass@")}, timeout=TIMEOUT
    ),
}
