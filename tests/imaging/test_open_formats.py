"""Every allowed format and mode reaches the same canonical pixels."""

from __future__ import annotations

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from vlmforensics.imaging import open_case

SIDE = (40, 56)  # height, width


def scene(height=SIDE[0], width=SIDE[1]) -> np.ndarray:
    """A smooth picture with a red square in its top-left corner, to show which way is up."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows * 3 % 256, columns * 4 % 256, (rows + columns) * 2 % 256], axis=-1).astype(
        np.uint8
    )
    picture[: height // 4, : width // 4] = (250, 10, 10)
    return picture


def saved(image: Image.Image, name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def heic(picture: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=95, **options)
    return buffer.getvalue()


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "BMP": {},
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_are_exact(name):
    picture = scene()
    case = open_case(saved(Image.fromarray(picture), name, **LOSSLESS[name]))
    assert case.container.format == name
    assert (case.width, case.height) == (56, 40)
    np.testing.assert_array_equal(case.upright, picture)
    assert case.stored is case.upright or np.shares_memory(case.stored, case.upright)
    assert case.alpha is None
    assert case.orientation == 1
    assert case.container.frames == 1
    assert case.container.trailing_bytes == 0


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiff_is_exact(compression):
    picture = scene()
    case = open_case(saved(Image.fromarray(picture), "TIFF", compression=compression))
    np.testing.assert_array_equal(case.upright, picture)


@pytest.mark.parametrize(("name", "tolerance"), [("JPEG", 12), ("WEBP", 14), ("AVIF", 14), ("HEIC", 14)])
def test_lossy_formats_are_near(name, tolerance):
    picture = scene(64, 96)
    data = heic(picture) if name == "HEIC" else saved(Image.fromarray(picture), name, quality=95)
    case = open_case(data)
    assert case.container.format == name
    assert np.abs(case.upright.astype(int) - picture).mean() < tolerance
    assert case.upright.shape == picture.shape


def test_pixels_are_read_only_and_bytes_untouched():
    data = saved(Image.fromarray(scene()), "JPEG")
    case = open_case(data)
    assert case.data == data
    with pytest.raises(ValueError):
        case.upright[0, 0] = 0
    with pytest.raises(ValueError):
        case.stored[0, 0] = 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(name, orientation):
    """``stored`` is the file's own frame; ``upright`` shows the corner where Pillow's reference puts it."""
    picture = scene(48, 80)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if name == "JPEG" else LOSSLESS[name]
    case = open_case(saved(Image.fromarray(picture), name, exif=exif, **options))
    corner = {
        1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl",
    }[orientation]  # fmt: skip
    assert case.orientation == orientation
    assert case.stored.shape == picture.shape
    assert np.abs(case.stored.astype(int) - picture).mean() < 3, "the stored frame must not be turned"
    assert case.upright.shape == (picture.shape if orientation < 5 else (80, 48, 3))
    patch = {
        "tl": case.upright[2:8, 2:8],
        "tr": case.upright[2:8, -8:-2],
        "bl": case.upright[-8:-2, 2:8],
        "br": case.upright[-8:-2, -8:-2],
    }
    for name_of_corner, pixels in patch.items():
        red = pixels[..., 0].mean() > 200 and pixels[..., 1].mean() < 60
        assert red == (name_of_corner == corner), name_of_corner


def test_avif_rotation_is_applied():
    picture = scene(48, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    case = open_case(saved(Image.fromarray(picture), "AVIF", exif=exif, quality=95))
    assert case.orientation == 6
    assert case.upright.shape == (80, 48, 3)
    assert case.stored.shape == (48, 80, 3)
    assert case.upright[4, -4, 0] > 200
    assert case.upright[4, -4, 1] < 80


def test_heic_comes_upright():
    picture = scene(48, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    case = open_case(heic(picture, exif=exif.tobytes()))
    assert case.orientation == 1
    assert case.upright.shape == (80, 48, 3)
    assert case.upright[4, -4, 0] > 200


@pytest.mark.parametrize("value", [0, 9, 77, 65535])
def test_senseless_orientation_counts_as_one(value):
    exif = Image.Exif()
    exif[0x0112] = value
    case = open_case(saved(Image.fromarray(scene()), "PNG", exif=exif))
    assert case.orientation == 1


def test_grey_and_one_bit():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    case = open_case(saved(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(case.upright, np.repeat(ramp[..., None], 3, axis=2))
    bits = ramp > 100
    case = open_case(saved(Image.fromarray(bits), "PNG"))
    assert case.container.mode == "1"
    assert case.container.bit_depth == 1
    np.testing.assert_array_equal(case.upright[..., 0], bits * np.uint8(255))


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 200 * 20).astype(np.uint16).reshape(20, 200)
    for name in ("PNG", "TIFF"):
        case = open_case(saved(Image.fromarray(ramp), name))
        assert case.container.bit_depth == 16
        expected = np.rint(ramp / 65535 * 255)
        assert np.abs(case.upright[..., 0] - expected).max() <= 1
        assert any("16 bits" in note for note in case.notes)


def test_sixteen_bit_white_is_zero_tiff():
    ramp = np.linspace(0, 65535, 64 * 8).astype(np.uint16).reshape(8, 64)
    data = bytearray(saved(Image.fromarray(ramp), "TIFF"))
    at = data.find(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # PhotometricInterpretation = BlackIsZero
    assert at > 0
    data[at + 8] = 0
    case = open_case(bytes(data))
    assert case.upright[0, 0, 0] > 250
    assert case.upright[-1, -1, 0] < 5


def test_float_tiff_is_scaled_with_a_note():
    plane = np.linspace(0, 1, 30 * 20).astype(np.float32).reshape(20, 30)
    case = open_case(saved(Image.fromarray(plane), "TIFF"))
    assert abs(int(case.upright[-1, -1, 0]) - 255) <= 1
    assert any("scaled" in note for note in case.notes)
    case = open_case(saved(Image.fromarray(plane * 40 - 20), "TIFF"))
    assert case.upright[0, 0, 0] == 0
    assert case.upright[-1, -1, 0] == 255


def test_cmyk_tiff_and_adobe_jpeg():
    picture = scene(64, 64)
    for name, tolerance in (("TIFF", 2), ("JPEG", 14)):
        data = saved(Image.fromarray(picture).convert("CMYK"), name)
        case = open_case(data)
        assert case.container.mode == "CMYK"
        assert np.abs(case.upright.astype(int) - picture).mean() < tolerance, name
        assert any("CMYK" in note for note in case.notes)


def test_palette_with_transparency():
    indices = np.zeros((20, 30), np.uint8)
    indices[:, 10:20], indices[:, 20:] = 1, 2
    image = Image.fromarray(indices).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    case = open_case(saved(image, "PNG", transparency=bytes([255, 0, 128])))
    assert case.container.mode == "P"
    assert case.alpha is not None
    assert case.alpha.shape == (20, 30)
    assert [int(case.alpha[0, x]) for x in (0, 15, 25)] == [255, 0, 128]
    assert case.upright[0, 0].tolist() == [255, 0, 0]
    assert case.upright[0, 15].tolist() == [128, 128, 128], "invisible: mid-grey"
    assert case.stored[0, 15].tolist() == [0, 255, 0], "the stored frame keeps the colour below"
    assert abs(int(case.upright[0, 25, 2]) - 192) <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_kept_and_laid_on_grey(mode, name):
    picture = Image.fromarray(scene()).convert(mode)
    alpha = np.full(SIDE, 255, np.uint8)
    alpha[10:20] = 0
    picture.putalpha(Image.fromarray(alpha))
    case = open_case(saved(picture, name, **({"lossless": True, "exact": True} if name == "WEBP" else {})))
    np.testing.assert_array_equal(case.alpha, alpha)
    assert (case.upright[10:20] == 128).all()
    assert not (case.stored[10:20] == 128).all()
    assert any("hidden colours" in note for note in case.notes)


def test_opaque_alpha_is_no_alpha():
    case = open_case(saved(Image.fromarray(scene()).convert("RGBA"), "PNG"))
    assert case.alpha is None
    np.testing.assert_array_equal(case.upright, scene())


def test_alpha_follows_orientation():
    picture = Image.fromarray(scene(30, 50)).convert("RGBA")
    alpha = np.full((30, 50), 255, np.uint8)
    alpha[:10, :10] = 0
    picture.putalpha(Image.fromarray(alpha))
    exif = Image.Exif()
    exif[0x0112] = 6
    case = open_case(saved(picture, "PNG", exif=exif))
    assert case.alpha.shape == (50, 30)
    assert (case.alpha[:10, -10:] == 0).all()
    assert case.alpha[20:].all()


def test_key_colour_transparency():
    picture = scene()
    case = open_case(saved(Image.fromarray(picture), "PNG", transparency=(250, 10, 10)))
    assert (case.alpha[:10, :14] == 0).all()
    assert (case.upright[:10, :14] == 128).all()


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_several_frames_first_is_judged(name):
    frames = [Image.fromarray(np.full((24, 32, 3), level, np.uint8)) for level in (40, 120, 200)]
    case = open_case(saved(frames[0], name, save_all=True, append_images=frames[1:], duration=100))
    assert case.container.frames == 3
    assert np.abs(case.upright.astype(int) - 40).max() <= 6
    assert any("3 frames" in note for note in case.notes)


def test_multi_picture_jpeg():
    frames = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (40, 200)]
    case = open_case(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert case.container.format == "JPEG"
    assert case.container.frames == 2
    assert case.container.trailing_bytes > 0
    assert np.abs(case.upright.astype(int) - 40).max() <= 2


def test_pillow_image_is_encoded_and_noted():
    picture = scene()
    case = open_case(Image.fromarray(picture))
    assert case.file == "<image>"
    assert case.container.format == "PNG"
    np.testing.assert_array_equal(case.upright, picture)
    assert any("pixels in memory" in note for note in case.notes)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX", "P", "L", "F", "I", "1", "LA"])
def test_pillow_image_of_any_mode(mode):
    picture = scene()
    image = _lab(picture) if mode == "LAB" else Image.fromarray(picture).convert(mode)
    case = open_case(image)
    expected = np.asarray(
        image.convert("L").convert("RGB") if mode in ("L", "LA", "1") else image.convert("RGB")
    )
    if mode in ("F", "I"):  # scaled to their own range
        assert case.upright.max() == 255
    else:
        assert np.abs(case.upright.astype(int) - expected).max() <= 4


def _lab(picture: np.ndarray) -> Image.Image:
    from PIL import ImageCms

    return ImageCms.profileToProfile(
        Image.fromarray(picture),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )


def test_pillow_image_keeps_its_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(saved(Image.fromarray(scene(20, 50)), "JPEG", exif=exif))) as image:
        case = open_case(image)
    assert (case.width, case.height) == (20, 50)


def test_path_bytes_and_buffers_agree(tmp_path):
    data = saved(Image.fromarray(scene()), "PNG")
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    cases = [open_case(source) for source in (path, str(path), data, bytearray(data), memoryview(data))]
    assert len({case.sha256 for case in cases}) == 1
    assert cases[0].file == str(path)
    assert cases[2].file == "<bytes>"
    assert open_case(data, file="mine").file == "mine"


def test_in_process_decoding_gives_the_same():
    from vlmforensics.settings import Settings

    picture = Image.fromarray(scene()).convert("RGBA")
    picture.putalpha(77)
    data = saved(picture, "PNG")
    inside, outside = open_case(data, settings=Settings(sandbox=False)), open_case(data)
    np.testing.assert_array_equal(inside.upright, outside.upright)
    np.testing.assert_array_equal(inside.alpha, outside.alpha)
    assert inside.container.mode == outside.container.mode
    assert inside.notes == outside.notes
