"""What an image file says of itself, read before anyone decodes it.

    bytes -> open_container -> Container(format, width, height, exif, data)

Decoders trust headers: they allocate what a header claims and parse every profile, text and preview that a file
carries, with limits of their own or none. So the file is walked here first, in bounded time, and only what makes its
pixels goes on: `data` is the same image without metadata. Animations and files that claim one thing twice are refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kshot_server.errors import InputError

__all__ = ["Container", "open_container"]

_MAX_PARTS = 16_384  # chunks or segments of one file; more is no image but a way to keep a processor busy
_MAX_SCANS = 64  # encoders write 1 to about 12; each costs a decoder a pass over the whole image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_JPEG_APP0, _JPEG_APP14 = 0xE0, 0xEE  # JFIF and Adobe: they say which colours the components are
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_EOI, _JPEG_SOS, _JPEG_APP1 = 0xD9, 0xDA, 0xE1
_JPEG_MARKER = re.compile(rb"\xff+[\xc0-\xcf\xd9-\xfe]")  # any number of FF may stand before a marker
_JPEG_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # within a scan, FF 00 is a byte and RSTn a pause
_WEBP_ANIMATED, _WEBP_ALPHA = 0x02, 0x10
_WEBP_KEPT = {b"VP8X", b"ALPH", b"VP8 ", b"VP8L"}


class Container(NamedTuple):
    """An image file that has not been decoded."""

    format: str  # PNG, JPEG or WEBP
    width: int
    height: int
    exif: bytes | None  # a TIFF structure
    data: bytes  # the file without what does not make its pixels


class _Segment(NamedTuple):
    marker: int
    start: int  # of its content
    end: int


def open_container(data: bytes) -> Container:
    """Find out what a file is.

    Raises:
        InputError: `unsupported_image`: another format, or an animation; `invalid_image`: no image, cut off or damaged.
    """
    if not data:
        raise _damaged("it is empty")
    for magic, read in _READERS.values():
        if magic.match(data):
            try:
                return read(data)
            except (struct.error, IndexError):
                raise _damaged("it ends too early") from None
    for name, magic in _OTHERS.items():
        if magic.match(data):
            raise _unsupported("The image has a format that is not read.", name)
    raise _damaged("it begins like no image file")


def _read_png(data: bytes) -> Container:
    kept = [_PNG_SIGNATURE]
    seen: list[bytes] = []
    exif = None
    for kind, start, end in _png_chunks(data):
        seen.append(kind)
        if kind == b"acTL":
            raise _unsupported("The image is animated.", "an animated PNG")
        if kind == b"eXIf":
            exif = data[start:end]
        if kind in _PNG_KEPT:
            kept.append(data[start - 8 : end + 4])
    if seen[0] != b"IHDR" or seen.count(b"IHDR") != 1:
        raise _damaged("a PNG has one IHDR chunk, as its first")
    width, height = struct.unpack_from(">II", data, 16)
    return Container("PNG", width, height, exif, b"".join(kept))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each chunk, up to IEND."""
    position = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise _damaged("it ends within a chunk")
        yield kind, position + 8, end
        if kind == b"IEND":
            return
        position = end + 4
    raise _damaged("it has too many chunks")


def _read_jpeg(data: bytes) -> Container:
    segments = list(_jpeg_segments(data))
    scans = [start for marker, start, _ in segments if marker == _JPEG_SOS]
    frames = [start for marker, start, _ in segments if marker in _JPEG_SOF]
    if not scans or len(frames) != 1 or frames[0] > scans[0]:
        raise _damaged("a JPEG has one frame header, and scans after it")
    if len(scans) > _MAX_SCANS:
        raise _unsupported("The image has too many scans.", f"{len(scans)} scans", f"at most {_MAX_SCANS} scans")
    kept = [data[:2]]
    exif = None
    for marker, start, end in segments:
        if marker == _JPEG_APP1 and exif is None and data[start : start + 6] == b"Exif\0\0":
            exif = data[start + 6 : end]
        if start < scans[0] and (marker < 0xE0 or marker in {_JPEG_APP0, _JPEG_APP14}):
            kept.append(data[start - 4 : end])
    kept.append(data[scans[0] - 4 : segments[-1].end])
    height, width = struct.unpack_from(">HH", data, frames[0] + 1)
    return Container("JPEG", width, height, exif, b"".join(kept))


