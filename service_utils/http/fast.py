"""FastSession: a ``requests.Session`` that takes a fast way where nobody could tell the difference.

The fast way is for a plain request over a connection that is open already
(:mod:`service_utils.http.exchange`). Everything else takes the ordinary way through ``requests`` and
``urllib3``: a first request, a request with hooks, proxies or a body that is streamed, an answer with
anything unusual about it. So does every request while somebody has replaced a function that the fast way
leaves out: ``responses``, ``requests-mock``, ``vcrpy`` and the instrumentors of OpenTelemetry work as they
do with any other session.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import requests
import urllib3
from requests import PreparedRequest, Response
from requests import exceptions as rex
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3 import exceptions as uex
from urllib3._collections import RecentlyUsedContainer

from service_utils import forks
from service_utils.clock import SYSTEM
from service_utils.http.body import CallerBody
from service_utils.http.exchange import Timeouts, exchange, header_pairs, wire_form
from service_utils.http.pool import POOL_MAXSIZE, BoundedPool, pool_classes
from service_utils.http.replaced import nothing_replaced
from service_utils.http.response import FastResponse, response_of
from service_utils.http.sending import Sending, bound
from service_utils.policies.retry import IDEMPOTENT_METHODS

__all__ = ["IDLE_TIMEOUT", "MAX_CONNECTION_AGE", "FastAdapter", "FastSession", "adopt", "renew_pools"]

IDLE_TIMEOUT = 30.0
MAX_CONNECTION_AGE = 300.0

_PoolKey: TypeAlias = "tuple[str, bool | str | None, str | tuple[str, str] | None]"

_MOST_POOLS = 16


class FastAdapter(HTTPAdapter):
    """An adapter on bounded connections; by itself it sends as its base does.

    Args:
        pool_maxsize: Idle connections kept per pool.
        idle_timeout: Seconds one of them is kept, or None.
        max_connection_age: Seconds after which a connection is used no more, or None.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "_idle_timeout", "_max_connection_age", "_no_retries"]  # noqa: RUF012 - requests' kind

    def __init__(
        self,
        *,
        pool_maxsize: int = POOL_MAXSIZE,
        idle_timeout: float | None = IDLE_TIMEOUT,
        max_connection_age: float | None = MAX_CONNECTION_AGE,
    ) -> None:
        self._idle_timeout = idle_timeout
        self._max_connection_age = max_connection_age
        super().__init__(pool_connections=4, pool_maxsize=pool_maxsize)
        self._no_retries = self.max_retries
        forks.in_child(self._renew_in_child)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        forks.in_child(self._renew_in_child)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager, of bounded pools; see :class:`requests.adapters.HTTPAdapter`."""
        super().init_poolmanager(*args, **kwargs)
        self._set_classes(self.poolmanager)
        self._pools: dict[_PoolKey, BoundedPool] = {}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """The manager of a proxy's pools; see :class:`requests.adapters.HTTPAdapter`."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if type(manager) is urllib3.ProxyManager:  # SOCKS has connections of its own
            self._set_classes(manager)
        return manager

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """A response that keeps the record of its call; see :class:`requests.adapters.HTTPAdapter`."""
        response = super().build_response(req, resp)
        if type(response) is Response:
            response.__class__ = FastResponse
        return response

    def is_plain(self) -> bool:
        """Whether nobody has given this adapter retries, or another way to send."""
        return self.max_retries is self._no_retries and "send" not in self.__dict__

    def pool_for(self, request: PreparedRequest, verify: Any, cert: Any) -> BoundedPool | None:
        """The pool of a request, once its first has gone the ordinary way."""
        key = _pool_key(request, verify, cert)
        return None if key is None else self._pools.get(key)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """The pool of a request; see :class:`requests.adapters.HTTPAdapter`."""
        pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        key = _pool_key(request, verify, cert)
        # Of a URL whose query comes without a path, what stands before the first slash is no origin.
        if key is not None and "?" not in key[0] and isinstance(pool, BoundedPool) and pool.proxy is None:
            if len(self._pools) >= _MOST_POOLS:
                self._pools.clear()
            self._pools[key] = pool
        return pool

    def close(self) -> None:
        """Close all idle connections."""
        self._pools.clear()
        super().close()

    def _set_classes(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = pool_classes(self._idle_timeout, self._max_connection_age)

    def _renew_in_child(self) -> None:
        self._pools = {}
        renew_pools(self)


def _pool_key(request: PreparedRequest, verify: Any, cert: Any) -> _PoolKey | None:
    """Origin and TLS settings, where they are of the usual kinds."""
    cert = tuple(cert) if type(cert) is list else cert
    if not isinstance(verify, bool | str | None) or not isinstance(cert, str | tuple | None):
        return None
    url = str(request.url)
    end = url.find("/", len("https://"))
    return None if end < 0 else (url[:end], verify, cert)


class FastSession(requests.Session):
    """A session for many threads that costs a fraction of a plain one, and behaves like it.

    Other than ``requests.Session()`` it keeps more connections, and proxies, ``.netrc`` and CA bundles of the
    environment count only when asked for. Its answers are ``requests.Response`` objects.

    Args:
        pool_maxsize: Idle connections kept per origin.
        idle_timeout: Seconds an unused connection is kept; None for ever.
        max_connection_age: Seconds after which a connection is used no more, so that new members behind a
            load balancer get their share; None for never.
        trust_env: Whether the environment counts; if so, each request takes the ordinary way.
    """

    def __init__(
        self,
        *,
        pool_maxsize: int = POOL_MAXSIZE,
        idle_timeout: float | None = IDLE_TIMEOUT,
        max_connection_age: float | None = MAX_CONNECTION_AGE,
        trust_env: bool = False,
    ) -> None:
        super().__init__()
        self.trust_env = trust_env
        adapter = FastAdapter(
            pool_maxsize=pool_maxsize, idle_timeout=idle_timeout, max_connection_age=max_connection_age
        )
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: PreparedRequest, **kwargs: Any) -> Response:
        """Send a prepared request; see :meth:`requests.Session.send`."""
        given: object = request
        if not isinstance(given, PreparedRequest):
            return super().send(request, **kwargs)  # which says so
        sending = Sending()
        usual = {"timeout": None, "stream": self.stream, "verify": self.verify, "cert": self.cert} | kwargs
        began = SYSTEM.monotonic()
        response = None
        if not (usual["stream"] or usual.get("proxies")):
            response = self.fast(request, sending, usual["timeout"], usual["verify"], usual["cert"])
        return self.ordinary(request, sending, began, **kwargs) if response is None else response

    def fast(
        self, request: PreparedRequest, sending: Sending, timeout: Any, verify: Any, cert: Any
    ) -> Response | None:
        """Send a request the fast way.

        Args:
            request: The request.
            sending: Its bounds.
            timeout: As ``requests`` takes it, like ``verify`` and ``cert``.
            verify: See above.
            cert: See above.

        Returns:
            The whole answer; or None, and :meth:`ordinary` must go on with this sending.
        """
        if self.proxies or self.trust_env or request.hooks.get("response"):
            return None
        timeouts = _plain_timeouts(timeout)
        if timeouts is None or not nothing_replaced():
            return None
        adapter = self.get_adapter(str(request.url))
        if type(adapter) is not FastAdapter or not adapter.is_plain():
            return None
        pool = adapter.pool_for(request, verify, cert)
        data = None if pool is None else wire_form(request, pool.host_line())
        if pool is None or data is None:
            return None
        return _over(pool, request, data, timeouts, sending, adapter)

    def ordinary(self, request: PreparedRequest, sending: Sending, began: float, **kwargs: Any) -> Response:
        """Send a request the ordinary way, or go on with one that was sent the fast way.

        Args:
            request: The request.
            sending: Its bounds.
            began: When sending it began, in seconds of the machine's monotonic clock.
            **kwargs: Those of :meth:`requests.Session.send`.

        Raises:
            requests.RequestException: As :meth:`requests.Session.send`.
        """
        early = None if sending.handover is None else SYSTEM.monotonic() - began
        response = send_with_repeat(super().send, request, sending, **kwargs)
        if early is not None:
            first = response.history[0] if response.history else response
            first.elapsed += timedelta(seconds=early)
        return response


