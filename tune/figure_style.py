"""How the report's figures look: in light and dark, on a wide page and on a phone.

Nothing here touches pyplot: a figure belongs to whoever draws it, and no global state is left behind.
"""

import base64
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

WIDE_IN, NARROW_IN = 9.0, 3.9
"""Inches of a figure: on a page of 864 CSS pixels, and on a phone, both at their true size."""

PNG_DPI = 160


@dataclass(frozen=True)
class Theme:
    """Colours for one background; every text colour has a contrast of at least 4.5 against it."""

    surface: str
    text: str
    faint: str
    """Axes, ticks and what stands back."""
    grid: str
    winner: str
    states: Mapping[str, str]
    """Of each trial state."""
    scale: tuple[str, str]
    """From little to much."""

    @property
    def colormap(self) -> LinearSegmentedColormap:
        """The scale as a colour map."""
        return LinearSegmentedColormap.from_list("report", self.scale)

    def text_on(self, colour: ColorType) -> str:
        """Black or white, whichever is easier to read on that colour."""
        return max(("black", "white"), key=lambda text: abs(_lightness(text) - _lightness(colour)))


def _lightness(colour: ColorType) -> float:
    """The logarithm of what WCAG 2.2 makes its contrast ratios of (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return math.log(0.05 + 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


LIGHT = Theme(
    surface="#ffffff",
    text="#1c2127",
    faint="#5a6472",
    grid="#dde2e8",
    winner="#c2410c",
    states={"complete": "#1d5fbf", "pruned": "#707b89", "running": "#0b7a75", "failed": "#b3123c"},
    scale=("#e8eef7", "#1d5fbf"),
)
DARK = Theme(
    surface="#15191e",
    text="#e7eaee",
    faint="#a3adb9",
    grid="#2c343d",
    winner="#ffa15c",
    states={"complete": "#74b0ff", "pruned": "#8d98a5", "running": "#4fd1c5", "failed": "#ff7d93"},
    scale=("#1d2733", "#74b0ff"),
)


@dataclass(frozen=True)
class Marker:
    """How a trial's state is told apart without its colour."""

    shape: str
    is_filled: bool


MARKERS = {
    "complete": Marker("o", True),
    "pruned": Marker("v", False),
    "running": Marker("D", False),
    "failed": Marker("X", True),
}


@dataclass(frozen=True)
class Look:
    """What a figure is drawn for."""

    theme: Theme
    width_in: float = WIDE_IN
    title: str | None = None
    """Over the figure, where no page gives it a heading."""

    @property
    def is_narrow(self) -> bool:
        """Whether it is for a phone."""
        return self.width_in < WIDE_IN

    def figure(self, height_in: float) -> Figure:
        """An empty figure."""
        figure = Figure(
            figsize=(self.width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.05)
        )
        if self.title:
            figure.suptitle(self.title, x=0.01, ha="left", fontsize="large", fontweight="bold")
        return figure

    def marker(self, state: str, size: float = 6.5) -> dict[str, Any]:
        """Keyword arguments of `Axes.plot` for the marker of a trial in that state."""
        colour, marker = self.theme.states[state], MARKERS[state]
        return {
            "marker": marker.shape,
            "markersize": size,
            "markeredgecolor": colour,
            "markerfacecolor": colour if marker.is_filled else self.theme.surface,
            "markeredgewidth": 1.4 if not marker.is_filled else 0.0,
        }

    def legend(self, figure: Figure, *handles: Line2D) -> None:
        """Below the axes, where it hides nothing."""
        figure.legend(handles=handles, loc="outside lower left", ncols=2 if self.is_narrow else 6)


Draw = Callable[[Look], Figure]


@dataclass(frozen=True)
class Renderings:
    """One figure, ready for the page and for a file."""

    png: bytes
    """Light, with its title."""
    light: str
    """An SVG as a data URI; so are the others."""
    dark: str
    narrow_light: str
    narrow_dark: str


def render(draw: Draw, title: str) -> Renderings:
    """Draws a figure for each background and width."""
    wide = {"light": Look(LIGHT), "dark": Look(DARK)}
    narrow = {f"narrow_{name}": replace(look, width_in=NARROW_IN) for name, look in wide.items()}
    svgs = {name: _data_uri(_bytes(draw, look, "svg")) for name, look in {**wide, **narrow}.items()}
    return Renderings(png=png(draw, title), **svgs)


def png(draw: Draw, title: str) -> bytes:
    """A wide figure on white, with its title, as a file by itself."""
    return _bytes(draw, Look(LIGHT, title=title), "png")


def drawn_in(look: Look, draw: Draw) -> Figure:
    """A figure, laid out but not rendered."""
    with _style(look.theme):
        figure = draw(look)
        figure.draw_without_rendering()
    return figure


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _bytes(draw: Draw, look: Look, kind: str) -> bytes:
    stream = io.BytesIO()
    with _style(look.theme):
        figure = draw(look)
        if kind == "svg":
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(stream, format="png", dpi=PNG_DPI)
    return stream.getvalue()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    settings: Any = {
        "figure.facecolor": theme.surface,
        "axes.facecolor": theme.surface,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.text,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "text.color": theme.text,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "font.size": 9.5,
        "axes.labelsize": 9.5,
        "legend.frameon": False,
        "legend.handlelength": 1.8,
        "legend.columnspacing": 1.6,
        "lines.solid_capstyle": "round",
        "text.parse_math": False,  # a label may hold a dollar sign
        "svg.fonttype": "none",  # the browser has glyphs that the fonts here may lack
        "svg.hashsalt": "tuneserve",  # equal figures make equal files
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def hide_spines(axes: Axes) -> None:
    """No frame and no grid, for what has its own."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
