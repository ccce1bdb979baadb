"""NumPy fits, pyplot draws, the kernel of the operating system keeps the peak."""

import math
import timeit
from pathlib import Path

import numpy as np
import torch

from solutions.week1.architecture_lab import own_model  # noqa: F401


def fit_scaling_exponent(lengths, costs):
    n = len(lengths)
    if n < 3 or n != len(costs) or min(costs) <= 0:
        raise ValueError(f"cannot fit {n} lengths to {len(costs)} costs, the least {min(costs, default=None)}")
    x, y = np.log(lengths), np.log(costs)
    slope, intercept = np.polyfit(x, y, 1)
    error = math.sqrt(((y - slope * x - intercept) ** 2).sum() / (n - 2) / ((x - x.mean()) ** 2).sum())
    angle = np.linspace(0, math.pi / 2, 400_001)
    density = np.cos(angle).clip(0) ** (n - 3)
    inside = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    margin = error * math.sqrt(n - 2) * math.tan(np.interp(0.95, inside / inside[-1], angle))
    return float(slope), (float(slope - margin), float(slope + margin))


def compare(models, context_lengths, new_tokens=16):
    lengths, rows = tuple(context_lengths), []
    for name in models:
        for row in measure_generation(models[name], lengths, new_tokens):
            row["model"] = name
            rows.append(row)
    return rows


def _status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measure_generation(model, context_lengths, new_tokens=16):
    held = _status("VmRSS")

    def sync():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        getattr(model, "synchronize", lambda: None)()

    def read(length):
        model.prefill(length)
        sync()

    def write():
        for _ in range(new_tokens):
            model.decode()
        sync()

    def times(length):
        sync()
        return timeit.timeit(lambda: read(length), number=1), timeit.timeit(write, number=1) / new_tokens

    rows = []
    for length in context_lengths:
        times(length)
        Path("/proc/self/clear_refs").write_text("5")
        times(length)
        peak = _status("VmHWM") - held
        prefill, token = np.median([times(length) for _ in range(5)], axis=0)
        rows.append({"context": length, "prefill_s": float(prefill), "s_per_token": float(token), "peak_bytes": peak})
    return rows


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure()
    for name in {row["model"]: None for row in rows}:
        mine = [row for row in rows if row["model"] == name]
        pyplot.loglog([row["context"] for row in mine], [row["s_per_token"] for row in mine], label=name)
    pyplot.legend()
    pyplot.savefig(path)
    pyplot.close(figure)
