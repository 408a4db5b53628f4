"""Certificates for servers and clients of one test run."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM
_HERE = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """An authority, and what it has signed.

    Args:
        folder: Where its files are kept.

    Attributes:
        authority: The file that a client trusts.
        client: The file a client shows, with its key.
        stranger: A client's certificate that some other authority has signed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._own = _signed("authority", (), None)
        other = _signed("other authority", (), None)
        self.authority = str(self._write("authority.pem", self._own.public_bytes(_PEM)))
        self.client = str(self._pair("client.pem", *_signed("client", (), (self._key, self._own))))
        self.stranger = str(self._pair("stranger.pem", *_signed("stranger", (), other)))

    def server(self, *names: str, client_needed: bool = False) -> ssl.SSLContext:
        """The context of a server with these names and addresses; this very machine's when there are none.

        Args:
            *names: Host names and numeric addresses.
            client_needed: Whether clients must show a certificate of ours.
        """
        pair = _signed("server", names or _HERE, (self._key, self._own))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pair(f"{'-'.join(names).replace(':', '_') or 'here'}.pem", *pair))
        if client_needed:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _pair(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Path:
        plain = serialization.NoEncryption()
        private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain)
        return self._write(name, private + certificate.public_bytes(_PEM))

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path


def _signed(
    subject: str,
    names: Iterable[str],
    issuer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A key and its certificate; an authority's own when nobody else issues it."""
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called if issuer is None else issuer[1].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    for extension in _identifiers(key, key if issuer is None else issuer[0]):
        builder = builder.add_extension(extension, critical=False)
    if issuer is None:
        builder = builder.add_extension(_may_sign(), critical=True)
    if names:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return key, builder.sign(key if issuer is None else issuer[0], hashes.SHA256())


def _identifiers(
    key: ec.EllipticCurvePrivateKey, issuing: ec.EllipticCurvePrivateKey
) -> tuple[x509.ExtensionType, ...]:
    """What Python insists on from 3.13 on."""
    return (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()),
    )


def _may_sign() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> Any:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