def _jpeg_segments(data: bytes) -> Iterator[_Segment]:
    """Each segment up to and with EOI; the compressed data behind a scan header is passed over."""
    position = 2
    for _ in range(_MAX_PARTS):
        marked = _JPEG_MARKER.match(data, position)
        if marked is None:
            raise _damaged("there is no marker where one must be")
        marker, start = data[marked.end() - 1], marked.end()
        if marker == _JPEG_EOI:
            yield _Segment(marker, start, start)
            return
        end = start + struct.unpack_from(">H", data, start)[0]
        if end < start + 2 or end > len(data):
            raise _damaged("it ends within a segment")
        yield _Segment(marker, start + 2, end)
        position = end if marker != _JPEG_SOS else _after_scan(data, end)
    raise _damaged("it has too many segments")


def _after_scan(data: bytes, position: int) -> int:
    found = _JPEG_END_OF_SCAN.search(data, position)
    if found is None:
        raise _damaged("it ends too early")
    return found.start()


def _read_webp(data: bytes) -> Container:
    kept: list[bytes] = []
    exif = None
    for kind, start, end in _webp_chunks(data):
        if kind == b"EXIF" and exif is None:
            exif = data[start:end].removeprefix(b"Exif\0\0")
        if kind == b"VP8X" and not kept:
            if data[start] & _WEBP_ANIMATED:
                raise _unsupported("The image is animated.", "an animated WEBP")
            # The flags of what is left out go too, but for alpha.
            kept.append(data[start - 8 : start] + bytes([data[start] & _WEBP_ALPHA]) + data[start + 1 : end])
        elif kind in _WEBP_KEPT:
            kept.append(data[start - 8 : end + (end - start) % 2])
    if not kept:
        raise _damaged("a WEBP has a VP8 or VP8L chunk")
    width, height = _webp_size(kept[0])
    body = b"WEBP" + b"".join(kept)
    return Container("WEBP", width, height, exif, b"RIFF" + struct.pack("<I", len(body)) + body)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each chunk."""
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise _damaged("it ends too early")
    position = 12
    for _ in range(_MAX_PARTS):
        if position + 8 > size + 8:
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length
        if end > size + 8:
            raise _damaged("it ends within a chunk")
        yield kind, position + 8, end
        position = end + length % 2
    raise _damaged("it has too many chunks")


def _webp_size(chunk: bytes) -> tuple[int, int]:
    kind = chunk[:4]
    if kind == b"VP8X":
        return int.from_bytes(chunk[12:15], "little") + 1, int.from_bytes(chunk[15:18], "little") + 1
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", chunk, 8)
        if signature == 0x2F:
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and chunk[11:14] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", chunk, 14)
        return width & 0x3FFF, height & 0x3FFF
    raise _damaged("a WEBP begins with its size")


def _damaged(reason: str) -> InputError:
    return InputError(
        "invalid_image",
        f"The image cannot be read: {reason}.",
        expected="a whole PNG, JPEG or WEBP file",
        action="Open it in an image editor and save it again.",
    )


def _unsupported(detail: str, received: str, expected: str = "a still image, PNG, JPEG or WEBP") -> InputError:
    action = "Send one frame as a PNG." if "animated" in received else "Convert it to PNG."
    return InputError("unsupported_image", detail, expected=expected, received=received, action=action)


_READERS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes], Container]]] = {
    "PNG": (re.compile(re.escape(_PNG_SIGNATURE)), _read_png),
    "JPEG": (re.compile(rb"\xff\xd8\xff"), _read_jpeg),
    "WEBP": (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _read_webp),
}

# Only to say what came. Nothing of these is read.
_OTHERS = {
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL),
    "TIFF": re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    "AVIF or HEIC": re.compile(rb".{4}ftyp(avi|hei|hev|mif|msf)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "ICO": re.compile(rb"\0\0\x01\0"),
    "ICNS": re.compile(rb"icns"),
    "PSD": re.compile(rb"8BPS"),
    "PDF": re.compile(rb"%PDF-"),
    "PostScript": re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "FITS": re.compile(rb"SIMPLE  ="),
    "SVG or XML": re.compile(rb"\s*<(\?xml|svg|!DOCTYPE|!--)", re.IGNORECASE),
    "a gzip archive": re.compile(rb"\x1f\x8b"),
    "a zip archive": re.compile(rb"PK\x03\x04"),
    "numpy": re.compile(rb"\x93NUMPY"),
}