def _over(
    pool: BoundedPool,
    request: PreparedRequest,
    data: bytes,
    timeouts: Timeouts,
    sending: Sending,
    adapter: FastAdapter,
) -> Response | None:
    """Send over an idle connection of the pool, if there is one."""
    try:
        conn = pool.take_idle()
    except uex.ClosedPoolError:
        return None
    if conn is None:
        return None
    conn.carry(sending)
    began = SYSTEM.monotonic()
    try:
        pool._validate_conn(conn)  # warns of a connection that verifies nothing
        answer = exchange(conn, data, timeouts, head_only=request.method == "HEAD")
    except BaseException:  # interrupted: whatever the connection still owes, nobody will read it
        conn.close()
        raise
    if answer is None:
        sending.handover = conn
        return None
    conn.spoilt = not answer.reusable
    pool.num_requests += 1
    pool._put_conn(conn)
    return response_of(answer, request, adapter, began)


def send_with_repeat(
    send: Callable[..., Response], request: PreparedRequest, sending: Sending, **kwargs: Any
) -> Response:
    """Send in the ordinary way; once more on a new connection where a used one proves dead.

    That is only done if no byte of an answer had come, and the service cannot act on the request twice: the
    method is idempotent, an idempotency key protects it, or nothing of it was sent.

    Raises:
        requests.RequestException: As ``send``.
    """
    inside: Any = request
    if inside._cookies is None:
        inside._cookies = RequestsCookieJar()  # requests looks into it when it follows a redirect
    try:
        with bound(sending):
            return send(request, **kwargs)
    except rex.ConnectionError as error:
        if not (sending.found_dead(error) and _may_go_twice(request, sending)):
            raise
    finally:
        if sending.handover is not None:
            sending.handover.close()
            sending.handover = None
    sending.again()
    with bound(sending):
        return send(request, **kwargs)


