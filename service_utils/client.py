"""ResilientServiceClient: one object per service; one call, read from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import EllipsisType, TracebackType
from typing import Any, Self, cast

import requests

from service_utils.call import Call, Tried
from service_utils.call_ending import error_for, outcome_for, reason_for_leaving, reason_to_end
from service_utils.call_events import CallEvents
from service_utils.call_pacing import Pacing, Turn
from service_utils.calls import EndReason, Outcome, attach_call
from service_utils.client_options import (
    FAILURE_THRESHOLD,
    MAX_RETRIES,
    RECOVERY_TIMEOUT,
    Who,
    check_collaborators,
    check_flags,
    check_seconds,
    check_timeout,
    checked_headers,
    pick_breaker,
    pick_bulkhead,
    pick_limiter,
    pick_name,
    pick_retry,
    pick_tokens,
)
from service_utils.clock import Clock
from service_utils.config import ServiceConfig
from service_utils.errors import CircuitOpenError, RateLimitedError, ServiceError
from service_utils.events import CircuitState, FailureKind, Listener, refusals_wanted
from service_utils.http.classify import Verdict, classify_error, classify_response
from service_utils.http.context import BoundContext, bound_context, new_request_id
from service_utils.http.failures import status_error
from service_utils.http.ordinary import CallDefaults, checked_auth
from service_utils.http.outgoing import Outgoing, RequestMaker
from service_utils.http.pool import POOL_MAXSIZE
from service_utils.http.preparation import Prepared
from service_utils.http.read_key import ReadKey, ReadKeys
from service_utils.http.replays import READING_METHODS
from service_utils.http.token_keeper import TokenKeeper
from service_utils.http.tokens import TokenProvider, is_internal_host
from service_utils.http.transport import SessionTransport, Transport
from service_utils.http.urls import BaseURL, label_of
from service_utils.policies.breaker import BreakerConfig, CircuitBreaker, Permit, Refusal
from service_utils.policies.budget import RetryBudget
from service_utils.policies.bulkhead import Bulkhead, BulkheadConfig
from service_utils.policies.checks import (
    checked_clock,
    checked_listeners,
    require_count,
    require_seconds,
)
from service_utils.policies.deadline import Deadline
from service_utils.policies.fallback import DeadLetterSink
from service_utils.policies.gate import RetryAfterGate
from service_utils.policies.rate_limit import RateLimit, RateLimiter
from service_utils.policies.retry import PER_CLIENT, RetryPolicy
from service_utils.policies.store import BreakerStore
from service_utils.probe_times import probe_times_of
from service_utils.probing import Prober
from service_utils.registry import ServiceRegistry, default_registry
from service_utils.sharing import host_counts, leader_of, shared_store
from service_utils.status import CallCounters, Word

__all__ = ["ResilientServiceClient"]

# Looking into an enum takes longer than calling a function.
_GOOD, _FAILURE, _SUCCESS = Outcome.SUCCESS, Outcome.FAILURE, EndReason.SUCCESS
_CLOSED = CircuitState.CLOSED
_BEGUN = Word.BEGUN
_new_error = CircuitOpenError.__new__
_UNTRIED = (CircuitState.OPEN, CircuitState.FORCED_OPEN, CircuitState.HALF_OPEN)


class ResilientServiceClient:
    """Calls one service over HTTP with retries, a circuit breaker, time-outs, internal tokens and a status.

    Make one per service and share it: any method may be called from any thread. Answers are
    ``requests.Response`` objects. All times are seconds.

    Args:
        base_url: Address of the service; it may have a path of its own.
        service_name: Display name, for log lines and errors.
        max_retries: Attempts of a call, the first included.
        timeout: Of one attempt, as ``requests`` takes it.
        failure_threshold: Consecutive failed calls that open the circuit.
        recovery_timeout: How long the circuit stays open before one call may probe the service.
        name: Short name for registry, metrics and token audience; default: the display name as a slug.
        retry: A retry policy, in place of ``max_retries``.
        breaker: Limits of the circuit breaker, in place of ``failure_threshold`` and ``recovery_timeout``.
        store: What this client's circuit, pause and counts are shared through with the other processes of the
            host, such as a ``SharedMemoryStore``. None: ``SERVICE_UTILS_SHARED_STATE``, or nothing.
        deadline: Of a whole call: attempts, back-off and all; None for none.
        bulkhead: How many calls may be under way at once: a number, ``"auto"`` for ``pool_maxsize``, a
            ``BulkheadConfig``, or a ``Bulkhead`` that several clients share; None for any number.
        rate_limit: Attempts per second: a number, a ``RateLimit``, or a ``RateLimiter`` that several clients
            share; None for any number.
        token_provider: Who is asked for credentials. Left out: the environment's internal token, for internal
            hosts alone. None: nobody.
        headers: Sent with every request.
        auth: As ``requests`` takes it.
        verify: True, False or the path of a CA bundle. True looks at ``REQUESTS_CA_BUNDLE`` and
            ``SSL_CERT_FILE`` once, now.
        cert: Client certificate for mutual TLS: a file, or a pair of certificate and key.
        trust_env: Whether the machine's proxies and ``.netrc`` count.
        idempotency_keys: Whether every POST and PATCH carries an ``Idempotency-Key``, and may so be retried.
            A key that a call is given travels, and protects it, in any case.
        raise_for_status: Whether a 4xx is raised as ``requests.HTTPError`` instead of returned.
        dead_letters: Where :meth:`enqueue` puts its calls.
        health_path: Path of the service's cheap health check.
        probe: Whether an open circuit is probed in the background, at ``health_path``, so that no call of a
            user has to be the probe; see :mod:`service_utils.probing`.
        listeners: Called with every event of this client and its breaker.
        registry: Where the client is entered; default: the registry of the process.
        clock: Where the time comes from, and who sleeps. Sockets count real time whatever it says.
        session: A ``requests.Session`` to send with. It keeps its adapters and settings; cookies that
            services set are no longer kept in it.
        pool_maxsize: Idle connections kept for use again.
        max_response_bytes: The longest body, decoded.
        idle_timeout: How long an unused connection is kept; None for ever.
        max_connection_age: How old a connection may be when it is used again, so that new members behind a
            load balancer get their share; None for any age.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of its range, or stands beside the policy object that replaces it.
    """

    def __init__(
        self,
        base_url: str,
        service_name: str = "Service",
        max_retries: int = MAX_RETRIES,
        timeout: float | tuple[float | None, float | None] = 10,
        failure_threshold: int = FAILURE_THRESHOLD,
        recovery_timeout: float = RECOVERY_TIMEOUT,
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        breaker: BreakerConfig | None = None,
        store: BreakerStore | None = None,
        deadline: float | None = None,
        bulkhead: Bulkhead | BulkheadConfig | int | str | None = None,
        rate_limit: RateLimiter | RateLimit | float | None = None,
        token_provider: TokenProvider | EllipsisType | None = ...,
        headers: Mapping[str, str] | None = None,
        auth: Any = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        trust_env: bool = False,
        idempotency_keys: bool = True,
        raise_for_status: bool = False,
        dead_letters: DeadLetterSink | None = None,
        health_path: str | None = None,
        probe: bool = False,
        listeners: Iterable[Listener] = (),
        registry: ServiceRegistry | None = None,
        clock: Clock | None = None,
        session: requests.Session | None = None,
        pool_maxsize: int = POOL_MAXSIZE,
        max_response_bytes: int = 64 * 2**20,
        idle_timeout: float | None = 30.0,
        max_connection_age: float | None = 300.0,
    ) -> None:
        check_flags(trust_env=trust_env, idempotency_keys=idempotency_keys)
        check_flags(raise_for_status=raise_for_status, probe=probe)
        check_collaborators(session=session, registry=registry, dead_letters=dead_letters)
        require_count("pool_maxsize", pool_maxsize)
        require_count("max_response_bytes", max_response_bytes)
        check_seconds(deadline=deadline, idle_timeout=idle_timeout, max_connection_age=max_connection_age)
        self._base = BaseURL.parse(base_url)
        self.base_url = self._base.url
        self.name = pick_name(name, service_name)
        self.service_name = service_name
        self.timeout = check_timeout(timeout)
        self.deadline = deadline
        self.retry = pick_retry(max_retries, retry)
        self.health_path = health_path
        if health_path is not None:
            self._base.join(health_path, what="health_path")
        elif probe:
            raise ValueError("probe=True: needs a health_path to ask")
        self._clock = checked_clock(clock)
        told = checked_listeners(listeners)
        self._events = CallEvents(told, self._clock)
        who = Who(name=self.name, label=service_name, clock=self._clock, listeners=told)
        self.bulkhead = pick_bulkhead(bulkhead, pool_maxsize, who)
        gate = RetryAfterGate(self.retry.max_retry_after, **who.arguments())
        self._pacing = Pacing(gate, pick_limiter(rate_limit, who))
        self._dead_letters = dead_letters
        know = getattr(dead_letters, "know", None)
        if callable(know):
            know(self.name, service_name)
        self._raise_for_status = raise_for_status
        self._budget = RetryBudget()
        self.store = shared_store(self._clock) if store is None else store
        self._counters = CallCounters(self.name, host_counts(self.store))
        defaults = CallDefaults(
            self._base,
            checked_headers(headers),
            checked_auth(auth) if auth is not None else self._base.userinfo,
            idempotency_keys,
        )
        self._tell_time_left = is_internal_host(self._base.host)
        provider = pick_tokens(token_provider, self._base, self._clock)
        self._tokens = None if provider is None else TokenKeeper(provider, self.name, service_name)
        leader = leader_of(self.store)
        leads = None if leader is None else leader.leads
        self._prober = (
            Prober(self, self._clock, leads=leads, times=probe_times_of(self.store)) if probe else None
        )
        self.breaker = CircuitBreaker(
            self.name,
            pick_breaker(failure_threshold, recovery_timeout, breaker, self.timeout),
            store=self.store,
            clock=self._clock,
            listeners=told if self._prober is None else (*told, self._prober),
            label=service_name,
        )
        self.gate, self.rate_limiter = gate, self._pacing.limiter
        if self.store is not None:
            gate.share(self.breaker.pause)
            self.breaker.follow(gate.adopt)
        self._transport: Transport = SessionTransport(
            self._base,
            service_name,
            session=session,
            pool_maxsize=pool_maxsize,
            max_response_bytes=max_response_bytes,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            idle_timeout=idle_timeout,
            max_connection_age=max_connection_age,
        )
        self._requests = RequestMaker(defaults, self._transport)
        self._registry = default_registry() if registry is None else registry
        self._registry.add(self)

    @classmethod
    def from_env(
        cls,
        prefix: str,
        *,
        default_url: str | None = None,
        service_name: str | None = None,
        **defaults: Any,
    ) -> Self:
        """Make a client from ``<PREFIX>_SERVER_URL``, ``<PREFIX>_TIMEOUT`` and their like.

        Args:
            prefix: Such as ``CHROMA``; its lower case is the short name.
            default_url: The address when the environment gives none.
            service_name: Display name.
            **defaults: Arguments of the client where the environment is silent.

        Raises:
            TypeError: An argument is of the wrong type.
            ValueError: A variable or argument cannot be used; the message names it.
        """
        config = ServiceConfig.from_env(
            prefix, default_url=default_url, service_name=service_name, **defaults
        )
        return cls(
            config.base_url,
            config.service_name,
            name=config.name,
            timeout=config.timeout,
            deadline=config.deadline,
            retry=config.retry,
            breaker=config.breaker,
            **config.options,
        )

    # -- the methods of requests --------------------------------------------------------------------

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        """GET; see :meth:`request`."""
        if not kwargs:  # handing on what is not there would double what a refused call costs on its way here
            return self.request("GET", path)
        return self.request("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> requests.Response:
        """POST; see :meth:`request`."""
        return self.request("POST", path, **kwargs)

    def put(self, path: str, **kwargs: Any) -> requests.Response:
        """PUT; see :meth:`request`."""
        return self.request("PUT", path, **kwargs)

    def patch(self, path: str, **kwargs: Any) -> requests.Response:
        """PATCH; see :meth:`request`."""
        return self.request("PATCH", path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> requests.Response:
        """DELETE; see :meth:`request`."""
        return self.request("DELETE", path, **kwargs)

    def head(self, path: str, **kwargs: Any) -> requests.Response:
        """HEAD, redirects not followed unless asked for; see :meth:`request`."""
        return self.request("HEAD", path, **kwargs)

    def options(self, path: str, **kwargs: Any) -> requests.Response:
        """OPTIONS; see :meth:`request`."""
        return self.request("OPTIONS", path, **kwargs)

    def request(
        self,
        method: str,
        path: str,
        *,
        path_params: Mapping[str, object] | None = None,
        timeout: float | tuple[float | None, float | None] | None = None,
        deadline: float | Deadline | None = None,
        idempotency_key: str | None = None,
        retry: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> requests.Response:
        """Call the service.

        Args:
            method: The HTTP method.
            path: Below the base URL; ``{name}`` places are filled from ``path_params``.
            path_params: Values for the path, each quoted as one segment.
            timeout: Seconds of one attempt; None for the client's.
            deadline: Seconds of the whole call, or a :class:`Deadline`; None for the client's.
            idempotency_key: The name of this write, the same whenever it is repeated; None lets the client
                make one where it needs one.
            retry: A retry policy; None for the client's.
            **kwargs: ``params, data, json, headers, cookies, files, auth, hooks, stream, allow_redirects,
                proxies, verify, cert`` as ``requests`` takes them.

        Returns:
            The answer, ``.call`` telling how it came about. With ``stream=True`` its body is the caller's to
            read.

        Raises:
            ServiceUnavailable: The call was refused on our side; nothing was sent.
            DeadlineExceeded: The time of the whole call was up.
            TokenError: No credentials could be had.
            requests.HTTPError: The last answer was a failed status (408, 429, 5xx).
            requests.RequestException: No answer came: ``ConnectionError``, ``Timeout`` and so on.
            TypeError: An argument is unknown or of the wrong type.
            ValueError: The path leads elsewhere, or an argument is out of its range.
        """
        inbound = bound_context()
        if (
            self.breaker.state is not _CLOSED
            and not kwargs
            and path_params is None
            and timeout is None
            and deadline is None
            and idempotency_key is None
            and retry is None
        ):
            refused = self._refused_at_once(method, path, inbound)
            if refused is not None:
                try:
                    raise refused
                finally:
                    del refused  # it refers to this frame, and would be garbage until the next collection
        call = self._new_call(method, path)
        self._counters.counts.words[_BEGUN] += 1
        try:
            self._fix(call, timeout, deadline, retry, inbound.deadline)
            outgoing = self._build(call, inbound, path_params, idempotency_key, kwargs)
            return self._perform(call, outgoing)
        except BaseException as error:
            self._leave_with(call, error)
            raise

    def probe(self, timeout: float | None = None) -> requests.Response:
        """Ask ``health_path`` once, past circuit breaker, bulkhead, limiter and retries; nothing is counted.

        For health checks and background probes. The inbound request's deadline does not bound it.

        Args:
            timeout: Seconds; None for the client's.

        Returns:
            An answer that the breaker would count as a success.

        Raises:
            ValueError: The client has no ``health_path``.
            requests.RequestException: The service is not well, or no credentials could be had.
        """
        if self.health_path is None:
            raise ValueError(f"{self.service_name}: probe() needs a client made with health_path=")
        call = self._new_call("GET", self.health_path)
        self._fix(call, timeout, None, None, None)
        outgoing = self._build(call, BoundContext(), None, None, {})
        try:
            response = self._exchange(call, outgoing)
        except Exception as raised:
            tried = self._judge_error(call, outgoing, raised)
        else:
            tried = Tried(self._classify_response(call, outgoing, response), response=response)
        now = self._clock.monotonic()
        call.note(tried, 1, now - call.began, 0.0)
        good = tried.response is not None and tried.error is None and tried.verdict.outcome is _GOOD
        call.end(_SUCCESS if good else EndReason.NOT_RETRYABLE, now)
        if good:
            attach_call(response, call)
            return response
        error = error_for(call, tried, raise_for_status=False)
        if error is None:  # a failed status, where the client's policy returns such answers
            error = status_error(response, call.sentence("failed"), tried.verdict)
        attach_call(error, call)
        raise error from tried.error

    def refresh_credentials(self, patience: float | None = None) -> bool:
        """Get newer credentials than the present ones, once for all threads that ask at the same time.

        A 401 is answered by this anyway. It is for those who have reason to believe that another refusal,
        such as a 403, is on account of credentials that are out of date.

        Args:
            patience: Seconds to wait where another thread is at it already; None for any time.

        Returns:
            Whether repeating a call makes sense: False without a provider that can refresh.

        Raises:
            TokenError: The refresh failed.
        """
        if self._tokens is None:
            return False
        _, version = self._tokens.headers()
        return self._tokens.refresh(version, patience)

    def enqueue(self, method: str, path: str, **kwargs: Any) -> str:
        """Put a call straight into the dead letters' queue, to be delivered later.

        Args:
            method: The HTTP method.
            path: Below the base URL.
            **kwargs: Those of :meth:`request` that make up the request itself.

        Returns:
            The letter's id.

        Raises:
            TypeError: An argument is unknown or of the wrong type.
            ValueError: The client has no ``dead_letters``, or the call cannot be replayed.
        """
        if self._dead_letters is None:
            raise ValueError(f"{self.service_name}: enqueue() needs a client made with dead_letters=")
        call = self._new_call(method, path)
        params, key = kwargs.pop("path_params", None), kwargs.pop("idempotency_key", None)
        replay = self._build(call, bound_context(), params, key, kwargs).replay()
        if replay is None:
            raise ValueError(f"{method} {path}: only a write whose body can be read again can be enqueued")
        return self._dead_letters.add(
            self.name,
            replay.method,
            replay.path,
            body=replay.body,
            headers=replay.headers,
            idempotency_key=replay.idempotency_key,
        )

    def read_key(self, path: str, arguments: Mapping[str, Any]) -> ReadKey | None:
        """What tells this GET from others, for :class:`~service_utils.policies.fallback.StaleCache`.

        Args:
            path: As :meth:`get` takes it.
            arguments: The keyword arguments of :meth:`get`.

        Returns:
            None when that cannot be known beforehand; see :meth:`ReadKeys.key_of`.
        """
        return self._read_keys().key_of(path, arguments, bound_context())

    def _read_keys(self) -> ReadKeys:
        """Made when first needed, since few clients are read through a cache; the same for all threads."""
        found: ReadKeys | None = self.__dict__.get("_reads")
        if found is None:
            settings = getattr(self._transport, "session_settings", tuple)
            new = ReadKeys(self._requests, settings, self._tokens, self.deadline, self._clock)
            found = self.__dict__.setdefault("_reads", new)
        return found

    # -- state and status ---------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """The circuit's state; reading never changes it."""
        return self.breaker.state

    def get_status(self) -> dict[str, Any]:
        """A JSON-ready picture: times in ISO 8601 (UTC) or None, durations in seconds, latencies in ms."""
        stats = self.breaker.get_stats()
        counted = self._counters.snapshot()
        budget = self._budget_of(self.retry)
        return {
            "service": self.service_name,
            "name": self.name,
            "base_url": self.base_url,
            "state": stats["state"],
            "reason": stats["reason"],
            "failure_count": stats["failure_count"],
            "failure_threshold": stats["failure_threshold"],
            "failure_rate": stats["failure_rate"],
            "slow_call_rate": stats["slow_call_rate"],
            "window_calls": stats["window_calls"],
            "half_open_in_use": stats["half_open_in_use"],
            "recovery_timeout": stats["recovery_timeout"],
            "cooldown_remaining": stats["cooldown_remaining"],
            "next_probe_in": self._next_probe_in(stats),
            "last_failure": stats["last_failure"],
            "last_success": stats["last_success"],
            "last_state_change": stats["last_state_change"],
            "opened_count": stats["opened_count"],
            "mttr_seconds": stats["mttr_seconds"],
            "retry_budget": None if budget is None else budget.balance,
            "retry_after_gate": self.gate.get_status(),
            "bulkhead": None if self.bulkhead is None else self.bulkhead.get_status(),
            "rate_limit": None if self.rate_limiter is None else self.rate_limiter.get_status(),
            **counted,
        }

    def _next_probe_in(self, stats: Mapping[str, Any]) -> float | None:
        """Seconds until somebody asks whether the service is back; None while nobody knows, or need not."""
        if stats["state"] != CircuitState.OPEN:
            return None
        if self._prober is None:  # the first call after the open time
            return cast(float, stats["cooldown_remaining"])
        at = self._prober.times.get(self.name)
        return None if at is None else max(at - self._clock.monotonic(), 0.0)

    def reset(self) -> None:
        """Close the circuit by hand, and end the pause that a Retry-After has asked for."""
        self.gate.reset()
        self.breaker.reset()

    def close(self) -> None:
        """Close idle connections and leave the registry. Safe to call twice."""
        self._registry.remove(self)
        if self._prober is not None:
            self._prober.close()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ResilientServiceClient {self.name!r} {self.base_url} {self.state.value}>"

    # -- one call, step by step ---------------------------------------------------------------------

    def _refused_at_once(self, method: str, path: str, inbound: BoundContext) -> CircuitOpenError | None:
        """Step 2 before step 1, where nobody can tell: a plain read at an open circuit costs next to nothing.

        Returns:
            The error, whose fields are filled in when somebody looks. None where the usual order must decide:
            the circuit lets the call pass, something may be wrong with it, or somebody wants to know more.
        """
        if inbound.deadline is not None or method not in READING_METHODS:
            return None
        try:
            prepared = self._requests.plain.prepared(method, path, False)
        except (TypeError, ValueError):
            return None
        refusal = None if refusals_wanted(self.breaker.listeners) else self.breaker.refused()
        if refusal is None:
            return None
        self._counters.refused()
        error = _new_error(CircuitOpenError)
        error._untold = (self._tell_refusal, prepared, refusal, inbound.request_id)
        return error

    def _tell_refusal(
        self, error: CircuitOpenError, prepared: Prepared, refusal: Refusal, request_id: str | None
    ) -> str:
        """Fill in the error of such a call, now that somebody looks at it. Returns its message."""
        call = self._new_call(prepared.method, prepared.label)
        call.request_id = request_id or new_request_id()
        told = self.breaker.error_for(refusal)
        call.end(reason_for_leaving(call, told), call.began)
        for field, value in vars(told).items():
            vars(error).setdefault(field, value)
        attach_call(error, call)
        return str(told)

    def _new_call(self, method: str, path: str) -> Call:
        began = self._clock.monotonic()
        return Call(self.service_name, self.name, method, path, began, self.retry, self.timeout)

    def _fix(
        self,
        call: Call,
        timeout: Any,
        deadline: float | Deadline | None,
        retry: RetryPolicy | None,
        inbound: Deadline | None,
    ) -> None:
        """Step 1, first half: what bounds the call."""
        if timeout is not None:
            call.timeout = check_timeout(timeout)
        if retry is not None:
            if not isinstance(retry, RetryPolicy):
                raise TypeError(f"retry={retry!r}: must be a RetryPolicy")
            call.policy = retry
        call.budget = self._budget_of(call.policy)
        call.deadline = self._own_deadline(call, deadline)
        if inbound is not None:
            own = call.deadline
            call.hasty = own is None or inbound.remaining() < own.remaining()
            call.deadline = inbound if call.hasty else own

    def _own_deadline(self, call: Call, given: float | Deadline | None) -> Deadline | None:
        if given is None:
            return None if self.deadline is None else Deadline(call.began + self.deadline, self._clock)
        if isinstance(given, Deadline):
            return given
        require_seconds("deadline", given)
        return Deadline(call.began + given, self._clock)

    def _budget_of(self, policy: RetryPolicy) -> RetryBudget | None:
        budget = policy.budget
        return self._budget if budget is PER_CLIENT else budget

    def _build(
        self,
        call: Call,
        inbound: BoundContext,
        path_params: Mapping[str, object] | None,
        idempotency_key: str | None,
        arguments: dict[str, Any],
    ) -> Outgoing:
        """Step 1, second half: the request, with all that stays the same from attempt to attempt."""
        outgoing = self._requests.make(
            call.method, call.path, path_params, idempotency_key, call.deadline, inbound, arguments
        )
        call.outgoing, call.method, call.path = outgoing, outgoing.method, outgoing.label
        return outgoing

    def _perform(self, call: Call, outgoing: Outgoing) -> requests.Response:
        """Steps 2 to 6: a slot, a permit, the attempts, the result; slot and permit are given back."""
        call.told = self._events.routine_wanted()
        call.refuse_if_late()
        if self.bulkhead is None:
            return self._with_permit(call, outgoing)
        self.breaker.check()  # an open circuit refuses before anyone queues
        slot = self.bulkhead.acquire(call.deadline)
        try:
            return self._with_permit(call, outgoing)
        finally:
            try:
                slot.release()
            except BaseException:  # a signal or kill in this very moment
                slot.release()
                raise

    def _with_permit(self, call: Call, outgoing: Outgoing) -> requests.Response:
        """Steps 4 to 6; the permit is given back whatever happens."""
        permit = self.breaker.acquire()
        try:
            return self._attempts(call, outgoing, permit)
        finally:
            try:
                self.breaker.record(
                    permit, call.outcome, call.longest(), error=call.detail, retry_after=call.retry_after
                )
            except BaseException:  # a signal or kill in this very moment
                self.breaker.release(permit)
                raise

    def _attempts(self, call: Call, outgoing: Outgoing, permit: Permit) -> requests.Response:
        delay = 0.0
        if self.rate_limiter is not None or self.gate.closed:
            delay = self._wait_for_turn(call, permit)
        if call.budget is not None:
            call.budget.deposit()
        while True:
            tried = self._attempt(call, outgoing, delay)
            good = tried.verdict.kind is None and tried.error is None
            if good and not (call.told or self._raise_for_status):
                return self._succeed(call, cast(requests.Response, tried.response))
            step = self._next_step(call, outgoing, permit, tried)
            waited = step if isinstance(step, EndReason) else self._wait_for_retry(call, step)
            if isinstance(waited, EndReason):
                return self._finish(call, tried, waited)
            delay = waited
            if tried.response is not None:
                tried.response.close()  # a streamed one still holds its connection

    def _attempt(self, call: Call, outgoing: Outgoing, delay: float) -> Tried:
        """One attempt of step 5: token, send, whole body, classification."""
        number = len(call.attempts) + 1
        if call.told:
            self._events.attempt_started(call, number)
        began = self._clock.monotonic()
        try:
            response = self._exchange(call, outgoing)
        except Exception as raised:
            tried = self._judge_error(call, outgoing, raised)
        else:
            tried = Tried(self._classify_response(call, outgoing, response), response=response)
        duration = self._clock.monotonic() - began
        call.note(tried, number, duration, delay)
        if tried.verdict.kind is not None:
            self._pacing.heed(tried.verdict.status, tried.verdict.retry_after)
            self._events.attempt_failed(call, tried.verdict, number, duration)
        return tried

    def _exchange(self, call: Call, outgoing: Outgoing) -> requests.Response:
        """Send the request; once in a call, a 401 gets fresh credentials and a repeat that is no attempt."""
        if self._tokens is None:
            return self._send(call, outgoing, {})
        credentials, version = self._tokens.headers()
        response = self._send(call, outgoing, credentials)
        if response.status_code != 401 or call.refreshed or not outgoing.replayable():
            return response
        call.refreshed = call.sent = True
        try:
            if not self._tokens.refresh(version, call.patience()):
                return response
            credentials, _ = self._tokens.headers()
            call.refuse_if_late()
        except BaseException:
            response.close()
            raise
        response.close()
        return self._send(call, outgoing, credentials)

    def _send(self, call: Call, outgoing: Outgoing, credentials: Mapping[str, str]) -> requests.Response:
        timeout = call.clip()
        time_left = None
        if self._tell_time_left:
            time_left = timeout[1] if isinstance(timeout, tuple) else timeout
        return self._transport.send(outgoing.next_request(credentials, time_left), timeout, outgoing.options)

    def _classify_response(self, call: Call, outgoing: Outgoing, response: requests.Response) -> Verdict:
        return classify_response(
            response,
            call.policy.retry_statuses,
            has_key=outgoing.idempotency_key is not None,
            clock=self._clock,
        )

    def _judge_error(self, call: Call, outgoing: Outgoing, raised: Exception) -> Tried:
        callers, outgoing.code.error = outgoing.code.error, None
        if callers is None and isinstance(raised, requests.HTTPError) and raised.response is not None:
            callers = raised  # of a hook of the session that was given
        if isinstance(callers, requests.HTTPError) and callers.response is not None:
            # A response hook that calls raise_for_status: the status decides, as if it had been returned.
            verdict = self._classify_response(call, outgoing, callers.response)
            return Tried(verdict, response=callers.response, error=callers)
        if isinstance(callers, Exception):
            verdict = Verdict(Outcome.IGNORED, kind=FailureKind.CALLER, detail=type(callers).__name__)
            return Tried(verdict, error=callers)
        verdict = classify_error(raised)
        return call.judged(verdict, raised)

    def _next_step(self, call: Call, outgoing: Outgoing, permit: Permit, tried: Tried) -> EndReason | float:
        """Why the call ends here, or the seconds of back-off before its next attempt."""
        reason = reason_to_end(call, outgoing, tried, half_open=permit.half_open)
        if reason is not None:
            return reason
        delay = call.policy.delay(len(call.attempts), tried.verdict.retry_after)
        if call.deadline is not None and delay >= call.deadline.remaining():
            return EndReason.DEADLINE
        return EndReason.CIRCUIT_OPENED if self.breaker.state in _UNTRIED else delay

    def _wait_for_turn(self, call: Call, permit: Permit) -> float:
        """Wait until the first attempt may be made, which for a probe is at once or not at all.

        Returns:
            Seconds it has waited.

        Raises:
            RateLimitedError: It would have to wait too long.
            CircuitOpenError: The circuit has opened meanwhile.
            DeadlineExceeded: The sleep lasted longer than it was asked to, and no time is left.
        """
        turn = Turn()
        try:
            self._pacing.book(turn, call, may_wait=not permit.half_open)
            waited = self._sleep(call, turn) if turn.delay > 0.0 else 0.0
        except BaseException:  # refused, interrupted or killed
            turn.cancel()
            raise
        if waited is EndReason.CIRCUIT_OPENED:
            self.breaker.check()
            raise CircuitOpenError(self.service_name, 0.0)
        if isinstance(waited, EndReason):
            raise call.too_late()
        return waited

    def _wait_for_retry(self, call: Call, backoff: float) -> EndReason | float:
        """Wait between two attempts: once, for the larger of back-off, pause and rate limit.

        Returns:
            Seconds it has waited, or why there is no other attempt; nothing is paid for that one then.
        """
        budget = call.budget
        if budget is not None and not budget.try_withdraw():
            return EndReason.BUDGET_EXHAUSTED
        turn = Turn()
        waited: EndReason | float
        try:
            self._pacing.book(turn, call, backoff)
            self._events.retry_scheduled(call, turn.delay)
            waited = self._sleep(call, turn)
        except RateLimitedError:
            turn.cancel()
            waited = EndReason.REFUSED
        except BaseException:  # interrupted or killed
            turn.cancel()
            raise
        if budget is not None and isinstance(waited, EndReason):
            budget.refund()
        return waited

    def _sleep(self, call: Call, turn: Turn) -> EndReason | float:
        """Sleep until a turn has come, and on if the service has asked for another pause meanwhile.

        Returns:
            Seconds in all, or why an attempt has become pointless; then the turn is given back.

        Raises:
            RateLimitedError: That pause, or the turn after it, is too far away.
        """
        waited = 0.0
        while True:
            self._clock.sleep(turn.delay)
            waited += turn.delay
            reason = self._pointless(call)
            if reason is not None:
                turn.cancel()
                return reason
            if not self.gate.closed or self.gate.remaining() <= 0.0:
                return waited
            self._pacing.book(turn, call, waited=waited)

    def _pointless(self, call: Call) -> EndReason | None:
        """Why the next attempt need not be made any more."""
        if self.breaker.state in _UNTRIED:
            return EndReason.CIRCUIT_OPENED
        return EndReason.DEADLINE if call.late() else None

    # -- the end of a call --------------------------------------------------------------------------

    def _succeed(self, call: Call, response: requests.Response) -> requests.Response:
        """Return an answer that needs no decision: it is good, and nobody wants to hear of it."""
        call.outcome = _GOOD
        now = self._clock.monotonic()
        call.end(_SUCCESS, now)
        if len(call.attempts) == 1:
            self._counters.succeeded(call.longest(), now)
        else:
            self._counters.finished(_GOOD, call.durations(), None, now)
        attach_call(response, call)
        return response

    def _finish(self, call: Call, tried: Tried, reason: EndReason) -> requests.Response:
        """Return the answer or raise the error, its record attached."""
        call.outcome = outcome_for(call, tried)
        error = error_for(call, tried, raise_for_status=self._raise_for_status)
        if error is not None and reason is _SUCCESS:
            reason = EndReason.NOT_RETRYABLE
        now = self._clock.monotonic()
        call.end(reason, now)
        if call.attempts:
            why = call.sentence("failed") if call.outcome is _FAILURE else None
            self._counters.finished(call.outcome, call.durations(), why, now)
        else:
            self._counters.rejected()
        if call.told or reason is not _SUCCESS:
            self._events.finished(call, error)
        if error is None:
            response = cast(requests.Response, tried.response)
            attach_call(response, call)
            return response
        attach_call(error, call)
        if error is tried.error:
            raise error
        raise error from tried.error

    def _leave_with(self, call: Call, error: BaseException) -> None:
        """An exception leaves the client: see that it carries the call's record and is counted once."""
        if call.ended is not None:
            return
        if call.outgoing is None:  # whatever was given in place of method and path
            call.method, call.path = str(call.method), label_of(call.path)
        now = self._clock.monotonic()
        call.end(reason_for_leaving(call, error), now)
        attach_call(error, call)
        if isinstance(error, ServiceError):
            self._counters.rejected()
        elif call.attempts:
            self._counters.finished(Outcome.IGNORED, call.durations(), None, now)
        else:
            self._counters.dropped()
        self._events.finished(call, error)
