"""The ``where`` filters of a vector service: conditions on the metadata of a chunk."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

__all__ = ["Metadata", "Scalar", "check_where", "matches"]

Scalar: TypeAlias = str | int | float | bool | None
Metadata: TypeAlias = Mapping[str, Scalar]

_DEEPEST: Final = 8

_ORDERED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_LISTED: Final = frozenset({"$in", "$nin"})
_JOINED: Final = frozenset({"$and", "$or"})


def check_where(where: object, depth: int = 0) -> None:
    """Whether ``where`` is a filter: ``{"key": value}``, ``{"key": {"$gt": 3}}``, ``{"$and": [filter, …]}``.

    Operators: ``$eq $ne $gt $gte $lt $lte $in $nin``, joined by ``$and`` and ``$or``. Several keys in one
    object must all hold.

    Raises:
        ValueError: It is empty (it would match everything), nested too deeply, or not of that form.
    """
    if not isinstance(where, dict) or not where:
        raise ValueError("must be an object with at least one condition")
    if depth > _DEEPEST:
        raise ValueError(f"must not be nested more than {_DEEPEST} levels deep")
    for key, condition in where.items():
        if key in _JOINED:
            if not isinstance(condition, list) or not condition:
                raise ValueError(f"{key} takes a list of conditions")
            for one in condition:
                check_where(one, depth + 1)
        elif key.startswith("$"):
            raise ValueError(f"unknown operator {key}")
        else:
            _check_condition(key, condition)


def _check_condition(key: str, condition: object) -> None:
    if not isinstance(condition, dict):
        if not _is_scalar(condition):
            raise ValueError(f"{key} is compared with a text, a number, a boolean or null")
        return
    if not condition:
        raise ValueError(f"{key} has no condition")
    for name, operand in condition.items():
        if name in _LISTED:
            if not isinstance(operand, list) or not all(map(_is_scalar, operand)):
                raise ValueError(f"{name} takes a list of values")
        elif name not in _ORDERED and name not in {"$eq", "$ne"}:
            raise ValueError(f"unknown operator {name}")
        elif not _is_scalar(operand):
            raise ValueError(f"{name} takes a text, a number, a boolean or null")


def matches(metadata: Metadata, where: Mapping[str, object]) -> bool:
    """Whether the metadata satisfy a filter that :func:`check_where` has passed.

    A missing key equals nothing but null, and is neither above nor below anything.
    """
    return all(_holds(metadata, key, condition) for key, condition in where.items())


def _holds(metadata: Metadata, key: str, condition: object) -> bool:
    if isinstance(condition, list):
        join = all if key == "$and" else any
        return join(matches(metadata, one) for one in condition)
    value = metadata.get(key)
    if not isinstance(condition, dict):
        return _equal(value, condition)
    return all(_compare(value, name, operand) for name, operand in condition.items())


def _compare(value: Scalar, name: str, operand: object) -> bool:
    if isinstance(operand, list):
        return any(_equal(value, one) for one in operand) == (name == "$in")
    if name in {"$eq", "$ne"}:
        return _equal(value, operand) == (name == "$eq")
    # Texts and numbers have no common order, and nothing is above or below a boolean or null.
    both_texts = isinstance(value, str) and isinstance(operand, str)
    return (both_texts or (_is_number(value) and _is_number(operand))) and _ORDERED[name](value, operand)


def _equal(value: object, other: object) -> bool:
    """Equal as JSON values are: true is not 1, but 1 is 1.0."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
