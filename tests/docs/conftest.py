"""The README's commands are sent to the backend that the tests of the backend use."""

from tests.backend.conftest import app, client, services, settings

__all__ = ["app", "client", "services", "settings"]
