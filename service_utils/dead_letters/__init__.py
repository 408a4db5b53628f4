"""Dead letters: calls and messages that could not be delivered, kept until they are or a person decides.

::

    queue = DeadLetterQueue(SQLiteDeadLetters("var/dead_letters.sqlite3"))
    client = ResilientServiceClient(url, name="git", dead_letters=queue)
    DeadLetterWorker(queue).start()
"""

from service_utils.dead_letters.errors import (
    DeadLetterError,
    DeadLetterQueueFull,
    LetterTooOld,
    UnknownLetter,
)
from service_utils.dead_letters.letter import DeadLetter, LetterStatus
from service_utils.dead_letters.memory import MemoryDeadLetters
from service_utils.dead_letters.queue import DeadLetterQueue
from service_utils.dead_letters.sending import current_letter
from service_utils.dead_letters.sqlite import SQLiteDeadLetters
from service_utils.dead_letters.store import DeadLetterStore
from service_utils.dead_letters.worker import DeadLetterWorker

__all__ = [
    "DeadLetter",
    "DeadLetterError",
    "DeadLetterQueue",
    "DeadLetterQueueFull",
    "DeadLetterStore",
    "DeadLetterWorker",
    "LetterStatus",
    "LetterTooOld",
    "MemoryDeadLetters",
    "SQLiteDeadLetters",
    "UnknownLetter",
    "current_letter",
]
