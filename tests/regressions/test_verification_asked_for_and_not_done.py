"""verify=True for one call of a client made with verify=False did not verify the service."""

from __future__ import annotations

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry
from service_utils.testing import FakeClock


class Watched(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.verified: list[object] = []

    def send(self, request: requests.PreparedRequest, **settings: object) -> requests.Response:  # type: ignore[override]
        self.verified.append(settings["verify"])
        raise requests.ConnectionError


@pytest.mark.parametrize(
    ("of_client", "of_session", "of_call", "wanted"),
    [
        (False, True, True, True),
        (False, True, None, False),
        (True, False, True, True),
        (True, False, None, False),
        (True, True, False, False),
    ],
)
def test_what_one_call_asks_for(
    of_client: bool, of_session: bool, of_call: bool | None, wanted: bool
) -> None:
    """What a call says about verification goes before what client and session say."""
    session = Watched()
    session.verify = of_session
    client = ResilientServiceClient(
        "https://service",
        max_retries=1,
        verify=of_client,
        session=session,
        clock=FakeClock(),
        registry=ServiceRegistry(),
    )

    with pytest.raises(requests.ConnectionError):
        client.get("/", verify=of_call)

    assert session.verified == [wanted]
