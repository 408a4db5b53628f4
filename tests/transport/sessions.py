"""Sessions to compare: the stock one of ``requests``, and ours, new or warmed."""

from __future__ import annotations

import socket

import requests

from service_utils.http.transport import FastSession

from .raw_server import RawServer


def fast_session() -> requests.Session:
    """One of ours; looked at as nothing but a session."""
    return FastSession()


def stock_session() -> requests.Session:
    """One of ``requests``, which does not look at the machine's settings either."""
    session = requests.Session()
    session.trust_env = False
    return session


def warm(session: requests.Session, server: RawServer, requests_before: int = 2) -> int:
    """Have a session make ordinary requests, all on one connection. Returns the connection's number."""
    connection, number = 0, 0
    while number < requests_before:
        connection, number = whence(session.get(f"{server.url}/warm", timeout=20))
    return connection


def whence(response: requests.Response) -> tuple[int, int]:
    """Which connection an ordinary answer came on, and which one it was there."""
    connection, number, _ = response.text.split(" ", 2)
    return int(connection), int(number)


def has_ipv6() -> bool:
    """Whether this machine has an address to test IPv6 with."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
