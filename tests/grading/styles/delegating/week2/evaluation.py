"""Delegates as much as possible: NumPy averages, SciPy finds roots, the operating system records the peak memory."""

import contextlib
import json
import platform
from pathlib import Path
from timeit import Timer

import numpy as np
import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.optimize import brentq
from torch.utils.data import DataLoader


def evaluate(model, tokenizer, dataset, batch_size=16, max_length=256, warmup=2, repeats=3, seed=0):
    if batch_size < 1 or repeats < 1 or warmup < 0:
        raise ValueError(f"batch_size={batch_size}, repeats={repeats} or warmup={warmup} is too small")
    _validate(model, dataset, max_length)

    def collate(texts):
        return tokenizer(texts, truncation=True, padding="max_length", max_length=max_length, return_tensors="pt")

    batches = list(DataLoader(list(dataset["text"]), batch_size, collate_fn=collate, generator=torch.Generator()))
    device = next(iter(model.parameters())).device

    def wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        getattr(model, "synchronize", lambda: None)()

    def run(some):
        torch.manual_seed(seed)
        return [model(**dict(zip(each, [x.to(device) for x in each.values()], strict=True))).logits for each in some]

    def timed():
        run(batches)
        wait()

    with contextlib.ExitStack() as stack:
        for each in model.modules():
            stack.callback(setattr, each, "training", each.training)
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.enter_context(torch.inference_mode())
        model.eval()
        peak, logits = _peak(lambda: run(batches))
        logits = torch.cat(logits).double().cpu().numpy()
        bad = np.flatnonzero(np.isnan(logits).any(axis=1))
        if bad.size:
            raise ValueError(f"logits of row {bad[0]} are not numbers")
        run([batches[i % len(batches)] for i in range(warmup)])
        times = np.array(Timer(timed, wait).repeat(repeats, number=1))
    predictions = logits.argmax(axis=1)
    return {
        "predictions": predictions.tolist(),
        "accuracy": float(np.mean(predictions == np.array(dataset["label"][:]))),
        "sec": float(np.median(times)),
        "sec_spread": np.quantile(times, [0, 1]).tolist(),
        "throughput": len(dataset) / float(np.median(times)),
        "peak_mem_mb": peak,
    }


def _peak(work):
    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    result = work()
    return status("VmHWM") - before, result


def _validate(model, dataset, max_length):
    limit = getattr(model.config, "max_position_embeddings", None) or float("inf")
    if max_length > limit:
        raise ValueError(f"max_length={max_length} > {limit}")
    if not len(dataset):
        raise ValueError("dataset has no rows")
    if missing := {"text", "label"} - set(dataset.column_names):
        raise ValueError(f"no column {missing} among {dataset.column_names}")
    labels = np.array(dataset["label"][:])
    wrong = np.flatnonzero((labels < 0) | (labels >= model.config.num_labels))
    if wrong.size:
        raise ValueError(f"label {labels[wrong[0]]} of row {wrong[0]} is no class")


def compare(entries, max_lengths, warmup=2, repeats=3, seed=0):
    max_lengths, rows = tuple(max_lengths), []
    reference = entries[0]
    if len({entry["name"] for entry in entries}) < len(entries):
        raise ValueError(f"names are not unique: {[entry['name'] for entry in entries]}")
    for entry in entries:
        both = f"{reference['name']} and {entry['name']}"
        if entry["batch_size"] != reference["batch_size"]:
            raise ValueError(f"batch_size of {both} differ")
        parameters = [next(each["model"].parameters()) for each in (reference, entry)]
        if parameters[0].dtype != parameters[1].dtype or parameters[0].device != parameters[1].device:
            raise ValueError(f"dtype or device of {both} differ: {parameters}")
        for column in ("text", "label"):
            if entry["dataset"][column][:] != reference["dataset"][column][:]:
                raise ValueError(f"dataset of {both}: column {column} differs")
        for max_length in max_lengths:
            _validate(entry["model"], entry["dataset"], max_length)
    keys = ("accuracy", "sec", "sec_spread", "throughput", "peak_mem_mb")
    for entry in entries:
        for max_length in max_lengths:
            settings = {"max_length": max_length, "warmup": warmup, "repeats": repeats, "seed": seed}
            error, found = None, dict.fromkeys(keys)
            try:
                found = evaluate(*(entry[key] for key in ("model", "tokenizer", "dataset", "batch_size")), **settings)
            except (torch.cuda.OutOfMemoryError, MemoryError):
                error = "out of memory"
            except RuntimeError as problem:
                if "allocate memory" not in str(problem):
                    raise
                error = "out of memory"
            row = {"error": error, "max_length": max_length, "name": entry["name"]}
            rows.append(row | {key: found[key] for key in keys})
    return rows


def _arrays(rows, name, column):
    found = {row["max_length"]: row[column] for row in rows if row["name"] == name and row[column] is not None}
    return np.array(sorted(found)), np.array([found[x] for x in sorted(found)])


def crossing(rows, first, second, column):
    for name in (first, second):
        if name not in {row["name"] for row in rows}:
            raise ValueError(f"unknown model {name}")
    (x1, y1), (x2, y2) = (_arrays(rows, name, column) for name in (first, second))
    common = np.intersect1d(x1, x2)
    if not common.size:
        return None
    pick1, pick2 = y1[np.isin(x1, common)], y2[np.isin(x2, common)]

    def gap(u):
        return np.interp(u, np.log(common), np.log(pick2)) - np.interp(u, np.log(common), np.log(pick1))

    gaps = np.sign(np.where(pick1 == pick2, 0.0, pick2 - pick1))
    for i, x in enumerate(common):
        if gaps[i] == 0:
            return float(x)
        if i + 1 < len(common) and gaps[i] == -gaps[i + 1]:
            return float(np.exp(brentq(gap, np.log(x), np.log(common[i + 1]), xtol=1e-12, rtol=1e-12)))
    return None


def table(rows):
    def line(row):
        if row["error"] is not None:
            return f"|{row['name']}|{row['max_length']}|out of memory||||"
        ends = " to ".join(f"{each:.4f}" for each in row["sec_spread"])
        numbers = f"{row['accuracy'] * 100:.2f}%|{row['throughput']:.2f}|{row['sec']:.4f} ({ends})"
        return f"|{row['name']}|{row['max_length']}|{numbers}|{row['peak_mem_mb']:.2f}|"

    return "|name|length|accuracy|texts per second|seconds|MB|\n|:-|-:|-:|-:|-:|-:|\n" + "\n".join(map(line, rows))


def write_record(rows, path):
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    versions |= {"transformers": transformers.__version__, "platform": platform.system()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"rows": rows, "environment": versions | {"threads": torch.get_num_threads()}}, file)


def plot(rows, path):
    figure = Figure(figsize=(6, 12))
    canvas = FigureCanvasSVG(figure) if str(path).endswith(".svg") else FigureCanvasAgg(figure)
    names = sorted({row["name"] for row in rows})
    for number, column in enumerate(("accuracy", "throughput", "peak_mem_mb"), start=1):
        axes = figure.add_subplot(3, 1, number)
        axes.set_ylabel(column)
        for name in names:
            axes.scatter(*_arrays(rows, name, column), label=name)
        if number > 1:
            met = [crossing(rows, a, b, column) for a in names for b in names if a < b]
            axes.set_title("; ".join(f"{round(x)}" for x in met if x))
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=4)
    canvas.print_figure(path)
