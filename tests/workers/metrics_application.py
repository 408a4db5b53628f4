"""An application for gunicorn with a page of metrics: one client with a bulkhead, and what operators do."""

from __future__ import annotations

import os
from typing import Any

import requests
from flask import Flask, Response

from service_utils import BreakerConfig, ResilientServiceClient, ServiceRegistry
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.prometheus import Metrics
from service_utils.policies.bulkhead import BulkheadConfig

registry = ServiceRegistry()
client = ResilientServiceClient(
    os.environ["DOWNSTREAM_URL"],
    "Downstream",
    name="downstream",
    max_retries=1,
    breaker=BreakerConfig(failure_threshold=1000, recovery_timeout=60.0),
    bulkhead=BulkheadConfig(max_concurrent=2, max_wait=15.0),
    registry=registry,
)
app = Flask(__name__)
ServiceUtils(app, registry=registry, metrics=Metrics(registry), record=False)


@app.get("/call")
def call() -> dict[str, Any]:
    """Make a call."""
    try:
        client.get("/work")
    except requests.RequestException as error:
        return {"failed": type(error).__name__}
    return {"failed": None}


@app.get("/open")
def force_open() -> dict[str, Any]:
    """Open the circuit by hand."""
    client.breaker.force_open("maintenance")
    return {}


@app.get("/reset")
def reset() -> dict[str, Any]:
    """Close it again."""
    client.reset()
    return {}


@app.after_request
def tell_pid(response: Response) -> Response:
    """Say which worker has answered."""
    response.headers["X-Pid"] = str(os.getpid())
    return response
