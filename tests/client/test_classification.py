"""Every row of the classification table, against a real server: what is retried, what the breaker sees."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from service_utils import (
    CircuitOpenError,
    DeadlineExceeded,
    EndReason,
    Outcome,
    ResilientServiceClient,
    ResponseTooLarge,
    RetryPolicy,
    TokenError,
    call_of,
    fixed,
)
from service_utils.http.context import bind_context, unbind_context
from service_utils.policies.deadline import Deadline
from service_utils.testing import (
    Answer,
    FakeClock,
    FaultServer,
    Reply,
    blackhole,
    close_connection,
    garbage,
    reset_connection,
    undecodable_gzip,
)

from .conftest import MakeClient


@dataclass(frozen=True)
class Row:
    """One row: what the service does, and what must come of it."""

    reply: Reply
    retried: bool
    breaker: str
    raises: type[BaseException] | None = None

    @property
    def attempts(self) -> int:
        return 3 if self.retried else 1


CutOff = requests.exceptions.ChunkedEncodingError

STATUSES = [
    *[
        Row(Answer(status), False, "succeeded")
        for status in (200, 201, 204, 304, 400, 401, 403, 404, 409, 422)
    ],
    *[Row(Answer(status), True, "failed", requests.HTTPError) for status in (408, 429, 500, 502, 503, 504)],
    *[Row(Answer(status), False, "failed", requests.HTTPError) for status in (501, 505, 507, 599)],
]
FAULTS = {
    "closed": Row(close_connection(), True, "failed", requests.ConnectionError),
    "reset": Row(reset_connection(), True, "failed", requests.ConnectionError),
    "garbage": Row(garbage(), True, "failed", requests.ConnectionError),
    "truncated": Row(Answer(200, "x" * 99).truncated(at=50), True, "failed", CutOff),
    "truncated chunks": Row(Answer(200, "x" * 99, chunk_size=10).truncated(at=50), True, "failed", CutOff),
    "reset in the body": Row(Answer(200, "x" * 99).reset_at(50), True, "failed", CutOff),
    "undecodable": Row(undecodable_gzip(), True, "failed", requests.exceptions.ContentDecodingError),
}


def outcomes(client: ResilientServiceClient) -> dict[str, int]:
    total: dict[str, int] = client.breaker.get_stats()["total"]
    return {name: count for name, count in total.items() if count}


def attempt(client: ResilientServiceClient, row: Row, **options: Any) -> Any:
    """Make the call; returns the response or the exception."""
    if row.raises is None:
        return client.request("GET", "/x", **options)
    with pytest.raises(row.raises) as caught:
        client.request("GET", "/x", **options)
    return caught.value


@pytest.mark.parametrize("row", STATUSES, ids=lambda row: str(row.reply.status))
def test_status(row: Row, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Each status is retried, raised and counted as the table says."""
    fault_server.default = row.reply

    ended = attempt(client, row)

    assert len(fault_server.requests) == row.attempts
    assert outcomes(client) == {row.breaker: 1}
    assert len(call_of(ended).attempts) == row.attempts
    if row.raises is not None:
        assert ended.response.status_code == row.reply.status  # type: ignore[union-attr]


