"""The server of server.c in Python: for TLS, and where there is no C compiler. A thread for each connection.

    python -m benchmarks.server [--delay MILLISECONDS] [--tls CERTIFICATE_AND_KEY]

It prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
from email.utils import formatdate

BODY = 200
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Server:
    """Accepts for ever and answers everything with the same 200.

    Args:
        delay: Seconds between a request and its answer.
        context: For TLS.
    """

    def __init__(self, delay: float, context: ssl.SSLContext | None) -> None:
        self._delay = delay
        self._context = context
        self._date = formatdate(usegmt=True)
        self._lock = threading.Lock()
        self._connections = self._requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                self._connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._talk(connection)
        connection.close()

    def _talk(self, connection: socket.socket) -> None:
        buffer = b""
        while received := connection.recv(65536):
            buffer += received
            while (end := buffer.find(b"\r\n\r\n")) >= 0:
                head = buffer[:end]
                length = _LENGTH.search(head)
                whole = end + 4 + (int(length[1]) if length else 0)
                if len(buffer) < whole:
                    break
                buffer = buffer[whole:]
                connection.sendall(self._answer(head.split(b" ", 2)[1].decode("latin-1")))
                if b"\r\nconnection: close" in head.lower():
                    return

    def _answer(self, path: str) -> bytes:
        if path == "/stats":
            content: dict[str, int | str] = {"connections": self._connections, "requests": self._requests}
        else:
            content = {"path": path[:100], "status": "ok"}
            with self._lock:
                self._requests += 1
            time.sleep(self._delay)
        start = json.dumps(content)[:-1] + ', "padding": "'
        body = start + "x" * (BODY - len(start) - 2) + '"}'
        if path.startswith("/chunked"):
            rest = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n{body}\r\n0\r\n\r\n"
        else:
            rest = f"Content-Length: {len(body)}\r\n\r\n{body}"
        head = f"HTTP/1.1 200 OK\r\nServer: benchmark\r\nDate: {self._date}\r\n"
        return f"{head}Content-Type: application/json\r\n{rest}".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--tls")
    options = parser.parse_args()
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls)
    server = Server(options.delay / 1000, context)
    print(server.port, flush=True)
    threading.Thread(target=server.run, daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)  # the threads of connections still wait for requests


if __name__ == "__main__":
    main()
