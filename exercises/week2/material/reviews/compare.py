"""Compares BERT, with attention written out and with a fused kernel, and Mamba on the reviews of this folder.

    python -m exercises.week2.material.reviews.compare [FOLDER] [--impl solutions] [--train] [--longest 8192] …

from the course's root measures with your `exercises/week2/evaluation.py`, or with that of another tree, and writes
evaluation-DEVICE.md, .json and .png to FOLDER, or to report. It takes about three minutes on one core, eight with
training.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import math
import statistics
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import classifiers, data, train

Row = dict[str, Any]
ROOT = Path(__file__).parents[4]
USED = ("evaluate", "compare", "crossing", "table", "write_record", "plot")
MODELS = {
    "BERT, eager": ("bert", {"attn_implementation": "eager"}),
    "BERT, SDPA": ("bert", {"attn_implementation": "sdpa"}),
    "Mamba": ("mamba", {}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare BERT and Mamba with the evaluation harness.")
    parser.add_argument("folder", nargs="?", type=Path, default="report", help="where the report goes (report)")
    parser.add_argument("--impl", default="exercises", metavar="TREE", help="whose harness: exercises, solutions, …")
    parser.add_argument("--train", action="store_true", help="train the classifiers anew, into the folder, first")
    parser.add_argument("--longest", type=int, default=1024, help="tokens, at most 8192 (1024)")
    parser.add_argument("--texts", type=int, default=64, help="how many of the 400 reviews to read (64)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts (8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    harness = load_harness(options.impl)

    torch.set_num_threads(1)  # tensors this small gain little from more, and lose much on a busy machine
    limit_memory()
    options.folder.mkdir(parents=True, exist_ok=True)
    models = classifiers.HERE
    if options.train:
        models = options.folder / "models"
        train.main(models)
    common = {
        "tokenizer": classifiers.load_tokenizer(models), "dataset": data.read("test").select(range(options.texts)),
        "batch_size": options.batch_size,
    }  # fmt: skip
    entries = [
        {"name": name, "model": classifiers.load(kind, models, **how).to(options.device)} | common
        for name, (kind, how) in MODELS.items()
    ]
    lengths = [2**power for power in range(7, 14) if 2**power <= options.longest]
    rows = harness.compare(entries, lengths)
    report = "\n".join([harness.table(rows), exponents_table(rows), crossings_table(rows, harness)])
    print(report)
    stem = f"evaluation-{options.device}"
    Path(options.folder, f"{stem}.md").write_text(report, "utf-8")
    harness.write_record(rows, options.folder / f"{stem}.json")
    harness.plot(rows, options.folder / f"{stem}.png")


def load_harness(tree: str) -> ModuleType:
    """week2/evaluation of a tree, a folder below the course's root. Ends the program if it is missing or unfinished."""
    file = Path(tree, "week2", "evaluation.py")
    if file.is_absolute() or not (ROOT / file).is_file():
        raise SystemExit(f"--impl {tree}: there is no {file} below {ROOT}")
    module = import_module(".".join(file.with_suffix("").parts))
    unfinished = [name for name in USED if _is_unfinished(getattr(module, name, None))]
    if unfinished:
        raise SystemExit(
            f"{file} is unfinished: {', '.join(unfinished)}. Finish the exercise, or use the solution: --impl solutions"
        )
    return module


def _is_unfinished(function: Any) -> bool:
    if not inspect.isfunction(function):
        return not callable(function)
    return "raise NotImplementedError" in inspect.getsource(function)


def exponents_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each model: the b of cost = a · lengthᵇ, by least squares on the logarithms."""
    lines = ["| model | exponent of seconds | of peak memory |", "|---|--:|--:|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = []
        for column in ("sec", "peak_mem_mb"):
            mine = [row for row in rows if row["name"] == name and not row["error"]]
            x, y = ([math.log(row[key]) for row in mine] for key in ("max_length", column))
            cells.append(f"{statistics.linear_regression(x, y).slope:.2f}" if len(mine) > 1 else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def crossings_table(rows: Sequence[Row], harness: ModuleType) -> str:
    """A Markdown table with a line for each pair of models."""
    lines = ["| lines meet at (tokens) | throughput | peak memory |", "|---|--:|--:|"]
    for pair in itertools.combinations(dict.fromkeys(row["name"] for row in rows), 2):
        found = (harness.crossing(rows, *pair, column) for column in ("throughput", "peak_mem_mb"))
        cells = " | ".join("never" if length is None else f"{length:.0f}" for length in found)
        lines.append(f"| {' / '.join(pair)} | {cells} |")
    return "\n".join(lines) + "\n"


def limit_memory() -> None:
    """Make the CPU's allocator refuse what the machine does not have: Linux would grant it, then kill the process."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        import resource

        sizes = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        available = 1024 * int(sizes["MemAvailable"].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (available, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main()
