"""What tests of code with services need: a clock that obeys, services and networks that fail when told to.

The pytest fixtures ``fake_clock``, ``fault_server`` and ``fault_proxy`` are in
:mod:`service_utils.testing.fixtures`.
"""

from service_utils.testing import faults
from service_utils.testing.clock import FakeClock
from service_utils.testing.exchanges import End, Exchange
from service_utils.testing.faults import Fault, Flow, Side
from service_utils.testing.proxy import FaultProxy
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
    "End",
    "Ending",
    "Exchange",
    "FakeClock",
    "Fault",
    "FaultProxy",
    "FaultServer",
    "Flow",
    "Handled",
    "Handler",
    "Raw",
    "RecordedRequest",
    "Reply",
    "RequestHeaders",
    "Side",
    "blackhole",
    "close_connection",
    "drop_reply",
    "faults",
    "garbage",
    "reset_connection",
    "undecodable_gzip",
]
