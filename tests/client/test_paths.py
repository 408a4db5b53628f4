"""Where calls go: below the base URL, within its origin, and nowhere else."""

from __future__ import annotations

import pytest
import requests

from service_utils import EndReason, ResilientServiceClient, StaticToken, call_of
from service_utils.testing import Answer, FaultServer

from .conftest import MakeClient


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("", "/query", "/query"),
        ("", "query", "/query"),
        ("/", "/query", "/query"),
        ("/api", "/query", "/api/query"),
        ("/api/", "query?a=1", "/api/query?a=1"),
        ("/api", "", "/api"),
        ("", "", "/"),
        ("", "?a=1", "/?a=1"),
        ("/api", "a/./b", "/api/a/b"),
    ],
)
def test_joining(
    base: str, path: str, expected: str, make_client: MakeClient, fault_server: FaultServer
) -> None:
    """Base and path meet in one slash, and the base keeps its own path."""
    make_client(fault_server.url + base).get(path)

    assert fault_server.requests[0].target == expected


@pytest.mark.parametrize(
    "path",
    [
        "http://evil.example/",
        "HTTPS://evil.example/",
        "//evil.example/x",
        "/\\evil.example",
        "\\\\evil.example",
        "../admin",
        "/a/../../admin",
        "/%2e%2e/admin",
        "/%2E%2e%2fadmin",
        "/a%2f..%2f..%2fadmin",
        "/x\r\nX-Evil: 1",
        "/x\x00",
    ],
)
def test_paths_that_lead_elsewhere(path: str, make_client: MakeClient, fault_server: FaultServer) -> None:
    """No request and no token leaves for another origin or climbs out of the base path."""
    client = make_client(fault_server.url + "/api", token_provider=StaticToken("secret"))

    with pytest.raises(ValueError, match="path") as caught:
        client.get(path)

    assert fault_server.requests == []
    assert call_of(caught.value).ended is EndReason.CALLER_ERROR


def test_path_parameters_are_quoted(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Each value is one segment, whatever is in it; the template is what logs and metrics see."""
    response = client.get("/projects/{id}/files/{name}", path_params={"id": 7, "name": "a b/ü?#%.txt"})

    assert fault_server.requests[0].path == "/projects/7/files/a%20b%2F%C3%BC%3F%23%25.txt"
    assert call_of(response).path == "/projects/{id}/files/{name}"


@pytest.mark.parametrize("value", ["..", ".", "", None, True, b"x", "../../admin", "..%2f.."])
def test_path_parameters_that_are_no_segment(
    value: object, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """A value that would lead to another place is refused; harmless ones are quoted."""
    if isinstance(value, str) and len(value) > 2 and "%" in value:
        client.get("/a/{id}", path_params={"id": value})
        assert fault_server.requests[0].path == "/a/..%252f.."
        return
    with pytest.raises((ValueError, TypeError), match="path"):
        client.get("/a/{id}", path_params={"id": value})
    assert fault_server.requests == []


def test_path_parameters_must_fit_the_template(client: ResilientServiceClient) -> None:
    """Missing and superfluous values are named."""
    with pytest.raises(ValueError, match="needs a value for id"):
        client.get("/a/{id}", path_params={})
    with pytest.raises(ValueError, match="has no place for nme"):
        client.get("/a/{id}", path_params={"id": 1, "nme": 2})


def test_redirect_within_the_origin(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A redirect on the same origin is followed, token and all, and is one attempt."""
    fault_server.script(Answer(307, headers={"Location": "/there"}), Answer(200, "here"))

    response = client.post("/here", json={"a": 1})

    assert response.text == "here"
    assert [request.body for request in fault_server.requests] == [b'{"a": 1}'] * 2
    assert [earlier.status_code for earlier in response.history] == [307]
    assert len(call_of(response).attempts) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://evil.example/",
        "//evil.example/x",
        "https://127.0.0.1/x",
        "http://localhost:{port}/x",
        "http://[bad",
    ],
)
def test_redirect_that_leads_elsewhere(
    location: str, make_client: MakeClient, fault_server: FaultServer
) -> None:
    """A redirect to another origin comes back as the 3xx it is: no token goes there."""
    client = make_client(fault_server.url, token_provider=StaticToken("secret"))
    fault_server.default = Answer(
        302, headers={"Location": location.replace("{port}", str(fault_server.port))}
    )

    response = client.get("/x")

    assert response.status_code == 302
    assert len(fault_server.requests) == 1
    assert client.breaker.get_stats()["total"]["succeeded"] == 1


def test_redirects_not_followed_when_not_wanted(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """allow_redirects=False, and HEAD by default, as requests has it."""
    fault_server.default = Answer(302, headers={"Location": "/there"})

    assert client.get("/x", allow_redirects=False).status_code == 302
    assert client.head("/x").status_code == 302
    assert len(fault_server.requests) == 2


def test_redirect_without_end(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A service that sends its callers in circles has failed, and is not asked three times over."""
    fault_server.default = Answer(302, headers={"Location": "/x"})

    with pytest.raises(requests.TooManyRedirects):
        client.get("/x")

    assert len(fault_server.requests) == 31
    assert client.breaker.get_stats()["total"]["failed"] == 1


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "chroma:6003",
        "ftp://host",
        "http://",
        "http://host/?a=1",
        "http://host/#f",
        "http://ho st",
        "http://host:99999",
        "http://host:0",
        "http://host/../x",
        "http://user:s3cret@",
    ],
)
def test_base_url_that_is_none(base_url: str, make_client: MakeClient) -> None:
    """A base URL that is no plain http(s) address is refused by name, its password not shown."""
    with pytest.raises(ValueError, match="base_url") as caught:
        make_client(base_url)

    assert "s3cret" not in str(caught.value)
