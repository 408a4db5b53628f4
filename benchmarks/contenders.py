"""Who is compared in http_cost.py: each makes functions that send one request and have the whole answer.

They run in a process of their own, in the environment of the library they belong to, so imports are inside.
Every one verifies certificates and keeps its connection. Only those that stand for a resilient way of calling
have a time-out: all others are used as they come, which is the cheapest.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

PATH, CHUNKED = "/items/42", "/chunked/items/42"
PAYLOAD = {"query": "refund policy", "limit": 10, "filters": {"language": "en", "year": 2024}}

# What each kind of request is sent by. Makers get the base URL and the certificate to trust, empty for none.
Kinds = dict[str, Callable[[], bytes]]


def like_requests(get: Callable[..., Any], post: Callable[..., Any], base: str) -> Kinds:
    """The kinds of a client that has the methods of requests; "read" looks at what a caller looks at."""
    url, chunked = base + PATH, base + CHUNKED

    def read() -> bytes:
        response = get(url)
        response.raise_for_status()
        assert response.headers["Content-Type"] == "application/json"
        assert response.json()["status"] == "ok"
        return response.content

    return {
        "get": lambda: get(url).content,
        "post": lambda: post(url, json=PAYLOAD).content,
        "read": read,
        "chunked": lambda: get(chunked).content,
    }


def session(base: str, ca: str) -> Kinds:
    """What everything is compared with: a session as it comes."""
    import requests

    plain = requests.Session()
    plain.verify = ca or True
    return like_requests(plain.get, plain.post, base)


def session_without_environment(base: str, ca: str) -> Kinds:
    import requests

    plain = requests.Session()
    plain.verify, plain.trust_env = ca or True, False
    return like_requests(plain.get, plain.post, base)


def session_with_urllib3_retry(base: str, ca: str) -> Kinds:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    plain = requests.Session()
    plain.verify = ca or True
    retry = Retry(total=3, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504])
    for prefix in ("http://", "https://"):
        plain.mount(prefix, HTTPAdapter(max_retries=retry))
    return like_requests(plain.get, plain.post, base)


def ours(base: str, ca: str) -> Kinds:
    """The whole client: token, idempotency keys, retries, breaker, budget, deadline, log lines, counters."""
    import logging

    from service_utils import ResilientServiceClient

    logging.basicConfig(level=logging.WARNING)
    client = ResilientServiceClient(base, "Items", 3, 10, deadline=30, verify=ca or True)
    return like_requests(client.get, client.post, "")


def fast_session(base: str, ca: str) -> Kinds:
    """Our session alone, in the place of one of requests."""
    from service_utils.http.transport import FastSession

    fast = FastSession()
    fast.verify = ca or True
    return like_requests(fast.get, fast.post, base)


def session_with_pybreaker_and_tenacity(base: str, ca: str) -> Kinds:
    """The usual way to get what our client does: two decorators, a token, a key."""
    import uuid

    import pybreaker
    import requests
    import tenacity

    plain = requests.Session()
    plain.verify = ca or True
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60, name="items")

    @breaker
    @tenacity.retry(
        stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(30),
        wait=tenacity.wait_exponential_jitter(initial=1, max=30),
        retry=tenacity.retry_if_exception_type(requests.RequestException),
        reraise=True,
    )
    def call(method: str, url: str, headers: dict[str, str], **options: Any) -> Any:
        headers["X-INTERNAL-TOKEN"] = os.environ["INTERNAL_SERVICE_TOKEN"]
        response = plain.request(method, url, headers=headers, timeout=10, **options)
        response.raise_for_status()
        return response

    return like_requests(
        lambda url: call("GET", url, {}),
        lambda url, **options: call("POST", url, {"Idempotency-Key": str(uuid.uuid4())}, **options),
        base,
    )


def urllib3_pool(base: str, ca: str) -> Kinds:
    import urllib3

    pool = urllib3.PoolManager(ca_certs=ca or None)
    url = base + PATH

    def read() -> bytes:
        response = pool.request("GET", url)
        assert response.status < 400
        assert response.headers["Content-Type"] == "application/json"
        assert response.json()["status"] == "ok"
        return response.data

    return {
        "get": lambda: pool.request("GET", url).data,
        "post": lambda: pool.request("POST", url, json=PAYLOAD).data,
        "read": read,
        "chunked": lambda: pool.request("GET", base + CHUNKED).data,
    }


def http_client(base: str, ca: str) -> Kinds:
    """The standard library's, without anything around it."""
    import http.client
    import json

    where = urlsplit(base)
    connection: http.client.HTTPConnection
    if ca:
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(where.netloc, context=context)
    else:
        connection = http.client.HTTPConnection(where.netloc)

    def get() -> bytes:
        connection.request("GET", PATH)
        return connection.getresponse().read()

    def post() -> bytes:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", PATH, json.dumps(PAYLOAD), headers)
        return connection.getresponse().read()

    return {"get": get, "post": post}


def raw_socket(base: str, ca: str) -> Kinds:
    """The limit: bytes prepared beforehand, and nobody looks at the answer."""
    import json

    where = urlsplit(base)
    sock = socket.create_connection((where.hostname, where.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca:
        sock = ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname=where.hostname)
    body = json.dumps(PAYLOAD).encode()
    request = f"GET {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nAccept: */*\r\n\r\n".encode()
    posted = (
        f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body

    def send(data: bytes) -> bytes:
        sock.sendall(data)
        return sock.recv(65536).partition(b"\r\n\r\n")[2]

    return {"get": lambda: send(request), "post": lambda: send(posted)}


def httpx_client(base: str, ca: str) -> Kinds:
    import httpx

    client = httpx.Client(verify=ssl.create_default_context(cafile=ca) if ca else True)
    return like_requests(client.get, client.post, base)


def niquests_session(base: str, ca: str) -> Kinds:
    import niquests

    plain = niquests.Session()
    plain.verify = ca or True
    return like_requests(plain.get, plain.post, base)


def pycurl_handle(base: str, ca: str) -> Kinds:
    import json

    import pycurl

    def handle(body: bytes | None) -> Callable[[], bytes]:
        curl = pycurl.Curl()
        curl.setopt(pycurl.URL, base + PATH)
        if ca:
            curl.setopt(pycurl.CAINFO, ca)
        if body is not None:
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json"])
        return curl.perform_rb

    get, post = handle(None), handle(json.dumps(PAYLOAD).encode())
    return {"get": get, "post": post}


MAKERS: dict[str, Callable[[str, str], Kinds]] = {
    "raw socket": raw_socket,
    "http.client": http_client,
    "urllib3 PoolManager": urllib3_pool,
    "requests.Session": session,
    "requests.Session, trust_env=False": session_without_environment,
    "requests.Session with urllib3 Retry": session_with_urllib3_retry,
    "ResilientServiceClient": ours,
    "FastSession alone": fast_session,
    "requests + pybreaker + tenacity": session_with_pybreaker_and_tenacity,
    "requests.Session in the peers' environment": session,
    "httpx.Client": httpx_client,
    "niquests.Session": niquests_session,
    "pycurl": pycurl_handle,
}


def make(name: str, base: str, ca: str) -> dict[str, Callable[[int], None]]:
    """The kinds of a contender, each to be told how often."""
    return {kind: _repeated(call) for kind, call in MAKERS[name](base, ca).items()}


def _repeated(call: Callable[[], bytes]) -> Callable[[int], None]:
    def repeat(count: int) -> None:
        if PATH.encode() not in call():
            raise AssertionError("that is not the answer")
        for _ in range(count - 1):
            call()

    return repeat
