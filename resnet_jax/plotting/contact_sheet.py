"""Contact sheets: many images in one picture, each with lines of text below."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from resnet_jax.errors import UserError, printable
from resnet_jax.filesystem import atomic_write, check_folder, check_parents

BAR_COLOR = "#b9d5ec"  # behind black text, and still distinct from white in grey print
BAR_PADDING = 3  # pixels
DOTS_PER_INCH = 110
_SOFTWARE_TAG, _SOFTWARE = 0x0131, "resnet_jax"  # of EXIF, which says that a picture is a sheet


class Line(NamedTuple):
    """A line below an image: text at the left, what stands at the right, and the share in [0, 1] that a bar covers."""

    text: str
    right: str = ""
    share: float = 0.0


@dataclass(frozen=True)
class Cell:
    """image: (H, W, C) uint8. lines: below it, all of them as wide as the image; too long ones are cut."""

    image: np.ndarray
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Style:
    """Lengths in pixels: text height, what a line takes, the gap between images, and the range of an image's sides.

    Images whose shorter side is less than smallest_side are enlarged by a whole factor, each pixel repeated; those
    whose longer side is more than largest_side are reduced.
    """

    text: int = 12
    line: int = 16
    gap: int = 4
    smallest_side: int = 112
    largest_side: int | None = None


COMPACT = Style()
READABLE = Style(text=15, line=22, gap=16, smallest_side=224, largest_side=320)


def check_picture(path: Path) -> None:
    """Raises UserError (a ValueError) unless `path` is a name that a picture can be written to."""
    if path.is_dir():
        raise UserError(f"--to {path} is a folder: give the name of an image file in it, for example batch.png")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--to {path} must be an image file, for example batch.png")
    check_parents(path)
    check_folder(path.absolute().parent)


def check_replaced(path: Path, images: Sequence[Path]) -> None:
    """Raises UserError (a ValueError) if a sheet at `path` would replace one of the images, or a picture beside them
    that is no sheet, as with `--to *.jpg`.
    """
    if not path.exists():
        return
    found = [image for image in images if image.exists()]
    if any(image.samefile(path) for image in found):
        raise UserError(f"--to {path} is one of the images: name another file for the sheet")
    folders = {image.absolute().parent for image in found}
    if any(folder.samefile(path.absolute().parent) for folder in folders) and not _is_sheet(path):
        raise UserError(f"--to {path} lies beside the images and is no sheet of ours: name another file for the sheet")


def _is_sheet(path: Path) -> bool:
    with contextlib.suppress(Exception), Image.open(path) as picture:  # whatever lies there
        return picture.getexif().get(_SOFTWARE_TAG) == _SOFTWARE
    return False


def save_picture(sheet: Image.Image, path: Path) -> None:
    """Writes the picture in the format of its name's ending, replacing `path` at once; makes its folder if missing."""
    exif = Image.Exif()
    exif[_SOFTWARE_TAG] = _SOFTWARE
    with atomic_write(path) as file:
        kind = Image.registered_extensions()[path.suffix.lower()]
        sheet.save(file, kind, dpi=(DOTS_PER_INCH, DOTS_PER_INCH), exif=exif)


def draw_sheet(cells: Sequence[Cell], style: Style = COMPACT, title: str = "") -> Image.Image:
    """Returns a picture of `cells`, about as wide as high, on white; their images are of one size, and have equally
    many lines.

    Args:
      title: a line above all.
    """
    pictures = [_sized(cell.image, style) for cell in cells]
    width, height = pictures[0].size
    num_lines = max(len(cell.lines) for cell in cells)
    cell_width, cell_height = width + style.gap, height + style.gap + num_lines * style.line
    columns = max(1, min(len(cells), round(math.sqrt(len(cells) * cell_height / cell_width))))
    rows = -(-len(cells) // columns)
    font, large = _font(style.text), _font(style.text + 3)
    header = 2 * style.line if title else 0
    sheet_width = max(columns * cell_width + style.gap, round(large.getlength(title)) + 2 * style.gap)
    sheet = Image.new("RGB", (sheet_width, header + rows * cell_height + style.gap), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((style.gap, style.gap), title, "black", large)
    for i, (cell, picture) in enumerate(zip(cells, pictures, strict=True)):
        left, top = style.gap + i % columns * cell_width, header + style.gap + i // columns * cell_height
        sheet.paste(picture, (left, top))
        for j, line in enumerate(cell.lines):
            _draw_line(draw, font, line, (left, top + height + j * style.line), width, style)
    return sheet


def _draw_line(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    line: Line,
    place: tuple[int, int],
    width: int,
    style: Style,
) -> None:
    left, top = place
    if line.share:
        draw.rectangle((left, top, left + round(line.share * (width - 1)), top + style.line - 3), BAR_COLOR)
        left, width = left + BAR_PADDING, width - 2 * BAR_PADDING
    room = width
    if line.right:
        length = round(font.getlength(line.right))
        draw.text((left + width - length, top), line.right, "black", font)
        room -= length + style.text // 2
    draw.text((left, top), _cut(line.text, font, room), "black", font)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Returns matplotlib's, which has the letters of most alphabets; Pillow's own has few beyond ASCII."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns as much of `text` as has room, on one line."""
    text = printable(text)
    while text and font.getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…" if len(text) > 1 else ""
    return text


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels of any number of channels as they can be shown: (H, W, 3) uint8.

    Of three or more channels the first three are red, green and blue; of fewer the first one is grey.
    """
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _sized(image: np.ndarray, style: Style) -> Image.Image:
    image = np.ascontiguousarray(as_rgb(image))
    height, width = image.shape[:2]
    scale = max(1, -(-style.smallest_side // min(height, width)))
    if scale > 1:
        return Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    longest = max(height, width)
    if style.largest_side is not None and longest > style.largest_side:
        size = tuple(max(1, round(side * style.largest_side / longest)) for side in (width, height))
        return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    return Image.fromarray(image)
