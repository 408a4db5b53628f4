"""Starting and ending the servers that the benchmarks call."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import ROOT, cores, only_on

SOURCE = Path(__file__).with_name("server.c")


class Served:
    """A server that runs.

    Attributes:
        url: Its address.
        ca: Path of the certificate to trust, or None without TLS.
        kind: What it is written in.
    """

    def __init__(self, process: subprocess.Popen[str], ca: str | None, kind: str) -> None:
        self._process = process
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the {kind} server has not started")
        self.ca, self.kind = ca, kind
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{port}"
        context = ssl.create_default_context(cafile=ca) if ca else None
        self._asking = (
            http.client.HTTPSConnection("127.0.0.1", int(port), timeout=30, context=context)
            if ca
            else http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
        )
        self.counts()  # from now on the connection that asks is among those counted

    def counts(self) -> tuple[int, int]:
        """How many connections and requests there have been."""
        self._asking.request("GET", "/stats")
        found = json.loads(self._asking.getresponse().read())
        return found["connections"], found["requests"]

    def connections(self) -> int:
        return self.counts()[0]

    def end(self) -> None:
        self._asking.close()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]


class Servers:
    """Makes servers, and ends them all when it is left.

    Args:
        python: Whether to do without a C compiler.
    """

    def __init__(self, *, python: bool = False) -> None:
        self._compiler = None if python else shutil.which("cc") or shutil.which("gcc")
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self._binary: Path | None = None
        self._pem: Path | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def plain(self, delay_ms: int = 0) -> Served:
        """A server without TLS, in C where there is a compiler."""
        binary = self._compiled()
        if binary is None:
            return self._start(self._in_python(delay_ms), None, "Python")
        return self._start([str(binary), str(delay_ms)], None, "C")

    def tls(self, delay_ms: int = 0) -> Served | None:
        """A server with TLS, or None where no certificate can be made."""
        if self._pem is None and not make_certificate(self._folder / "server.pem"):
            return None
        self._pem = self._folder / "server.pem"
        return self._start(self._in_python(delay_ms, "--tls", str(self._pem)), str(self._pem), "Python")

    def _in_python(self, delay_ms: int, *more: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.server", "--delay", str(delay_ms), *more]

    def _start(self, command: list[str], ca: str | None, kind: str) -> Served:
        with only_on(cores()[1]):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        try:
            served = Served(process, ca, kind)
        except BaseException:
            process.kill()
            process.wait()
            raise
        self._stack.callback(served.end)
        return served

    def _compiled(self) -> Path | None:
        if self._binary is None and self._compiler is not None:
            binary = self._folder / "server"
            command = [self._compiler, "-O2", "-o", str(binary), str(SOURCE)]
            if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0:
                self._binary = binary
            self._compiler = None  # where it fails once it fails again
        return self._binary


def make_certificate(path: Path) -> bool:
    """Write a key and a certificate for 127.0.0.1, good for a day. Returns whether there was a way to."""
    try:
        path.write_bytes(_certificate())
    except ImportError:
        return _certificate_by_openssl(path)
    return True


def _certificate() -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _certificate_by_openssl(path: Path) -> bool:
    if (openssl := shutil.which("openssl")) is None:
        return False
    key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
    wanted = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=benchmark "
        "-addext subjectAltName=IP:127.0.0.1,DNS:localhost"
    )
    command = [openssl, *wanted.split(), "-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if done.returncode == 0:
        path.write_bytes(key.read_bytes() + certificate.read_bytes())
    return done.returncode == 0
