"""The evaluation harness: accuracy, speed and memory of text classifiers on the same data, at the same lengths.

Sizes in the shapes below: n texts in the data set, B texts in a batch, L tokens in a text, C classes.
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

from ..week1._drawing import Panel, draw
from ..week1._memory import peak_memory
from ._modes import eval_mode

Row = dict[str, Any]


class Dataset(Protocol):
    """What can be evaluated on: a `datasets.Dataset`, or anything that behaves like one.

    A column may be any sequence; a `datasets.Dataset` does not return a list.
    """

    @property
    def column_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, column: str) -> Sequence[Any]: ...


# --- measuring ------------------------------------------------------------------------------------------------------


def evaluate(
    model: nn.Module, tokenizer: Any, dataset: Dataset, batch_size: int = 16, max_length: int = 256, warmup: int = 2,
    repeats: int = 3, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Measure how well and how fast a classifier reads a data set.

    A *pass* reads the whole data set in order, batch_size texts at a time; the last batch may be smaller. The
    tokenizer makes exactly max_length tokens of each text, truncating or padding it, and the model gets everything
    that the tokenizer returned (not the labels), on the model's device.

    The model computes in eval mode and builds no graph. torch's random numbers start from seed in each pass.
    Afterwards, even after an exception, the caller's random numbers continue as if none had been drawn, and each
    module of the model is in the mode, training or eval, that it was in before.

    Args:
        model: a sequence classifier: `model(**tokens).logits` is (B, C), C is `model.config.num_labels`, and
            `model.config.max_position_embeddings`, if it has one, is the most tokens it can read.
        tokenizer: the model's, a transformers tokenizer. It has a padding token.
        dataset: its column "text" holds str, "label" the correct classes, integers from 0 to C − 1. Other columns are
            ignored.
        batch_size: ≥ 1.
        max_length: tokens, including special ones.
        warmup: ≥ 0; the model reads at least this many batches before the clock starts. If there are fewer, it starts
            over from the first.
        repeats: ≥ 1; the number of timed passes. Nothing that observes memory (a dispatch mode, a profiler, a
            sampling thread) is active during them.
        seed: for torch's random numbers.

    Returns:
        accuracy: the share of all texts whose prediction equals their label, float from 0 to 1.
        sec: seconds per pass, the median of the repeats. The clock covers moving batches to the device and the model
            reading them, not tokenising. Before each reading of the clock the model's `synchronize()` is called, if it
            has one, and so is the accelerator's if there is one: queued work is neither left out nor counted in the
            wrong place.
        sec_spread: [seconds of the fastest pass, of the slowest].
        throughput: texts per second, at sec.
        peak_mem_mb: the most memory that tensors held at any moment of a pass, minus what was held when evaluate was
            called, in MB of 2**20 bytes. So the weights do not count, but what is freed immediately does. On CUDA
            devices as its allocator counts. Tested on the CPU with tensors of 50 MB and more, to ± 16 MB.
        predictions: the class with the largest logit for each text, in the data set's order; list of int.

    Raises:
        ValueError: batch_size, warmup or repeats is too small; max_length is more than the model can read; dataset is
            empty, lacks a column, or has a label that is not a class of the model; a logit is NaN. The message names
            the argument or column, or "logits", and the value; for a missing column also the columns that exist; for
            a bad row also its number, counted from 0.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("warmup", warmup, 0), ("repeats", repeats, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    _check(model, dataset, max_length)
    texts, labels = list(dataset["text"]), list(dataset["label"])
    batches = [
        tokenizer(
            texts[start : start + batch_size], padding="max_length", truncation=True, max_length=max_length,
            return_tensors="pt",
        )
        for start in range(0, len(texts), batch_size)
    ]  # fmt: skip
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng():
        with peak_memory(_device(model)) as memory:
            logits = _read(model, batches, seed)  # (n, C)
        if logits.isnan().any():
            raise ValueError(f"logits are NaN, first in row {int(logits.isnan().any(dim=-1).nonzero()[0])}")
        for batch in itertools.islice(itertools.cycle(batches), warmup):
            _logits(model, batch)
        seconds = [_timed_pass(model, batches, seed) for _ in range(repeats)]
    predictions = logits.argmax(dim=-1).tolist()
    sec = statistics.median(seconds)
    return {
        "accuracy": statistics.fmean(a == b for a, b in zip(predictions, labels, strict=True)),
        "sec": sec,
        "sec_spread": [min(seconds), max(seconds)],
        "throughput": len(texts) / sec,
        "peak_mem_mb": memory.peak_bytes / 2**20,
        "predictions": predictions,
    }


def _check(model: nn.Module, dataset: Dataset, max_length: int) -> None:
    config: Any = model.config
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and max_length > most:
        raise ValueError(f"max_length is {max_length}, but the model reads at most {most} tokens")
    if len(dataset) == 0:
        raise ValueError(f"dataset must not be empty, but its length is {len(dataset)}")
    for column in ("text", "label"):
        if column not in dataset.column_names:
            raise ValueError(f"dataset has no column {column!r}, only {', '.join(dataset.column_names)}")
    for number, label in enumerate(dataset["label"]):
        if label not in range(config.num_labels):
            raise ValueError(f"label must be from 0 to {config.num_labels - 1}, but is {label!r} in row {number}")


def _read(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], seed: int) -> Tensor:
    """One pass: the logits (n, C)."""
    torch.manual_seed(seed)
    return torch.cat([_logits(model, batch) for batch in batches])


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Tokens (B, L) each -> (B, C)."""
    device = _device(model)
    logits: Tensor = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
    return logits


