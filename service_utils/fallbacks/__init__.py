"""Ready-made ways on when something is away: canned answers, a queue, a memory cache, reading only."""

from service_utils.fallbacks.sqlite_answers import SQLiteAnswers

__all__ = ["SQLiteAnswers"]
