"""The mapped file: whatever a write is cut off at, readers find the old value or the new one."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_utils.events import CircuitState
from service_utils.integrations.shared_memory import layout
from service_utils.integrations.shared_memory.layout import (
    LAYOUT,
    LONGEST_NAME,
    NOTE,
    RECORD,
    SIZE,
    Damaged,
    Header,
    Place,
    TwoCopies,
)
from service_utils.integrations.shared_memory.values import packed, unpacked
from service_utils.policies.record import BLANK, MAX_LEASES, CircuitRecord, Lease

BOOT = "8c1d3a0e-0000-4000-8000-00000000beef"
HEADER = Header(0xABCDEF, BOOT)
COPIES_AT, COPY_SIZE = 64, 128
ROOM = COPY_SIZE - 16  # number, length and checksum take the rest


def new_memory(size: int = 4096, header: Header = HEADER) -> mmap.mmap:
    """Memory in which nobody has written yet."""
    memory = mmap.mmap(-1, size)
    memory[:8] = header.first.to_bytes(8, "little")
    return memory


def value_in(memory: mmap.mmap, header: Header = HEADER) -> TwoCopies:
    return TwoCopies(memory, 0, COPIES_AT, COPY_SIZE, header)


def written(*values: bytes, header: Header = HEADER) -> tuple[mmap.mmap, TwoCopies]:
    """Memory in which these values have been written one after another."""
    memory = new_memory(header=header)
    copies = value_in(memory, header)
    for number, value in enumerate(values, header.first):
        assert copies.write(number, value)
    return memory, copies


# -- values in two copies ------------------------------------------------------------------------------


def test_a_value_that_nobody_has_written() -> None:
    """It has the file's first number, and is None."""
    assert written()[1].read() == (HEADER.first, None)


def test_each_write_adds_one_to_the_number() -> None:
    """The value is what was written last, whichever of the two copies that is."""
    values = [b"one", b"", b"three", b"\0" * ROOM, b"five"]
    memory, copies = written()
    for number, value in enumerate(values, HEADER.first):
        assert copies.write(number, value)
        assert value_in(memory).read() == (number + 1, value)
    assert copies.words[0] == HEADER.first + len(values)


@pytest.mark.parametrize("before", [[], [b"old"], [b"older", b"old"]], ids=["none", "odd", "even"])
def test_a_write_that_is_cut_off_has_changed_nothing(before: list[bytes]) -> None:
    """Whoever is killed after any byte of the copy leaves the old value, and the next one can write."""
    memory, copies = written(*before)
    old = copies.read()
    new_copy, _ = written(*before, b"a new one, and longer")
    start = COPIES_AT + (len(before) + 1) % 2 * COPY_SIZE
    for end in range(start, start + COPY_SIZE + 1):
        memory[start:end] = new_copy[start:end]
        assert copies.read() == old
    assert copies.write(old[0], b"by another")
    assert copies.read() == (old[0] + 1, b"by another")


@pytest.mark.parametrize("before", [[b"old"], [b"older", b"old"]], ids=["odd", "even"])
def test_a_number_without_its_copy_is_damage(before: list[bytes]) -> None:
    """A number that was written though its copy was not complete is told from any that we have written."""
    memory, copies = written(*before)
    new_copy, new = written(*before, b"a new one, and longer")
    start = COPIES_AT + (len(before) + 1) % 2 * COPY_SIZE
    copies.words[0] = new.words[0]
    for end in range(start, start + 16 + len(b"a new one, and longer")):
        memory[start:end] = new_copy[start:end]
        with pytest.raises(Damaged):
            copies.read()
    memory[start : start + COPY_SIZE] = new_copy[start : start + COPY_SIZE]
    assert copies.read() == new.read()


