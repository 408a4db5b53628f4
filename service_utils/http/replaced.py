"""Whether requests, urllib3 and http.client are as they came.

Mocking libraries and instrumentors replace functions of theirs, and want to be called. That may have been
done long before this package is imported, as by ``opentelemetry-instrument``, so what is found then is not
taken for the original unasked.
"""

from __future__ import annotations

import http.client
import logging
import operator
import sys
from types import FunctionType, SimpleNamespace

import requests
import urllib3.connection
from requests.adapters import HTTPAdapter
from urllib3 import connectionpool

__all__ = ["nothing_replaced", "send_replaced"]

# What the fast way leaves out, or does in its own manner. Looking into a subclass finds what has been done to
# its bases as well.
_REPLACEABLE = (
    "Session.send",
    "Session.get_adapter",
    "HTTPAdapter.send",
    "HTTPAdapter.build_response",
    "HTTPAdapter.add_headers",
    "HTTPAdapter.request_url",
    "HTTPAdapter.cert_verify",
    "HTTPAdapter.get_connection_with_tls_context",
    "HTTPSConnectionPool.urlopen",
    "HTTPSConnectionPool._make_request",
    "HTTPSConnectionPool._get_conn",
    "HTTPConnectionPool.ConnectionCls",
    "HTTPSConnectionPool.ConnectionCls",
    "HTTPConnection.request",
    "HTTPConnection.putrequest",
    "HTTPConnection.putheader",
    "HTTPConnection.endheaders",
    "HTTPConnection.send",
    "HTTPConnection.getresponse",
    "StandardConnection.putrequest",
    "StandardConnection.putheader",
    "StandardConnection.getresponse",
    "StandardResponse.begin",
    "StandardResponse.read",
)
_OWNERS = SimpleNamespace(
    Session=requests.Session,
    HTTPAdapter=HTTPAdapter,
    HTTPConnectionPool=connectionpool.HTTPConnectionPool,
    HTTPSConnectionPool=connectionpool.HTTPSConnectionPool,
    HTTPConnection=urllib3.connection.HTTPConnection,
    StandardConnection=http.client.HTTPConnection,
    StandardResponse=http.client.HTTPResponse,
)
_look = operator.attrgetter(*_REPLACEABLE)
_NAMES = [name.rpartition(".")[2] for name in _REPLACEABLE]
_HOMES = (
    "requests.sessions",
    "requests.adapters",
    "urllib3.connectionpool",
    "urllib3.connection",
    "http.client",
)
_originals: tuple[object, ...] = (None,) * len(_REPLACEABLE)
_DEBUG = logging.DEBUG


def nothing_replaced() -> bool:
    """Whether all is as it came, and nobody wants to hear what urllib3 and http.client do."""
    # By identity: wrappers such as wrapt's claim to be equal to what they wrap.
    if not all(map(operator.is_, _look(_OWNERS), _originals)) and not _all_original():
        return False
    return not (http.client.HTTPConnection.debuglevel or connectionpool.log.isEnabledFor(_DEBUG))


def send_replaced() -> bool:
    """Whether somebody wants to see all bytes that http.client sends."""
    return not _is_original("send", urllib3.connection.HTTPConnection.send)


def _all_original() -> bool:
    """Look more closely. What has been found to be original is known by sight from then on."""
    global _originals
    found = _look(_OWNERS)
    if not all(map(_is_original, _NAMES, found)):
        return False
    _originals = found
    return True


def _is_original(name: str, found: object) -> bool:
    """Whether it was written where it belongs; a wrapper may copy names, but not the module it lives in."""
    if name == "ConnectionCls":
        return found is urllib3.connection.HTTPConnection or found is urllib3.connection.HTTPSConnection
    return (
        type(found) is FunctionType
        and found.__name__ == name
        and any(found.__globals__ is vars(sys.modules[home]) for home in _HOMES)
    )
