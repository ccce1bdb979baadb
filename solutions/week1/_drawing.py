"""Figures of what models cost, against the length that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One diagram of a figure."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]  # by model: (length, value), in any order
    yscale: str = "log"
    crossings: Sequence[float] = ()  # lengths to be marked


def draw(panels: Sequence[Panel], path: str | Path, xlabel: str) -> None:
    """Draw the panels side by side, each with a line for each model, into an .svg or .png file."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")  # unlike pyplot's figures, not kept open
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, points in panel.lines.items():
            points = sorted(points)
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
        axes.set(title=panel.title, xlabel=xlabel, yscale=panel.yscale)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        axes.legend()
        for x in panel.crossings:
            axes.axvline(x, color="grey", linestyle=":")
            axes.text(x, 0.02, f"{x:.0f}", transform=axes.get_xaxis_transform(), rotation=90)
    figure.savefig(path)