@pytest.mark.parametrize("bit", range(8))
def test_a_changed_bit_is_damage(bit: int) -> None:
    """In each byte of the copy: of its number, its length, the value and the checksum."""
    memory, copies = written(b"a value")
    start = COPIES_AT + COPY_SIZE
    for at in range(start, start + 16 + len(b"a value")):
        memory[at] ^= 1 << bit
        with pytest.raises(Damaged):
            copies.read()
        memory[at] ^= 1 << bit
    assert copies.read() == (HEADER.first + 1, b"a value")


@pytest.mark.parametrize("bit", range(64))
def test_a_number_with_a_changed_bit(bit: int) -> None:
    """It is damage, or the number of the value before: nobody reads what was never there."""
    _, copies = written(b"one", b"two", b"three", b"four", b"five")
    copies.words[0] ^= 1 << bit
    if copies.words[0] == HEADER.first + 4:
        assert copies.read() == (HEADER.first + 4, b"four")
    else:
        with pytest.raises(Damaged):
            copies.read()


def test_the_copy_of_another_file_is_damage() -> None:
    """Each file has numbers and checksums of its own, so that nothing of another one is taken for its."""
    theirs, _ = written(b"theirs", header=Header(0x123456, BOOT))
    with pytest.raises(Damaged):
        value_in(theirs).read()
    theirs[:8] = (HEADER.first + 1).to_bytes(8, "little")
    with pytest.raises(Damaged):
        value_in(theirs).read()


def test_numbers_of_two_files_never_meet() -> None:
    """However often a value is written, its number says of which file it is."""
    other = Header(HEADER.nonce + 1, BOOT)
    assert HEADER.first < HEADER.first + 2**40 - 1 < other.first < 2**64
    assert Header(2**24 - 1, BOOT).first + 2**40 - 1 < 2**64


@pytest.mark.parametrize("known", [-1, 1], ids=["older", "newer"])
def test_a_write_on_another_value_is_refused(known: int) -> None:
    """Who knows another value than the one that is there changes nothing."""
    memory, copies = written(b"a value")
    before = memory[:]
    assert not copies.write(HEADER.first + 1 + known, b"another")
    assert memory[:] == before


def test_a_value_that_is_too_long() -> None:
    """What does not fit is refused before anything is written."""
    memory, copies = written(b"a value")
    before = memory[:]
    with pytest.raises(ValueError, match=rf"{ROOM + 1} bytes: there is room for {ROOM}"):
        copies.write(HEADER.first + 1, b"x" * (ROOM + 1))
    assert memory[:] == before
    assert copies.write(HEADER.first + 1, b"x" * ROOM)


@given(noise=st.binary(min_size=COPIES_AT + 2 * COPY_SIZE, max_size=COPIES_AT + 2 * COPY_SIZE))
def test_noise_is_damage(noise: bytes) -> None:
    """Where there is none of our values nothing else is raised, and nobody searches for long."""
    memory = new_memory()
    memory[8 : len(noise)] = noise[8:]
    value_in(memory).read()  # of noise in the copies nobody takes notice
    memory[: len(noise)] = noise
    with pytest.raises(Damaged):
        value_in(memory).read()


# -- names ---------------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Place:
    return Place(new_memory(RECORD), 0, HEADER)


@pytest.mark.parametrize(
    "name", [b"b", "größer".encode(), b"n" * LONGEST_NAME], ids=["short", "utf-8", "long"]
)
def test_a_name_is_taken(place: Place, name: bytes) -> None:
    """A place is nobody's until somebody takes it."""
    assert place.name() == b""
    place.take(name)
    assert place.name() == name


def test_a_name_that_is_cut_off() -> None:
    """Who is killed before it is whole has taken nothing; the next one may."""
    memory = new_memory(RECORD)
    place, whole = Place(memory, 0, HEADER), new_memory(RECORD)
    Place(whole, 0, HEADER).take(b"billing")
    for length in range(len(b"billing") + 1):
        memory[72 : 72 + length] = whole[72 : 72 + length]
        assert place.name() == b""
    place.take(b"chroma")
    assert place.name() == b"chroma"


