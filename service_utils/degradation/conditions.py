"""What a rule may ask: which circuits are open and which checks unhealthy. Pure functions of a snapshot.

All of these are *monotone*: where one holds it goes on to hold when further circuits open or further checks
become unhealthy. So more trouble never makes a better level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from service_utils.events import CircuitState
from service_utils.policies.checks import require_count, require_fraction, require_number

__all__ = [
    "Condition",
    "Named",
    "Part",
    "Snapshot",
    "all_of",
    "any_of",
    "at_least",
    "condition_of",
    "is_open",
    "share_open",
    "unhealthy",
    "weight_of",
]

_OPEN = frozenset({CircuitState.OPEN, CircuitState.FORCED_OPEN})
_UNHEALTHY = "unhealthy"
_NEARLY = 1e-9  # 0.7 + 0.1 is a little less than 0.8 in floating point


def _frozen(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(given))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How things stood at one moment.

    Attributes:
        circuits: The state of each circuit by the name of its service. One that is open, but would let the
            next call through, stands here as half open: nobody knows how that service is.
        health: The status of each health check by its name: ``healthy``, ``degraded`` or ``unhealthy``.
    """

    circuits: Mapping[str, CircuitState] = field(default_factory=dict)
    health: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "circuits", _frozen(self.circuits))
        object.__setattr__(self, "health", _frozen(self.health))

    def is_open(self, service: str) -> bool:
        """Whether the circuit of a service is open or forced open; False where there is none."""
        return self.circuits.get(service) in _OPEN

    def is_unhealthy(self, check: str) -> bool:
        """Whether a check found its thing unhealthy; False where there is no such check."""
        return self.health.get(check) == _UNHEALTHY


Condition: TypeAlias = Callable[[Snapshot], bool]
"""What a rule asks. Any function of a snapshot will do; it must be quick and do no I/O."""


class Named:
    """A condition that can say what it is about."""

    __slots__ = ()

    def __call__(self, snapshot: Snapshot) -> bool:
        """Whether it holds."""
        raise NotImplementedError

    def words(self, snapshot: Snapshot) -> str:
        """Why it holds, in words."""
        raise NotImplementedError

    def services(self) -> frozenset[str]:
        """The services it names."""
        return frozenset()

    def checks(self) -> frozenset[str]:
        """The health checks it names."""
        return frozenset()


Part: TypeAlias = str | Condition
"""The name of a service, for "its circuit is open", or any condition."""


@dataclass(frozen=True, slots=True)
class _Open(Named):
    service: str

    def __call__(self, snapshot: Snapshot) -> bool:
        return snapshot.is_open(self.service)

    def words(self, snapshot: Snapshot) -> str:
        return f"{self.service} open"

    def services(self) -> frozenset[str]:
        return frozenset({self.service})


@dataclass(frozen=True, slots=True)
class _Unhealthy(Named):
    check: str

    def __call__(self, snapshot: Snapshot) -> bool:
        return snapshot.is_unhealthy(self.check)

    def words(self, snapshot: Snapshot) -> str:
        return f"{self.check} unhealthy"

    def checks(self) -> frozenset[str]:
        return frozenset({self.check})


@dataclass(frozen=True, slots=True)
class _AtLeast(Named):
    number: int
    parts: tuple[Condition, ...]

    def __call__(self, snapshot: Snapshot) -> bool:
        return sum(bool(part(snapshot)) for part in self.parts) >= self.number

    def words(self, snapshot: Snapshot) -> str:
        return ", ".join(words_of(part, snapshot) for part in self.parts if part(snapshot))

    def services(self) -> frozenset[str]:
        return frozenset().union(*(part.services() for part in self.parts if isinstance(part, Named)))

    def checks(self) -> frozenset[str]:
        return frozenset().union(*(part.checks() for part in self.parts if isinstance(part, Named)))


@dataclass(frozen=True, slots=True)
class _Weight(Named):
    weights: tuple[tuple[str, float], ...]
    least: float

    def __call__(self, snapshot: Snapshot) -> bool:
        return self._open_weight(snapshot) >= self.least - _NEARLY

    def words(self, snapshot: Snapshot) -> str:
        services = ", ".join(service for service, _ in self.weights if snapshot.is_open(service))
        return f"weight {self._open_weight(snapshot):g} of {self.least:g}: {services} open"

    def services(self) -> frozenset[str]:
        return frozenset(service for service, _ in self.weights)

    def _open_weight(self, snapshot: Snapshot) -> float:
        return math.fsum(weight for service, weight in self.weights if snapshot.is_open(service))


