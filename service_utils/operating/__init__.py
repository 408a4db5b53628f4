"""What operators see and do: overview, history and report, acts on services, and their record."""

from service_utils.operating.audit import AuditEntry, AuditLog, Operator
from service_utils.operating.desk import OperatorDesk
from service_utils.operating.errors import NotOffered, OperatingError, UnknownService
from service_utils.operating.history import Change, ChangeKind, History, MemoryHistory, Sample
from service_utils.operating.recorder import Recorder
from service_utils.operating.sqlite_history import SQLiteHistory

__all__ = [
    "AuditEntry",
    "AuditLog",
    "Change",
    "ChangeKind",
    "History",
    "MemoryHistory",
    "NotOffered",
    "OperatingError",
    "Operator",
    "OperatorDesk",
    "Recorder",
    "SQLiteHistory",
    "Sample",
    "UnknownService",
]