def test_a_changed_name_is_damage() -> None:
    """A byte of it, or more than a name has room for."""
    memory = new_memory(RECORD)
    place = Place(memory, 0, HEADER)
    place.take(b"billing")
    for at in (64, 65, *range(68, 72 + len(b"billing"))):
        memory[at] ^= 0x10
        with pytest.raises(Damaged):
            place.name()
        memory[at] ^= 0x10
    assert place.name() == b"billing"


def test_the_name_of_another_file_is_damage() -> None:
    """Names have checksums of their file."""
    memory = new_memory(RECORD)
    Place(memory, 0, Header(0x123456, BOOT)).take(b"billing")
    with pytest.raises(Damaged):
        Place(memory, 0, HEADER).name()


# -- the last error ------------------------------------------------------------------------------------


def test_the_last_error(place: Place) -> None:
    """There is none, then it is the last one, with its moment."""
    assert place.last_error() is None
    place.note_error(1.5, "answered 503")
    assert place.last_error() == (1.5, "answered 503")
    place.note_error(2.5, "")
    assert place.last_error() == (2.5, "")


def test_a_long_error_is_cut_at_a_character(place: Place) -> None:
    """As much of it is kept as there is room for; no character is torn."""
    for text in ("x" * 5000, "ä" * 5000, "x" + "€" * 5000, "𝄞" * 5000):
        place.note_error(1.0, text)
        found = place.last_error()
        assert found is not None
        assert text.startswith(found[1])
        assert 440 < len(found[1].encode()) <= 480


def test_an_error_that_is_cut_off_is_none() -> None:
    """While it is being written, or when its writer was killed, there is the old one, the new one or none."""
    memory, whole = new_memory(RECORD), new_memory(RECORD)
    place, new = Place(memory, 0, HEADER), Place(whole, 0, HEADER)
    place.note_error(1.0, "answered 503")
    new.note_error(2.0, "refused")
    allowed = (place.last_error(), None, new.last_error())
    for end in range(1536, RECORD):
        memory[1536:end] = whole[1536:end]
        assert place.last_error() in allowed
    assert place.last_error() == new.last_error() == (2.0, "refused")


@given(noise=st.binary(min_size=16, max_size=RECORD - 1536))
def test_noise_is_no_error(noise: bytes) -> None:
    """What is no error of ours is none."""
    memory = new_memory(RECORD)
    memory[1536 : 1536 + len(noise)] = noise
    assert Place(memory, 0, HEADER).last_error() is None


# -- the header ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [1, 0xABCDEF, 2**24 - 1])
def test_a_header(nonce: int) -> None:
    """It is read as it was written, whatever follows it."""
    header = Header(nonce, BOOT)
    assert Header.unpacked(header.packed()) == header
    assert Header.unpacked(header.packed() + b"\xff" * 64) == header


def test_a_header_of_another_boot_is_another_one() -> None:
    """It can be read, and is not the same."""
    assert Header.unpacked(Header(1, "another").packed()) == Header(1, "another") != Header(1, BOOT)


@pytest.mark.parametrize(("what", "value"), [("LAYOUT", LAYOUT + 1), ("LAYOUT", 0), ("SIZE", SIZE + 4096)])
def test_a_header_of_another_layout(monkeypatch: pytest.MonkeyPatch, what: str, value: int) -> None:
    """Files of another version of this package, or of another length, are refused."""
    with monkeypatch.context() as patch:
        patch.setattr(layout, what, value)
        data = HEADER.packed()
        assert Header.unpacked(data) == HEADER
    with pytest.raises(Damaged, match="layout"):
        Header.unpacked(data)


def test_a_header_without_a_nonce() -> None:
    """0 is none, for then empty memory would be a value."""
    with pytest.raises(Damaged):
        Header.unpacked(Header(0, BOOT).packed())
    with pytest.raises(Damaged):
        Header.unpacked(Header(2**24, BOOT).packed())