@pytest.mark.parametrize("row", FAULTS.values(), ids=FAULTS)
def test_broken_answer(row: Row, client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """An answer that is cut off, garbled or absent is retried and is a failure."""
    fault_server.default = row.reply

    ended = attempt(client, row)

    assert len(call_of(ended).attempts) == row.attempts
    assert outcomes(client) == {row.breaker: 1}
    assert call_of(ended).ended is EndReason.ATTEMPTS_EXHAUSTED


def test_connection_refused(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A service that is not there is retried, a failure, and named in words."""
    fault_server.stop_listening()
    client = make_client(fault_server.url, "Billing")

    with pytest.raises(
        requests.ConnectionError, match=r"^Billing: POST /pay failed after 3 attempts: Connection refused$"
    ):
        client.post("/pay", json={})

    assert outcomes(client) == {"failed": 1}


def test_host_name_not_found(make_client: MakeClient) -> None:
    """A name that does not resolve is retried, a failure, and named in words."""
    client = make_client("http://no-such-host.invalid")

    with pytest.raises(requests.ConnectionError, match="host name not found"):
        client.get("/")

    assert outcomes(client) == {"failed": 1}


def test_read_timeout(make_client: MakeClient, fault_server: FaultServer) -> None:
    """Silence is retried and is a failure."""
    fault_server.default = blackhole()
    client = make_client(fault_server.url, timeout=0.05)

    with pytest.raises(requests.Timeout) as caught:
        client.get("/x")

    assert len(call_of(caught.value).attempts) == 3
    assert outcomes(client) == {"failed": 1}


def test_timeout_in_the_body(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A body that stops coming is a time-out of the attempt, retried and a failure."""
    fault_server.default = Answer(200, "x" * 99).stalled_at(50)
    client = make_client(fault_server.url, timeout=0.05)

    with pytest.raises(requests.Timeout, match="no complete answer in time") as caught:
        client.get("/x")
    assert isinstance(caught.value, requests.ConnectionError)  # what requests itself raises

    assert len(call_of(caught.value).attempts) == 3
    assert outcomes(client) == {"failed": 1}


@pytest.mark.parametrize(
    ("method", "retried"), [("POST", True), ("GET", False)], ids=["with a key", "without a key"]
)
def test_conflict_with_retry_after(
    method: str, retried: bool, client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """A 409 with Retry-After to a keyed write means that its first attempt still runs: retried, ignored."""
    fault_server.default = Answer(409, headers={"Retry-After": "1"})

    response = client.request(method, "/x")

    assert response.status_code == 409
    assert len(fault_server.requests) == (3 if retried else 1)
    assert outcomes(client) == ({"ignored": 1} if retried else {"succeeded": 1})


def test_conflict_that_resolves(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """Once the first attempt is through, its answer comes and the call is a success."""
    fault_server.script(Answer(409, headers={"Retry-After": "1"}), Answer(200, "done"))

    assert client.post("/x", json={}).text == "done"
    assert outcomes(client) == {"succeeded": 1}


def test_too_long_an_answer(make_client: MakeClient, fault_server: FaultServer) -> None:
    """An answer beyond max_response_bytes is neither retried nor a failure, and the error names the limit."""
    fault_server.default = Answer(200, "x" * 2000)
    client = make_client(fault_server.url, max_response_bytes=1000)

    with pytest.raises(ResponseTooLarge, match="max_response_bytes=1000") as caught:
        client.get("/x")

    assert caught.value.limit == 1000
    assert len(fault_server.requests) == 1
    assert outcomes(client) == {"ignored": 1}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"json": {"a": object()}}, TypeError),
        ({"json": float("nan")}, requests.exceptions.InvalidJSONError),
        ({"headers": {"X-A": "a\r\nb"}}, requests.exceptions.InvalidHeader),
        ({"path": "http://elsewhere/"}, ValueError),
        ({"no_such_argument": 1}, TypeError),
    ],
    ids=["unserialisable", "nan", "header", "address", "argument"],
)
def test_mistakes_of_the_caller_before_sending(
    options: dict[str, Any], error: type[Exception], client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """What cannot be sent is raised at once, as it is, and the breaker hears nothing of it."""
    path = options.pop("path", "/x")

    with pytest.raises(error) as caught:
        client.post(path, **options)

    assert call_of(caught.value).ended is EndReason.CALLER_ERROR
    assert fault_server.requests == []
    assert outcomes(client) == {}


def broken_body() -> Iterator[bytes]:
    yield b"first piece"
    raise OSError("disk on fire")


def test_exception_in_the_callers_generator(
    client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """An error of the caller's own body comes back as it is, though it looks like one of the network."""
    with pytest.raises(OSError, match="disk on fire") as caught:
        client.post("/x", data=broken_body())

    assert call_of(caught.value).ended is EndReason.CALLER_ERROR
    assert not isinstance(caught.value, requests.RequestException)
    assert outcomes(client) == {"ignored": 1}


class Unreadable:
    """A file that cannot be read."""

    def __len__(self) -> int:
        return 10

    def read(self, size: int = -1) -> bytes:
        raise OSError("bad sector")


def test_exception_in_the_callers_file(client: ResilientServiceClient) -> None:
    """The same for a file-like body."""
    with pytest.raises(OSError, match="bad sector"):
        client.put("/x", data=Unreadable())

    assert outcomes(client) == {"ignored": 1}


def test_exception_in_the_callers_hook(client: ResilientServiceClient) -> None:
    """The same for a response hook."""

    def hook(response: requests.Response, *args: object, **kwargs: object) -> None:
        raise requests.ConnectionError("the hook's own business")

    with pytest.raises(requests.ConnectionError, match="the hook's own business"):
        client.get("/x", hooks={"response": hook})

    assert outcomes(client) == {"ignored": 1}


def test_hook_that_raises_for_status(client: ResilientServiceClient, fault_server: FaultServer) -> None:
    """A hook that calls raise_for_status, as many use it, keeps the table's meaning of the status."""

    def hook(response: requests.Response, *args: object, **kwargs: object) -> None:
        response.raise_for_status()

    fault_server.script(Answer(503), Answer(404))

    with pytest.raises(requests.HTTPError) as caught:
        client.get("/x", hooks={"response": hook})

    assert caught.value.response.status_code == 404
    assert len(fault_server.requests) == 2
    assert outcomes(client) == {"succeeded": 1}


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_call(
    interrupt: type[BaseException], client: ResilientServiceClient, fault_server: FaultServer
) -> None:
    """Ctrl-C and its like pass at once; the permit is back and nothing is counted."""

    def hook(response: requests.Response, *args: object, **kwargs: object) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        client.get("/x", hooks={"response": hook})

    assert outcomes(client) == {"ignored": 1}
    assert len(fault_server.requests) == 1


def test_inbound_deadline_shorter_than_our_own(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A hasty caller must not open everybody's circuit: his time-out is ignored."""
    fault_server.default = blackhole()
    client = make_client(fault_server.url)
    token = bind_context(deadline=Deadline.after(0.05))
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            client.get("/x")
    finally:
        unbind_context(token)

    assert caught.value.sent
    assert isinstance(caught.value, requests.Timeout)
    assert call_of(caught.value).ended is EndReason.DEADLINE
    assert call_of(caught.value).attempts[0].outcome is Outcome.IGNORED
    assert outcomes(client) == {"ignored": 1}


def test_inbound_deadline_after_a_failure_of_the_service(
    make_client: MakeClient, fault_server: FaultServer
) -> None:
    """Haste at the end does not undo a failure that the service owned up to before."""
    fault_server.script(Answer(503), blackhole())
    client = make_client(fault_server.url, retry=RetryPolicy(backoff=fixed(0.0)))
    token = bind_context(deadline=Deadline.after(0.1))
    try:
        with pytest.raises(DeadlineExceeded):
            client.get("/x")
    finally:
        unbind_context(token)

    assert outcomes(client) == {"failed": 1}


def test_our_own_deadline_is_a_failure(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A service that cannot answer within our own limits has failed."""
    fault_server.default = blackhole()
    client = make_client(fault_server.url)

    with pytest.raises(DeadlineExceeded):
        client.get("/x", deadline=0.05)

    assert outcomes(client) == {"failed": 1}


class Penniless:
    """A token provider without tokens."""

    def headers(self, name: str) -> dict[str, str]:
        raise TokenError("the vault is closed")


def test_own_refusals(make_client: MakeClient, fault_server: FaultServer) -> None:
    """No token, no time: nothing is sent and the breaker ignores it."""
    client = make_client(fault_server.url, "Billing", token_provider=Penniless())

    with pytest.raises(TokenError, match=r"^Billing: GET /x was not sent: the vault is closed$") as caught:
        client.get("/x")
    assert call_of(caught.value).ended is EndReason.REFUSED
    with pytest.raises(DeadlineExceeded) as late:
        client.get("/x", deadline=0)
    assert not late.value.sent

    assert fault_server.requests == []
    assert outcomes(client) == {"ignored": 1}


def test_open_circuit(make_client: MakeClient, fault_server: FaultServer) -> None:
    """An open circuit refuses at once and is counted as a rejection."""
    client = make_client(fault_server.url, "Billing")
    client.breaker.force_open("maintenance")

    with pytest.raises(
        CircuitOpenError, match=r"^Billing: POST /pay was not sent: circuit breaker is held open"
    ):
        client.post("/pay", json={})

    assert fault_server.requests == []
    assert outcomes(client) == {"rejected": 1}


def test_certificate_that_is_not_valid(
    make_client: MakeClient, tls_server: FaultServer, fake_clock: FakeClock
) -> None:
    """A certificate nobody signed does not get better by trying again."""
    client = make_client(tls_server.url)

    with pytest.raises(requests.exceptions.SSLError, match="certificate is not valid"):
        client.get("/x")

    assert fake_clock.slept == []
    assert outcomes(client) == {"failed": 1}


def test_tls_to_a_service_that_speaks_none(make_client: MakeClient, fault_server: FaultServer) -> None:
    """A handshake that fails is retried and is a failure."""
    client = make_client(fault_server.url.replace("http:", "https:"))

    with pytest.raises(requests.exceptions.SSLError, match="after 3 attempts: TLS failure"):
        client.get("/x")

    assert outcomes(client) == {"failed": 1}


def test_tls_with_a_trusted_certificate(
    make_client: MakeClient, tls_server: FaultServer, tls_certificate: Path
) -> None:
    """With the right CA bundle https works like http."""
    client = make_client(tls_server.url, verify=str(tls_certificate))

    assert client.get("/x").status_code == 200


@pytest.fixture(scope="module")
def tls_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1; its key lies beside it."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return path


@pytest.fixture
def tls_server(tls_certificate: Path) -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_certificate, tls_certificate.parent / "key.pem")
    with FaultServer(tls=context) as server:
        yield server
