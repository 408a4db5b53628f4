"""How a circuit's record is put into bytes, and taken out of them."""

from __future__ import annotations

import struct

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory.layout import Damaged
from service_utils.policies.record import MAX_LEASES, CircuitRecord, Lease

__all__ = ["packed", "unpacked"]

_FIXED = struct.Struct("<Q4B5I4Q6d")
_LEASE = struct.Struct("<Qd")
_STATES = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.FORCED_OPEN,
    CircuitState.DISABLED,
)
_NUMBER = {state: number for number, state in enumerate(_STATES)}
_LONGEST_REASON = 200  # bytes
_MOST = 2**32 - 1
_CHANGED, _OUTAGE, _REASON = 1, 2, 4


def packed(record: CircuitRecord) -> bytes:
    """A record less its version."""
    reason = (record.reason or "").encode("utf-8", "backslashreplace")[:_LONGEST_REASON]
    flags = (
        _CHANGED * (record.changed_at is not None)
        | _OUTAGE * (record.outage_began is not None)
        | _REASON * (record.reason is not None)
    )
    fixed = _FIXED.pack(
        record.generation,
        _NUMBER[record.state],
        flags,
        len(record.leases),
        0,
        min(record.failed_probes, _MOST),
        min(record.successes, _MOST),
        *record.trial,
        record.opened,
        record.outages,
        record.last_token,
        record.by,
        record.open_until,
        record.changed_at or 0.0,
        record.outage_began or 0.0,
        record.outage_seconds,
        record.pause_until,
        record.pause_seconds,
    )
    return b"".join((fixed, *(_LEASE.pack(*lease) for lease in record.leases), reason))


def unpacked(version: int, data: bytes) -> CircuitRecord:
    """The record.

    Raises:
        Damaged: It is none.
    """
    try:
        generation, state, flags, leases, _, failed, successes, *rest = _FIXED.unpack_from(data)
        calls, failures, slow, opened, outages, token, by, until, changed, began, seconds, pause, asked = rest
        end = _FIXED.size + leases * _LEASE.size
        if leases > MAX_LEASES or end > len(data):
            raise Damaged("more leases than there can be")
        return CircuitRecord(
            version=version,
            generation=generation,
            state=_STATES[state],
            reason=data[end:].decode("utf-8", "ignore") if flags & _REASON else None,
            open_until=until,
            by=by,
            changed_at=changed if flags & _CHANGED else None,
            failed_probes=failed,
            successes=successes,
            leases=tuple(Lease(*each) for each in _LEASE.iter_unpack(data[_FIXED.size : end])),
            last_token=token,
            trial=(calls, failures, slow),
            opened=opened,
            outage_began=began if flags & _OUTAGE else None,
            outages=outages,
            outage_seconds=seconds,
            pause_until=pause,
            pause_seconds=asked,
        )
    except (struct.error, IndexError) as error:
        raise Damaged("no record of ours") from error
