"""Peak memory of the ways to learn against the number of steps."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from stepmask.errors import StepMaskError

# Okabe-Ito colours, which all kinds of colour vision tell apart, with a marker each
STYLES = (("#D55E00", "s"), ("#E69F00", "P"), ("#0072B2", "o"), ("#56B4E9", "v"), ("#009E73", "^"))


def memory(found: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw one line per way to learn.

    Args:
        found: By way, and by number of steps: MiB of a whole process.
        title: Of what was measured.
    """
    if not found or not all(found.values()):
        raise StepMaskError("there is no memory to draw: measure it with stepmask benchmark --memory")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for (way, by_steps), (colour, marker) in zip(found.items(), STYLES, strict=False):
        steps = sorted(by_steps, key=int)
        axes.plot(
            [int(count) for count in steps],
            [by_steps[count] for count in steps],
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.5,
            label=way,
        )
    axes.set_xticks(sorted({int(count) for by_steps in found.values() for count in by_steps}))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of the run that is learned from")
    axes.set_ylabel("peak memory of the process, MiB")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
