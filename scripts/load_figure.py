"""The course of a load drawn over time: requests and connections, replicas, latency, one below the other."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from scripts.varying_load import Course
from tune.figure_style import Draw, Look, png

SPAN_S = 2.0
"""Requests and latencies are of spans of so many seconds."""

HEIGHT_IN = 6.6
_EMPTY_MS = 1.0


def write_figure(course: Course, path: Path, title: str) -> None:
    """Writes a PNG to `path`."""
    path.write_bytes(png(drawing(course), title))


def drawing(course: Course) -> Draw:
    """The three panels."""

    def draw(look: Look) -> Figure:
        figure = look.figure(HEIGHT_IN)
        requests, replicas, latency = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
        _draw_requests(requests, course, look)
        _draw_replicas(replicas, course, look)
        _draw_latency(latency, course, look)
        latency.set_xlabel("seconds since the load began")
        latency.set_xlim(0, course.seconds)
        figure.align_ylabels()
        return figure

    return draw


def _draw_requests(axes: Axes, course: Course, look: Look) -> None:
    colours = look.theme.states
    axes.plot(*course.per_s(SPAN_S), color=colours["complete"], label="answered a second")
    times, connections = [0.0], [0]
    for stage in course.stages:
        times += [times[-1], times[-1] + stage.seconds]
        connections += [stage.connections] * 2
    axes.plot([*times, times[-1]], [*connections, 0], color=look.theme.faint, ls="--", label="connections")
    axes.set_ylabel("requests")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_replicas(axes: Axes, course: Course, look: Look) -> None:
    times, replicas = [look.at_s for look in course.looks], [look.replicas for look in course.looks]
    colour = look.theme.states["running"]
    axes.fill_between(times, replicas, step="post", color=colour, alpha=0.25, linewidth=0)
    axes.step(times, replicas, where="post", color=colour)
    axes.set_ylabel("replicas")
    axes.set_ylim(0, max([1, *replicas]) + 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_latency(axes: Axes, course: Course, look: Look) -> None:
    for share, name, style in ((0.5, "p50", "-"), (0.99, "p99", ":")):
        times, latency = course.latency_ms(SPAN_S, share)
        axes.plot(times, latency, style, color=look.theme.winner, marker=".", markersize=4, label=name)
    axes.set_ylabel("milliseconds")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=_EMPTY_MS)
    axes.legend(loc="upper right")
