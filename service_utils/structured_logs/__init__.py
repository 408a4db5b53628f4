"""Structured logs: lines for machines or people, with the context of the request and without secrets."""

from service_utils.structured_logs.formatters import JSONFormatter, TextFormatter
from service_utils.structured_logs.secrets import Secrets, SecretsFilter
from service_utils.structured_logs.setup import configure_logging

__all__ = ["JSONFormatter", "Secrets", "SecretsFilter", "TextFormatter", "configure_logging"]
