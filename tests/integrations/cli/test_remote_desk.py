"""The desk behind HTTP: the token stays where it belongs, and wrong servers are called by their name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service_utils.clock import SYSTEM
from service_utils.integrations.cli.face import NotThere, Trouble
from service_utils.integrations.cli.remote import RemoteDesk
from service_utils.testing import (
    Answer,
    Drip,
    FaultServer,
    Reply,
    blackhole,
    close_connection,
    garbage,
    undecodable_gzip,
)

TOKEN = "an-admin-token-for-tests"
CIRCUITS = {"services": {}, "open": []}
JSON = {"Content-Type": "application/json"}


def desk_at(server: FaultServer, timeout: float = 10.0) -> RemoteDesk:
    """A desk at a server."""
    return RemoteDesk(server.url, TOKEN, "eve", timeout)


def trouble_with(reply: Reply) -> Trouble:
    """What an operator hears when a server answers so."""
    with (
        FaultServer(default=reply) as server,
        desk_at(server) as desk,
        pytest.raises(Trouble) as caught,
    ):
        desk.circuits()
    return caught.value


class TestWhatIsSent:
    def test_who_asks_and_for_what(self) -> None:
        """Token and operator go as headers, reasons in the body: none of it is in an address."""
        with FaultServer(default=Answer.json({"state": "closed"})) as server, desk_at(server) as desk:
            desk.act("chroma", "reset", "well again")
            (request,) = server.requests
        assert (request.method, request.path) == (
            "POST",
            "/admin/reliability/circuit-breakers/chroma/reset",
        )
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert request.headers["X-Operator"] == "eve"
        assert json.loads(request.body) == {"reason": "well again"}

    def test_the_app_may_be_below_a_path(self) -> None:
        """As behind a proxy that serves several."""
        with FaultServer(default=Answer.json(CIRCUITS)) as server:
            with RemoteDesk(f"{server.url}/shop/", TOKEN, "eve") as desk:
                desk.circuits()
            assert server.requests[0].path == "/shop/admin/reliability/circuit-breakers"

    def test_a_name_that_looks_like_a_path(self) -> None:
        """It is one part of the address, as it is called."""
        with FaultServer(default=Answer.json({"state": "closed"})) as server, desk_at(server) as desk:
            desk.act("route /v1/chat", "reset", "x")
            assert server.requests[0].target.endswith("/circuit-breakers/route%20%2Fv1%2Fchat/reset")

    @pytest.mark.parametrize("name", ["", ".", "..", "../..", "\ud800"])
    def test_a_name_that_leads_elsewhere(self, name: str) -> None:
        """Nothing is sent: ``dlq retry .`` would have all letters tried again."""
        with FaultServer() as server, desk_at(server) as desk:
            with pytest.raises(NotThere, match="none of that name"):
                desk.retry(name, "x", force=False)
            with pytest.raises(NotThere, match="none of that name"):
                desk.act(name, "reset", "x")
            assert server.requests == []

    def test_netrc_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It cannot replace the token."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password hunter2\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        with FaultServer(default=Answer.json(CIRCUITS)) as server, desk_at(server) as desk:
            desk.circuits()
            assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"

    @pytest.mark.parametrize("same_host", [True, False], ids=["same host", "another host"])
    def test_no_redirect_is_followed(self, same_host: bool) -> None:
        """The token goes nowhere else; the operator learns where the app seems to be."""
        with FaultServer() as other, FaultServer() as server, desk_at(server) as desk:
            where = (server if same_host else other).url + "/elsewhere?token=x"
            server.script(Answer(302, headers={"Location": where}))
            with pytest.raises(Trouble, match="redirects to http://127") as caught:
                desk.circuits()
            assert (len(server.requests), len(other.requests)) == (1, 0)
        assert "token=x" not in str(caught.value)

    def test_the_token_is_not_shown(self) -> None:
        """Not even in the representation of the desk."""
        with FaultServer(default=Answer(500, "oops")) as server, desk_at(server) as desk:
            with pytest.raises(Trouble) as caught:
                desk.circuits()
            assert TOKEN not in f"{caught.value!r} {desk!r}"


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost:5000",
            "ftp://x",
            "http://",
            "http://[::1",
            "http://x:99999",
            "http://x/?a=1",
            "http://x/#a",
            "http://user:hunter2@x",
        ],
    )
    def test_what_is_none(self, url: str) -> None:
        """Said before anything is sent; a password in it is not repeated."""
        with pytest.raises(Trouble, match="--url") as caught:
            RemoteDesk(url, TOKEN, "eve")
        assert "hunter2" not in str(caught.value)

    def test_certificates_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable that names them is named."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
        with pytest.raises(Trouble, match="REQUESTS_CA_BUNDLE"):
            RemoteDesk("https://x", TOKEN, "eve")


class TestWrongServers:
    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (Answer(200, "<html>", headers={"Content-Type": "text/html"}), "is --url right?"),
            (Answer(200, "", headers=JSON), "is --url right?"),
            (Answer(200, "[]", headers=JSON), "is --url right?"),
            (Answer(200, "[" * 400_000, headers=JSON), "is --url right?"),
            (Answer(200, b'{"services": "\xff"}', headers=JSON), "is --url right?"),
            (Answer.json({"hello": 1}), "answers without 'services'"),
            (Answer(200, b" " * (16 * 2**20 + 1), headers=JSON), "more than 16 MiB"),
            (Answer(200, "{}" * 50, headers=JSON).truncated(at=2), "no whole answer"),
            (undecodable_gzip(), "no whole answer"),
            (garbage(), "no whole answer"),
            (close_connection(), "no whole answer"),
            (Answer(502, "<html>", headers={"Content-Type": "text/html"}), "a proxy, is not well"),
            (Answer.json({"message": "?"}, status=400), "answers 400 without a reason"),
        ],
        ids=[
            *("html", "nothing", "a list", "brackets", "no text", "another api", "endless", "cut off"),
            *("no gzip", "no http", "closed", "of a proxy", "no reason"),
        ],
    )
    def test_it_is_said_what_is_wrong(self, reply: Reply, words: str) -> None:
        """One sentence, whatever the server does."""
        assert words in str(trouble_with(reply))

    @pytest.mark.parametrize(
        "reply",
        [blackhole(), Answer(200, " " * 999, headers=JSON, drip=Drip(1, every=0.05))],
        ids=["silence", "drips"],
    )
    def test_it_is_given_up_in_time(self, reply: Reply) -> None:
        """The time-out bounds the whole answer: who drips does not keep anybody waiting."""
        with FaultServer(default=reply) as server, desk_at(server, timeout=0.5) as desk:
            begun = SYSTEM.monotonic()
            with pytest.raises(Trouble, match=r"within 0\.5 s"):
                desk.circuits()
            assert SYSTEM.monotonic() - begun < 20

    def test_an_act_that_is_not_answered(self) -> None:
        """It may have been done, and the operator is told; where nobody listens nothing was done."""
        with FaultServer(default=blackhole()) as server, desk_at(server, timeout=0.3) as desk:
            with pytest.raises(Trouble, match="may be done all the same"):
                desk.act("chroma", "reset", "x")
            with pytest.raises(Trouble) as caught:
                desk.circuits()
            assert "may be done" not in str(caught.value)
            server.disconnect()
            server.stop_listening()
            with pytest.raises(Trouble, match="Connection refused") as caught:
                desk.act("chroma", "reset", "x")
            assert "may be done" not in str(caught.value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "headers", "words", "kind"),
        [
            (400, {}, "says no", Trouble),
            (401, {}, "says no See --token-file.", Trouble),
            (404, {}, "says no", NotThere),
            (409, {}, "says no", Trouble),
            (422, {}, "says no", Trouble),
            (429, {"Retry-After": "17"}, "says no Try again in 17 s.", Trouble),
            (503, {}, "says no", Trouble),
        ],
    )
    def test_the_app_says_why(
        self, status: int, headers: dict[str, str], words: str, kind: type[Trouble]
    ) -> None:
        """Its own words are passed on, with what may help."""
        problem: dict[str, Any] = {"title": "Problem", "status": status, "detail": "says no"}
        body = json.dumps(problem)
        answer = Answer(status, body, headers={"Content-Type": "application/problem+json", **headers})
        trouble = trouble_with(answer)
        assert (str(trouble), type(trouble)) == (words, kind)
