"""The picture of several runs: its axes, and the mean of runs that are not of one length."""

import numpy as np
import pytest

from resnet_jax.plotting import comparison
from resnet_jax.plotting.comparison import draw_comparison


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, instead of their files."""
    drawn = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.mark.parametrize(("last", "scale"), [(0.001, "log"), (1.0, "linear")])
def test_losses_that_span_powers_of_ten_are_drawn_over_them(tmp_path, figures, last, scale):
    run = [{"epoch": float(epoch), "val_loss": loss, "val_accuracy": 0.5} for epoch, loss in ((1, 2.0), (2, last))]
    draw_comparison({"a": [run, run]}, tmp_path / "p.png", "two runs")
    scales = {axes.get_ylabel(): axes.get_yscale() for axes in figures[0].axes}
    assert scales == {"validation loss": scale, "validation accuracy": "linear"}


def test_a_mean_is_of_the_runs_that_have_come_so_far(tmp_path, figures):
    def run(*losses, every=1):
        return [{"epoch": float(every * i), "val_loss": loss} for i, loss in enumerate(losses, start=1)]

    draw_comparison({"a": [run(4.0, 3.0, 2.0, 1.0), run(2.0, 0.0, every=2)]}, tmp_path / "p.png", "two runs")
    (axes,) = figures[0].axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [4.0, 2.5, 1.5, 0.5])  # the second has 1 between its two
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.x1) == (2, 4)


def test_of_a_moving_average_its_own_evaluation_is_drawn(tmp_path, figures):
    runs = {"a": [{"epoch": float(i), "val_accuracy": 0.1, "val_ema_accuracy": 0.5} for i in (1, 2)]}
    draw_comparison({"a": [runs["a"]]}, tmp_path / "p.png", "a run")
    (axes,) = figures[0].axes
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.5]


def test_the_legend_names_as_many_as_there_are_colours_each_to_its_end(tmp_path, figures):
    run = [{"epoch": float(i), "val_loss": 1.0} for i in (1, 2)]
    draw_comparison({f"{'rate ' * 20}{i}": [run] for i in range(12)}, tmp_path / "p.png", "runs")
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert len(names) == 10
    assert len({*names}) == 10
