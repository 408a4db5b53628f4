"""Texts as vectors without a model: hashed words, pairs of words, initials, and pieces of words.

The same text gives the same vector in every process and on every machine: the hash is BLAKE2b, and nothing is
learned from the collection. Two texts are near when they share words, forms of a word (``index``,
``indexing``), or an abbreviation and what it stands for (``AI``, ``artificial intelligence``).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMENSION", "Vector", "embed"]

DIMENSION: Final = 2**16
"""Length of a vector, of which a text fills only some hundred places; the rest is not stored.

Unlike features that meet in one place look like likeness. In 1,024 places that noise is as large as one word
shared by a question and a page; in 65,536 it is an eighth of that. More would help little, and would not fit
in the 16 bits that a place takes on disk and that make sorting by place cheap.
"""


class Vector(NamedTuple):
    """A sparse vector of length 1, or without any entry.

    Attributes:
        positions: Ascending places, each below :data:`DIMENSION`.
        weights: What stands there.
    """

    positions: NDArray[np.uint16]
    weights: NDArray[np.float32]


# How much each kind of feature counts; the word itself is the measure.
_WORD: Final = 1.0
_PIECES: Final = 0.5  # all pieces of one word together
_PAIR: Final = 0.3
_INITIALS: Final = 0.25
_ABBREVIATION: Final = 0.6
_STOP_WORD: Final = 0.05  # not nothing: "to be or not to be" must find itself

_TOKEN: Final = re.compile(r"[^\W_]+")
_LONGEST_WORD: Final = 64  # beyond it is no word but data, and its pieces would drown the rest
_PIECE: Final = 4
_SHORTEST_IN_PIECES: Final = 4
_ABBREVIATION_LENGTHS: Final = range(2, 6)
_FIRST_IDEOGRAPH: Final = "\u2e80"  # from here on scripts write no spaces: single characters carry meaning

_STOP_WORDS: Final = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could did do
    does doing for from had has have he her here him his how i if in into is it its just me more most my
    no nor not of on one only or other our out over own same she should so some such tell than that the
    their them then there these they this those through to too under until up us very was we were what
    when where which while who whom why will with would you your
    aber als am an auch auf aus bei bin bis das dass dem den der des die du ein eine einem einen einer es
    für hat ich im in ist ja kann mit nach nicht noch nur oder sich sie sind so und vom von vor war was
    wenn wer wie wir wird zu zum zur
    au aux avec ce ces dans de du elle en est et il je la le les leur mais ne nous on ou par pas pour que
    qui sa se ses son sont sur un une vous
    como con de del el en es la las lo los más no o para pero por que se sin su un una y
    """.split()
)


class _Features(NamedTuple):
    """Positions in the vector and what is added at each."""

    positions: NDArray[np.intp]
    weights: NDArray[np.float64]


def embed(text: str) -> Vector:
    """The text's vector.

    A text without any letter or digit is known by its characters; a blank one has no entries and is similar
    to nothing.
    """
    counts = Counter(_features_of(unicodedata.normalize("NFKC", text).casefold()))
    if not counts:
        return Vector(np.empty(0, np.uint16), np.empty(0, np.float32))
    parts = [_hashed(feature) for feature in counts]
    # Sub-linear: the tenth mention of a word says less than the second.
    factors = [1.0 + math.log(count) for count in counts.values()]
    weights = np.concatenate([part.weights * factor for part, factor in zip(parts, factors, strict=True)])
    dense = np.bincount(np.concatenate([part.positions for part in parts]), weights, minlength=DIMENSION)
    positions = np.flatnonzero(dense)
    # fsum, not a BLAS routine: the same bits on every machine.
    kept = dense[positions] / math.sqrt(math.fsum(dense[positions] ** 2))
    return Vector(positions.astype(np.uint16), kept.astype(np.float32))


def _features_of(text: str) -> Iterator[str]:
    """The text's features, each as its kind, a colon and its content."""
    words = _TOKEN.findall(text)
    if not words:
        yield from (f"char:{character}" for character in text if not character.isspace())
        return
    for word in words:
        yield f"word:{word[:_LONGEST_WORD]}"
    telling = [word[:_LONGEST_WORD] for word in words if word not in _STOP_WORDS]
    for first, second in pairwise(telling):
        yield f"pair:{_stem(first)} {_stem(second)}"
    for length in range(2, 4):
        for start in range(len(telling) - length + 1):
            yield "init:" + "".join(word[0] for word in telling[start : start + length])


@lru_cache(maxsize=2**15)
def _hashed(feature: str) -> _Features:
    """Where the feature goes; words recur so much that remembering them is several times faster."""
    kind, _, content = feature.partition(":")
    match kind:
        case "word":
            weighted = dict(_word_features(content))
        case "pair":
            weighted = {feature: _PAIR}
        case "init":
            weighted = {feature: _INITIALS}
        case _:
            weighted = {feature: _WORD}
    places = [_place(name) for name in weighted]
    return _Features(
        np.array([position for position, _ in places], dtype=np.intp),
        np.array([sign * weight for (_, sign), weight in zip(places, weighted.values(), strict=True)]),
    )


def _word_features(word: str) -> Iterator[tuple[str, float]]:
    if word in _STOP_WORDS:
        yield f"word:{word}", _STOP_WORD
        return
    yield f"word:{_stem(word)}", _WORD
    if len(word) in _ABBREVIATION_LENGTHS and word.isalpha():
        yield f"init:{word}", _ABBREVIATION
    pieces = sorted(_pieces(word))
    for piece in pieces:
        yield f"piece:{piece}", _PIECES / math.sqrt(len(pieces))


def _pieces(word: str) -> set[str]:
    if word[0] >= _FIRST_IDEOGRAPH:
        return {word[i : i + size] for size in (1, 2) for i in range(len(word) - size + 1)}
    if len(word) < _SHORTEST_IN_PIECES:
        return set()
    edged = f"<{word}>"  # beginnings and ends of words tell more than their middles
    return {edged[i : i + _PIECE] for i in range(len(edged) - _PIECE + 1)}


def _stem(word: str) -> str:
    """The word without an English plural ending; other endings are left to the pieces."""
    if len(word) < _SHORTEST_IN_PIECES or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def _place(feature: str) -> tuple[int, float]:
    digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
    return digest % DIMENSION, 1.0 if digest >> 63 else -1.0
