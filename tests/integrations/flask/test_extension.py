"""The extension as a whole: its options, its parts, several apps."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask

from service_utils.clock import SYSTEM
from service_utils.http.context import current_deadline, current_request_id
from service_utils.integrations.flask import ServiceUtils, require_internal_token
from service_utils.integrations.flask.tokens import Verdict
from service_utils.policies.fallback import mark_degraded
from service_utils.registry import ServiceRegistry, default_registry
from service_utils.testing import FakeClock


def inside() -> str:
    """A view that is guarded."""
    return "in"


class TestOptions:
    def test_an_unknown_option_is_named(self) -> None:
        """A slip of the pen is told by name, with the options there are."""
        with pytest.raises(TypeError, match=r"no option 'request_deadlin'; it has admin, admin_prefix"):
            ServiceUtils(request_deadlin=3)

    @pytest.mark.parametrize("name", ["error_handlers", "context", "degraded_header", "trust_deadline"])
    def test_switches_are_true_or_false(self, name: str) -> None:
        """A text such as "no" would switch on what it means to switch off."""
        with pytest.raises(TypeError, match=f"{name}='no'"):
            ServiceUtils(None, None, **{name: "no"})

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_the_deadline_is_a_time(self, seconds: float) -> None:
        """No request can be answered in no time."""
        with pytest.raises(ValueError, match="request_deadline="):
            ServiceUtils(request_deadline=seconds)

    @pytest.mark.parametrize("seconds", ["25", True])
    def test_the_deadline_is_a_number(self, seconds: Any) -> None:
        """Neither text nor a truth value is a number of seconds."""
        with pytest.raises(TypeError, match="request_deadline="):
            ServiceUtils(request_deadline=seconds)

    @pytest.mark.parametrize(
        ("paths", "error"),
        [
            ("/status", TypeError),
            (None, TypeError),
            (["status"], ValueError),
            ([3], ValueError),
            (["/a", "/a"], ValueError),
        ],
    )
    def test_paths_are_a_sequence_of_paths(self, paths: Any, error: type[Exception]) -> None:
        """A single text, a relative path or the same path twice is refused."""
        with pytest.raises(error, match="status_paths="):
            ServiceUtils(status_paths=paths)

    def test_the_clock_is_a_clock(self) -> None:
        """A function such as time.monotonic is no clock."""
        with pytest.raises(TypeError, match="clock="):
            ServiceUtils(clock=SYSTEM.monotonic)

    def test_verifiers_reach_the_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``token_verifiers`` decide who may pass ``require_internal_token``."""
        app = Flask("a")
        ServiceUtils(app, token_verifiers=[lambda headers: Verdict.WRONG_AUDIENCE])
        app.add_url_rule("/guarded", "guarded", require_internal_token(inside))
        assert app.test_client().get("/guarded").status_code == 403


