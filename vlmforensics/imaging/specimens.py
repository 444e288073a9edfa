"""Small valid files of every format and variant, made in code: what fuzzing starts from.

Nothing here is read from a disk or a network. The same seed and the same libraries give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

HEIGHT, WIDTH = 24, 40
_XMP = (
    b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax'
    b'-ns#"><rdf:Description xmp:CreatorTool="specimen" xmlns:xmp="http://ns.adobe.com/xap/1.0/"/></rdf:RDF></x:xmpmeta>'
)


def specimens(seed: int = 0) -> dict[str, bytes]:
    """Valid files by name; the name's first word is the format in lower case.

    Args:
        seed: of the pixels.

    Returns:
        Some sixty files of at most a few kilobytes: every format that is examined, with metadata, animated, paged, of
        1, 8 and 16 bits, grey, palette, alpha, CMYK, floating point, one pixel, long and thin.
    """
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    smooth = Image.fromarray(
        np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH * 3) // 3)
        .reshape(HEIGHT, WIDTH, 3)
        .astype(np.uint8)
    )
    found: dict[str, bytes] = {}
    scene = _scene(128, 192)
    found["jpeg scene"], found["png scene"] = _save(scene, "JPEG", quality=85), _save(scene, "PNG")
    for builder in (_jpegs, _pngs, _webps, _tiffs, _gifs, _bmps, _boxed):
        builder(noise, smooth, found)
    return found


def _scene(height: int, width: int) -> Image.Image:
    """Large enough for the signals that read pixels."""
    rows, columns = np.mgrid[0:height, 0:width]
    grey = (
        120
        + 60 * np.sin(rows / 7) * np.cos(columns / 11)
        + np.random.default_rng(2).normal(0, 3, (height, width))
    )
    return Image.fromarray(np.clip(np.stack([grey, grey * 0.9, grey * 0.8], -1), 0, 255).astype(np.uint8))


def _save(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _veiled(picture: Image.Image, veil: Image.Image) -> Image.Image:
    """The picture with another's brightness as its alpha channel."""
    out = picture.convert("RGBA")
    out.putalpha(veil.convert("L"))
    return out


def exif_block(orientation: int = 6) -> bytes:
    """An EXIF block with sub-directories, a comment and a position, prefix included."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0131], exif[0x010F] = orientation, "specimen 1.0", "Camera"
    exif.get_ifd(0x8769).update(
        {0x9286: b"ASCII\x00\x00\x00a comment", 0x829A: (1, 125), 0x9003: "2026:01:01 00:00:00"}
    )
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return exif.tobytes()


def icc_profile() -> bytes:
    """An sRGB profile as the colour library writes it, but without the time of its making."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def _jpegs(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    found["jpeg"] = _save(noise, "JPEG", quality=80)
    found["jpeg progressive"] = _save(noise, "JPEG", progressive=True, subsampling=0)
    found["jpeg grey"] = _save(noise.convert("L"), "JPEG")
    found["jpeg cmyk"] = _save(noise.convert("CMYK"), "JPEG")
    found["jpeg restart"] = _save(noise, "JPEG", restart_marker_rows=1)
    found["jpeg metadata"] = _save(
        smooth, "JPEG", exif=exif_block(), icc_profile=icc_profile(), xmp=_XMP, comment=b"a comment"
    )
    found["jpeg pages"] = _save(noise, "MPO", save_all=True, append_images=[smooth])
    store = credentials()
    body = b"JP\x00\x01\x00\x00\x00\x01" + store
    found["jpeg credentials"] = (
        found["jpeg"][:2] + b"\xff\xeb" + struct.pack(">H", len(body) + 2) + body + found["jpeg"][2:]
    )
    found["jpeg pixel"] = _save(noise.resize((1, 1)), "JPEG")


