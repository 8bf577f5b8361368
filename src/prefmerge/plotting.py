"""How every figure looks: one colour and one mark per method everywhere, a colour per task, one way to write a file.

Colours are Okabe and Ito's, distinct for any colour vision; where there are more methods than colours, the mark and
the dash differ. Figures are made without pyplot: no window system, no state shared with the caller's plots. The
functions that draw import Matplotlib. Not here: what is drawn, which is the caller's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmerge.errors import MissingExtra, OutputError
from prefmerge.ground import atomic
from prefmerge.ground.refused import remedy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
INK = "black"  # text and lines without a meaning of their own

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#7F7F7F",
)
FEW = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)


@dataclass(frozen=True)
class Style:
    """How a method is drawn: `colour` and `hatch` for bars; `colour`, `marker` and `dash` for lines."""

    colour: str
    marker: str = "o"
    dash: str = "-"
    hatch: str = ""

    def line(self) -> dict[str, Any]:
        """Keywords for `Axes.plot` and `Axes.errorbar`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}

    def bar(self) -> dict[str, Any]:
        """Keywords for `Axes.bar`."""
        return {"color": self.colour, "hatch": self.hatch, "edgecolor": "white"}


# By the name that tables print. A method that is not here is drawn in grey.
METHODS = {
    "Zero-shot": Style(INK, "x", ":"),
    "Joint": Style(INK, "*", ":"),
    "Baseline": Style(GREY, "s", "--"),
    "LwF": Style(GREY, "P", "-."),
    "EWC": Style(GREY, "X", ":"),
    "Rand Mix": Style(YELLOW, "v", "--"),
    "Average": Style(SKY, "^", "--"),
    "TIES": Style(PURPLE, "<", "--"),
    "Max Abs": Style(ORANGE, "D", "--", "//"),
    "MAGMAX": Style(ORANGE, "D", "-"),
    "Best checkpoint": Style(INK, "h", "--", ".."),
    "Tunable (OT)": Style(GREEN, "o", "-"),
    "Tunable (Label)": Style(BLUE, "o", "-"),
    "Tunable (Cos)": Style(GREEN, "^", ":", "//"),
    "Tunable (MMD)": Style(GREEN, "v", "-.", "xx"),
    "Tunable (Label), paper": Style(BLUE, "<", "--", ".."),
    "Tunable (Label), strength 0.5": Style(BLUE, "^", ":", "//"),
    "Tunable (Label), carry 0.5": Style(BLUE, "v", "-.", "xx"),
    "Tunable (Label), optimal + step": Style(VERMILION, "o", "-"),
    "Tunable (Label), optimal + step, strength 0.5": Style(VERMILION, "^", ":", "//"),
    "Tunable (Label), optimal + step, carry 0.5": Style(VERMILION, "v", "-.", "xx"),
    "Search": Style(PURPLE, "*", "-", "\\\\"),
    "Adapt (labels)": Style(VERMILION, "*", "-"),
    "Adapt (inputs)": Style(GREEN, "*", "-", ".."),
    "Adapt (pairs)": Style(BLUE, "*", "-", ".."),
    "Last + fitted bias": Style(GREY, "o", "-", ".."),
    "Fine-tuned (pairs)": Style(INK, "d", "--", "//"),
    "Fine-tuned (held-out)": Style(INK, "d", "-", "xx"),
}
UNKNOWN = Style(GREY, ".", "-")


def style_of(method: str) -> Style:
    """The look of a method by the name that tables print."""
    return METHODS.get(method, UNKNOWN)


def task_colours(count: int) -> list[Any]:
    """A colour per task. Beyond eight no set is distinct for everyone: then a scale in the order of training."""
    if count <= len(FEW):
        return list(FEW[:count])
    from matplotlib import colormaps

    return [colormaps["viridis"](i / (count - 1)) for i in range(count)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("a picture", "plot") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def open_sides(axes: Sequence[Any]) -> None:
    """Take away the upper and the right side of every frame."""
    for one in axes:
        for side in ("top", "right"):
            one.spines[side].set_visible(False)


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure, whole or not at all, in the format that the suffix says. Raises OutputError where that cannot
    be.
    """
    path = Path(path)
    try:
        atomic.write_whole(path, drawn(figure, path.suffix.removeprefix(".")))
    except OSError as error:
        way = remedy(error, "Give another place.")
        raise OutputError(f"{path}: the picture cannot be written: {error.strerror or error}. {way}") from error
    except ValueError as error:  # a suffix that matplotlib does not write
        raise OutputError(f"{path}: the picture cannot be written: {error}.") from error


def drawn(figure: Figure, suffix: str = "png") -> bytes:
    """What a file of the figure holds. Names are shown as they are: a `$` in one begins no formula. Raises ValueError
    for a format that matplotlib does not write.
    """
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # they get their texts when asked for
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "\\mathdefault" not in text.get_text():  # that is matplotlib's own, of log scales
            text.set_parse_math(False)
    held = io.BytesIO()
    # No date and no version in the file: the same numbers give the same bytes.
    figure.savefig(held, format=suffix or None, metadata={"Software": None} if suffix.lower() == "png" else None)
    return held.getvalue()
