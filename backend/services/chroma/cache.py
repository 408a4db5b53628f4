"""Vectors kept in memory between queries, with the version of the collection that they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backend.services.chroma.embedding import Vector
from backend.services.chroma.index import VectorIndex

__all__ = ["CachedCollection", "CollectionCache", "Segment"]

_MOST_SEGMENTS: Final = 16
_MOST_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Some rows of a collection: their sequence numbers, ascending, and their vectors in the same order."""

    seqs: NDArray[np.int64]
    index: VectorIndex


@dataclass(frozen=True, slots=True, eq=False)
class CachedCollection:
    """All vectors of a collection at one version; rows added later come as further segments."""

    version: int
    segments: tuple[Segment, ...]

    def lasting(self) -> tuple[Segment, ...]:
        """The segments that stay when rows are added; the others are loaded again, as one with the new rows.

        Each segment costs every query a little, each row loaded again costs this one: so all stay while they
        are few, then only those that are larger than all after them together.
        """
        if len(self.segments) < _MOST_SEGMENTS:
            return self.segments
        after = sum(segment.index.rows for segment in self.segments)
        lasting = []
        for segment in self.segments:
            after -= segment.index.rows
            if segment.index.rows <= after:
                break
            lasting.append(segment)
        return tuple(lasting)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(segment.index.nbytes + segment.seqs.nbytes for segment in self.segments)

    def nearest(
        self, vector: Vector, limit: int, allowed: NDArray[np.int64] | None = None
    ) -> list[tuple[int, float]]:
        """Sequence numbers and similarities, most similar first, equally similar ones in order of age.

        Args:
            vector: What to compare with.
            limit: How many at most.
            allowed: The sequence numbers to choose from, in any order; None for all.
        """
        if not self.segments:
            return []
        similarities = np.concatenate([segment.index.similarities(vector) for segment in self.segments])
        seqs = np.concatenate([segment.seqs for segment in self.segments])
        if allowed is not None:
            chosen = np.isin(seqs, allowed)
            similarities, seqs = similarities[chosen], seqs[chosen]
        order = np.argsort(-similarities, kind="stable")[:limit]
        return list(zip(seqs[order].tolist(), similarities[order].tolist(), strict=True))


class CollectionCache:
    """The collections used last, within a bound of memory; safe to share between threads.

    Args:
        most_bytes: Bound of all vectors together; a single larger collection is kept all the same.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._collections: OrderedDict[int, CachedCollection] = OrderedDict()

    def get(self, collection: int) -> CachedCollection | None:
        """What is kept of the collection, of whatever version."""
        with self._lock:
            cached = self._collections.get(collection)
            if cached is not None:
                self._collections.move_to_end(collection)
            return cached

    def put(self, collection: int, cached: CachedCollection) -> None:
        """Keep it, unless a newer version is there already."""
        with self._lock:
            known = self._collections.get(collection)
            if known is not None and known.version > cached.version:
                return
            self._collections[collection] = cached
            self._collections.move_to_end(collection)
            self._shrink_locked()

    def _shrink_locked(self) -> None:
        held = sum(cached.nbytes for cached in self._collections.values())
        while held > self._most_bytes and len(self._collections) > 1:
            _, dropped = self._collections.popitem(last=False)
            held -= dropped.nbytes