class TestApps:
    def test_it_can_come_before_the_app(self) -> None:
        """``init_app`` is for applications with a factory."""
        extension = ServiceUtils(request_deadline=3.0)
        app = Flask("a")
        extension.init_app(app)
        assert app.extensions["service_utils"] is extension
        app.add_url_rule("/left", "left", lambda: str(current_deadline() is not None))
        assert app.test_client().get("/left").text == "True"

    def test_one_extension_serves_two_apps(self) -> None:
        """Several apps of one process share the extension and nothing else."""
        extension = ServiceUtils()
        apps = [Flask("a"), Flask("b")]
        for app in apps:
            extension.init_app(app)
            app.add_url_rule("/id", "id", lambda: str(current_request_id()))
        for app in apps:
            assert app.test_client().get("/id", headers={"X-Request-ID": app.name}).text == app.name
        for app in apps:
            assert app.test_client().get("/nowhere").is_json

    def test_two_extensions_with_registries_of_their_own(self) -> None:
        """Each app shows its own services."""
        registries = [ServiceRegistry(), ServiceRegistry()]
        extensions = [ServiceUtils(Flask("a"), registry) for registry in registries]
        assert [each.registry for each in extensions] == registries
        assert all(each.registry is registry for each, registry in zip(extensions, registries, strict=True))

    def test_without_a_registry_the_processs_own_is_shown(self) -> None:
        """Clients enter the default registry, so that is what there is to show."""
        assert ServiceUtils().registry is default_registry()

    def test_twice_on_one_app_is_an_error(self) -> None:
        """A second time would run every hook twice."""
        app = Flask("a")
        ServiceUtils(app)
        with pytest.raises(ValueError, match="already"):
            ServiceUtils(app)

    def test_a_wrong_profile_is_told_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A misspelt profile stops the app at its start, not at the first guarded request."""
        monkeypatch.setenv("SERVICE_UTILS_PROFILE", "prodution")
        with pytest.raises(ValueError, match="SERVICE_UTILS_PROFILE='prodution'"):
            ServiceUtils(Flask("a"))

    def test_two_apps_at_once_in_two_threads(self) -> None:
        """Requests to two apps at the same moment keep their own ids."""
        barrier = threading.Barrier(2, timeout=10)
        seen: dict[str, str] = {}

        def view() -> str:
            barrier.wait()
            try:
                return str(current_request_id())
            finally:
                barrier.wait()

        def ask(name: str) -> None:
            app = Flask(name)
            ServiceUtils(app)
            app.add_url_rule("/id", "id", view)
            seen[name] = app.test_client().get("/id", headers={"X-Request-ID": name}).text

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert seen == {"a": "a", "b": "b"}


class TestParts:
    @staticmethod
    def make(**options: Any) -> Flask:
        """An app with some parts, and a view that falls back."""
        app = Flask("a")
        ServiceUtils(app, **options)

        def view() -> str:
            mark_degraded("other")
            return str(current_request_id())

        app.add_url_rule("/view", "view", view)
        return app

    def test_without_error_handlers(self) -> None:
        """Errors stay Flask's own pages."""
        response = self.make(error_handlers=False).test_client().get("/nowhere")
        assert (response.status_code, response.mimetype) == (404, "text/html")
        assert "X-Request-ID" in response.headers

    def test_without_context(self) -> None:
        """Nothing is bound and no id goes back; degraded answers are marked all the same."""
        response = self.make(context=False).test_client().get("/view", headers={"X-Request-ID": "r"})
        assert response.text == "None"
        assert "X-Request-ID" not in response.headers
        assert response.headers["X-Degraded"] == "true"

    def test_without_the_mark(self) -> None:
        """Degraded answers are not told from others; the context is bound all the same."""
        response = self.make(degraded_header=False).test_client().get("/view", headers={"X-Request-ID": "r"})
        assert response.text == "r"
        assert "X-Degraded" not in response.headers

    def test_without_status_pages(self) -> None:
        """An empty list of paths leaves the status out."""
        client = self.make(status_paths=()).test_client()
        assert client.get("/v1/api/status/services").status_code == 404
        assert client.get("/admin/service-status").status_code == 404

    def test_without_anything(self) -> None:
        """An app with every part left out behaves as without the extension."""
        app = self.make(
            error_handlers=False,
            context=False,
            degraded_header=False,
            status_paths=(),
            admin=False,
            status_page=None,
            record=False,
        )
        assert not app.before_request_funcs
        assert not app.after_request_funcs
        assert app.config["PROPAGATE_EXCEPTIONS"] is None
        assert app.test_client().get("/view").text == "None"

    def test_the_history_goes_by_real_time(self) -> None:
        """A test's clock, which stands still, holds no thread up: the thread ends when it is told to."""
        app = self.make(clock=FakeClock())
        app.test_client().get("/view")
        recorder = app.extensions["service_utils"].recorder
        thread = recorder._spell._thread
        assert thread.is_alive()
        recorder.stop()
        assert not thread.is_alive()
