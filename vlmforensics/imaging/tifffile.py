"""TIFF from its first directory: size, depth, pages, where its data lie, and the metadata it carries."""

from __future__ import annotations

from vlmforensics.errors import UnsupportedImage
from vlmforensics.imaging.exif import iptc_of_photoshop
from vlmforensics.imaging.header import MAX_EXIF, MAX_XMP, Header, corrupt, truncated
from vlmforensics.imaging.ifd import BadStructureError, Entry, TiffBlock

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _ORIENTATION, _SUB_DIRECTORIES, _REDUCED = 277, 274, 330, 254
_DATA = ((273, 279), (324, 325))  # (offsets, byte counts) of strips and of tiles
_XMP, _IPTC, _PHOTOSHOP, _DNG = 700, 33723, 34377, 50706
_MAX_PIECES = 1 << 20
_RAW_PHOTOMETRIC = frozenset({32803, 34892})  # colour filter array, linear raw


def read_tiff(data: bytes, header: Header, max_frames: int) -> None:
    """Read a TIFF's directories, at most one more than ``max_frames``.

    Raises:
        CorruptImage: cut short or contradictory.
        UnsupportedImage: a camera raw file in TIFF clothing.
    """
    try:
        tiff = TiffBlock(data)
        if tiff.first >= len(data):
            raise truncated("its directory lies behind the end")
        entries, _ = tiff.directory(tiff.first)
        pages = sum(1 for _ in tiff.chain(max_frames + 1))
    except BadStructureError as error:
        raise truncated(str(error)) from error
    _refuse_raw(tiff, data, entries)
    width, height = tiff.integer(entries, _WIDTH), tiff.integer(entries, _HEIGHT)
    if not width or not height or width < 0 or height < 0:
        raise corrupt("its first page has no size")
    header.width, header.height, header.frames = width, height, pages
    header.bit_depth = tiff.integer(entries, _BITS, 1) or 1
    orientation = tiff.integer(entries, _ORIENTATION, 1) or 1
    header.orientation = orientation if 1 <= orientation <= 8 else 1
    _check_data(tiff, entries, header)
    header.exif = data  # the file itself is the block, and it is read by offsets
    if _XMP in entries:
        header.keep_xmp(tiff.raw(entries[_XMP], MAX_XMP))
    if _IPTC in entries:
        header.iptc = tiff.raw(entries[_IPTC], MAX_EXIF)
    elif _PHOTOSHOP in entries:
        header.iptc = iptc_of_photoshop(tiff.raw(entries[_PHOTOSHOP], MAX_EXIF))


def _refuse_raw(tiff: TiffBlock, data: bytes, entries: dict[int, Entry]) -> None:
    """Camera raw files look like TIFF, and a decoder would show their preview as if it were the picture."""
    preview = (tiff.integer(entries, _REDUCED, 0) or 0) & 1 and _SUB_DIRECTORIES in entries
    sensor = tiff.integer(entries, _PHOTOMETRIC) in _RAW_PHOTOMETRIC
    if _DNG in entries or preview or sensor or data[8:10] == b"CR":
        raise UnsupportedImage("this is a camera raw file; develop it to TIFF or JPEG", code="img.raw")


def _check_data(tiff: TiffBlock, entries: dict[int, Entry], header: Header) -> None:
    """Every strip or tile must lie inside the file, and without compression they must hold every pixel."""
    total = 0
    found = False
    for offsets_tag, counts_tag in _DATA:
        offsets, counts = entries.get(offsets_tag), entries.get(counts_tag)
        if offsets is None:
            continue
        found = True
        starts = tiff.numbers(offsets, _MAX_PIECES)
        sizes = tiff.numbers(counts, _MAX_PIECES) if counts is not None else ()
        for start, size in zip(starts, sizes, strict=False):
            if start < 0 or size < 0 or start + size > len(tiff.data):
                raise truncated("picture data lie behind the end")
            total += int(size)
        if not sizes and any(start >= len(tiff.data) for start in starts):
            raise truncated("picture data lie behind the end")
        if not sizes:
            return
    if not found:
        # Entries that point outside the file are left out by the reader: a missing table is a cut file.
        raise truncated("the table of its picture data is missing")
    samples = tiff.integer(entries, _SAMPLES, 1) or 1
    needed = (header.width * header.bit_depth * samples + 7) // 8 * header.height
    if tiff.integer(entries, _COMPRESSION, 1) == 1 and total < needed and 324 not in entries:
        raise truncated("rows are missing")
