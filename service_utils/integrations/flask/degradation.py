"""Features that are turned off while an app is too degraded for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, cast

from flask import Flask, Response, current_app
from flask.typing import ResponseReturnValue

from service_utils.degradation import DegradationLevel, DegradationMonitor
from service_utils.integrations.flask.problems import problem

__all__ = ["current_level", "current_monitor", "mount_degradation", "requires_level"]

_EXTENSION = "service_utils.degradation"

P = ParamSpec("P")


def mount_degradation(app: Flask, monitor: DegradationMonitor) -> None:
    """Give an app the monitor that :func:`requires_level` asks. It is not started by this.

    Raises:
        TypeError: ``monitor`` is no :class:`~service_utils.degradation.DegradationMonitor`.
        ValueError: The app has another one already.
    """
    if not isinstance(monitor, DegradationMonitor):
        raise TypeError(f"monitor={monitor!r}: must be a DegradationMonitor")
    if app.extensions.setdefault(_EXTENSION, monitor) is not monitor:
        raise ValueError(f"app={app!r}: has a degradation monitor already")


def current_monitor() -> DegradationMonitor:
    """The monitor of the app of this request.

    Raises:
        RuntimeError: The app has none.
    """
    monitor = current_app.extensions.get(_EXTENSION)
    if monitor is None:
        raise RuntimeError(
            f"The app {current_app.name!r} has no degradation monitor; give it one where it is made: "
            "service_utils.integrations.flask.degradation.mount_degradation(app, monitor)"
        )
    return cast(DegradationMonitor, monitor)


def current_level() -> DegradationLevel:
    """How degraded the app of this request is.

    Raises:
        RuntimeError: The app has no monitor.
    """
    return current_monitor().level


def requires_level(
    level: DegradationLevel | str,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Turn a view (sync or async) off while the app is more degraded than a level.

    Above it the answer is 503 in problem JSON with ``X-Degraded: true``, and with Retry-After where the
    monitor can say before when the level cannot be better. It does not say how degraded the app is.

    Place it below ``app.route``, and above other guards if strangers may learn that a feature is off.

    Args:
        level: The worst level at which the view still answers: at ``MODERATE`` it does, at ``SEVERE`` not.

    Raises:
        ValueError: There is no such level.
        RuntimeError: At a request: the app has no monitor. A decorated view belongs to no app before that.
    """
    worst = DegradationLevel.parse(level)

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            monitor = current_monitor()
            if monitor.level > worst:
                return _refusal(monitor, worst)
            answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
            return answer

        return guarded

    return decorate


def _refusal(monitor: DegradationMonitor, worst: DegradationLevel) -> Response:
    headers = {"X-Degraded": "true"}
    seconds = monitor.retry_after(worst)
    if seconds is not None:
        headers["Retry-After"] = str(max(math.ceil(seconds), 1))
    return problem(503, detail="This feature is turned off at the moment.", headers=headers)
