"""The retry budget: retries may only be a share of the calls, so that a sick service is not stormed.

A bucket of tokens, as in gRPC's retry throttling (proposal A6) and Finagle's ``RetryBudget``: calls pay in,
retries take out. It knows no clock: after a quiet hour the bucket is as full as it was, so that a client
with little to do may always retry, while one that fails under load soon may not.
"""

from __future__ import annotations

import math
import threading

from service_utils.forks import guard

__all__ = ["RetryBudget"]

# Ten deposits of 0.1 make 0.9999999999999999 in floating point; they have paid for a retry all the same.
_NEARLY_ONE = 1.0 - 1e-9


class RetryBudget:
    """A bucket of tokens that starts full. For any number of threads; a forked child goes on with a copy.

    Args:
        ratio: Tokens each call pays in: 0.5 allows one retry per two calls in the long run.
        capacity: Tokens the bucket holds at most, and so the retries that are free after good times.

    Raises:
        TypeError: An argument is not a number.
        ValueError: An argument is negative or not finite.
    """

    __slots__ = ("__weakref__", "_balance", "_lock", "capacity", "ratio")

    def __init__(self, ratio: float = 0.5, capacity: float = 10.0) -> None:
        self.ratio = _checked("ratio", ratio)
        self.capacity = _checked("capacity", capacity)
        self._balance = self.capacity
        self._lock = threading.RLock()
        guard(self)

    @property
    def balance(self) -> float:
        """Tokens in the bucket, from 0.0 to ``capacity``."""
        return self._balance

    def deposit(self) -> None:
        """Pay in for one call. What would run over the rim is lost."""
        if self._balance >= self.capacity:
            return  # the usual case, and it needs no lock: a bucket seen full was full at that moment
        with self._lock:
            balance = self._balance + self.ratio
            if balance > self.capacity:
                balance = self.capacity
            self._balance = balance

    def try_withdraw(self) -> bool:
        """Take the token for one retry. False, and nothing taken, when there is less than one."""
        with self._lock:
            if self._balance < _NEARLY_ONE:
                return False
            self._balance = self._balance - 1.0 if self._balance > 1.0 else 0.0
            return True

    def refund(self) -> None:
        """Put back the token of a retry that was not made after all."""
        with self._lock:
            balance = self._balance + 1.0
            if balance > self.capacity:
                balance = self.capacity
            self._balance = balance

    def __repr__(self) -> str:
        return f"RetryBudget(ratio={self.ratio!r}, capacity={self.capacity!r}, balance={self._balance:.3f})"

    def __reduce__(self) -> tuple[object, ...]:
        # A copy is a bucket of its own that begins with what is in this one: a lock cannot be copied.
        return _refill, (self.ratio, self.capacity, self._balance)


def _refill(ratio: float, capacity: float, balance: float) -> RetryBudget:
    budget = RetryBudget(ratio, capacity)
    budget._balance = balance
    return budget


def _checked(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r}: must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond all floats
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}={value!r}: must be a finite number >= 0")
    return number
