"""What tests of code that calls services need: a clock that obeys and a service that fails on command.

The pytest fixtures ``fake_clock`` and ``fault_server`` are in :mod:`service_utils.testing.fixtures`.
"""

from service_utils.testing.clock import FakeClock
from service_utils.testing.replies import (
    Answer,
    Drip,
    Ending,
    Handled,
    Raw,
    Reply,
    blackhole,
    close_connection,
    drop_reply,
    garbage,
    reset_connection,
    undecodable_gzip,
)
from service_utils.testing.server import FaultServer, Handler
from service_utils.testing.wire import RecordedRequest, RequestHeaders

__all__ = [
    "Answer",
    "Drip",
    "Ending",
    "FakeClock",
    "FaultServer",
    "Handled",
    "Handler",
    "Raw",
    "RecordedRequest",
    "Reply",
    "RequestHeaders",
    "blackhole",
    "close_connection",
    "drop_reply",
    "garbage",
    "reset_connection",
    "undecodable_gzip",
]
