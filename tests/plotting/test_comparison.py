"""The picture of several runs: a loss that falls by powers of ten is drawn over them."""

import pytest

from resnet_jax.plotting import comparison
from resnet_jax.plotting.comparison import draw_comparison


@pytest.mark.parametrize(("last", "scale"), [(0.001, "log"), (1.0, "linear")])
def test_losses_that_span_powers_of_ten_are_drawn_over_them(tmp_path, monkeypatch, last, scale):
    figures = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: figures.append(figure))
    run = [{"epoch": float(epoch), "val_loss": loss, "val_accuracy": 0.5} for epoch, loss in ((1, 2.0), (2, last))]
    draw_comparison({"a": [run, run]}, tmp_path / "p.png", "two runs")
    scales = {axes.get_ylabel(): axes.get_yscale() for axes in figures[0].axes}
    assert scales == {"validation loss": scale, "validation accuracy": "linear"}
