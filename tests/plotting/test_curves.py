"""The picture of a run's curves: readable for short runs, and honest about what it leaves out."""

import itertools
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from resnet_jax.plotting import curves
from resnet_jax.plotting.curves import draw_curves


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws records and gives the figure."""

    def drawn(records):
        figures = []
        monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure))
        draw_curves(records, tmp_path / "curves.png", "a run")
        figures[0].canvas.draw()
        return figures[0]

    return drawn


def record(epoch, **values):
    return {"step": round(1000 * epoch), "epoch": epoch, **values}


@pytest.mark.parametrize("epochs", [(0.6,), (0.02, 0.1, 0.2), (0.0004, 0.0011), (1, 2, 3), (50, 150, 1350)], ids=str)
def test_numbers_along_an_axis_do_not_run_into_each_other(draw, epochs):
    figure = draw([record(epoch, train_loss=2.0, train_accuracy=0.1, learning_rate=0.1) for epoch in epochs])
    for axes in figure.axes:
        low, high = axes.get_xlim()
        labels = [
            label for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if low <= at <= high
        ]
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) >= 2
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_cut_axis_says_that_it_is_cut_and_how_far_the_rest_goes(draw):
    trained = [record(epoch, train_loss=2.0, train_accuracy=0.5) for epoch in (1, 2)]
    figure = draw([*trained, record(2, val_loss=30.5, val_accuracy=0.1), record(2, test_loss=float("nan"))])
    (cut,) = (text.get_text() for text in figure.findobj(Text) if "cut" in text.get_text())
    assert cut == "axis cut at 2.2: validation reaches 30.5"
    figure = draw([*trained, record(2, val_loss=2.1, val_accuracy=0.1)])
    assert not any("cut" in text.get_text() for text in figure.findobj(Text))


def test_run_of_two_epochs_shows_its_points(draw):
    figure = draw([record(epoch, train_loss=2.0 / epoch, train_accuracy=0.5) for epoch in (1, 2)])
    assert [line.get_marker() for line in figure.axes[0].lines] == ["."]
    assert figure.axes[0].get_xlim()[0] == 0.0


@pytest.mark.parametrize("title", ["$NAME_$SEED", "a$b_", r"\$x$"])
def test_dollars_in_a_name_are_no_formula(tmp_path, monkeypatch, title):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (figure.canvas.draw(), drawn.append(figure)))
    monkeypatch.setattr(Path, "replace", lambda *_: None)
    draw_curves([record(1, train_loss=2.0, train_accuracy=0.5)], tmp_path / "curves.png", title)
    (shown,) = (text for text in drawn[0].findobj(Text) if text.get_text() == title)
    assert not shown.get_parse_math()
