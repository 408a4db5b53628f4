"""The monitor of the process, for applications that need but one."""

from __future__ import annotations

import threading

from service_utils.degradation.monitor import DegradationMonitor
from service_utils.degradation.rules import rules_by_share
from service_utils.forks import guard
from service_utils.registry import default_registry

__all__ = ["get_degradation_handler", "set_degradation_handler"]


class _Handler:
    """Holds the monitor, so that threads that ask together get one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._monitor: DegradationMonitor | None = None
        guard(self)

    def get(self) -> DegradationMonitor:
        monitor = self._monitor
        if monitor is not None:
            return monitor
        made = DegradationMonitor(default_registry(), rules_by_share())
        with self._lock:
            if self._monitor is None:
                self._monitor = made
            return self._monitor

    def set(self, monitor: DegradationMonitor | None) -> None:
        with self._lock:
            earlier, self._monitor = self._monitor, monitor
        if earlier is not None and earlier is not monitor:
            earlier.stop(timeout=0.0)


_handler = _Handler()


def get_degradation_handler() -> DegradationMonitor:
    """The monitor of the process.

    Where none was set it is one over the default registry that goes by the share of open circuits
    (:func:`~service_utils.degradation.rules.rules_by_share`). It is not started by being asked for.
    """
    return _handler.get()


def set_degradation_handler(monitor: DegradationMonitor | None) -> None:
    """Have another monitor be that of the process; the one before it is stopped. None: as if none was set.

    Raises:
        TypeError: ``monitor`` is no :class:`DegradationMonitor`.
    """
    if monitor is not None and not isinstance(monitor, DegradationMonitor):
        raise TypeError(f"monitor={monitor!r}: must be a DegradationMonitor")
    _handler.set(monitor)
