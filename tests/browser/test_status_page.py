"""The status page in a real browser, before a real backend whose services are killed and come back."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.backend.commands import START_WITHIN, url
from tests.backend.waiting import eventually
from tests.browser.chromium import browser as real_browser
from tests.browser.chromium import why_not
from tests.browser.running import ADMIN, Running

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests; they leave it as they found it."""
    with ExitStack() as stack:
        yield Running(tmp_path_factory.mktemp("status"), stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests."""
    with real_browser() as started:
        yield started


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor of their own: cookies and storage are empty."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, running: Running) -> Iterator[Page]:
    """A page that complains about nothing and asks no other host."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if "Content Security" in message.text else None,
    )
    strangers: list[str] = []
    origin = running.status.removesuffix("/status")
    page.on(
        "request", lambda asked: strangers.append(asked.url) if not asked.url.startswith(origin) else None
    )
    yield page
    assert complaints == []
    assert strangers == []


def card(page: Page, name: str) -> Any:
    """A service's card."""
    return page.locator(f"#card-{name}")


def sign_in(page: Page, running: Running, name: str = "eve") -> None:
    """As an operator."""
    page.goto(running.status)
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Admin token").fill(ADMIN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_an_outage_shows_by_itself(page: Page, running: Running) -> None:
    """Killed, the service's card says open and counts down; started again, it says closed."""
    assert running.search() == "chroma"
    page.goto(running.status)
    chroma = card(page, "chroma")
    expect(chroma.locator(".state")).to_contain_text("Closed")
    expect(page.locator(".summary")).to_contain_text("All 4 services work")

    running.kill("chroma")
    for _ in range(3):
        assert running.search() == "filesystem"
    expect(chroma.locator(".state")).to_contain_text("Open", timeout=PATIENCE)
    expect(page.locator(".summary")).to_contain_text("Chroma Server (open)")
    countdown = chroma.locator("time[data-until]")
    expect(countdown).to_have_text(re.compile(r"in [1-5] s"))
    earlier = countdown.inner_text()
    eventually(lambda: countdown.count() == 0 or countdown.inner_text() != earlier)
    expect(page.locator(".changes").first).to_contain_text("Chroma Server")
    expect(page.locator(".changes").first).to_contain_text("open")

    again = running.start("--only", "chroma")
    running.command.wait_for("chroma is back at", START_WITHIN)
    eventually(lambda: running.search() == "chroma", within=START_WITHIN)
    expect(chroma.locator(".state")).to_contain_text("Closed")
    expect(page.locator(".changes li").first).to_contain_text("closed")
    assert again.process.poll() is None


def test_the_picture_stays_when_the_backend_is_away(page: Page, running: Running) -> None:
    """The last picture, and since when it is stale; then it goes on."""
    page.goto(running.status)
    expect(card(page, "git").locator(".state")).to_contain_text("Closed")
    page.route("**/status/live", lambda route: route.abort())
    expect(page.locator("#stale")).to_contain_text("Stale since")
    expect(card(page, "git").locator(".state")).to_contain_text("Closed")
    page.unroute("**/status/live")
    expect(page.locator("#stale")).to_be_hidden()


def test_what_has_not_changed_is_not_sent(page: Page, running: Running) -> None:
    """A tab that is left open costs a few bytes every two seconds."""
    statuses: list[int] = []
    page.on("response", lambda got: statuses.append(got.status) if got.url.endswith("/live") else None)
    page.goto(running.status)
    eventually(lambda: page.wait_for_timeout(200) or 304 in statuses, within=20.0)


def test_acting(page: Page, running: Running) -> None:
    """An operator forces a circuit open and resets it, each with a reason; all of it is on record."""
    sign_in(page, running)
    git = card(page, "git")
    git.get_by_text("Act on Git Server").click()
    git.get_by_role("button", name="Force open").click()
    expect(git.get_by_label("Reason")).to_be_focused()  # the browser wants one
    git.get_by_label("Reason").fill("fire drill")
    git.get_by_role("button", name="Force open").click()
    expect(page.locator(".said")).to_contain_text("force-open of git: done")
    expect(card(page, "git").locator(".state")).to_contain_text("Forced open")

    git = card(page, "git")
    git.get_by_text("Act on Git Server").click()
    git.get_by_label("Reason").fill("drill is over")
    git.get_by_role("button", name="Reset").click()
    expect(card(page, "git").locator(".state")).to_contain_text("Closed")
    record = page.get_by_role("region", name="Actions of operators")
    expect(record).to_contain_text("eve")
    expect(record).to_contain_text("fire drill")
    expect(record).to_contain_text("drill is over")


