"""What a thread does at one stroke: bytecode without a place in it where another thread could go first."""

from __future__ import annotations

import dis
from collections.abc import Callable
from typing import Any

_OTHERS_MAY_GO_FIRST = ("CALL", "PRECALL", "JUMP_BACKWARD", "RESUME", "SEND", "YIELD", "FOR_ITER")


def interrupted(function: Callable[..., Any], first: str, last: str) -> list[str]:
    """The instructions at which CPython may let another thread go first.

    Args:
        function: Where to look.
        first: The attribute, or name of the module, whose first use begins the stroke.
        last: That whose last use ends it.
    """
    instructions = list(dis.get_instructions(function))
    uses = [number for number, each in enumerate(instructions) if _uses(each, first)]
    ends = [number for number, each in enumerate(instructions) if _uses(each, last)]
    stroke = instructions[uses[0] : ends[-1] + 1]
    assert stroke, f"{last} is not used after {first}"
    return [each.opname for each in stroke if each.opname.startswith(_OTHERS_MAY_GO_FIRST)]


def _uses(instruction: dis.Instruction, attribute: str) -> bool:
    used = ("LOAD_ATTR", "STORE_ATTR", "LOAD_GLOBAL")
    return instruction.opname in used and instruction.argval == attribute
