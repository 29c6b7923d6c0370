"""The picture of a learning-rate range test: the loss by the rate, and the rate that is proposed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnet_jax.plotting.figures import new_figure, save_figure, style_axes

COLORS = {"step": "#7f7f7f", "average": "#0b61a4", "proposal": "#c23b22"}
ROOM_ABOVE = 1.25  # the end of the axis of losses, by the highest until the average is lowest


def draw_range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    averages: Sequence[float],
    path: Path,
    title: str,
    *,
    proposal: float | None,
    lowest_rate: float | None,
) -> None:
    """Writes `path` (PNG): the loss of each step and its average by the rate, with the proposed rate in red.

    Args:
      losses, averages: where one is not finite, nothing is drawn.
      proposal: None if there is none.
      lowest_rate: among `rates`, the one up to which the axis shows every loss; higher ones are cut off, with a note.
        None: nothing is cut off.
    """
    figure = new_figure((6.4, 4.2), title)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=COLORS["step"], alpha=0.5, markersize=5, label="of a step")
    axes.plot(rates, averages, color=COLORS["average"], linewidth=1.8, label="moving average")
    if proposal is not None:
        axes.axvline(proposal, color=COLORS["proposal"], linewidth=1.5, label=f"proposal {proposal:g}")
    style_axes(axes, xlabel="learning rate", ylabel="training loss")
    axes.set_xscale("log")
    axes.set_xlim(rates[0], rates[-1])
    finite = np.array([loss for loss in losses if np.isfinite(loss)])
    end = ROOM_ABOVE * (finite.max() if lowest_rate is None else max(losses[: rates.index(lowest_rate) + 1]))
    axes.set_ylim(0.0, end)
    if finite.max() > end:
        axes.set_title(f"axis cut at {end:.2g}: losses reach {finite.max():.2g}", fontsize="small", color="#444444")
    save_figure(figure, path)
