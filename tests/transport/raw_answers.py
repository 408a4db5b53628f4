"""Generated answers, from good ones to what no server should send; and a strict judge of what is plain."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass

import brotli
from backports import zstd
from hypothesis import strategies as st

SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSMUGGLED"


@dataclass(frozen=True)
class RawAnswer:
    """An answer, and the method of the request that it is given to."""

    method: str
    data: bytes

    def __repr__(self) -> str:
        data = self.data if len(self.data) < 4000 else self.data[:2000] + b" ... " + self.data[-1000:]
        return f"RawAnswer({self.method!r}, {data!r})"


# -- status lines --------------------------------------------------------------------------------------------

GOOD_STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 ",
    b"HTTP/1.1 201 Created",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.1 301 Moved Permanently",
    b"HTTP/1.1 302 Found",
    b"HTTP/1.1 303 See Other",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 307 Temporary Redirect",
    b"HTTP/1.1 308 Permanent Redirect",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 500 Internal Server Error",
    b"HTTP/1.1 503 Service Unavailable",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 299 Etwas \xc3\x9cbles",
    b"HTTP/1.1 299 \xff\xfe",
    b"HTTP/1.1 700 Off the scale",
    b"HTTP/1.1 999 Off the scale",
]
ODD_STATUS_LINES = [
    b"",
    b"\r\nHTTP/1.1 200 OK",
    b" HTTP/1.1 200 OK",
    b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 200",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200\tOK",
    b"HTTP/1.1 200\tOK",
    b"HTTP/1.1 200  OK ",
    b"HTTP/1.1 200\xa0OK",
    b"HTTP/1.1 200 OK\rX-Hidden: 1",
    b"HTTP/1.1 200 O\x00K",
    b"HTTP/1.1 200 OK\x0b",
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 099 OK",
    b"HTTP/1.1 000 OK",
    b"HTTP/1.1 0200 OK",
    b"HTTP/1.1 +200 OK",
    b"HTTP/1.1 -200 OK",
    b"HTTP/1.1 2_0_0 OK",
    b"HTTP/1.1 0xC8 OK",
    b"HTTP/1.1 2e2 OK",
    b"HTTP/1.1 \xb2\xb0\xb0 OK",
    b"HTTP/1.1 OK 200",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.1 103 Early Hints",
    b"http/1.1 200 OK",
    b"HTTP/0.9 200 OK",
    b"HTTP/1 200 OK",
    b"HTTP/1. 200 OK",
    b"HTTP/1.2 200 OK",
    b"HTTP/1.10 200 OK",
    b"HTTP/1.x 200 OK",
    b"HTTP/2 200 OK",
    b"HTTP/2.0 200 OK",
    b"HTTP/11 200 OK",
    b"HTTP/ 200 OK",
    b"HTTPS/1.1 200 OK",
    b"ICY 200 OK",
    b"<html>no head at all</html>",
    b"\x16\x03\x01\x02\x00\x01",
    b"HTTP/1.1 200 " + b"long " * 13_000,
    b"HTTP/1.1 200 " + b"x" * (65536 - 15),
]
INFORMATIONAL = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n",
    b"HTTP/1.0 100 Continue\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nno colon\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    b"HTTP/1.1 199 Own\r\n\r\n",
    b"HTTP/1.1 100\n\n",
]


# -- header lines --------------------------------------------------------------------------------------------

PLAIN_LINES = [
    b"Server: test",
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Content-Type: text/plain",
    b"Content-Type: text/html; charset=ISO-8859-1",
    b"Content-Type: application/json",
    b"content-type: text/plain; charset=utf-8",
    b'Content-Type: text/plain; charset="utf-8"',
    b"Content-Type: text/plain; charset=no-such-charset",
    b"Content-Type: ;;;charset",
    b"Content-Type:",
    b"Vary: Accept",
    b'ETag: "33a64df5"',
    b"X-Empty:",
    b"X-Spaces:   in front and behind \t ",
    b"X-Tight:tight",
    b"X-Tab:\ttab",
    b"X-Colons: a:b:c::",
    b"x-lower: 1",
    b"X-LOWER: 2",
    b"X-!#$%&'*+-.^_`|~: all of the token",
    b"Set-Cookie: a=1",
    b"Set-Cookie: a=2; Path=/; HttpOnly",
    b"Set-Cookie: b=3; Path=/other",
    b"set-cookie: c=4; Max-Age=0",
    b"Set-Cookie: d=5; Domain=example.com",
    b"Set-Cookie: \xff=\xfe",
    b"Set-Cookie:",
    b'Link: <http://127.0.0.1/next>; rel="next", </last>; rel=last',
    b"Location: /elsewhere",
    b"Location: elsewhere?a=1#part",
    b"Location: //127.0.0.1:9/other",
    b"Location: http://127.0.0.1:9/a b",
    b"Location: http://[::1",
    b"Location: http://127.0.0.1:notaport/",
    b"Location: mailto:somebody@example.com",
    b"Location: /caf\xc3\xa9",
    b"Location: /\xff\xfe",
    b"Location:",
    b"Location: ",
    b"Refresh: 1",
    b"Retry-After: 1",
    b"Trailer: X-Sum",
    b"Upgrade: websocket",
    b"Proxy-Connection: keep-alive",
    b"Keep-Alive: timeout=5, max=100",
]
CONNECTION_LINES = [
    b"Connection: close",
    b"Connection: Close",
    b"Connection: keep-alive",
    b"Connection: keep-alive, close",
    b"Connection: upgrade",
    b"Connection: not-closed",
    b"Connection:",
    b"Connection: keep-alive\r\nConnection: close",
    b"Connection: close\r\nConnection: keep-alive",
    b"connection:CLOSE",
]
ODD_LINES = [
    b"no colon here",
    b": no name",
    b":",
    b" leading space: 1",
    b"\tleading tab",
    b" ",
    b"\t",
    b"X-Space : before the colon",
    b"X-Tab\t: before the colon",
    b"X Space: inside",
    b"X-Folded: one\r\n two",
    b"X-Folded: one\r\n\ttwo\r\n three",
    b"X-Folded:\r\n only",
    b"X-Folded: blank\r\n \r\n two",
    b"Content-Length:\r\n 5",
    b"Transfer-Encoding:\r\n chunked",
    b"X-Bare-CR: a\rb",
    b"X-Bare-CR: a\rX-Hidden: b",
    b"X-Bare-CR: a\r",
    b"\rX: 1",
    b"X\r: 1",
    b"\r",
    b"X-Bare-LF: a\nb",
    b"X-Bare-LF: a\nX-Next: b",
    b"X-NUL: a\x00b",
    b"X\x00Y: 1",
    b"\x00",
    b"X-Control: \x01\x02\x1f\x7f",
    b"X-VT: a\x0bb",
    b"X-FF: a\x0cb",
    b"X-FS: a\x1cb",
    b"X-GS: a\x1dX-Hidden: b",
    b"X-RS: a\x1eb",
    b"X-NEL: a\x85b",
    b"X-NEL: a\x85X-Hidden: b",
    b"X-Latin: caf\xe9",
    b"X-UTF8: caf\xc3\xa9",
    b"X-LS: a\xe2\x80\xa8b",
    b"X-NBSP: \xa0a\xa0",
    b"\xc3\x9c: name",
    b"\xff\xfe: name",
    b"From somebody Sun Nov  6",
    b"From: somebody",
    b">From x",
    b"(comment): 1",
    b"X[1]: 1",
    b'"quoted": 1',
    b"X-Encoded: =?utf-8?q?caf=C3=A9?=",
    b"HTTP/1.1 200 OK",
    b"X-Long: " + b"v" * 65_520,
    b"X-Long: " + b"v" * 70_000,
    b"L" * 66_000 + b": v",
    b"\r\n".join(b"X-Many-%d: %d" % (number, number) for number in range(97)),
    b"\r\n".join(b"X-Many-%d: %d" % (number, number) for number in range(101)),
    b"\r\n".join(b"X-Many: %d" % number for number in range(10_000)),
]
ODD_LENGTHS = [
    b"Content-Length: -%d",
    b"Content-Length: +%d",
    b"Content-Length: 0x%x",
    b"Content-Length: %d_0",
    b"Content-Length: %d.0",
    b"Content-Length: %d ",
    b"Content-Length:%d",
    b"Content-Length:\t%d\t",
    b"Content-Length: 000%d",
    b"Content-Length: %d\x00",
    b"Content-Length: %d\x0b",
    b"Content-Length: \xa0%d",
    b"Content-Length: %d,",
    b"Content-Length: ,%d",
    b"Content-Length: %d;",
    b"Content-Length: a%d",
    b"Content-Length: %d9999999999999999999",
    b"Content-Length : %d",
    b" Content-Length: %d",
    b"content-LENGTH: %d",
    b"Content_Length: %d",
    b"Content-Length\x00: %d",
    b"Content-Length: 1\r%d",
    b"X: 1\nContent-Length: %d",
    b"X: 1\x85Content-Length: %d",
]
ENCODINGS = [
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:CHUNKED",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: \tchunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
]

_token = st.text("abcdefXYZ-0123456789", min_size=1, max_size=12).map(str.encode)
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.encode)
_made_line = st.builds(lambda name, value: name + b": " + value, _token, _value)
_any_line = st.binary(max_size=30)


def _header_lines() -> st.SearchStrategy[list[bytes]]:
    plain = st.sampled_from(PLAIN_LINES) | _made_line | st.sampled_from(CONNECTION_LINES)
    odd = plain | plain | st.sampled_from(ODD_LINES) | _any_line
    return st.lists(plain, max_size=6) | st.lists(odd, max_size=4)


# -- bodies --------------------------------------------------------------------------------------------------

_CODERS = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"Deflate": lambda data: zlib.compress(data)[2:-4],
    b"br": brotli.compress,
    b"zstd": zstd.compress,
    b"gzip, zstd": lambda data: zstd.compress(gzip.compress(data)),
    b"br,deflate": lambda data: zlib.compress(brotli.compress(data)),
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
    coding = draw(st.none() | st.none() | st.sampled_from(sorted(_CODERS)))
    if coding is None:
        return [], plain
    body = draw(st.sampled_from(_DAMAGES))(_CODERS[coding](plain))
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


# -- a strict judge ------------------------------------------------------------------------------------------

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\r\n\x00]*)?\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([^\r\n\x00]*)\r\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:[\t ]*;[\t -~]*)?\r\n")
_TRAILERS = re.compile(rb"(?:[^\r\n\x00]+\r\n)*\r\n")  # nobody reads what they say
_NO_BODY = {b"204", b"304"}


def is_plain(answer: RawAnswer) -> bool:
    """Whether an answer follows the letter of RFC 9112 and ends where it says, so that nothing is doubtful.

    After one that does not, a careful client closes the connection.
    """
    position = 0
    while True:
        status = _STATUS_LINE.match(answer.data, position)
        if status is None:
            return False
        fields, position = _fields(answer.data, status.end())
        if fields is None:
            return False
        if not status[1].startswith(b"1") or status[1] == b"101":
            break
    rest = answer.data[position:]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1 or not all(length.isdigit() for length in lengths):
        return False
    if codings and codings[0].lower() != b"chunked":
        return False
    if answer.method == "HEAD" or status[1] in _NO_BODY:
        return not rest
    if codings:
        return _is_chunked(rest)
    return not lengths or len(rest) == int(lengths[0])


def _fields(data: bytes, position: int) -> tuple[list[tuple[bytes, bytes]] | None, int]:
    fields = []
    while data[position : position + 2] != b"\r\n":
        field = _FIELD.match(data, position)
        if field is None:
            return None, position
        fields.append((field[1].lower(), field[2].rstrip(b" \t")))
        position = field.end()
    return fields, position + 2


def _is_chunked(data: bytes) -> bool:
    position = 0
    while True:
        size = _CHUNK.match(data, position)
        if size is None:
            return False
        length = int(size[1], 16)
        if not length:
            return _TRAILERS.fullmatch(data, size.end()) is not None
        position = size.end() + length
        if data[position : position + 2] != b"\r\n":
            return False
        position += 2
