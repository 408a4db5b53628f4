"""Generated answers: any line, any framing, any coding, most of them with something wrong."""

from __future__ import annotations

from hypothesis import strategies as st

from .answer_lines import (
    CONNECTION_LINES,
    ENCODINGS,
    GOOD_STATUS_LINES,
    INFORMATIONAL,
    ODD_LENGTHS,
    ODD_LINES,
    ODD_STATUS_LINES,
    PLAIN_LINES,
)
from .codings import CODERS
from .plainness import SMUGGLED, RawAnswer

_token = st.text("abcdefXYZ-0123456789", min_size=1, max_size=12).map(str.encode)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.encode)
_made_line = st.builds(lambda name, value: name + b": " + value, _token, _value)
_any_line = st.binary(max_size=30)


def _header_lines() -> st.SearchStrategy[list[bytes]]:
    plain = st.sampled_from(PLAIN_LINES) | _made_line | st.sampled_from(CONNECTION_LINES)
    odd = plain | plain | st.sampled_from(ODD_LINES) | _any_line
    return st.lists(plain, max_size=6) | st.lists(odd, max_size=4)


# -- bodies --------------------------------------------------------------------------------------------------

_CODINGS = {
    b"gzip": CODERS["gzip"],
    b"x-gzip": CODERS["gzip"],
    b"deflate": CODERS["zlib"],
    b"Deflate": CODERS["deflate"],
    b"br": CODERS["br"],
    b"zstd": CODERS["zstd"],
    b"gzip, zstd": lambda data: CODERS["zstd"](CODERS["gzip"](data)),
    b"br,deflate": lambda data: CODERS["zlib"](CODERS["br"](data)),
    b"identity": lambda data: data,
    b"compress": lambda data: data,
    b"": lambda data: data,
    b"gzip,gzip,gzip,gzip,gzip,gzip": lambda data: data,
}
_DAMAGES = [
    lambda data: data,
    lambda data: data,
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: b"",
    lambda data: data + b"garbage",
    lambda data: data + data,
    lambda data: data[:5] + bytes(255 - each for each in data[5:9]) + data[9:],
    lambda data: b"not encoded at all",
]


@st.composite
def _coded_bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """A body and the lines that tell its coding."""
    plain = draw(
        st.sampled_from([b"", b"body", b'{"a": 1}', b"caf\xc3\xa9 \xff", b"0\r\n\r\n", SMUGGLED, b"y" * 9000])
        | st.binary(max_size=40)
    )
    coding = draw(st.none() | st.none() | st.sampled_from(sorted(_CODINGS)))
    if coding is None:
        return [], plain
    body = draw(st.sampled_from(_DAMAGES))(_CODINGS[coding](plain))
    return [draw(st.sampled_from([b"Content-Encoding: ", b"content-encoding:"])) + coding], body


@st.composite
def _chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks, as it should be, or with one thing wrong."""
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    chunks, rest = [], body
    for size in [*sizes, len(body)]:
        if rest:
            chunks.append(rest[:size])
            rest = rest[size:]
    size_forms = [b"%x", b"%X", b"00%x", b"%x;name=value", b'%x ; a="b;c"', b"%x;" + b"e" * 300]
    odd_forms = [b"%x ", b" %x", b"+%x", b"-%x", b"0x%x", b"%x_", b"z%x", b"%xg", b"%x;" + b"e" * 70_000]
    form = draw(st.sampled_from(size_forms + odd_forms if draw(st.booleans()) else size_forms))
    ends = draw(st.sampled_from([b"\r\n"] * 6 + [b"\n", b"", b"\rX", b"X\r\n"]))
    last = draw(
        st.sampled_from(
            [b"0\r\n\r\n"] * 5
            + [
                b"0\r\nX-Sum: 1\r\n\r\n",
                b"0;last\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n",
                b"0\r\nno colon\r\n\r\n",
                b"0\r\nX-Long: " + b"v" * 70_000 + b"\r\n\r\n",
                b"000\r\n\r\n",
                b"0\n\n",
                b"0\r\n",
                b"\r\n\r\n",
                b"",
                b"-0\r\n\r\n",
                b"FFFFFFFFFFFFFFFFFF\r\n\r\n",
                b"7fffffffffffffff\r\nx",
                b"-1\r\n\r\n",
                b"0\r\nContent-Length: 5\r\n\r\n",
            ]
        )
    )
    wrong = draw(st.sampled_from([0] * 8 + [1, -1]))
    wire = b"".join(form % max(len(chunk) + wrong, 0) + b"\r\n" + chunk + ends for chunk in chunks)
    return wire + last


@st.composite
def _framings(draw: st.DrawFn, body: bytes) -> tuple[list[bytes], bytes]:
    """The lines that tell where the body ends, right or wrong, and the body on the wire."""
    size = len(body)
    kind = draw(
        st.sampled_from(["length"] * 6 + ["none", "odd", "wrong", "two", "chunked", "chunked", "both"])
    )
    if kind == "length":
        return [b"Content-Length: %d" % size], body
    if kind == "none":
        return [], body
    if kind == "odd":
        return [draw(st.sampled_from(ODD_LENGTHS)) % size], body
    if kind == "wrong":
        return [b"Content-Length: %d" % max(size + draw(st.integers(-5, 5)), 0)], body
    if kind == "two":
        other = size + draw(st.sampled_from([0, 0, 1, -1, 3]))
        form = draw(st.sampled_from([b"Content-Length: %d\r\nContent-Length: %d", b"Content-Length: %d, %d"]))
        return [form % draw(st.permutations([size, other]).map(tuple))], body
    lines = [draw(st.sampled_from(ENCODINGS[:2] * 8 + ENCODINGS))]
    if kind == "both":
        lines.insert(draw(st.integers(0, 1)), b"Content-Length: %d" % draw(st.sampled_from([0, 3, size])))
    wire = draw(_chunked(body)) if draw(st.integers(0, 9)) else body
    return lines, wire


@st.composite
def raw_answers(draw: st.DrawFn) -> RawAnswer:
    """Any answer; more than half of them have something odd."""
    method = draw(st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "DELETE"]))
    before = b"".join(draw(st.lists(st.sampled_from(INFORMATIONAL), max_size=2))) if _one_in(draw, 6) else b""
    lines = [draw(st.sampled_from(ODD_STATUS_LINES if _one_in(draw, 5) else GOOD_STATUS_LINES))]
    coding, body = draw(_coded_bodies())
    framing, wire = draw(_framings(body))
    lines += draw(st.permutations([*draw(_header_lines()), *coding, *framing]))
    ends = [b"\r\n"] * (len(lines) + 1)
    if _one_in(draw, 12):
        ends[draw(st.integers(0, len(lines)))] = draw(
            st.sampled_from([b"\n", b"\r", b"\r\r\n", b"", b"\n\r"])
        )
    head = b"".join(line + end for line, end in zip(lines, ends, strict=False)) + ends[-1]
    if method == "HEAD" and draw(st.booleans()):
        wire = b""
    extra = draw(st.sampled_from([b"\r\n", b"\n", b"x", b"\x00", SMUGGLED, b"\r\n" + SMUGGLED]))
    return RawAnswer(method, before + head + wire + (extra if _one_in(draw, 6) else b""))


def _one_in(draw: st.DrawFn, number: int) -> bool:
    return draw(st.integers(1, number)) == 1
