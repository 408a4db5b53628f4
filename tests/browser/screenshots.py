"""Pictures of the status page for the documents: ``make screenshots``.

A backend with four gunicorn workers is used for a while, then its chroma service is killed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.backend.waiting import eventually
from tests.browser.chromium import browser
from tests.browser.running import ADMIN, Running

_PAUSE = 0.15  # seconds between two requests of a user
_USERS = 3
_DESK = {"width": 1280, "height": 1000}
_PHONE = {"width": 390, "height": 844}


def use_for(running: Running, seconds: float) -> None:
    """Have some users search."""
    ends = time.monotonic() + seconds

    def user() -> None:
        while time.monotonic() < ends:
            running.search()
            time.sleep(_PAUSE)

    with ThreadPoolExecutor(_USERS) as users:
        for each in [users.submit(user) for _ in range(_USERS)]:
            each.result()


def picture(started: Browser, running: Running, file: Path, size: dict[str, int], scheme: str) -> None:
    """Take one; the dark one is an operator's."""
    context = started.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(running.status)
    if scheme == "dark":
        sign_in(page)
    expect(page.locator("#card-chroma .state")).to_contain_text("Open", timeout=20_000)
    page.wait_for_timeout(2500)  # one round of polling: "ago" instead of moments
    page.screenshot(path=file)
    context.close()
    print(file)


def sign_in(page: Page) -> None:
    """As Eve, who looks at what can be done about chroma."""
    page.get_by_label("Your name").fill("eve")
    page.get_by_label("Admin token").fill(ADMIN)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Act on Chroma Server").click()


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=90.0, help="of use before the outage")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = Running(folder, stack, "--production", CHROMA_RECOVERY_TIMEOUT="60")
        use_for(running, options.seconds)
        running.kill("chroma")
        use_for(running, 20.0)
        started = stack.enter_context(browser())
        eventually(lambda: "minor" in running.level() or "moderate" in running.level(), within=30.0)
        picture(started, running, options.folder / "status-light.png", _DESK, "light")
        picture(started, running, options.folder / "status-dark.png", _DESK, "dark")
        picture(started, running, options.folder / "status-phone.png", _PHONE, "light")


if __name__ == "__main__":
    main()
