"""What stock warns of, ours warns of."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from urllib3.exceptions import InsecureRequestWarning

from .certificates import Certificates
from .raw_server import RawServer
from .sessions import fast_session, stock_session, warm


def test_unverified_requests(tmp_path: Path) -> None:
    """Each request over TLS that nobody verifies, on a new connection or on one in use."""
    with RawServer(tls=Certificates(tmp_path).server()) as server:
        for session in (stock_session(), fast_session()):
            with session, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                session.verify = False
                warm(session, server, 4)

            assert [each.category for each in caught] == [InsecureRequestWarning] * 4


def test_verified_requests(tmp_path: Path) -> None:
    """No warning where somebody does."""
    certificates = Certificates(tmp_path)
    with RawServer(tls=certificates.server()) as server, fast_session() as session:
        session.verify = certificates.authority
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warm(session, server, 4)
        with pytest.warns(InsecureRequestWarning):
            session.get(server.url + "/a", verify=False, timeout=10)
