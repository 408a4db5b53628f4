"""An HTTPError of a call with hooks could not be pickled: its request held functions of the client's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests

from service_utils import ResilientServiceClient, ServiceRegistry, call_of
from service_utils.testing import Answer, FaultServer


def look(response: requests.Response, **options: object) -> None:
    """A hook that changes nothing; pickle has to find it in the module."""


@pytest.mark.parametrize("journey", [lambda v: pickle.loads(pickle.dumps(v)), copy.deepcopy, copy.copy])
def test_error_survives_with_the_callers_hook(
    journey: Callable[[Any], Any], fault_server: FaultServer
) -> None:
    """What arrives has the answer and the record, and its request the hook that the caller gave."""
    fault_server.default = Answer(503, "busy")
    with (
        ResilientServiceClient(fault_server.url, max_retries=1, registry=ServiceRegistry()) as client,
        pytest.raises(requests.HTTPError) as caught,
    ):
        client.get("/x", hooks={"response": look})

    twin = journey(caught.value)

    assert (str(twin), call_of(twin)) == (str(caught.value), call_of(caught.value))
    assert twin.response.text == "busy"
    if journey is not copy.copy:  # that one shares its request
        assert twin.request.hooks == {"response": [look]}