def test_words_being_written_survive_the_polling(page: Page, running: Running) -> None:
    """While somebody writes the reason, the picture changes around it."""
    sign_in(page, running)
    git = card(page, "git")
    git.get_by_text("Act on Git Server").click()
    git.get_by_label("Reason").fill("half a sen")
    headers = {"Authorization": f"Bearer {ADMIN}"}
    path = url(running.environ, "/admin/reliability/circuit-breakers/git")
    requests.post(f"{path}/force-open", json={"reason": "x"}, headers=headers, timeout=10)
    try:
        expect(git.locator(".state")).to_contain_text("Forced open")
        assert git.get_by_label("Reason").input_value() == "half a sen"
        expect(git.get_by_label("Reason")).to_be_focused()
    finally:
        requests.post(f"{path}/reset", json={"reason": "x"}, headers=headers, timeout=10)


def test_the_level(page: Page, running: Running) -> None:
    """Set by hand with an expiry, shown with who and why, and cleared."""
    sign_in(page, running)
    page.get_by_text("Set the level").click()
    page.get_by_label("Level").select_option("moderate")
    page.get_by_label("For").select_option("15 minutes")
    page.locator("#level-reason").fill("maintenance")
    page.get_by_role("button", name="Set", exact=True).click()
    banner = page.locator(".level")
    expect(banner).to_contain_text("moderate")
    expect(banner).to_contain_text("set by eve (maintenance)")
    expect(banner.locator("time[data-until]")).to_have_text(re.compile("in 14 min"))
    page.get_by_text("Set the level").click()
    page.locator("#level-reason").fill("done")
    page.get_by_role("button", name="Let the rules decide").click()
    expect(page.locator(".level")).not_to_contain_text("set by eve")


def test_dead_letters(page: Page, running: Running) -> None:
    """Listed, inspected and purged, with a question before."""
    from service_utils.dead_letters import DeadLetterQueue, SQLiteDeadLetters
    from service_utils.registry import ServiceRegistry

    file = Path(running.environ["VAR_DIR"], "backend", "dead_letters.sqlite3")
    queue = DeadLetterQueue(SQLiteDeadLetters(file), registry=ServiceRegistry())
    letter = queue.add("nobody", "POST", "/snapshot", json={"words": "<b>bold</b>"})
    queue.close()
    sign_in(page, running)
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_role("link", name=letter).click()
    expect(page.locator("main")).to_contain_text("POST /snapshot")
    page.get_by_role("link", name="Show the body").click()
    expect(page.locator("pre").first).to_contain_text("<b>bold</b>")
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_text("Retry or purge many").click()
    page.locator("#many-service").select_option("nobody")
    page.locator("#many-status").select_option("all")
    page.locator("#many-reason").fill("test data")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Purge").click()
    expect(page.locator(".said")).to_contain_text("1 letters removed for good")


def test_the_filter(page: Page, running: Running) -> None:
    """By name or state, or sick ones only."""
    page.goto(running.status)
    page.get_by_label("Filter", exact=True).fill("chro")
    expect(card(page, "chroma")).to_be_visible()
    expect(card(page, "git")).to_be_hidden()
    expect(page.locator("#filter-count")).to_have_text("1 of 4")
    page.get_by_label("Filter", exact=True).fill("")
    page.get_by_label("only sick ones").check()
    expect(card(page, "git")).to_be_hidden()


def test_the_report_is_a_file(page: Page, running: Running) -> None:
    """To be kept with the notes on the incident."""
    page.goto(running.status)
    with page.expect_download() as download:
        page.get_by_role("link", name="Report").click()
    assert re.fullmatch(r"reliability-\d{4}-\d\d-\d\d\.json", download.value.suggested_filename)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(browser: Browser, running: Running, scheme: Any, width: int) -> None:
    """axe-core finds nothing, in both colours, on a phone and a desk; no page has to be moved sideways."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    try:
        page = context.new_page()
        sign_in(page, running)
        page.get_by_text("Act on Git Server").click()
        for path in ("", "/letters"):
            page.goto(running.status + path)
            found = Axe().run(page)
            assert found.response["violations"] == [], found.generate_report()
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0
    finally:
        context.close()


def test_the_keyboard_alone_will_do(page: Page, running: Running) -> None:
    """The first stop leads to the services; the theme is a button."""
    page.goto(running.status)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the services")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_role("button", name="Dark").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_without_scripts_it_is_a_picture(browser: Browser, running: Running) -> None:
    """The server draws it all; only the counting is missing."""
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(running.status)
        expect(card(page, "git").locator(".state")).to_contain_text("Closed")
    finally:
        context.close()


def test_two_tabs_hold_no_thread(context: BrowserContext, running: Running) -> None:
    """Polling leaves the server's threads to users."""
    pages = [context.new_page() for _ in range(6)]
    for page in pages:
        page.goto(running.status)
    done = threading.Event()

    def use() -> None:
        running.search()
        done.set()

    threading.Thread(target=use, daemon=True).start()
    assert done.wait(20.0)