def _timed_pass(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], seed: int) -> float:
    """The seconds of one pass."""
    start = _now(model)
    _read(model, batches, seed)
    return _now(model) - start


def _now(model: nn.Module) -> float:
    """The clock, read once no work is left in a queue."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    if hasattr(model, "synchronize"):
        model.synchronize()  # type: ignore[operator]
    return time.perf_counter()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


# --- comparing ------------------------------------------------------------------------------------------------------


def compare(
    entries: Sequence[Mapping[str, Any]], max_lengths: Iterable[int], warmup: int = 2, repeats: int = 3, seed: int = 0
) -> list[Row]:
    """Evaluate several models on the same data at the same lengths.

    Everything is checked before any model is called. Long comparisons show a progress bar on standard error, if that
    is a terminal.

    Args:
        entries: each {"name": str, "model", "tokenizer", "dataset", "batch_size"}, as for `evaluate`. Names must
            differ; batch_size, the dtype and device of the models' parameters, and the texts and labels must not.
        max_lengths: tokens, in any order; may be an iterator.
        warmup, repeats, seed: as for `evaluate`.

    Returns:
        A row {"name", "max_length", "accuracy", "sec", "sec_spread", "throughput", "peak_mem_mb", "error"} for each
        entry at each length: all of the first entry's in the order of max_lengths, then the second's. "error" is None.
        Where memory runs out (a MemoryError, torch.OutOfMemoryError, or the RuntimeError of the CPU's allocator) it is
        "out of memory", and the measured values are None; other rows are not affected.

    Raises:
        ValueError: two entries have the same name, or differ in what must be the same (the message says "batch_size",
            "dtype", "device" or "dataset", and the names of the two); otherwise as for `evaluate`.
    """
    lengths = list(max_lengths)
    _check_alike(entries)
    for entry, length in itertools.product(entries, lengths):
        _check(entry["model"], entry["dataset"], length)
    rows = []
    for entry, length in tqdm(list(itertools.product(entries, lengths)), unit="row", disable=None, delay=2):
        arguments = {key: value for key, value in entry.items() if key != "name"}
        row: Row = {"name": entry["name"], "max_length": length} | dict.fromkeys(_MEASURED) | {"error": None}
        try:
            found = evaluate(**arguments, max_length=length, warmup=warmup, repeats=repeats, seed=seed)
            row |= {key: found[key] for key in _MEASURED}
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            row["error"] = "out of memory"
        rows.append(row)
    return rows


_MEASURED = ("accuracy", "sec", "sec_spread", "throughput", "peak_mem_mb")


def _check_alike(entries: Sequence[Mapping[str, Any]]) -> None:
    for first, second in itertools.combinations(entries, 2):
        names = f"{first['name']!r} and {second['name']!r}"
        if first["name"] == second["name"]:
            raise ValueError(f"name must not be the same for two entries: {names}")
        for what, of in _ALIKE.items():
            if of(first) != of(second):
                raise ValueError(f"{what} must be the same for all entries, but differs between {names}")


_ALIKE = {
    "batch_size": lambda entry: entry["batch_size"],
    "dtype": lambda entry: next(entry["model"].parameters()).dtype,
    "device": lambda entry: _device(entry["model"]),
    "dataset": lambda entry: [list(entry["dataset"][column]) for column in ("text", "label")],
}


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def crossing(rows: Sequence[Row], first: str, second: str, column: str) -> float | None:
    """The shortest length at which the lines of two models meet.

    With both axes logarithmic, a model's line is straight from each measured length to the next: log(value) is linear
    in log(max_length). At the lengths x₀ < x₁ < … that were measured for both, let

        dᵢ = log(second's value at xᵢ) − log(first's value at xᵢ)

    The lines meet at xᵢ where dᵢ = 0, and between xᵢ and xᵢ₊₁, at xᵢ · (xᵢ₊₁ / xᵢ)^(dᵢ / (dᵢ − dᵢ₊₁)), where one of the
    two is positive and the other negative.

    Args:
        rows: from `compare`, in any order.
        first, second: names.
        column: "sec", "throughput" or "peak_mem_mb", holding positive numbers. Rows without a value are left out.

    Returns:
        The length, or None if the lines do not meet.

    Raises:
        ValueError: no row has this name; the message gives the name.
    """
    for name in (first, second):
        if not any(row["name"] == name for row in rows):
            raise ValueError(f"rows have no name {name!r}")
    one, two = (dict(_line(rows, name, column)) for name in (first, second))
    points = [(x, math.log(two[x] / one[x])) for x in one if x in two]
    for (x, d), (next_x, next_d) in itertools.pairwise([*points, (math.inf, math.nan)]):
        if d == 0:
            return float(x)
        if d * next_d < 0:
            return x * (next_x / x) ** (d / (d - next_d))
    return None


def _line(rows: Sequence[Row], name: str, column: str) -> list[tuple[int, float]]:
    """The points (max_length, value) of one model, by length, where there is a value."""
    return sorted((row["max_length"], row[column]) for row in rows if row["name"] == name and row[column] is not None)


# --- reporting ------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of what `compare` measured.

    Returns:
        Two heading lines, then one line for each row in the order given; each begins and ends with "|". A row's line
        holds its name, its max_length and its numbers, each in its own column, in this order: accuracy in percent,
        throughput, sec with its spread, peak_mem_mb, rounded for reading. Where the numbers are missing it says
        "out of memory".
    """
    lines = ["| model | tokens | accuracy | texts/s | seconds (spread) | peak memory (MB) |", "|---|" + 5 * "--:|"]
    for row in rows:
        if row["error"]:
            cells = [row["error"], "", "", ""]
        else:
            low, high = row["sec_spread"]
            seconds = f"{row['sec']:.3g} ({low:.3g} … {high:.3g})"
            cells = [f"{row['accuracy']:.1%}", f"{row['throughput']:.4g}", seconds, f"{row['peak_mem_mb']:.1f}"]
        lines.append(f"| {row['name']} | {row['max_length']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_record(rows: Sequence[Row], path: str | Path) -> None:
    """Write what `compare` measured, and in which environment, to a machine-readable file.

    Args:
        rows: from `compare`.
        path: of the file, replaced if it exists: JSON in UTF-8, {"environment": {"python": its version, "torch",
            "transformers": theirs, "platform": str, "threads": of torch on the CPU}, "rows": the rows}. The
            environment may have other keys after these. It is strict JSON: numbers are exact, None is null.
    """
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
    record = {"environment": environment, "rows": list(rows)}
    Path(path).write_text(json.dumps(record, allow_nan=False, ensure_ascii=False, indent=1) + "\n", "utf-8")


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Draw accuracy, throughput and memory against length, and mark where lines cross.

    Nothing else is left behind: no other file, no open pyplot figure, no changed setting of matplotlib.

    Args:
        rows: from `compare`, of one model or more. Rows without values have no point.
        path: the file to write, this one and no other; replaced if it exists. The suffix .svg or .png decides the
            format. The picture shows the values and the names of all models and, for throughput and for memory, each
            `crossing` of two models, rounded to a whole number of tokens. In an SVG file names and numbers can be
            found as text, at least in comments.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    panels = [Panel("accuracy", {name: _line(rows, name, "accuracy") for name in names}, yscale="linear")]
    for column, title in (("throughput", "throughput (texts/s)"), ("peak_mem_mb", "peak memory (MB)")):
        lines = {name: _line(rows, name, column) for name in names}
        met = [crossing(rows, first, second, column) for first, second in itertools.combinations(names, 2)]
        panels.append(Panel(title, lines, crossings=[length for length in met if length is not None]))
    draw(panels, path, xlabel="length (tokens)")
