"""The examples' pictures; that they run, test_pages shows."""

import sys
from pathlib import Path

import numpy as np

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
