"""The last error of a fallback chain lists itself among those tried, and could not be pickled."""

from __future__ import annotations

import copy
import pickle

import pytest

from service_utils import CircuitOpenError, FallbackChain


def test_error_of_a_failed_chain_survives_pickle_and_copy() -> None:
    """An error that refers to itself through its fields is copied whole."""

    def refuse() -> None:
        raise CircuitOpenError("Chroma", 3.0)

    with pytest.raises(CircuitOpenError) as caught:
        FallbackChain("answer", [refuse]).run()

    for twin in (
        copy.copy(caught.value),
        copy.deepcopy(caught.value),
        pickle.loads(pickle.dumps(caught.value)),
    ):
        assert (str(twin), twin.cooldown_remaining) == (str(caught.value), 3.0)
        assert [name for name, _ in twin.tried] == ["refuse"]