def _pngs(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler, Seed: 1", zip=True)
    info.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    info.add_text("Software", "specimen")
    palette = noise.quantize(16)
    palette.info["transparency"] = bytes(range(0, 256, 16))
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
    found["png"] = _save(noise, "PNG")
    found["png alpha"] = _save(_veiled(noise, smooth), "PNG")
    found["png grey alpha"] = _save(_veiled(noise, smooth).convert("LA"), "PNG")
    found["png palette alpha"] = _save(palette, "PNG", transparency=palette.info["transparency"])
    found["png bits"] = _save(noise.convert("1"), "PNG")
    found["png 16"] = _save(Image.fromarray(deep), "PNG")
    found["png rgb 16"] = png(WIDTH, HEIGHT, 16, 2, deep.repeat(3).astype(">u2").tobytes())
    found["png interlaced"] = png(1, 1, 8, 2, b"\x01\x02\x03", interlaced=1)
    found["png key"] = _save(noise, "PNG", transparency=(1, 2, 3))
    found["png metadata"] = _save(
        smooth, "PNG", exif=exif_block(8), icc_profile=icc_profile(), pnginfo=info, dpi=(72, 72)
    )
    found["png credentials"] = found["png"][:33] + png_chunk(b"caBX", credentials()) + found["png"][33:]
    found["png animated"] = _save(noise, "PNG", save_all=True, append_images=[smooth, noise], duration=50)
    found["png pixel"] = _save(noise.resize((1, 1)), "PNG")
    found["png thin"] = _save(noise.resize((1, 50)), "PNG")


def credentials() -> bytes:
    """An unsigned C2PA manifest store: right boxes, an empty claim and signature (C2PA 2.1, section 11; JUMBF)."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body) + 8) + kind + body

    def labelled(kind: bytes, label: bytes, *content: bytes) -> bytes:
        about = box(b"jumd", kind + bytes.fromhex("00110010800000aa00389b71") + b"\x03" + label + b"\x00")
        return box(b"jumb", about + b"".join(content))

    claim = labelled(b"c2cl", b"c2pa.claim", box(b"cbor", b"\xa1\x6fclaim_generator\x61x"))
    signature = labelled(b"c2cs", b"c2pa.signature", box(b"cbor", b"\xd2\x84\x40\xa0\xf6\x40"))
    actions = labelled(b"cbor", b"c2pa.actions", box(b"cbor", b"\xa1\x67actions\x80"))
    manifest = labelled(
        b"c2ma", b"urn:uuid:00000000-0000-4000-8000-000000000000", labelled(b"c2as", b"c2pa.assertions", actions),
        claim, signature,
    )  # fmt: skip
    return labelled(b"c2pa", b"c2pa", manifest)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, samples: bytes, *, interlaced: int = 0) -> bytes:
    """A PNG from raw samples, row after row, filter 0; the header is believed whatever the samples are."""
    row = len(samples) // max(height, 1) if height < 1 << 20 else 0
    raw = b"".join(b"\x00" + samples[y * row : (y + 1) * row] for y in range(min(height, 1 << 12)))
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _webps(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    found["webp"] = _save(noise, "WEBP", quality=70)
    found["webp lossless"] = _save(noise, "WEBP", lossless=True)
    found["webp alpha"] = _save(_veiled(noise, smooth), "WEBP", quality=60)
    found["webp metadata"] = _save(smooth, "WEBP", exif=exif_block(3), icc_profile=icc_profile(), xmp=_XMP)
    found["webp animated"] = _save(noise, "WEBP", save_all=True, append_images=[smooth, noise])
    found["webp pixel"] = _save(noise.resize((1, 1)), "WEBP")


def tiff(
    samples: np.ndarray[Any, Any],
    *,
    photometric: int = 1,
    big: bool = False,
    extra: tuple[tuple[int, int, int], ...] = (),
) -> bytes:
    """An uncompressed TIFF of one strip from an array (H, W) or (H, W, C) of any number type.

    Args:
        samples: becomes little-endian.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 8 CIELab.
        big: BigTIFF.
        extra: further (tag, type, value) entries that fit inline.
    """
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    data = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder("<"))).tobytes()
    start, kind = (16, 16) if big else (8, 4)
    kinds = {"u": 1, "i": 2, "f": 3}
    entries = [
        (256, kind, width), (257, kind, height), (259, 3, 1), (262, 3, photometric), (273, kind, start),
        (277, 3, channels), (278, kind, height), (279, kind, len(data)), (284, 3, 1),
    ]  # fmt: skip
    # one value, valid for every channel: readers take the first where the count is one
    entries += [(258, 3, samples.dtype.itemsize * 8), (339, 3, kinds[samples.dtype.kind]), *extra]
    pack = struct.Struct("<HHQQ" if big else "<HHII")
    table = b"".join(pack.pack(tag, code, 1, value) for tag, code, value in sorted(entries))
    at = start + len(data)
    if big:
        head = b"II+\x00\x08\x00\x00\x00" + struct.pack("<Q", at)
        return head + data + struct.pack("<Q", len(entries)) + table + struct.pack("<Q", 0)
    head = b"II*\x00" + struct.pack("<I", at)
    return head + data + struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)


def _tiffs(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    found["tiff"] = _save(noise, "TIFF")
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        found[f"tiff {name.removeprefix('tiff_')}"] = _save(noise, "TIFF", compression=name)
    found["tiff fax"] = _save(noise.convert("1"), "TIFF", compression="group4")
    found["tiff palette"] = _save(noise.quantize(16), "TIFF")
    found["tiff cmyk"] = _save(noise.convert("CMYK"), "TIFF", compression="tiff_lzw")
    found["tiff metadata"] = _save(
        smooth, "TIFF", icc_profile=icc_profile(), exif=exif_block(5)[6:], software="specimen"
    )
    found["tiff pages"] = _save(noise, "TIFF", save_all=True, append_images=[smooth, noise])
    grey = np.asarray(noise.convert("L"))
    found["tiff 16"] = tiff(grey.astype(np.uint16) * 257)
    found["tiff 16 white is zero"] = tiff(grey.astype(np.uint16) * 257, photometric=0)
    found["tiff signed"] = tiff(grey.astype(np.int32) - 128)
    found["tiff float"] = tiff(grey.astype(np.float32) / 255)
    found["tiff nan"] = tiff(np.where(grey > 200, np.nan, grey / 255).astype(np.float32))
    found["tiff infinite"] = tiff(np.where(grey > 200, np.inf, -np.inf).astype(np.float32))
    found["tiff big"] = _save(noise, "TIFF", big_tiff=True)
    found["tiff big grey"] = tiff(grey, big=True)


def _gifs(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    found["gif"] = _save(noise.quantize(64), "GIF")
    found["gif transparent"] = _save(noise.quantize(16), "GIF", transparency=3, comment=b"a comment")
    found["gif animated"] = _save(
        noise, "GIF", save_all=True, append_images=[smooth, noise], loop=0, duration=40
    )


def _bmps(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    found["bmp"] = _save(noise, "BMP")
    found["bmp palette"] = _save(noise.quantize(256), "BMP")
    found["bmp bits"] = _save(smooth.convert("1"), "BMP")
    found["bmp alpha"] = _save(_veiled(noise, smooth), "BMP")


def _boxed(noise: Image.Image, smooth: Image.Image, found: dict[str, bytes]) -> None:
    import pillow_heif

    options: dict[str, Any] = {"speed": 10, "max_threads": 1}
    found["avif"] = _save(noise, "AVIF", **options)
    found["avif alpha"] = _save(_veiled(noise, smooth), "AVIF", **options)
    found["avif metadata"] = _save(
        smooth, "AVIF", exif=exif_block(), xmp=_XMP, icc_profile=icc_profile(), **options
    )
    moving = bytearray(_save(noise, "AVIF", save_all=True, append_images=[smooth], **options))
    for box in (
        b"mvhd",
        b"tkhd",
        b"mdhd",
    ):  # they begin with the times of making and changing, eight bytes each
        at = moving.find(box) + 8
        moving[at : at + 16] = bytes(16)
    found["avif animated"] = bytes(moving)
    save: Callable[..., bytes] = _heif(pillow_heif)
    found["heic"] = save(noise)
    found["heic alpha"] = save(_veiled(noise, smooth))
    found["heic metadata"] = save(smooth, exif=exif_block()[6:], xmp=_XMP)


def _heif(library: Any) -> Callable[..., bytes]:
    def save(image: Image.Image, **options: Any) -> bytes:
        buffer = BytesIO()
        library.from_pillow(image).save(buffer, quality=60, **options)
        return buffer.getvalue()

    return save
