"""Which format, by content alone: a name or a declared type is never believed."""

from __future__ import annotations

import re

from vlmforensics.errors import UnreadableFile, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIC")
"""What is examined."""
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "AVIF": ("avif", "avifs"),
    "HEIC": ("heic", "heif", "hif", "heics", "heifs"),
}
"""Usual file name extensions of each format."""

_EXPORT = "save it as PNG or JPEG and try again"
# (start of the file, what it is, what to do); checked in order.
_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF document", "export the page or extract the picture as PNG or JPEG"),
    (b"%!PS", "PostScript", _EXPORT),
    (b"\xc5\xd0\xd3\xc6", "EPS", _EXPORT),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000", _EXPORT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 code stream", _EXPORT),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL", _EXPORT),
    (b"\xff\x0a", "JPEG XL", _EXPORT),
    (b"8BPS", "a Photoshop document", "flatten it and export PNG or TIFF"),
    (b"8BPB", "a Photoshop document", "flatten it and export PNG or TIFF"),
    (b"\x00\x00\x01\x00", "an icon", _EXPORT),
    (b"FUJIFILMCCD-RAW", "a camera raw file", "develop it to TIFF or JPEG"),
    (b"IIRO", "a camera raw file", "develop it to TIFF or JPEG"),
    (b"IIU\x00", "a camera raw file", "develop it to TIFF or JPEG"),
    (b"\x1a\x45\xdf\xa3", "a video", "export the frame in question as PNG"),
    (b"PK\x03\x04", "a ZIP archive or office document", "take the picture out of it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "an archive", "unpack it"),
    (b"Rar!", "an archive", "unpack it"),
    (b"\x7fELF", "a program", "choose a picture"),
    (b"MZ", "a program", "choose a picture"),
)
_TEXT_LIKE = (
    (rb"<svg[\s>]", "SVG, which is text and not a picture", "export a PNG", "img.svg"),
    (rb"<!doctype html|<html[\s>]", "a web page", "download the picture itself", "img.html"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def sniff(data: bytes) -> str:
    """Name the format of a file by its first bytes.

    Args:
        data: the whole file.

    Returns:
        One of ``FORMATS``.

    Raises:
        UnreadableFile: there are no bytes.
        UnsupportedImage: anything else; the message says what it seems to be and what to do.
    """
    if not data:
        raise UnreadableFile("the file is empty; was the download or upload finished?", code="img.empty")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM" and len(data) > 18 and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _brand(data)
    raise _refusal(data)


_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))


def _brand(data: bytes) -> str:
    """Tell AVIF and HEIC from the videos and raw files that share their container."""
    size = min(int.from_bytes(data[:4], "big"), 4096, len(data))
    major = data[8:12]
    brands = [major, *(data[at : at + 4] for at in range(16, size - 3, 4))]
    if major == b"crx ":
        raise UnsupportedImage("this is a camera raw file; develop it to TIFF or JPEG", code="img.raw")
    if major in _AVIF_BRANDS or (major in (b"mif1", b"msf1", b"miaf") and _AVIF_BRANDS & set(brands)):
        return "AVIF"
    if major in _HEIC_BRANDS or (major in (b"mif1", b"msf1") and _HEIC_BRANDS & set(brands)):
        return "HEIC"
    raise UnsupportedImage(
        "this is a video or another MP4-like file; export the frame in question as PNG", code="img.video"
    )


def _refusal(data: bytes) -> UnsupportedImage:
    """Say what the bytes seem to be, and what the reader can do."""
    for magic, what, advice in _REFUSED:
        if data.startswith(magic):
            return UnsupportedImage(f"this is {what}, which is not examined; {advice}")
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for pattern, what, advice, code in _TEXT_LIKE:
        if head.startswith(b"<") and re.search(pattern, head):
            return UnsupportedImage(f"this is {what}; {advice}", code=code)
    if _is_text(data[:4096]):
        return UnsupportedImage(
            "this is text, not a picture, whatever its name says; choose a picture", code="img.text"
        )
    return UnsupportedImage(
        f"the content is no picture format that is examined ({', '.join(FORMATS)}); {_EXPORT}"
    )


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    printable = sum(byte >= 32 or byte in (9, 10, 13) for byte in head)
    return printable >= 0.95 * len(head) and all(byte < 127 for byte in head[:64])
