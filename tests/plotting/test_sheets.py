"""Contact sheets: where images, bars and text stand, and how pictures are written."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from resnet_jax.errors import UserError
from resnet_jax.plotting.contact_sheet import (
    BAR_COLOR,
    COMPACT,
    READABLE,
    Cell,
    Line,
    Style,
    check_picture,
    draw_sheet,
    save_picture,
)

IMAGES = np.random.RandomState(0).randint(0, 200, (5, 32, 32, 3)).astype(np.uint8)
BAR = ImageColor.getrgb(BAR_COLOR)


def test_images_stand_in_rows_enlarged_pixel_by_pixel():
    sheet = np.array(draw_sheet([Cell(image, (Line("a"),)) for image in IMAGES]))
    scale, gap = 4, COMPACT.gap  # 112 / 32 rounded up
    width, height = 32 * scale + gap, 32 * scale + gap + COMPACT.line
    assert sheet.shape == (3 * height + gap, 2 * width + gap, 3)
    for i, image in enumerate(IMAGES):
        top, left = gap + i // 2 * height, gap + i % 2 * width
        part = sheet[top : top + 32 * scale, left : left + 32 * scale]
        np.testing.assert_array_equal(part, image.repeat(scale, axis=0).repeat(scale, axis=1))


def test_large_images_are_reduced_and_those_between_stay():
    large = draw_sheet([Cell(np.zeros((400, 640, 3), np.uint8), ())], READABLE)
    assert large.size == (320 + 2 * READABLE.gap, 200 + 2 * READABLE.gap)
    assert draw_sheet([Cell(np.zeros((224, 300, 3), np.uint8), ())], READABLE).size == (332, 256)
    assert draw_sheet([Cell(np.zeros((400, 640, 3), np.uint8), ())]).size == (648, 408)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_bar_is_as_long_as_its_share(share):
    style = Style(gap=10, smallest_side=100)
    sheet = np.array(draw_sheet([Cell(np.zeros((100, 201, 3), np.uint8), (Line("", "", share),))], style))
    bar = np.all(sheet == BAR, axis=-1)
    columns = np.flatnonzero(bar.any(axis=0))
    expected = range(10, 10 + round(share * 200) + 1) if share else []
    assert columns.tolist() == list(expected)


def test_long_text_is_cut_and_leaves_what_stands_at_the_right():
    image = np.zeros((120, 120, 3), np.uint8)
    long = "a name much longer than the image is wide\n" * 3
    sheet = np.array(draw_sheet([Cell(image, (Line(long, "98 %", 1.0), Line("short")))] * 3, READABLE))
    outside = sheet.copy()
    gap, width = READABLE.gap, 240
    for i in range(3):  # the images with their lines below; all around is white
        left = gap + i % 2 * (width + gap)
        top = gap + i // 2 * (width + gap + 2 * READABLE.line)
        outside[top : top + width + 2 * READABLE.line, left : left + width] = 255
    assert np.all(outside == 255)
    alone = np.array(draw_sheet([Cell(image, (Line("", "98 %", 1.0), Line("short")))], READABLE))
    right = slice(gap + width - 40, gap + width)
    lines = slice(gap + width, gap + width + 2 * READABLE.line)
    np.testing.assert_array_equal(sheet[lines, right], alone[lines, right])
    assert np.any(sheet[lines, gap : gap + 150] != alone[lines, gap : gap + 150])


def test_letters_of_other_alphabets_are_drawn():
    drawn = {
        name: np.array(draw_sheet([Cell(IMAGES[0], (Line(name),))])).tobytes() for name in ("ö", "ж", "λ", "\ufffe")
    }
    assert len(set(drawn.values())) == 4


def test_title_fits_however_few_the_images():
    title = "The 24 most confident of 1,680 mistakes"
    sheet = draw_sheet([Cell(IMAGES[0], ())], READABLE, title)
    header = np.array(sheet)[: 2 * READABLE.line].min(axis=(0, 2))
    dark = np.flatnonzero(header < 128)
    assert dark[0] >= READABLE.gap - 1
    assert 224 < dark[-1] < sheet.width - READABLE.gap


def test_pictures_replace_the_old_one_at_once(tmp_path, monkeypatch):
    target = tmp_path / "new" / "sheet.png"
    sheet = draw_sheet([Cell(IMAGES[0], ())])
    save_picture(sheet, target)
    assert Image.open(target).size == sheet.size
    before = target.read_bytes()

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(sheet, "save", fail)
    with pytest.raises(UserError, match="cannot be written: disk full"):
        save_picture(sheet, target)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["sheet.png"]


def test_targets_that_are_no_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match="must be an image file, for example"):
        check_picture(tmp_path / "sheet.txt")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_picture(tmp_path / "folder.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_picture(tmp_path / "file" / "sheet.png")
