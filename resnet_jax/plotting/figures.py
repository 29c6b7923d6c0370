"""Figures that need no display, all in one style; matplotlib is imported when the first is made."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnet_jax.errors import UserError, truncate
from resnet_jax.filesystem import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Fonts of systems for letters that matplotlib's own lacks: Chinese, Japanese and Korean letters.
FALLBACK_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAGothic", "PingFang SC", "Hiragino Sans",
    "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Unifont",
)  # fmt: skip

MOST_TICKS = 5  # along x: more would run into each other where they have several decimals


def new_figure(size: tuple[float, float], title: str) -> "Figure":
    """Returns an empty figure of `size` inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def _use_fallbacks(figure: "Figure") -> None:
    """Draws letters that the figure's fonts lack with the installed fonts of FALLBACK_FAMILIES."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    known = {font.name for font in font_manager.fontManager.ttflist}
    fallbacks = [name for name in FALLBACK_FAMILIES if name in known]
    if fallbacks:
        for text in figure.findobj(Text):
            assert isinstance(text, Text)
            text.set(fontfamily=[*text.get_fontfamily(), *fallbacks])


def _take_dollars_literally(figure: "Figure") -> None:
    """Has names with dollars in them, of folders and classes, stand as they are: to matplotlib they are formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if "$" in text.get_text() and r"\mathdefault" not in text.get_text():  # matplotlib's own numbers
            text.set_parse_math(False)


def style_axes(axes: "Axes", *, xlabel: str, ylabel: str) -> None:
    """Adds labels, few numbers along x (whole ones if it is long enough), a faint grid, a legend for several lines."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS, steps=(1, 2, 5, 10), integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > 1:
        axes.legend(frameon=False)


def describe_unwritten(path: Path, error: Exception) -> str:
    """Returns a line on a picture that could not be drawn; `error` may be whatever a picture's library finds."""
    if isinstance(error, UserError):
        return str(error)
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{path} could not be written: {reason or truncate(str(error))}"


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes the figure as PNG, replacing `path` at once.

    Raises:
      UserError: if it cannot be written.
    """
    _use_fallbacks(figure)
    _take_dollars_literally(figure)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