@dataclass(frozen=True, slots=True)
class _Share(Named):
    least: float

    def __call__(self, snapshot: Snapshot) -> bool:
        number = self._open(snapshot)
        return number > 0 and number >= self.least * len(snapshot.circuits) - _NEARLY

    def words(self, snapshot: Snapshot) -> str:
        return f"{self._open(snapshot)} of {len(snapshot.circuits)} circuits open"

    def _open(self, snapshot: Snapshot) -> int:
        return sum(map(snapshot.is_open, snapshot.circuits))


def is_open(service: str) -> Named:
    """The circuit of a service is open or forced open. What is half open is being tried, and is not open."""
    return _Open(_checked_name("service", service))


def unhealthy(check: str) -> Named:
    """A health check has found its thing unhealthy."""
    return _Unhealthy(_checked_name("check", check))


def at_least(number: int, *parts: Part) -> Named:
    """So many of the parts hold, or more.

    Raises:
        ValueError: ``number`` is not from 1 to the number of parts, or a part is named twice.
        TypeError: A part is neither a name nor a condition.
    """
    require_count("number", number)
    if number > len(parts):
        raise ValueError(f"number={number!r}: must be at most {len(parts)}, the number of parts given")
    if len(set(parts)) < len(parts):
        raise ValueError(f"parts={parts!r}: names one twice")
    return _AtLeast(number, tuple(map(condition_of, parts)))


def all_of(*parts: Part) -> Named:
    """Every part holds: ``all_of("exa", "tavily")`` is "both are open".

    Raises:
        ValueError: There is no part, or one is named twice.
        TypeError: A part is neither a name nor a condition.
    """
    return at_least(_number_of(parts), *parts)


def any_of(*parts: Part) -> Named:
    """One part holds, or more.

    Raises:
        ValueError: There is no part, or one is named twice.
        TypeError: A part is neither a name nor a condition.
    """
    return at_least(min(_number_of(parts), 1), *parts)


def weight_of(weights: Mapping[str, float], least: float) -> Named:
    """The weights of all services whose circuits are open come to ``least`` or more.

    Raises:
        ValueError: There is no weight, one is not above 0, or all together do not come to ``least``.
        TypeError: A weight is no number.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"weights={weights!r}: must give at least one service a weight")
    for service, weight in weights.items():
        _require_positive(f"weights[{_checked_name('service', service)!r}]", weight)
    _require_positive("least", least)
    together = math.fsum(weights.values())
    if least > together + _NEARLY:
        raise ValueError(f"least={least!r}: is never reached, all weights together are {together:g}")
    return _Weight(tuple(weights.items()), least)


def share_open(least: float) -> Named:
    """So large a share of all circuits of the registry is open, and one at least.

    Raises:
        ValueError: ``least`` is not in [0, 1].
    """
    require_fraction("least", least)
    return _Share(least)


def condition_of(part: Part) -> Condition:
    """The condition itself, or for a name that its circuit is open.

    Raises:
        ValueError: The name is empty.
        TypeError: It is neither.
    """
    if isinstance(part, str):
        return is_open(part)
    if not callable(part):
        raise TypeError(f"{part!r}: must be the name of a service or a condition")
    return part


def words_of(condition: Condition, snapshot: Snapshot) -> str:
    """Why a condition holds, in words; the name of a function that cannot say."""
    if isinstance(condition, Named):
        return condition.words(snapshot)
    return str(getattr(condition, "__name__", type(condition).__name__))


def _number_of(parts: tuple[Part, ...]) -> int:
    if not parts:
        raise ValueError("parts=(): there must be one at least")
    return len(parts)


def _checked_name(argument: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{argument}={name!r}: must be a name")
    if not name:
        raise ValueError(f"{argument}={name!r}: must be a non-empty name")
    return name


def _require_positive(name: str, value: Any) -> None:
    require_number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: must be a finite number > 0")
