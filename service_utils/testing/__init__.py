"""What tests of code that calls services need: a clock that obeys."""

from service_utils.testing.clock import FakeClock

__all__ = ["FakeClock"]