def _may_go_twice(request: PreparedRequest, sending: Sending) -> bool:
    body: Any = request.body
    if sending.sent:
        if request.method not in IDEMPOTENT_METHODS and "idempotency-key" not in header_pairs(
            request.headers
        ):
            return False
        if isinstance(body, CallerBody):
            return body.rewind()
    return body is None or isinstance(body, bytes | str | CallerBody)


def _plain_timeouts(timeout: Any) -> Timeouts | None:
    """Seconds for sending and for receiving, as requests takes them; None where that is not so plain."""
    connect, read = timeout if type(timeout) is tuple and len(timeout) == 2 else (timeout, timeout)
    for seconds in (connect, read):
        if seconds is not None and not (type(seconds) in (int, float) and seconds > 0):
            return None
    return connect, read


def renew_pools(adapter: HTTPAdapter) -> None:
    """After a fork: pools of its own. The old ones may be locked, and their sockets are the parent's."""
    managers: list[Any] = [adapter.poolmanager, *adapter.proxy_manager.values()]
    for manager in managers:
        if isinstance(manager, urllib3.PoolManager):
            manager.pools = RecentlyUsedContainer(manager.pools._maxsize)


def adopt(session: requests.Session, idle_timeout: float | None, max_connection_age: float | None) -> None:
    """Have the stock adapters of somebody's session make bounded connections from now on.

    They stay what they are; connections that carry no sending of ours behave as before.
    """
    classes = pool_classes(idle_timeout, max_connection_age)
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if (
            isinstance(adapter, HTTPAdapter)
            and not isinstance(adapter, FastAdapter)
            and type(manager) is urllib3.PoolManager
            and manager.pool_classes_by_scheme is urllib3.poolmanager.pool_classes_by_scheme
            and not adapter._pool_block  # type: ignore[attr-defined]
        ):
            manager.pool_classes_by_scheme = classes  # type: ignore[assignment]
            manager.clear()
            adapter.proxy_manager = _ProxyManagers(classes)  # they are made when a proxy is first used


class _ProxyManagers(dict[str, Any]):
    """An adapter's managers of proxies' pools; each makes bounded connections from the beginning."""

    def __init__(self, classes: Any) -> None:
        super().__init__()
        self._classes = classes

    def __setitem__(self, proxy: str, manager: Any) -> None:
        if type(manager) is urllib3.ProxyManager:  # SOCKS has connections of its own
            manager.pool_classes_by_scheme = self._classes
        super().__setitem__(proxy, manager)
