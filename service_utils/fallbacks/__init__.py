"""Ready-made ways on when something is away: canned answers, a queue, a memory cache, reading only."""

from service_utils.fallbacks.cache import CacheWithFallback, RedisLike
from service_utils.fallbacks.memory_cache import MemoryCache
from service_utils.fallbacks.queueing import MessageQueueing, MessageSink, Queued
from service_utils.fallbacks.read_only import ReadOnlyError, ReadOnlyMode
from service_utils.fallbacks.sqlite_answers import SQLiteAnswers
from service_utils.fallbacks.templates import AnswerTemplates

__all__ = [
    "AnswerTemplates",
    "CacheWithFallback",
    "MemoryCache",
    "MessageQueueing",
    "MessageSink",
    "Queued",
    "ReadOnlyError",
    "ReadOnlyMode",
    "RedisLike",
    "SQLiteAnswers",
]
