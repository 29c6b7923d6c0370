"""Every format that Pillow reads: listed by its extension, and read with Pillow's pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decoding import BadImageError, DecodeOptions, EncodedImage
from resnet_jax.data.image_formats import EXTENSIONS

# What Pillow registers and is no picture that it can decode, or no still one.
NO_PICTURES = {
    ".bufr", ".emf", ".eps", ".flc", ".fli", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg", ".palm", ".pdf", ".ps",
    ".wmf",
}  # fmt: skip


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture(mode):
    """16 x 24 random pixels of a mode, partly transparent where it has an alpha channel."""
    random = np.random.default_rng(0)
    if mode == "P":
        return picture("RGB").quantize(7)
    if mode == "1":
        return picture("L").convert("1")
    shape = (24, 16) if mode == "L" else (24, 16, {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode])
    return Image.fromarray(random.integers(0, 256, shape, np.uint8), mode=mode)


def transparent_palette():
    image = picture("P")
    image.info["transparency"] = 3
    return image


FORMS = {
    "avif": "AVIF RGB RGBA", "bmp": "BMP 1 L P RGB RGBA", "dds": "DDS L LA RGB RGBA", "dib": "DIB L P RGB",
    "gif": "GIF L P RGB RGBA", "icns": "ICNS RGBA", "ico": "ICO RGB RGBA P", "im": "IM L P RGB CMYK",
    "j2k": "JPEG2000 L LA RGB RGBA", "jfif": "JPEG L RGB CMYK", "jp2": "JPEG2000 L LA RGB RGBA", "mpo": "MPO RGB",
    "msp": "MSP 1", "pcx": "PCX 1 L P RGB", "png": "PNG 1 L LA P RGB RGBA", "pnm": "PPM 1 L RGB", "qoi": "QOI RGB RGBA",
    "sgi": "SGI L RGB RGBA", "tga": "TGA 1 L LA P RGB RGBA", "tiff": "TIFF 1 L LA P RGB RGBA CMYK",
    "webp": "WEBP RGB RGBA", "xbm": "XBM 1",
}  # fmt: skip
CASES = [(extension, *line.split()[:1], mode) for extension, line in FORMS.items() for mode in line.split()[1:]]


@pytest.mark.parametrize(("extension", "form", "mode"), CASES)
def test_pixels_are_pillows_in_every_format_and_mode(extension, form, mode):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
    data = encode(picture(mode), form)
    assert f".{extension}" in EXTENSIONS
    for channels, mode_here in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        pixels = EncodedImage(data, "x", DecodeOptions(channels)).pixels()
        expected = np.asarray(Image.open(io.BytesIO(data)).convert(mode_here))
        np.testing.assert_array_equal(pixels, expected.reshape(*expected.shape[:2], channels))


def test_transparent_palette_is_as_pillow_has_it():
    data = encode(transparent_palette(), "PNG", transparency=3)
    for channels, mode in ((3, "RGB"), (4, "RGBA")):
        expected = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
        np.testing.assert_array_equal(EncodedImage(data, "x", DecodeOptions(channels)).pixels(), expected)


def test_extensions_are_those_that_pillow_reads_as_pictures():
    readable = {suffix for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}
    assert readable - NO_PICTURES <= {*EXTENSIONS}  # an older Pillow knows fewer
    assert len({*EXTENSIONS}) == len(EXTENSIONS)
    assert all(suffix == suffix.lower() for suffix in EXTENSIONS)


def test_deep_images_are_refused_with_the_field_and_the_range_found():
    data = encode(Image.fromarray(np.array([[258, 40_000]], np.uint16)), "PNG")
    with pytest.raises(
        BadImageError, match=r"more than 8 bits .* from 258 to 40000: config\.high_bit_depth='scale' of a run makes"
    ):
        EncodedImage(data, "x").pixels()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_from_their_full_range_and_rounded(form):
    values = np.array([[0, 128, 129, 257, 385, 386, 40_000, 65_535]], np.uint16)
    scaled = [0, 0, 1, 1, 1, 2, 156, 255]  # divided by 257 and rounded
    for channels in (1, 3):
        image = EncodedImage(encode(Image.fromarray(values), form), "x", DecodeOptions(channels, "scale"))
        np.testing.assert_array_equal(image.pixels(), np.repeat(np.array(scaled)[None, :, None], channels, axis=2))


def test_signed_and_floating_point_tiffs_are_scaled_from_their_own_range():
    fractions = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    image = EncodedImage(encode(fractions, "TIFF"), "x", DecodeOptions(1, "scale"))
    np.testing.assert_array_equal(image.pixels().ravel(), [0, 128, 255])
    signed = Image.fromarray(np.array([[-32768, 0, 32767]], np.int32))
    with pytest.raises(BadImageError, match=r"from -32768 to 32767, which .* cannot scale"):  # 32 bits
        EncodedImage(encode(signed, "TIFF"), "x", DecodeOptions(1, "scale")).pixels()


@pytest.mark.parametrize("values", [[0.0, 255.0], [-0.1, 0.5]])
def test_floating_point_of_another_range_is_refused(values):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(BadImageError, match="it takes 16 bits"):
        EncodedImage(data, "x", DecodeOptions(3, "scale")).pixels()


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_images_above_the_limit_are_refused_by_the_fields_name_and_read_by_choice(form, monkeypatch):
    data = encode(picture("RGB"), form)
    with pytest.raises(BadImageError, match=r"384 pixels, more than config\.max_pixels=383"):
        EncodedImage(data, "x", DecodeOptions(max_pixels=383))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own raises at twice as many
    with pytest.raises(BadImageError, match="exceeds limit"):
        EncodedImage(data, "x").pixels()
    for limit in (384, 0):
        assert EncodedImage(data, "x", DecodeOptions(max_pixels=limit)).pixels().shape == (24, 16, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_npy_files_are_images_of_any_number_of_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6), np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    image = EncodedImage(buffer.getvalue(), "x", DecodeOptions(6))
    assert image.size == (4, 5)
    np.testing.assert_array_equal(image.pixels(), pixels)
    np.testing.assert_array_equal(image.region((1, 2, 3, 5)), pixels[2:5, 1:3])
    with pytest.raises(BadImageError, match=r"uint8 \(5, 4, 6\), and config.channels=3 needs uint8 \(H, W, 3\)"):
        EncodedImage(buffer.getvalue(), "x")


def test_npy_files_that_hold_objects_or_are_cut_are_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    for data in (buffer.getvalue(), buffer.getvalue()[:9]):
        with pytest.raises(BadImageError, match="x cannot be read as an image"):
            EncodedImage(data, "x")


def test_image_files_are_refused_where_other_channels_are_asked_for():
    image = EncodedImage(encode(picture("RGB"), "PNG"), "x", DecodeOptions(6))
    with pytest.raises(BadImageError, match=r"config.channels=6 needs .npy files of uint8 \(H, W, 6\)"):
        image.pixels()
