"""An application for gunicorn: one client, a route that calls, and one for each thing an operator does."""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask, Response

from service_utils import BreakerConfig, ResilientServiceClient, ServiceRegistry, ServiceUnavailable
from service_utils.integrations.flask import ServiceUtils
from service_utils.sharing import leader_of

registry = ServiceRegistry()
client = ResilientServiceClient(
    os.environ["DOWNSTREAM_URL"],
    "Downstream",
    name="downstream",
    max_retries=1,
    breaker=BreakerConfig(
        failure_threshold=5, recovery_timeout=2.0, recovery_jitter=0.0, half_open_timeout=20.0
    ),
    raise_for_status=True,
    registry=registry,
)
app = Flask(__name__)
ServiceUtils(app, registry=registry)


@app.get("/call")
def call() -> dict[str, Any]:
    """What a call comes to, who has made it, and when it began, by the clock of the host."""
    began = time.monotonic()
    try:
        client.get("/work")
    except ServiceUnavailable:
        came_to = "refused"
    except Exception:
        came_to = "failed"
    else:
        came_to = "answered"
    return {"came_to": came_to, "pid": os.getpid(), "began": began, "state": client.state.value}


@app.post("/<deed>")
def do(deed: str) -> dict[str, Any]:
    """What an operator does."""
    if deed == "force-open":
        client.breaker.force_open("maintenance")
    elif deed == "disable":
        client.breaker.disable("test")
    elif deed == "pause":
        client.gate.close(30.0)
    else:
        client.reset()
    return {"pid": os.getpid()}


@app.get("/leads")
def leads() -> dict[str, Any]:
    """Whether this worker leads the host."""
    leader = leader_of(client.store)
    assert leader is not None
    return {"pid": os.getpid(), "leads": leader.leads()}


@app.after_request
def tell_pid(response: Response) -> Response:
    """Say which worker has answered."""
    response.headers["X-Pid"] = str(os.getpid())
    return response
