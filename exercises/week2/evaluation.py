"""The evaluation harness: accuracy, speed and memory of text classifiers on the same data, at the same lengths.

Sizes in the shapes below: n texts in the data set, B of them in a batch, L tokens each, C classes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

Row = dict[str, Any]


class Dataset(Protocol):
    """What can be evaluated on: a `datasets.Dataset`, or whatever answers like one.

    A column may be any sequence. That of a `datasets.Dataset` is no list.
    """

    @property
    def column_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, column: str) -> Sequence[Any]: ...


def evaluate(
    model: nn.Module, tokenizer: Any, dataset: Dataset, batch_size: int = 16, max_length: int = 256, warmup: int = 2,
    repeats: int = 3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure how well and how fast a classifier reads a data set.

    A *pass* reads the whole data set in its order: batch_size texts at a time, fewer in the last batch if they do not
    come out even. The tokenizer makes exactly max_length tokens of each text, cut off or padded, and the model gets
    everything that the tokenizer returned (not the labels), on the model's device.

    The model computes in eval mode and builds no graph. torch's random numbers begin each pass at seed. Afterwards,
    also after an exception, the caller's random numbers go on as if nothing had been drawn, and each module of the
    model is in the mode, training or eval, in which it was.

    Args:
        model: a sequence classifier: `model(**tokens).logits` is (B, C), C is `model.config.num_labels`, and
            `model.config.max_position_embeddings`, if it has one, is the most tokens it can read.
        tokenizer: the model's, as transformers has them. It has a padding token.
        dataset: its column "text" holds str, "label" the right classes, integers from 0 to C − 1. Other columns are
            no concern.
        batch_size: ≥ 1.
        max_length: tokens, special ones included.
        warmup: ≥ 0; how many batches the model reads, at least, before the clock runs. Where there are fewer, it begins
            again from the first.
        repeats: ≥ 1; how many passes are timed. Nothing that observes memory (a dispatch mode, a profiler, a sampling
            thread) works during them.
        seed: of torch's random numbers.

    Returns:
        accuracy: the share of all texts whose prediction is their label, float from 0 to 1.
        sec: seconds that a pass takes, the median of the repeats. The clock runs while batches go to the device and the
            model reads them, not while texts are tokenised. Before each reading of it the model's `synchronize()` is
            called, if it has one, and so is the accelerator's where there is one: work that was only queued is neither
            left out nor counted where it does not belong.
        sec_spread: [seconds of the quickest pass, of the slowest].
        throughput: texts per second, at sec.
        peak_mem_mb: the most memory that tensors held at any moment of a pass, less what was held when evaluate was
            called, in MB of 2**20 bytes. So the weights do not count, and what is freed at once does. On CUDA devices
            as its allocator counts. Judged on the CPU with tensors of 50 MB and more, to ± 16 MB.
        predictions: the class with the largest logit for each text, in the data set's order; list of int.

    Raises:
        ValueError: batch_size, warmup or repeats is too small; max_length is more than the model can read; dataset is
            empty, lacks a column, or has a label that is no class of the model; a logit is NaN. The message names the
            argument or column, or "logits", and the value; also the columns that there are, where one is missing, and
            the number of the row, from 0, where one is to blame.
    """
    raise NotImplementedError


def compare(
    entries: Sequence[Mapping[str, Any]], max_lengths: Iterable[int], warmup: int = 2, repeats: int = 3, seed: int = 0
) -> list[Row]:
    """Evaluate several models on the same data at the same lengths.

    Everything is checked before any model is called. A progress bar on the standard error output shows how far long
    comparisons are, if that is a terminal.

    Args:
        entries: each {"name": str, "model", "tokenizer", "dataset", "batch_size"}, as for `evaluate`. Names differ;
            batch_size, the dtype and the device of the models' parameters, and the texts and labels do not.
        max_lengths: tokens, in any order; may be an iterator.
        warmup, repeats, seed: as for `evaluate`.

    Returns:
        A row {"name", "max_length", "accuracy", "sec", "sec_spread", "throughput", "peak_mem_mb", "error"} for each
        entry at each length; all of the first entry's in the order of max_lengths, then the second's. "error" is None.
        Where memory did not suffice (a MemoryError, torch.OutOfMemoryError, or the RuntimeError of the CPU's
        allocator) it is "out of memory", what would have been measured is None, and the other rows are as ever.

    Raises:
        ValueError: two entries have the same name, or differ in what must not (the message says "batch_size", "dtype",
            "device" or "dataset", and the names of the two); otherwise as for `evaluate`.
    """
    raise NotImplementedError


