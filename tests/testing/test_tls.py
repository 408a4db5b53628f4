"""FaultServer over https."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service_utils.testing import Answer, FaultServer, blackhole, reset_connection


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for 127.0.0.1 that trusts itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fault server")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + signed.public_bytes(pem))
    return path


@pytest.fixture
def server(certificate: Path) -> Iterator[FaultServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(tls=context) as server:
        yield server


def test_speaks_https(server: FaultServer, certificate: Path) -> None:
    """With a context the server is found at an https address and keeps its connections."""
    server.script(Answer(200, "one"), Answer(200, "two"))
    with requests.Session() as session:
        session.verify = str(certificate)
        assert [session.get(server.url, timeout=10).text for _ in range(2)] == ["one", "two"]
    assert server.url.startswith("https://")
    assert server.connections == 1


def test_a_stranger_to_the_certificate_gets_nothing(server: FaultServer) -> None:
    """A client that does not trust the certificate fails, and the server lives on."""
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url, timeout=10)
    assert server.requests == []


def test_plain_http_gets_nothing(server: FaultServer, certificate: Path) -> None:
    """A client that speaks no TLS fails, and the next one is served."""
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url.replace("https", "http"), timeout=10)
    assert requests.get(server.url, timeout=10, verify=str(certificate)).status_code == 200


def test_faults_work_over_tls(server: FaultServer, certificate: Path) -> None:
    """Resets come through, and close() ends a wait under TLS as well."""
    server.script(reset_connection(), blackhole())
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url, timeout=10, verify=str(certificate))
    with pytest.raises(requests.ReadTimeout):
        requests.get(server.url, timeout=(10, 0.5), verify=str(certificate))
    server.close()
    assert server.open_connections == 0
