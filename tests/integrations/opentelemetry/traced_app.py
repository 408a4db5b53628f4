"""A traced Flask app in a process of its own: ``python traced_app.py [URL of the service it calls]``.

Prints its address. What it has exported is at ``/spans``.
"""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask, jsonify
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waitress.server import create_server

from service_utils import ResilientServiceClient
from service_utils.integrations.flask import ServiceUtils
from service_utils.integrations.opentelemetry import instrument, instrument_flask
from service_utils.policies.backoff import fixed
from service_utils.policies.retry import RetryPolicy

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
instrument(provider)

app = Flask("traced")
ServiceUtils(app, record=False)
service = None
if len(sys.argv) > 1:
    service = ResilientServiceClient(
        sys.argv[1],
        "Next Server",
        name="next",
        retry=RetryPolicy(max_attempts=3, backoff=fixed(0.001)),
    )
failures = iter([503])


@app.get("/spans")
def spans() -> Any:
    """What has been exported so far."""
    return jsonify(
        [
            {
                "name": span.name,
                "kind": span.kind.name,
                "trace": f"{span.context.trace_id:032x}",
                "span": f"{span.context.span_id:016x}",
                "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
                "attempts": [
                    event.attributes.get("http.response.status_code")
                    for event in span.events
                    if event.name == "attempt" and event.attributes is not None
                ],
            }
            for span in exporter.get_finished_spans()
        ]
    )


@app.get("/work")
def work() -> Any:
    """Ask the next service; the last one fails once."""
    if service is not None:
        return service.get("/work").json()
    status = next(failures, 200)
    return jsonify(done=status == 200), status


instrument_flask(app, provider)
server = create_server(app, host="127.0.0.1", port=0, threads=2)
print(f"http://127.0.0.1:{server.effective_port}", flush=True)
server.run()