def crossing(rows: Sequence[Row], first: str, second: str, column: str) -> float | None:
    """The shortest length at which the lines of two models meet.

    A model's line goes straight from each measured length to the next where both axes are logarithmic:
    log(value) is linear in log(max_length). At the lengths x₀ < x₁ < … that were measured for both, let

        dᵢ = log(second's value at xᵢ) − log(first's value at xᵢ)

    The lines meet at xᵢ where dᵢ = 0, and between xᵢ and xᵢ₊₁, at xᵢ · (xᵢ₊₁ / xᵢ)^(dᵢ / (dᵢ − dᵢ₊₁)), where one of the
    two is positive and the other negative.

    Args:
        rows: of `compare`, in any order.
        first, second: names.
        column: "sec", "throughput" or "peak_mem_mb", of positive numbers. Rows without a value are left out.

    Returns:
        The length, or None if the lines do not meet.

    Raises:
        ValueError: there is no row with this name; the message names it.
    """
    raise NotImplementedError


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of what `compare` measured.

    Returns:
        Two lines of heading, then one for each row in the order given; each begins and ends with "|". In a row's line
        stand its name, its max_length and its numbers, in columns of their own in this order: accuracy in percent,
        throughput, sec with its spread, peak_mem_mb, rounded as the eye likes it. "out of memory" stands where they
        are missing.
    """
    raise NotImplementedError


def write_record(rows: Sequence[Row], path: str | Path) -> None:
    """Write what `compare` measured, and on what, to a file that machines read.

    Args:
        rows: of `compare`.
        path: of the file, replaced if it exists: JSON in UTF-8, {"environment": {"python": its version, "torch",
            "transformers": theirs, "platform": str, "threads": of torch on the CPU}, "rows": the rows}. Other keys of
            the environment may follow. It is strict JSON: numbers are exact, None is null.
    """
    raise NotImplementedError


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Draw accuracy, throughput and memory against length, and where lines cross.

    Nothing else is left behind: no other file, no open figure of matplotlib's pyplot, no changed setting.

    Args:
        rows: of `compare`, one model or more. Rows without values have no point.
        path: the file that is written, this one and no other; replaced if it exists. The suffix .svg or .png says
            what it is. The picture shows the values and the names of all models and, for throughput and for memory,
            each `crossing` of two models, as a whole number of tokens (its nearest). In an SVG file names and numbers
            can be found as text, at least in comments.
    """
    raise NotImplementedError


# given: the real comparison; from the course's root, python -m exercises.week2.evaluation
def main(arguments: Sequence[str] | None = None) -> None:
    """Compare BERT, with attention written out and with a fused kernel, and Mamba, on the reviews of the material.

    Writes evaluation-DEVICE.md, .json and .png into the folder. About three minutes on one core, with training eight.
    """
    parser = argparse.ArgumentParser(description="Compare BERT and Mamba.")
    parser.add_argument("folder", nargs="?", type=Path, default="report", help="where the report goes (report)")
    parser.add_argument("--train", action="store_true", help="train the classifiers anew, into the folder, first")
    parser.add_argument("--longest", type=int, default=1024, help="tokens, 8192 at most (1024)")
    parser.add_argument("--texts", type=int, default=64, help="how many of the 400 reviews are read (64)")
    parser.add_argument("--batch-size", type=int, default=8, help="texts (8)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)

    # By name: graded code may import files of its own tree only, and this belongs to all of them.
    material = "exercises.week2.material.reviews"
    classifiers, data, train = (import_module(f"{material}.{name}") for name in ("classifiers", "data", "train"))
    torch.set_num_threads(1)  # tensors this small gain little from more, and lose much where other programs run
    _limit_memory()
    options.folder.mkdir(parents=True, exist_ok=True)
    models = classifiers.HERE
    if options.train:
        models = options.folder / "models"
        train.main(models)
    reviews = data.read("test").select(range(options.texts))
    common = {
        "tokenizer": classifiers.load_tokenizer(models), "dataset": reviews, "batch_size": options.batch_size,
    }  # fmt: skip
    entries = [
        {"name": name, "model": classifiers.load(kind, models, **how).to(options.device)} | common
        for name, kind, how in (
            ("BERT, eager", "bert", {"attn_implementation": "eager"}),
            ("BERT, SDPA", "bert", {"attn_implementation": "sdpa"}),
            ("Mamba", "mamba", {}),
        )
    ]
    lengths = [2**power for power in range(7, 14) if 2**power <= options.longest]
    rows = compare(entries, lengths)
    report = "\n".join([table(rows), exponents_table(rows), crossings_table(rows)])
    print(report)
    stem = f"evaluation-{options.device}"
    Path(options.folder, f"{stem}.md").write_text(report, "utf-8")
    write_record(rows, options.folder / f"{stem}.json")
    plot(rows, options.folder / f"{stem}.png")


def exponents_table(rows: Sequence[Row]) -> str:
    """In Markdown, a line for each model: the b of cost = a · lengthᵇ, by least squares on the logarithms."""
    lines = ["| model | exponent of seconds | of peak memory |", "|---|--:|--:|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = []
        for column in ("sec", "peak_mem_mb"):
            mine = [row for row in rows if row["name"] == name and not row["error"]]
            x, y = ([math.log(row[key]) for row in mine] for key in ("max_length", column))
            cells.append(f"{statistics.linear_regression(x, y).slope:.2f}" if len(mine) > 1 else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def crossings_table(rows: Sequence[Row]) -> str:
    """In Markdown, a line for each pair of models."""
    lines = ["| lines meet at (tokens) | throughput | peak memory |", "|---|--:|--:|"]
    for pair in itertools.combinations(dict.fromkeys(row["name"] for row in rows), 2):
        found = (crossing(rows, *pair, column) for column in ("throughput", "peak_mem_mb"))
        cells = " | ".join("never" if length is None else f"{length:.0f}" for length in found)
        lines.append(f"| {' / '.join(pair)} | {cells} |")
    return "\n".join(lines) + "\n"


def _limit_memory() -> None:
    """Let the CPU's allocator refuse what the machine does not have. Linux would lend it, and end the process later."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        import resource

        sizes = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        available = 1024 * int(sizes["MemAvailable"].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (available, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main()
# end given
