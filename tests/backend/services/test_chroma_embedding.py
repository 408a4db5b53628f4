"""Texts as vectors: the same everywhere, and near when they are about the same."""

from __future__ import annotations

import hashlib
import os
import random
import string
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.chroma.embedding import DIMENSION, Vector, embed
from backend.services.chroma.index import VectorIndex, pack

TEXTS = [
    "Artificial intelligence is the science of making machines that reason and learn.",
    "What is the weather? What is it going to be tomorrow? What is rain?",
    "The aim of air travel is to be fast; fair fares are paid in the main hall.",
    "The capital of France is Paris, what a lovely city.",
    "The circuit breaker opens after five consecutive failures.",
    "Retries use exponential back-off with jitter.",
    "Indexing documents makes searching fast.",
    "Bananas are yellow and grow in the tropics.",
    "Die Katze sitzt auf der Matte.",
    "机器学习是人工智能的一个分支",
    "To be or not to be, that is the question.",
]
DIGEST = (
    "import hashlib; from backend.services.chroma.index import pack; "
    "from backend.services.chroma.embedding import embed; "
    "print(hashlib.sha256(pack(embed('What is AI? Künstliche Intelligenz, 人工智能'))).hexdigest())"
)


def similarity(first: str, second: str) -> float:
    return float(VectorIndex([pack(embed(first))]).similarities(embed(second))[0])


def best(query: str, texts: list[str] = TEXTS) -> str:
    similarities = VectorIndex([pack(embed(text)) for text in texts]).similarities(embed(query))
    return texts[int(np.argmax(similarities))]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("what is AI?", "Artificial intelligence"),
        ("artificial intelligence", "Artificial intelligence"),
        ("machine learning", "Artificial intelligence"),
        ("how is the weather tomorrow", "What is the weather"),
        ("which city is the french capital", "The capital of France"),
        ("what does the breaker do when calls fail?", "The circuit breaker"),
        ("retry with exponential backoff", "Retries"),
        ("how are documents indexed?", "Indexing documents"),
        ("document index", "Indexing documents"),
        ("banana", "Bananas"),
        ("Wo sitzt die Katze?", "Die Katze"),
        ("人工智能", "机器学习"),
        ("to be or not to be", "To be or not"),
    ],
)
def test_a_question_finds_its_text(query: str, found: str) -> None:
    """A question is nearest to the text that is about it, in other forms of its words, in any script."""
    assert best(query).startswith(found)


def test_the_words_of_a_question_find_nothing() -> None:
    """The words that every question has make no text a good answer."""
    assert similarity("what is AI?", "What is the weather? What is it?") < 0.05


def test_a_page_is_found_among_a_thousand() -> None:
    """Two uncommon words of a page find it among a thousand others in nine cases of ten."""
    chance = random.Random(1)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(3, 10))) for _ in range(8000)]
    often = [1 / (rank + 5) for rank in range(len(words))]
    pages = [chance.choices(words, often, k=80) for _ in range(1000)]
    index = VectorIndex([pack(embed(" ".join(page))) for page in pages])
    common = frozenset(words[:300])
    hits = 0
    for number in chance.sample(range(1000), 100):
        asked = chance.sample([word for word in pages[number] if word not in common], 2)
        hits += int(np.argmax(index.similarities(embed(" ".join(asked))))) == number
    assert hits >= 80


@given(st.text(max_size=300))
def test_every_text_has_a_vector(text: str) -> None:
    """Any text has a vector of length 1 and is most similar to itself; a blank one has none."""
    vector = embed(text)
    assert len(vector.positions) == len(set(vector.positions.tolist())) == len(vector.weights)
    assert np.all(np.diff(vector.positions.astype(int)) > 0)
    assert np.isfinite(vector.weights).all()
    if len(vector.positions):
        assert float(np.linalg.norm(vector.weights)) == pytest.approx(1, abs=1e-5)
        assert similarity(text, text) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_a_blank_text_is_like_nothing(text: str) -> None:
    """A blank text is similar to no other, not even to itself."""
    assert similarity(text, text) == similarity(text, "word") == 0


def test_a_text_without_words_is_known_by_its_characters() -> None:
    """Texts of signs alone find each other."""
    assert best("🎉", ["🎉 🎉", "??", "a"]) == "🎉 🎉"


@pytest.mark.parametrize(("first", "second"), [("AI", "ai"), ("naïve ＡＢＣ", "NAÏVE abc"), ("a,b", "a b")])
def test_case_width_and_punctuation_make_no_difference(first: str, second: str) -> None:
    """Case, the width of letters and punctuation are not looked at."""
    assert similarity(first, second) == 1


def test_repeating_a_word_helps_little() -> None:
    """A page that repeats a word a hundred times is not nearer than one that has all the words asked for."""
    assert best("circuit breaker state", ["circuit " * 100, "a circuit breaker has a state"]).startswith("a ")


def test_a_word_without_end_does_no_harm() -> None:
    """A megabyte without a space is embedded quickly, as something like a word."""
    assert len(embed("x" * 1_000_000).positions) < 100


@pytest.mark.parametrize("seed", ["0", "1"])
def test_every_process_makes_the_same_vector(seed: str) -> None:
    """A vector does not depend on the process, nor on how Python seeds its own hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment, check=True
    )
    ours = pack(embed("What is AI? Künstliche Intelligenz, 人工智能"))
    assert done.stdout.strip() == hashlib.sha256(ours).hexdigest()


def test_every_machine_makes_the_same_vector() -> None:
    """The places of a known text, as other machines have them on disk."""
    vector = embed("AI")
    assert vector.positions.tolist() == [2084, 45457]
    assert vector.weights.tolist() == pytest.approx([0.5145, 0.8575], abs=1e-4)


def test_the_index_is_the_cosine() -> None:
    """What the index says is the cosine of the dense vectors."""

    def dense(vector: Vector) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        whole = np.zeros(DIMENSION)
        whole[vector.positions] = vector.weights
        return whole

    vectors = [embed(text) for text in TEXTS]
    query = embed("what is a circuit of machines")
    said = VectorIndex([pack(vector) for vector in vectors]).similarities(query)
    assert said == pytest.approx([float(dense(vector) @ dense(query)) for vector in vectors], abs=1e-5)


def test_an_index_may_be_empty() -> None:
    """An index without rows, or of blank texts alone, answers too."""
    assert VectorIndex([]).similarities(embed("a word")).tolist() == []
    assert VectorIndex([b""]).similarities(embed("a word")).tolist() == [0]