def test_a_header_that_is_cut_off_or_changed() -> None:
    """Any of its bytes makes it another one."""
    data = HEADER.packed()
    for length in range(len(data)):
        with pytest.raises(Damaged):
            Header.unpacked(data[:length])
        changed = bytearray(data)
        changed[length] ^= 0x20
        with pytest.raises(Damaged):
            Header.unpacked(bytes(changed))


@given(noise=st.binary(max_size=128))
def test_noise_is_no_header(noise: bytes) -> None:
    """Nothing else is raised."""
    with pytest.raises(Damaged):
        Header.unpacked(noise)


# -- records as bytes ----------------------------------------------------------------------------------

_U32, _U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_SECONDS = st.floats(allow_nan=False)
_LEASES = st.lists(st.builds(Lease, _U64, _SECONDS), max_size=MAX_LEASES).map(tuple)
_RECORDS = st.builds(
    CircuitRecord,
    version=_U64,
    generation=_U64,
    state=st.sampled_from(CircuitState),
    reason=st.none() | st.text(max_size=300),
    open_until=_SECONDS,
    by=_U64,
    changed_at=st.none() | _SECONDS,
    failed_probes=_U32,
    successes=_U32,
    leases=_LEASES,
    last_token=_U64,
    trial=st.tuples(_U32, _U32, _U32),
    opened=_U32,
    outage_began=st.none() | _SECONDS,
    outages=_U32,
    outage_seconds=_SECONDS,
    pause_until=_SECONDS,
    pause_seconds=_SECONDS,
)


@given(record=_RECORDS)
def test_a_record_is_read_as_it_was_written(record: CircuitRecord) -> None:
    """All of it, of a reason as many characters as fit into 200 bytes."""
    found = unpacked(record.version, packed(record))
    assert found._replace(reason=None) == record._replace(reason=None)
    if record.reason is None:
        assert found.reason is None
    else:
        assert found.reason is not None
        assert record.reason.startswith(found.reason)
        rest = record.reason[len(found.reason) :]
        assert not rest or len((found.reason + rest[0]).encode()) > 200


@given(record=_RECORDS)
def test_every_record_has_room(record: CircuitRecord) -> None:
    """No circuit is too large for its place."""
    place = Place(new_memory(RECORD), 0, HEADER)
    assert place.value.write(HEADER.first, packed(record._replace(reason="€" * 300)))


@pytest.mark.parametrize("character", ["x", "ä", "€", "𝄞"])
def test_a_long_reason_is_cut_at_a_character(character: str) -> None:
    """No character is torn."""
    for shift in range(4):
        reason = "." * shift + character * 300
        found = unpacked(0, packed(BLANK._replace(reason=reason))).reason
        assert found is not None
        assert reason.startswith(found)
        assert 200 - len(character.encode()) < len(found.encode()) <= 200


def test_counts_that_are_full() -> None:
    """A circuit that has failed for ever counts no further, and is written all the same."""
    record = BLANK._replace(failed_probes=2**32 + 5, successes=2**40)
    found = unpacked(0, packed(record))
    assert (found.failed_probes, found.successes) == (2**32 - 1, 2**32 - 1)


@given(noise=st.binary(max_size=640))
def test_noise_is_damage_or_a_record(noise: bytes) -> None:
    """Bytes that are no record raise that they are damaged, and nothing else."""
    _read(noise)


@given(record=_RECORDS, data=st.data())
def test_a_changed_record_is_damage_or_a_record(record: CircuitRecord, data: st.DataObject) -> None:
    """The same where most of it is ours."""
    changed = bytearray(packed(record))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    _read(bytes(changed)[: data.draw(st.integers(0, len(changed)))])


def _read(data: bytes) -> None:
    try:
        found = unpacked(7, data)
    except Damaged:
        return
    assert found.version == 7
    assert found.state in CircuitState
    assert len(found.leases) <= MAX_LEASES


def test_a_note_has_room_for_what_is_promised() -> None:
    """1,900 bytes."""
    note = Place(new_memory(NOTE), 0, HEADER, note=True)
    assert note.value.write(HEADER.first, b"x" * 1900)
