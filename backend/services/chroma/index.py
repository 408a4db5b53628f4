"""Vectors arranged by place, so that a query looks only at the places that it has itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backend.services.chroma.embedding import DIMENSION, Vector

__all__ = ["VectorIndex", "pack"]

# Byte order is fixed: a database may be carried to another machine.
_ENTRY: Final = np.dtype([("position", "<u2"), ("weight", "<f4")])

_DECIMALS: Final = 6
"""Similarities are rounded so that equal texts tie, whatever order their sums were made in."""


def pack(vector: Vector) -> bytes:
    """The vector as it is stored: 6 bytes for each entry."""
    entries = np.empty(len(vector.positions), dtype=_ENTRY)
    entries["position"] = vector.positions
    entries["weight"] = vector.weights
    return entries.tobytes()


class VectorIndex:
    """An immutable index over packed vectors; safe to share between threads.

    Args:
        packed: What :func:`pack` made, one for each row.
    """

    def __init__(self, packed: Sequence[bytes]) -> None:
        self.rows = len(packed)
        entries = np.frombuffer(b"".join(packed), dtype=_ENTRY)
        lengths = np.fromiter((len(one) for one in packed), np.intp, len(packed)) // _ENTRY.itemsize
        # A stable sort of 16-bit numbers is a radix sort: tens of milliseconds for ten thousand pages.
        order = np.argsort(entries["position"], kind="stable")
        self._row_of = np.repeat(np.arange(self.rows, dtype=np.int32), lengths)[order]
        self._weight_of = entries["weight"][order]
        per_place = np.bincount(entries["position"], minlength=DIMENSION)
        self._ends = np.cumsum(per_place)
        self._starts = self._ends - per_place

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._row_of.nbytes + self._weight_of.nbytes + self._ends.nbytes + self._starts.nbytes

    def similarities(self, query: Vector) -> NDArray[np.float64]:
        """The cosine between the query and each row: 1 for the same direction, 0 for nothing shared."""
        scores = np.zeros(self.rows)
        for position, weight in zip(query.positions.tolist(), query.weights.tolist(), strict=True):
            here = slice(self._starts[position], self._ends[position])
            # A row has one entry at most for a place, so that no addition is lost here.
            scores[self._row_of[here]] += weight * self._weight_of[here]
        return np.clip(np.round(scores, _DECIMALS), -1.0, 1.0)
