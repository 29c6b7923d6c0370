"""Decoding: Pillow's pixels, whole and in part, and damage that is told instead of shown as an image."""

import io
from pathlib import Path

import numpy as np
import pytest
from golden_files import GOLDEN
from PIL import Image, ImageOps

from resnet_jax.data import decoding
from resnet_jax.data.decodable_image import ArrayImage
from resnet_jax.data.decoding import BadImageError, EncodedImage

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample"


def encode(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pillow_pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def photo():
    with Image.open(GOLDEN / "china.jpg") as image:
        return image.convert("RGB").resize((203, 151))


FORMS = {
    "baseline 4:2:0": ("RGB", "JPEG", {"subsampling": 2}),
    "baseline 4:2:2": ("RGB", "JPEG", {"subsampling": 1}),
    "baseline 4:4:4": ("RGB", "JPEG", {"subsampling": 0}),
    "Adobe's RGB": ("RGB", "JPEG", {"keep_rgb": True}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "restart markers": ("RGB", "JPEG", {"restart_marker_rows": 1}),
    "grey": ("L", "JPEG", {}),
    "CMYK": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {}),
    "PNG with a palette": ("P", "PNG", {}),
    "PNG with transparency": ("RGBA", "PNG", {}),
    "WebP": ("RGB", "WEBP", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_pillows(photo, form):
    mode, file_format, options = FORMS[form]
    data = encode(photo.convert(mode), file_format, **options)
    image = EncodedImage(data, "x")  # named as nothing: what a file is, its bytes tell
    assert image.size == photo.size
    np.testing.assert_array_equal(image.pixels(), pillow_pixels(data))


@pytest.mark.parametrize("form", FORMS)
def test_region_holds_the_pixels_of_the_whole_image(photo, form):
    mode, file_format, options = FORMS[form]
    data = encode(photo.convert(mode), file_format, **options)
    whole = pillow_pixels(data)
    for box in ((0, 0, 203, 151), (0, 0, 1, 1), (30, 16, 90, 17), (202, 150, 203, 151), (7, 31, 100, 32)):
        left, top, right, bottom = box
        image = EncodedImage(data, "x")
        for image.intact in (False, True):
            np.testing.assert_array_equal(image.region(box), whole[top:bottom, left:right])


def test_rows_below_the_region_are_decoded_only_until_the_image_is_known_to_be_intact(photo, monkeypatch):
    decoded = []
    decode_jpeg = decoding.simplejpeg.decode_jpeg

    def decode(data, **options):
        decoded.append(options["buffer"].shape)
        return decode_jpeg(data, **options)

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", decode)
    image = EncodedImage(encode(photo), "x")
    image.region((0, 0, 10, 33))
    image.intact = True
    image.region((0, 0, 10, 33))
    # 33 rows are three blocks of 16; one more is decoded for the smoothing.
    assert decoded == [(151, 203, 3), (64, 203, 3)]


@pytest.mark.parametrize(("enough", "factor"), [((25, 18), 8), ((26, 18), 4), ((101, 75), 2), ((102, 75), 1)])
def test_jpeg_is_reduced_while_decoding_as_long_as_the_region_is_large_enough(photo, enough, factor):
    data = encode(photo)
    region = EncodedImage(data, "x").region((0, 0, 203, 151), enough)
    assert region.shape == (151 // factor, 203 // factor, 3)
    reference = np.asarray(Image.fromarray(pillow_pixels(data)).reduce(factor)).astype(int)
    reference = reference[: 151 // factor, : 203 // factor]
    assert np.abs(region - reference).mean() < 4  # of 255: the same picture


def test_region_of_an_array_is_never_reduced(photo):
    pixels = np.asarray(photo)
    image = ArrayImage(pixels)
    assert image.size == (203, 151)
    np.testing.assert_array_equal(image.region((1, 2, 200, 150), (5, 5)), pixels[2:150, 1:200])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_in_exif_is_applied_if_asked_for(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo, exif=exif)
    apply_exif_orientation = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = EncodedImage(data, "x", apply_exif_orientation=True)
    assert (image.orientation, image.size) == (orientation, apply_exif_orientation.shape[1::-1])
    np.testing.assert_array_equal(image.pixels(), apply_exif_orientation)
    np.testing.assert_array_equal(image.region((3, 4, 100, 120)), apply_exif_orientation[4:120, 3:100])
    np.testing.assert_array_equal(EncodedImage(data, "x").pixels(), pillow_pixels(data))


@pytest.mark.parametrize("form", ["baseline 4:2:0", "progressive", "CMYK", "PNG", "WebP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_image_is_refused_by_name(photo, form, share):
    mode, file_format, options = FORMS[form]
    data = encode(photo.convert(mode), file_format, **options)
    with pytest.raises(BadImageError, match=r"^cat/1\.jpg cannot be read as an image \(.+\): replace or remove it$"):
        EncodedImage(data[: int(len(data) * share)], "cat/1.jpg").pixels()


def test_truncation_below_the_region_is_seen_too(photo):
    data = encode(photo)
    with pytest.raises(BadImageError, match="Premature end"):
        EncodedImage(data[: len(data) * 9 // 10], "x").region((0, 0, 203, 20))


def test_damaged_data_are_refused(photo):
    data = bytearray(encode(photo, restart_marker_rows=1))
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    with pytest.raises(BadImageError, match="Corrupt JPEG data"):
        EncodedImage(bytes(data), "x").pixels()


@pytest.mark.parametrize("start", [0.15, 0.5, 0.6])  # elsewhere libjpeg itself may see nothing
def test_lost_sector_is_damage_wherever_the_region_is(photo, start):
    data = bytearray(encode(photo.resize((600, 400)), quality=95))
    first = int(len(data) * start) // 512 * 512
    data[first : first + 512] = bytes(512)
    for box in ((0, 0, 600, 400), (0, 0, 20, 20)):
        with pytest.raises(BadImageError):
            EncodedImage(bytes(data), "x").region(box)


def test_damaged_cmyk_is_refused(photo):
    data = bytearray(encode(photo.convert("CMYK")))
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    with pytest.raises(BadImageError):
        EncodedImage(bytes(data), "x").pixels()


def test_odd_jfif_version_hides_no_damage(photo):
    data = encode(photo)
    assert data[6:12] == b"JFIF\0\1"
    odd = data[:11] + b"\2" + data[12:]
    np.testing.assert_array_equal(EncodedImage(odd, "x").pixels(), pillow_pixels(data))
    with pytest.raises(BadImageError):
        EncodedImage(odd[:-400], "x").pixels()


def segments(jpeg):
    """[(marker, segment)] up to the scan's header, and the scan's data."""
    found, position = [], 2
    while not found or found[-1][0] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        found.append((jpeg[position + 1], jpeg[position:end]))
        position = end
    return found, jpeg[position:-2]


def one_scan_a_component(photo):
    """A baseline JPEG whose three components, made of three grey ones, have a scan each."""
    channels = [segments(encode(channel, quality=80)) for channel in photo.convert("YCbCr").split()]
    first = channels[0][0]
    frame = next(segment for marker, segment in first if marker == 0xC0)
    data = b"\xff\xd8" + b"".join(segment for marker, segment in first if marker == 0xDB)
    data += b"\xff\xc0\x00\x11" + frame[4:9] + b"\3" + b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    for i, (header, scan) in enumerate(channels):
        tables = b"".join(segment for marker, segment in header if marker == 0xC4)
        data += tables + b"\xff\xda\x00\x08\x01" + bytes([i + 1, 0, 0, 63, 0]) + scan
    return data + b"\xff\xd9"


def test_one_scan_a_component_is_decoded_as_a_whole(photo):
    data = one_scan_a_component(photo)
    image = EncodedImage(data, "x")
    image.intact = True
    width, _ = image.size
    np.testing.assert_array_equal(image.region((0, 0, width, 10)), pillow_pixels(data)[:10])


def test_tiff_that_pillow_turns_by_itself_is_turned_once(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = EncodedImage(encode(photo, "TIFF", exif=exif), "x", apply_exif_orientation=True)
    pixels = image.pixels()
    assert image.size == pixels.shape[1::-1] == (151, 203)
    np.testing.assert_array_equal(image.region((10, 20, 100, 180)), pixels[20:180, 10:100])


def test_bytes_behind_the_data_are_no_damage(photo):
    data = encode(photo)
    padded = data[:-2] + b"padding" + data[-2:]
    np.testing.assert_array_equal(EncodedImage(padded, "x").pixels(), pillow_pixels(data))
    np.testing.assert_array_equal(EncodedImage(data + b"trailer", "x").pixels(), pillow_pixels(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"no image", "no known format"),
        (b"\xff\xd8\xff\xe0", r".+"),
        (b"\x89PNG\r\n\x1a\n", ".+"),
    ],
)
def test_bytes_that_are_no_image_are_refused(data, reason):
    with pytest.raises(BadImageError, match=rf"^x cannot be read as an image \({reason}\)"):
        EncodedImage(data, "x").pixels()


def test_sixteen_bits_a_channel_are_refused_and_not_cut_off():
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(BadImageError, match="more than 8 bits a channel"):
        EncodedImage(encode(deep, "PNG"), "x").pixels()


def test_every_jpeg_of_the_sample_has_pillows_pixels():
    files = sorted(SAMPLE.glob("*.JPEG"))
    if not files:
        pytest.skip("the ImageNet sample, ../shared/data/imagenet-sample, is not here")
    for file in files:
        image, reference = EncodedImage(file.read_bytes(), file.name), pillow_pixels(file.read_bytes())
        np.testing.assert_array_equal(image.pixels(), reference)
        width, height = image.size
        box = (width // 3, height // 4, 2 * width // 3, 2 * height // 3)
        np.testing.assert_array_equal(image.region(box), reference[box[1] : box[3], box[0] : box[2]])


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_golden_photos_have_pillows_pixels(name):
    data = (GOLDEN / name).read_bytes()
    np.testing.assert_array_equal(EncodedImage(data, name).pixels(), pillow_pixels(data))


@pytest.mark.parametrize("length", range(2, 21))
def test_jpeg_that_ends_in_its_first_bytes_is_named(length):
    beginning = bytes.fromhex("ffd8ffe000104a46494600010200000100010000ff")
    with pytest.raises(BadImageError, match="image 7 cannot be read"):
        EncodedImage(beginning[:length], "image 7").pixels()


JUNK = {
    "bytes before a table": lambda data, at: data[:at] + b"\0\1\2\3" + data[at:],
    "a profile that is none": lambda data, at: data[:at] + b"\xff\xe2\x00\x12ICC_PROFILE\0\7\1!!" + data[at:],
    "a segment that ends late": lambda data, at: data[:at] + b"\xff\xe1\x00\x08Exif\0\0junk" + data[at:],
}


@pytest.mark.parametrize("kind", JUNK)
@pytest.mark.parametrize("form", ["baseline 4:2:0", "Adobe's RGB", "progressive", "grey", "CMYK", "restart markers"])
def test_damage_before_the_scans_costs_no_pixel_and_hides_no_other(photo, kind, form):
    mode, file_format, options = FORMS[form]
    whole = encode(photo.convert(mode), file_format, **options)
    data = JUNK[kind](whole, whole.index(b"\xff\xdb"))
    image = EncodedImage(data, "x")
    np.testing.assert_array_equal(image.pixels(), pillow_pixels(data))
    image.intact = True
    np.testing.assert_array_equal(image.region((7, 31, 100, 32)), pillow_pixels(whole)[31:32, 7:100])
    fresh = EncodedImage(data, "x")
    fresh.intact = True
    np.testing.assert_array_equal(fresh.region((7, 31, 100, 32)), pillow_pixels(whole)[31:32, 7:100])
    zeroed = data[: len(data) // 2] + bytes(300) + data[len(data) // 2 + 300 :]
    cut = data[: len(data) * 9 // 10]
    for damaged in (cut,) if form == "Adobe's RGB" else (cut, zeroed):  # of whose zeros libjpeg sees nothing
        with pytest.raises(BadImageError):
            EncodedImage(damaged, "x").pixels()


@pytest.mark.parametrize("num_missing", [1, 4, 7, 8, 11, 12, 13, 500])
def test_png_cut_short_is_refused_or_read_as_by_pillow_although_its_exif_was_looked_for(photo, num_missing):
    data = encode(photo, "PNG")[:-num_missing]
    image = EncodedImage(data, "x")
    assert image.orientation == 1
    try:
        expected = pillow_pixels(data)
    except OSError:
        for _ in range(2):
            with pytest.raises(BadImageError):
                image.pixels()
    else:
        np.testing.assert_array_equal(image.pixels(), expected)


@pytest.mark.parametrize("kind", JUNK)
def test_damage_before_the_scans_hides_no_rotation(photo, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(photo, exif=exif)
    data = JUNK[kind](whole, whole.index(b"\xff\xdb"))
    image = EncodedImage(data, "x", apply_exif_orientation=True)
    assert image.orientation == 6
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(whole))))
    np.testing.assert_array_equal(image.pixels(), expected)
    np.testing.assert_array_equal(image.region((3, 4, 100, 120)), expected[4:120, 3:100])
