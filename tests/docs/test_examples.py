"""The examples' pictures and files; that they run, test_pages shows."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import masks as example


def test_picture_of_masks_names_its_rows_and_colours():
    images, masks = example.draw(8, seed=0)
    picture = np.asarray(example.draw_answers(images, masks, np.zeros_like(masks)))
    cell, margin = example.CELL, example.MARGIN
    assert picture.shape == (3 * (cell + margin) + margin, 8 * cell, 3)
    legend = {tuple(color) for color in picture[-margin + 8, : 5 * cell].tolist()}
    assert {tuple(color) for color in example.COLORS.tolist()} <= legend
    for top in range(0, 3 * (cell + margin), cell + margin):  # a name above each row, and below it the images
        assert picture[top : top + margin].min() == 0
    shown = picture[margin : margin + cell : 2, : 8 * cell : 2]
    np.testing.assert_array_equal(shown, np.concatenate(list(images), axis=1))


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
LABELS = np.array([7, 0, 7, 3, 3, 7], np.uint8)


def write_mnist(folder):
    """Runs the example there; returns its exit code and what it printed."""
    script = Path(example.__file__).with_name("write_mnist.py")
    done = subprocess.run([sys.executable, script, folder, folder / "out"], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def mnist(tmp_path):
    """A folder of four such files, two of them packed."""
    for prefix, (images, labels) in {"train": (IMAGES, LABELS), "t10k": (IMAGES[:2], LABELS[:2])}.items():
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            path = tmp_path / f"{prefix}-{name}-ubyte"
            if prefix == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return tmp_path


def test_files_of_mnist_become_a_folder_of_the_same_pixels(mnist):
    code, printed = write_mnist(mnist)
    assert code == 0, printed
    assert printed.split("\n")[0] == f"6 images in {mnist / 'out' / 'train'}"
    written = {path.relative_to(mnist / "out").as_posix() for path in (mnist / "out").rglob("*.png")}
    assert {name for name in written if name.startswith("test/")} == {"test/0/00001.png", "test/7/00000.png"}
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = mnist / "out" / "train" / str(label) / f"{number:05}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "t10k-labels-idx1-ubyte is not there, nor t10k-labels-idx1-ubyte.gz"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "t10k-labels-idx1-ubyte is not whole"),
        (lambda path: path.write_bytes(b"\0\0\x0d\1"), "t10k-labels-idx1-ubyte is no idx file of bytes"),
        (lambda path: path.write_bytes(path.with_name("t10k-images-idx3-ubyte").read_bytes()), "labels of shape"),
    ],
)
def test_files_that_are_not_mnists_are_refused(mnist, spoil, says):
    spoil(mnist / "t10k-labels-idx1-ubyte")
    code, printed = write_mnist(mnist)
    assert code == 2
    assert says in printed
