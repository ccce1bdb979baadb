"""Bookkeeping for one text at a time: long texts first, memory sampled by a thread, plots drawn by hand."""

import json
import math
import os
import platform
import threading
import time

import torch
import transformers

MEASURED = ["accuracy", "sec", "sec_spread", "throughput", "peak_mem_mb"]


def evaluate(model, tokenizer, dataset, batch_size=16, max_length=256, warmup=2, repeats=3, seed=0):
    for name, value, least in [("batch_size", batch_size, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)]:
        if value < least:
            raise ValueError(f"{name}={value}")
    refuse_nonsense(model, dataset, max_length)
    order = sorted(range(len(dataset)), key=lambda row: -len(dataset["text"][row]))
    batches = []
    while len(batches) * batch_size < len(order):
        rows = order[len(batches) * batch_size :][:batch_size]
        texts = [dataset["text"][row] for row in rows]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
        batches.append((rows, tokens))
    modules = list(model.modules())
    modes = [module.training for module in modules]
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    for module in modules:
        module.training = False
    torch.set_grad_enabled(False)
    try:
        predictions, peak = [None] * len(order), []
        for position in range(len(batches)):
            rows, tokens = batches[position]
            if position == 0:
                torch.manual_seed(seed)
                before = resident()
            for row, logits in zip(rows, sampled(lambda tokens=tokens: read(model, tokens), peak), strict=True):
                best = None
                for number, logit in enumerate(logits.tolist()):
                    if logit != logit:
                        raise ValueError(f"logits of row {row}: {logits}")
                    if best is None or logit > logits[best]:
                        best = number
                predictions[row] = best
        for number in range(warmup):
            read(model, batches[number % len(batches)][1])
        times = []
        for _ in range(repeats):
            torch.manual_seed(seed)
            start = now(model)
            for _, tokens in batches:
                read(model, tokens)
            times.append(now(model) - start)
    finally:
        torch.set_grad_enabled(grad)
        torch.set_rng_state(state)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    right = 0
    for row, prediction in enumerate(predictions):
        right += prediction == dataset["label"][row]
    times.sort()
    sec = (times[(repeats - 1) // 2] + times[repeats // 2]) / 2
    return {
        "accuracy": right / len(order),
        "sec": sec,
        "sec_spread": [times[0], times[-1]],
        "throughput": len(order) / sec,
        "peak_mem_mb": (max(peak) - before) / 2**20,
        "predictions": predictions,
    }


def read(model, tokens):
    device = next(model.parameters()).device
    return model(**{key: tokens[key].to(device) for key in tokens}).logits


def now(model):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if "synchronize" in dir(model):
        model.synchronize()
    return time.monotonic()


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sampled(work, seen):
    done = threading.Event()

    def watch():
        while not done.wait(0.002):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return work()
    finally:
        done.set()
        thread.join()
        seen.append(resident())


def refuse_nonsense(model, dataset, max_length):
    if hasattr(model.config, "max_position_embeddings") and model.config.max_position_embeddings < max_length:
        raise ValueError(f"max_length {max_length} is beyond the model's {model.config.max_position_embeddings}")
    for name in ("text", "label"):
        if name not in dataset.column_names:
            raise ValueError(f"there is no {name!r} in {list(dataset.column_names)}")
    if len(dataset["label"]) == 0:
        raise ValueError("the dataset has nothing in it")
    for row, label in enumerate(dataset["label"]):
        if label < 0 or label >= model.config.num_labels:
            raise ValueError(f"row {row}: label {label} but {model.config.num_labels} classes")


def compare(entries, max_lengths, warmup=2, repeats=3, seed=0):
    lengths = [*max_lengths]
    for number, entry in enumerate(entries):
        for length in lengths:
            refuse_nonsense(entry["model"], entry["dataset"], length)
        for other in entries[:number]:
            pair = entry["name"] + " / " + other["name"]
            if entry["name"] == other["name"]:
                raise ValueError("twice the same name: " + pair)
            mine, theirs = next(entry["model"].parameters()), next(other["model"].parameters())
            for what, same in [
                ("batch_size", entry["batch_size"] == other["batch_size"]),
                ("dtype", mine.dtype is theirs.dtype),
                ("device", mine.device == theirs.device),
                ("dataset", rows_of(entry["dataset"]) == rows_of(other["dataset"])),
            ]:
                if not same:
                    raise ValueError(f"unlike {what}: {pair}")
    rows = []
    for entry in entries:
        for length in lengths:
            row = {"name": entry["name"], "max_length": length, "error": None}
            try:
                data = (entry["model"], entry["tokenizer"], entry["dataset"], entry["batch_size"], length)
                found = evaluate(*data, warmup=warmup, repeats=repeats, seed=seed)
            except Exception as error:
                kind, message = type(error).__name__, str(error)
                if kind not in ("MemoryError", "OutOfMemoryError") and "can't allocate memory" not in message:
                    raise
                found, row["error"] = {}, "out of memory"
            for key in MEASURED:
                row[key] = found.get(key)
            rows.append(row)
    return rows


def rows_of(dataset):
    return [(dataset["text"][row], dataset["label"][row]) for row in range(len(dataset))]


def line_of(rows, name, column):
    values = {}
    for row in rows:
        if row["name"] == name and row[column] is not None:
            values[row["max_length"]] = row[column]
    return values


def crossing(rows, first, second, column):
    names = [row["name"] for row in rows]
    if first not in names or second not in names:
        raise ValueError(f"{first} or {second} is not among {names}")
    one, two = line_of(rows, first, column), line_of(rows, second, column)
    before = None
    for length in sorted(one):
        if length not in two:
            continue
        if one[length] == two[length]:
            return float(length)
        ratio = two[length] / one[length]
        if before and (before[1] > 1) != (ratio > 1):
            slope = (math.log2(ratio) - math.log2(before[1])) / (math.log2(length) - math.log2(before[0]))
            return 2 ** (math.log2(before[0]) - math.log2(before[1]) / slope)
        before = (length, ratio)
    return None


def table(rows):
    text = "| model | max_length | accuracy (%) | throughput | sec | MB |\n| --- | --- | --- | --- | --- | --- |\n"
    for row in rows:
        text += f"| {row['name']} | {row['max_length']} | "
        if row["error"]:
            text += "| | out of memory | |\n"
        else:
            text += f"{100 * row['accuracy']:.1f} | {row['throughput']:.1f} | {row['sec']:.3f} "
            text += f"[{row['sec_spread'][0]:.3f}, {row['sec_spread'][1]:.3f}] | {row['peak_mem_mb']:.0f} |\n"
    return text


def write_record(rows, path):
    where = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    where["platform"], where["transformers"] = platform.machine(), transformers.__version__
    with open(path, "wb") as file:
        file.write(json.dumps({"environment": where, "rows": rows}, indent=4).encode())


def plot(rows, path):
    """An SVG file is text, and Pillow draws the same lines and words for a PNG file."""
    lines, words = [], []
    names = list(dict.fromkeys(row["name"] for row in rows))
    for panel, column in enumerate(("accuracy", "throughput", "peak_mem_mb")):
        values = [row for row in rows if row[column] is not None]
        contexts = [math.log(row["max_length"]) for row in values]
        heights = [row[column] for row in values] if not panel else [math.log(row[column]) for row in values]
        for name in names:
            points = []
            for x, y, row in sorted(zip(contexts, heights, values, strict=True), key=lambda each: each[0]):
                if row["name"] == name:
                    right = (x - min(contexts)) / ((max(contexts) - min(contexts)) or 1)
                    up = (y - min(heights)) / ((max(heights) - min(heights)) or 1)
                    points.append((300 * panel + 20 + 250 * right, 280 - 250 * up))
            lines.append(points)
            words.append((*points[-1], name))
        for number, name in enumerate(names):
            for other in names[:number]:
                met = crossing(rows, other, name, column) if panel else None
                if met:
                    words.append((300 * panel + 20, 20 + 12 * number, f"{other} = {name} at {met:.0f}"))
    if str(path).endswith(".png"):
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (900, 300), "white")
        for points in lines:
            ImageDraw.Draw(image).line(points, "navy", 3)
        for x, y, word in words:
            ImageDraw.Draw(image).text((x, y), word, "black")
        image.save(path, "png")
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write('<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300">\n')
        for points in lines:
            where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            file.write(f'<polyline fill="none" stroke="navy" points="{where}"/>\n')
        for x, y, word in words:
            file.write(f'<text x="{x:.1f}" y="{y:.1f}">{word}</text>\n')
        file.write("</svg>\n")
