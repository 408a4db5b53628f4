"""A signal between taking over a refresh and beginning it left all later callers waiting for nobody."""

from __future__ import annotations

import pytest

from service_utils.http.token_keeper import TokenKeeper


class Rotating:
    """Credentials with a number that each refresh raises."""

    number = 1

    def headers(self, name: str) -> dict[str, str]:
        return {"X-Token": str(self.number)}

    def refresh(self, name: str) -> None:
        self.number += 1


def test_next_caller_refreshes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes after an interrupted refresh makes one of its own."""
    keeper = TokenKeeper(Rotating(), "x", "X")
    _, version = keeper.headers()

    def interrupted(flight: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keeper, "_fly", interrupted)
        with pytest.raises(KeyboardInterrupt):
            keeper.refresh(version, None)

    assert keeper.refresh(version, 5.0)
    assert keeper.headers()[0] == {"X-Token": "2"}
