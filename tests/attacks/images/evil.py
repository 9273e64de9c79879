"""Files that try to break an image decoder, made here and not stored. Each says what it tries.

`EVIL` maps a name to the file and to the code that it must be answered with. A new one begins with its row, then comes
the fix.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

__all__ = ["EVIL", "Evil", "chunk", "jpeg_segments", "photo", "png", "save"]


class Evil(NamedTuple):
    """A file, the code of its refusal, and what it tries."""

    make: Callable[[], bytes]
    code: str
    tries: str


# -- building blocks --


def photo(height: int = 24, width: int = 32) -> Image.Image:
    """A small RGB picture without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // width, y * 255 // height, (x * y) % 256]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def save(image: Image.Image, file_format: str, **options: object) -> bytes:
    """An image as a file."""
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, pixels: bytes | None = None) -> bytes:
    """A PNG of the given header, with `chunks` before its pixels. Without `pixels` it is black."""
    if pixels is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        pixels = zlib.compress((b"\0" + bytes((width * channels * depth + 7) // 8)) * height, 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def black_rows(width_bytes: int, height: int) -> bytes:
    """Compressed black rows, without ever holding them all."""
    compressor = zlib.compressobj(9)
    row = b"\0" * (1 + width_bytes)
    block = row * 64
    out = b"".join(compressor.compress(block) for _ in range(height // 64))
    return out + compressor.compress(row * (height % 64)) + compressor.flush()


def jpeg_segments(*segments: tuple[int, bytes]) -> bytes:
    """JPEG segments: marker and content."""
    return b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    plain = save(photo(), "JPEG")
    return plain[:2] + jpeg_segments(*segments) + plain[2:]


# -- pixel floods --


def bomb_png() -> bytes:
    return png(31_640, 31_640, depth=1, pixels=black_rows(31_640 // 8, 31_640)[:20_000])


def honest_bomb_png() -> bytes:
    return png(13_000, 13_000, depth=1, pixels=black_rows(13_000 // 8, 13_000))


def wide_png() -> bytes:
    return png(0x7FFFFFFF, 0x7FFFFFFF, pixels=b"")


def size_in_disguise_png() -> bytes:
    small = png(8, 8)
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    return small[:33] + large + small[33:]


def large_webp() -> bytes:
    return webp_header(16_384, 16_384)


def webp_header(width: int, height: int, flags: int = 0, content: bytes = b"") -> bytes:
    extended = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + extended + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def large_jpeg() -> bytes:
    return save(photo(), "JPEG").replace(frame_header(24, 32), frame_header(65_500, 65_500))


def frame_header(height: int, width: int) -> bytes:
    return b"\x08" + struct.pack(">HH", height, width) + b"\x03"


def growing_jpeg() -> bytes:
    plain = save(photo(), "JPEG")
    second = jpeg_segments((0xC0, frame_header(60_000, 60_000) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])))
    at = plain.index(b"\xff\xda")
    return plain[:at] + second + plain[at:]


# -- time --


def many_scans_jpeg(scans: int = 1000) -> bytes:
    """A progressive JPEG whose refinement scans say "nothing to refine", over and over."""
    plain = save(photo(512, 512).convert("L"), "JPEG", progressive=True)
    starts = [at for at in range(len(plain) - 1) if plain[at : at + 2] == b"\xff\xda"]
    first_scan = plain[starts[0] : starts[1]]
    return plain[: starts[1]] + first_scan * (scans - 1) + b"\xff\xd9"


def many_chunks_png() -> bytes:
    return png(8, 8, *[chunk(b"tEXt", b"a\0b")] * 100_000)


def many_segments_jpeg() -> bytes:
    return with_segments(*[(0xFE, b"")] * 100_000)


# -- metadata --


def animated_png() -> bytes:
    frames = [photo(), photo().rotate(90)]
    return save(frames[0], "PNG", save_all=True, append_images=frames[1:])


def odd_animation_png() -> bytes:
    control = chunk(b"acTL", struct.pack(">II", 0, 0))
    return png(8, 8, control, control)


def animated_webp() -> bytes:
    return save(photo(), "WEBP", save_all=True, append_images=[photo().rotate(180)])


def many_chunks_webp() -> bytes:
    return webp_header(8, 8, content=(b"JUNK" + bytes(4)) * 100_000)


def webp(kind: bytes, content: bytes) -> bytes:
    """A WEBP of one chunk."""
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def another_webp_inside() -> bytes:
    # The canvas says 8 x 8, the picture in it is 32 x 24.
    whole = save(photo(), "WEBP", lossless=True)
    return webp_header(8, 8, content=whole[12:])


def animated_gif() -> bytes:
    return save(photo(), "GIF", save_all=True, append_images=[photo().rotate(180)])


# -- cut and damaged --


def cut(file_format: str) -> bytes:
    whole = save(photo(), file_format)
    return whole[: len(whole) * 2 // 3]


def garbled_png() -> bytes:
    return png(8, 8, pixels=zlib.compress(b"\xff" * 100)[:20])


def short_pixels_png() -> bytes:
    return png(200, 200, pixels=zlib.compress(b"\0" * 300))


def wrong_checksum_png() -> bytes:
    whole = bytearray(png(8, 8))
    whole[30] ^= 1  # within the checksum of IHDR
    return bytes(whole)


def endless_chunk_png() -> bytes:
    return png(8, 8)[:33] + struct.pack(">I", 0xFFFFFFFF) + b"IDAT"


def headless_jpeg() -> bytes:
    return b"\xff\xd8" + jpeg_segments((0xDA, b"\x01\x01\x00\x00\x3f\x00")) + b"\0\0\xff\xd9"


def svg() -> bytes:
    return b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'


EVIL: dict[str, Evil] = {
    "bomb": Evil(bomb_png, "image_too_large", "20 KB that claim 10^9 pixels: a gigabyte if decoded"),
    "honest-bomb": Evil(honest_bomb_png, "image_too_large", "20 KB that hold 169 million real pixels"),
    "wide": Evil(wide_png, "image_too_large", "2^31 x 2^31 pixels: overflows a size in 64 bits of bytes"),
    "two-headers": Evil(
        size_in_disguise_png, "invalid_image", "a second IHDR: the checked size is not the decoded one"
    ),
    "large-webp": Evil(large_webp, "image_too_large", "the WEBP decoder allocates two canvases on opening"),
    "large-jpeg": Evil(large_jpeg, "image_too_large", "600 bytes that claim 4.3 * 10^9 pixels"),
    "two-frames": Evil(growing_jpeg, "invalid_image", "a second frame header: the checked size is not the decoded one"),
    "many-scans": Evil(many_scans_jpeg, "unsupported_image", "1,000 scans: each is a pass over the whole image"),
    "many-chunks": Evil(many_chunks_png, "invalid_image", "100,000 text chunks to be parsed and kept"),
    "many-segments": Evil(many_segments_jpeg, "invalid_image", "100,000 empty comments"),
    "many-chunks-webp": Evil(many_chunks_webp, "invalid_image", "100,000 unknown chunks"),
    "canvas": Evil(another_webp_inside, "invalid_image", "a picture larger than its canvas"),
    "odd-vp8": Evil(lambda: webp(b"VP8 ", bytes(40)), "invalid_image", "a lossy WEBP without a key frame"),
    "odd-vp8l": Evil(lambda: webp(b"VP8L", bytes(40)), "invalid_image", "a lossless WEBP without its signature"),
    "apng": Evil(animated_png, "unsupported_image", "an animation: which frame is the image?"),
    "odd-apng": Evil(odd_animation_png, "unsupported_image", "an animation of no frames, twice: PIL warns the process"),
    "animated-webp": Evil(animated_webp, "unsupported_image", "an animation: which frame is the image?"),
    "animated-gif": Evil(animated_gif, "unsupported_image", "a format that is not read"),
    "cut-png": Evil(lambda: cut("PNG"), "invalid_image", "two thirds of a PNG"),
    "cut-jpeg": Evil(lambda: cut("JPEG"), "invalid_image", "two thirds of a JPEG: decoders fill up with grey"),
    "cut-webp": Evil(lambda: cut("WEBP"), "invalid_image", "two thirds of a WEBP"),
    "garbled": Evil(garbled_png, "invalid_image", "compressed data that stop in the middle"),
    "short-pixels": Evil(short_pixels_png, "invalid_image", "fewer pixels than the header says"),
    "wrong-checksum": Evil(wrong_checksum_png, "invalid_image", "a header whose checksum is wrong"),
    "endless-chunk": Evil(endless_chunk_png, "invalid_image", "a chunk of 4 GB in 41 bytes"),
    "headless": Evil(headless_jpeg, "invalid_image", "a scan of no image"),
    "zero": Evil(lambda: png(0, 0, pixels=zlib.compress(b"")), "invalid_image", "no pixels at all"),
    "zero-wide": Evil(lambda: png(0, 5, pixels=zlib.compress(b"\0" * 5)), "invalid_image", "rows without pixels"),
    "zero-jpeg": Evil(
        lambda: save(photo(), "JPEG").replace(frame_header(24, 32), frame_header(0, 32)),
        "invalid_image",
        "a height that is told later (DNL), or never",
    ),
    "only-magic-png": Evil(lambda: b"\x89PNG\r\n\x1a\n", "invalid_image", "a signature and nothing else"),
    "only-magic-jpeg": Evil(lambda: b"\xff\xd8\xff", "invalid_image", "a signature and nothing else"),
    "only-magic-webp": Evil(lambda: b"RIFF\x04\0\0\0WEBP", "invalid_image", "a signature and nothing else"),
    "empty": Evil(lambda: b"", "invalid_image", "nothing"),
    "text": Evil(lambda: b"hello", "invalid_image", "no image"),
    "html": Evil(lambda: b"<html>404</html>", "invalid_image", "what a failed download leaves"),
    "svg": Evil(svg, "unsupported_image", "XML with an external entity"),
    "eps": Evil(
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_image", "a program for Ghostscript"
    ),
    "pdf": Evil(lambda: b"%PDF-1.7\n", "unsupported_image", "a document"),
    "fits": Evil(
        lambda: b"SIMPLE  =                    T".ljust(2880), "unsupported_image", "a decoder with known holes"
    ),
    "icns": Evil(lambda: b"icns" + bytes(40), "unsupported_image", "a container of other formats"),
    "bmp": Evil(lambda: save(photo(), "BMP"), "unsupported_image", "a format that is not read"),
    "tiff": Evil(lambda: save(photo(), "TIFF"), "unsupported_image", "a format that is not read"),
    "gzip": Evil(lambda: b"\x1f\x8b\x08" + bytes(20), "unsupported_image", "compressed twice"),
    "pickle": Evil(lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", "invalid_image", "a pickle"),
}
