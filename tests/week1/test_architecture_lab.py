"""Graded tests of the architecture lab: models whose costs are known, and laws whose exponents are.

No test knows how fast the machine is. A model that sleeps notes by the clock how long it slept, however long that was,
and what is reported is held against its notes.
"""

import contextlib
import math
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from grading import expect
from tests.oracles import scaling

# --- fitting ------------------------------------------------------------------------------------------------------


def expect_fit(got, lengths, costs):
    answer, expected = got.output, scaling.fit(lengths, costs)
    shown = "({:.6g}, ({:.6g}, {:.6g}))".format(*expected)
    numbers = []
    if isinstance(answer, (tuple, list)) and len(answer) == 2 and isinstance(answer[1], (tuple, list)):
        numbers = [answer[0], *answer[1]]
    expect.that(
        len(numbers) == 3 and all(isinstance(number, float) for number in numbers),
        "the answer is not (exponent, (low, high)) of floats", expected=shown, got=repr(answer),
    )  # fmt: skip
    close = [math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(numbers, expected, strict=True)]
    expect.that(close[0], "the exponent is another one", expected=shown, got=repr(answer))
    expect.that(all(close), "the confidence interval is another one", expected=shown, got=repr(answer))


@pytest.mark.points(1)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.handout("fit")
def test_a_power_law_gives_its_exponent(submission, exponent):
    """Costs that are exactly a · lengthᵇ give b."""
    lengths = [128, 256, 512, 1024, 8192]
    costs = [3e-4 * length**exponent for length in lengths]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.parametrize("n", [3, 4, 5, 9, 25])
@pytest.mark.handout("fit")
def test_noise_gives_an_interval(submission, draw, n):
    """Noisy costs give the least-squares exponent and Student's interval for this many points."""
    lengths = [100 + 37 * i * i for i in range(n)]
    noise = draw.normal(n, scale=0.3).tolist()
    costs = [1e-3 * length**1.4 * math.exp(error) for length, error in zip(lengths, noise, strict=True)]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.handout("fit")
def test_the_order_of_the_points_does_not_matter(submission):
    """Points may come in any order, lengths more than once."""
    lengths, costs = [4096, 128, 1024, 128, 512], [0.9, 0.031, 0.2, 0.024, 0.13]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.handout("fit")
def test_too_few_points_are_refused(submission, n):
    """Fewer than three points leave nothing for an interval: a ValueError that says how many there are."""
    got = submission.call("fit_scaling_exponent", [128, 256][:n], [0.5, 0.7][:n])
    expect(got).raises(ValueError, mentioning=[str(n)])


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("lengths", "costs", "named"),
    [
        ([1, 2, 4, 8], [1, 2, 3], ["4", "3"]),
        ([1, 2, 4], [5, -7, 6], ["-7"]),
        ([16, 0, 64], [5, 7, 6], ["0"]),
        ([128, 128, 128], [5, 7, 6], ["128"]),
    ],
    ids=["unequal-numbers", "cost", "length", "one-length"],
)
@pytest.mark.handout("fit")
def test_points_that_make_no_sense_are_refused(submission, lengths, costs, named):
    """Other costs than lengths, one that is not positive, lengths that are all equal: a ValueError that tells."""
    expect(submission.call("fit_scaling_exponent", lengths, costs)).raises(ValueError, mentioning=named)


# --- the clock ----------------------------------------------------------------------------------------------------


def timed(module, lengths, new_tokens, prefill_ms, decode_ms, first_ms=0, odd_run=None, odd_ms=0, queued=False):
    """Measure a model that sleeps, and say how what is reported compares with how long it slept by its own notes.

    The first run at a length takes first_ms more in each part; run number odd_run at it takes odd_ms instead. Neither
    counts. With queued the model works only in synchronize().
    """
    slept, runs, jobs, now = {}, {}, [], {}

    def work():
        while jobs:
            key, seconds, counts = jobs.pop(0)
            start = time.perf_counter()
            time.sleep(seconds)
            if counts:
                slept.setdefault(key, []).append(time.perf_counter() - start)

    class Sleeper:
        def prefill(self, length):
            now["length"] = length
            now["run"] = runs[length] = runs.get(length, -1) + 1
            self.ask("prefill_s", prefill_ms)

        def decode(self):
            self.ask("s_per_token", decode_ms)

        def ask(self, column, milliseconds):
            usual = now["run"] not in (0, odd_run)
            if now["run"] == 0:
                milliseconds += first_ms
            if now["run"] == odd_run:
                milliseconds = odd_ms
            jobs.append(((now["length"], column), milliseconds / 1000, usual))
            if not queued:
                work()

    if queued:
        Sleeper.synchronize = lambda self: work()
    found = []
    for row in module.measure_generation(Sleeper(), lengths, new_tokens):
        said = {"context": row["context"]}
        for column, asked_ms in (("prefill_s", prefill_ms), ("s_per_token", decode_ms)):
            took = slept.get((row["context"], column), [asked_ms / 1000])
            low, high, value = min(took), max(took), row[column]
            print(f"{row['context']}: {column} = {value:.4f}; the model took {low:.4f} to {high:.4f}")
            right = 0.9 * low <= value <= 1.3 * high + 0.003
            said[column] = "right" if right else "too short" if value < low else "too long"
        found.append(said)
    return found


def right(*lengths):
    return [{"context": length, "prefill_s": "right", "s_per_token": "right"} for length in lengths]


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_prefill_and_decode_are_timed_apart(submission):
    """prefill_s is the prefill alone, s_per_token one decode: like is compared with like."""
    expect(submission.run(timed, [32], 2, 14, 2)).equal_to(right(32))


@pytest.mark.points(1)
@pytest.mark.parametrize("new_tokens", [1, 3])
@pytest.mark.handout("clock")
def test_a_token_costs_the_same_however_many_there_are(submission, new_tokens):
    """s_per_token is per token, not the sum."""
    expect(submission.run(timed, [16], new_tokens, 1, 8)).equal_to(right(16))


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_work_that_is_queued_is_waited_for(submission):
    """A model that only queues its work is synchronised before each reading of the clock."""
    expect(submission.run(timed, [32], 2, 20, 6, queued=True)).equal_to(right(32))


@pytest.mark.points(2)
@pytest.mark.handout("average")
def test_the_first_run_is_not_counted(submission):
    """The first run at each length compiles and warms caches: it is not part of the averages."""
    expect(submission.run(timed, [16, 8], 1, 4, 4, first_ms=40)).equal_to(right(16, 8))


@pytest.mark.points(2)
@pytest.mark.parametrize("odd_run", [1, 3])
@pytest.mark.handout("average")
def test_an_interrupted_run_does_not_move_the_average(submission, odd_run):
    """One run that was interrupted leaves the result as it was."""
    expect(submission.run(timed, [16], 1, 5, 5, odd_run=odd_run, odd_ms=60)).equal_to(right(16))


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_a_run_that_was_unusually_quick_does_not_move_the_average(submission):
    """One run that was quick leaves the result as it was: the least of the times is no average."""
    expect(submission.run(timed, [16], 1, 12, 12, odd_run=2, odd_ms=1)).equal_to(right(16))


# --- what is run --------------------------------------------------------------------------------------------------


def followed(module, lengths, new_tokens):
    """What a model that only takes notes sees of a measurement."""
    runs, before = [], set(threading.enumerate())

    class Witness:
        def prefill(self, length):
            runs.append({"length": length, "decodes": 0, "watched": False})
            self.look()

        def decode(self):
            runs[-1]["decodes"] += 1
            self.look()

        def look(self):
            watchers = [
                _get_current_dispatch_mode_stack(),
                set(threading.enumerate()) - before,
                tracemalloc.is_tracing(),
                torch.autograd._profiler_enabled(),
            ]
            runs[-1]["watched"] |= any(watchers)

    rows = module.measure_generation(Witness(), lengths, new_tokens)
    full = [[run for run in runs if run["length"] == length and run["decodes"] == new_tokens] for length in lengths]
    firsts = [next(run for run in runs if run["length"] == length) for length in lengths]
    return {
        "columns": sorted(rows[0]),
        "contexts": [row["context"] for row in rows],
        "the first run at each length is full": all(run["decodes"] == new_tokens for run in firsts),
        "at least five more are": all(len(runs_at_length) > 5 for runs_at_length in full),
        "at least five are not watched": all(sum(not run["watched"] for run in each) >= 5 for each in full),
        "most decodes after a prefill": max(run["decodes"] for run in runs),
    }


@pytest.mark.points(2)
@pytest.mark.parametrize("new_tokens", [1, 7])
@pytest.mark.handout("average")
def test_each_length_is_run_often_enough(submission, new_tokens):
    """A full run first, then five or more, at every length, none of them with more than new_tokens decodes."""
    expect(submission.run(followed, [64, 8, 16], new_tokens)).equal_to(
        {
            "columns": ["context", "peak_bytes", "prefill_s", "s_per_token"],
            "contexts": [64, 8, 16],
            "the first run at each length is full": True,
            "at least five more are": True,
            "at least five are not watched": True,
            "most decodes after a prefill": new_tokens,
        }
    )


# --- memory -------------------------------------------------------------------------------------------------------


def peaks(module, lengths, kept_mb=0, passing_mb=0, token_mb=0, weights_mb=0, once_mb=0, new_tokens=1):
    """The peaks reported, rounded to 64 MB within the ± 16 MB that they may be off, for a model that holds tensors.

    kept_mb: by the prefill, times the length, until the next. passing_mb: freed before the prefill returns. token_mb:
    for each token. weights_mb: before the measurement. once_mb: by the first prefill, for good.
    """

    def held(megabytes):
        return torch.full((megabytes * 250_000,), 1.0) if megabytes else None  # float32, every page written

    class Holder:
        weights, once = held(weights_mb), None

        def prefill(self, length):
            self.cache = []
            if self.once is None:
                self.once = held(once_mb)
            self.cache.append(held(kept_mb * length))
            passing = held(passing_mb)
            if passing_mb:
                time.sleep(0.015)  # for those who take samples
            del passing

        def decode(self):
            self.cache.append(held(token_mb))
            time.sleep(0.015)

    found = []
    for row in module.measure_generation(Holder(), lengths, new_tokens):
        megabytes = row["peak_bytes"] / 1e6
        print(f"{row['context']}: peak_bytes = {megabytes:.1f} MB")
        nearest = 64 * round(megabytes / 64)
        found.append(nearest if abs(megabytes - nearest) <= 16 else f"between {64 * int(megabytes // 64)} and the next")
    return found


@pytest.mark.points(1)
@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ({"passing_mb": 64}, [64]),
        ({"kept_mb": 64, "passing_mb": 64}, [128]),
        ({"token_mb": 64, "new_tokens": 2}, [128]),
        ({"weights_mb": 128, "kept_mb": 64}, [64]),
    ],
    ids=["passing", "both", "tokens", "weights"],
)
@pytest.mark.handout("memory")
def test_the_peak_is_what_was_held_at_once(submission, holds, expected):
    """The most that was held at one moment, without what was there before."""
    expect(submission.run(peaks, [1], **holds)).equal_to(expected)


@pytest.mark.points(2)
@pytest.mark.handout("memory")
def test_each_length_has_its_own_peak(submission):
    """A long context measured first does not raise the peak of a short one."""
    expect(submission.run(peaks, [2, 1], kept_mb=64)).equal_to([128, 64])


@pytest.mark.points(2)
@pytest.mark.handout("memory")
def test_a_cache_that_is_kept_counts(submission):
    """What the model allocates once and keeps counts at every length."""
    expect(submission.run(peaks, [1, 2], once_mb=64)).equal_to([64, 64])


# --- comparing and plotting ---------------------------------------------------------------------------------------


def compared(module, names, lengths, new_tokens):
    """The rows of `compare`, and what each model was asked to do. The one called "slow" sleeps."""
    asked = {}

    class Counter:
        def __init__(self, name):
            self.name = name

        def prefill(self, length):
            asked.setdefault(self.name, {}).setdefault(length, 0)
            self.length, self.tokens = length, 0

        def decode(self):
            self.tokens += 1
            asked[self.name][self.length] = max(asked[self.name][self.length], self.tokens)
            if self.name == "slow":
                time.sleep(0.005)

    rows = module.compare({name: Counter(name) for name in names}, iter(lengths), new_tokens)
    return {
        "rows": [(row["model"], row["context"]) for row in rows],
        "columns": sorted(rows[0]),
        "most decodes": asked,
        "slowest": max(rows, key=lambda row: row["s_per_token"])["model"],
    }


@pytest.mark.points(3)
@pytest.mark.handout("compare")
def test_all_models_do_the_same_work(submission):
    """Each model, in the dictionary's order, at the same lengths with the same number of new tokens."""
    names, lengths = ["wide", "slow", "a"], [16, 4, 8]
    expect(submission.run(compared, names, lengths, 3)).equal_to(
        {
            "rows": [(name, length) for name in names for length in lengths],
            "columns": ["context", "model", "peak_bytes", "prefill_s", "s_per_token"],
            "most decodes": {name: dict.fromkeys(lengths, 3) for name in names},
            "slowest": "slow",
        }
    )


def plotted(module, filename, names):
    """What `plot` leaves behind. It finds another file of that name, and the current folder is a temporary one."""
    costs = {"prefill_s": 1e-5, "s_per_token": 1e-6, "peak_bytes": 1000}
    rows = [
        {"model": name, "context": length} | {column: each * length * factor for column, each in costs.items()}
        for factor, name in enumerate(names, start=1)
        for length in (128, 256, 512)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        path = Path(folder, "figures", filename)
        path.parent.mkdir()
        path.write_bytes(b"not a picture" * 100_000)
        module.plot(rows, str(path))
        files = sorted(each.relative_to(folder).as_posix() for each in Path(folder).rglob("*") if each.is_file())
        data = path.read_bytes()
    try:
        kind = ElementTree.fromstring(data).tag.rpartition("}")[2]
    except ElementTree.ParseError:
        kind = "not XML"
    text = data.decode("utf-8", "replace")
    return {"files": files, "kind": kind, "named": [name for name in names if name in text]}


@pytest.mark.points(2)
@pytest.mark.handout("plot")
def test_a_plot_names_every_model(submission):
    """An SVG file is written, that one only, and all models are named in it."""
    names = ["transformer", "mamba", "rwkv", "jamba"]
    got = submission.run(plotted, "costs.of.models.svg", names)
    expect(got).equal_to({"files": ["figures/costs.of.models.svg"], "kind": "svg", "named": names})


def drawn(module):
    """Whether a PNG file holds a picture, what can be seen in it, and what matplotlib is left with."""

    def pixels(folder, last_name="jade", factor=1):
        costs = {"prefill_s": 0.02, "s_per_token": 0.004, "peak_bytes": 3_000_000}
        rows = [
            {"model": name, "context": length} | {column: each * length for column, each in costs.items()}
            for name in ("ruby", last_name)
            for length in (128, 256, 512)
        ]
        rows[-1] |= {column: rows[-1][column] * factor for column in costs}
        path = Path(folder, "costs.png")
        module.plot(rows, path)
        return matplotlib.image.imread(path)  # (height, width, 3 or 4)

    def figures():
        return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []

    for number in figures():
        sys.modules["matplotlib.pyplot"].close(number)  # those of an earlier test
    with matplotlib.rc_context(), tempfile.TemporaryDirectory() as folder:
        matplotlib.rcdefaults()
        settings = matplotlib.rcParams.copy()
        picture = pixels(folder)
        others = {"the names": pixels(folder, last_name="opal"), "the costs": pixels(folder, factor=100)}
        changed = [name for name, value in matplotlib.rcParams.copy().items() if value != settings[name]]
    ink = (picture != picture[0, 0]).any(axis=-1).mean()
    print(f"{picture.shape[1]} x {picture.shape[0]} pixels, {ink:.1%} of them not of the background's colour")
    return {
        "blank": bool(ink < 0.002),
        "to be seen": [
            name for name, each in others.items() if each.shape != picture.shape or bool((each != picture).any())
        ],
        "settings changed": [name for name in changed if name != "backend"],
        "figures left open": len(figures()),
    }


@pytest.mark.points(2)
@pytest.mark.handout("plot")
def test_a_plot_shows_names_and_costs(submission):
    """The suffix .png gives a picture in which names and costs are to be seen, and matplotlib is left as it was."""
    expect(submission.run(drawn)).equal_to(
        {"blank": False, "to be seen": ["the names", "the costs"], "settings changed": [], "figures left open": 0}
    )


# --- the week's own models ----------------------------------------------------------------------------------------


def owned(module, name, parameters):
    """The size and the ways of an own model, counted from outside."""
    model, used, kept = module.own_model(name, parameters), {}, []

    class Uses(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            leaves = tree_leaves((args, kwargs))
            used.update({id(leaf): leaf.numel() for leaf in leaves if isinstance(leaf, nn.Parameter)})
            return func(*args, **(kwargs or {}))

    def flops_of_a_decode_after(length):
        model.prefill(length)
        with FlopCounterMode(display=False) as counter:
            model.decode()
        return counter.get_total_flops()

    with Uses(), saved_tensors_hooks(kept.append, lambda packed: packed):
        model.prefill(64)
        model.decode()
    first, long, again = map(flops_of_a_decode_after, (8, 64, 8))
    size, total = model.num_parameters, sum(used.values())
    print(f"num_parameters = {size}; parameters that operators used: {total}")
    print(f"FLOPs of a decode after 8 tokens: {first}; after 64: {long}; after 8 again: {again}")
    return {
        "num_parameters is within 2.5%": abs(size / parameters - 1) <= 0.025,
        "as many parameters are used": 0.95 * size <= total <= size,
        "a decode reads one token": long <= 8 * size,  # it takes 2 FLOPs for each parameter
        "a prefill forgets": again <= 1.02 * first,
        "tensors kept for a backward pass": len(kept),
    }


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["transformer", "rwkv", "mamba", "jamba"])
@pytest.mark.handout("models")
def test_the_week_s_own_models_are_equally_large(submission, name):
    """Each architecture has 1.5 million parameters, to within 2.5%, and works as a model that generates does."""
    expect(submission.run(owned, name, 1_500_000)).equal_to(
        {
            "num_parameters is within 2.5%": True,
            "as many parameters are used": True,
            "a decode reads one token": True,
            "a prefill forgets": True,
            "tensors kept for a backward pass": 0,
        }
    )


def measured(module):
    """Whether an own model can be measured."""
    rows = module.compare({"own": module.own_model("rwkv", 1_500_000)}, [5, 3], 2)
    return [(row["model"], row["context"], row["prefill_s"] > 0 and row["s_per_token"] > 0) for row in rows]


@pytest.mark.points(1)
@pytest.mark.handout("models")
def test_an_own_model_can_be_measured(submission):
    """What own_model returns is what compare takes."""
    expect(submission.run(measured)).equal_to([("own", 5, True), ("own", 3, True)])


@pytest.mark.points(1)
@pytest.mark.handout("models")
def test_an_architecture_that_nobody_knows_is_refused(submission):
    """Another name is a ValueError that mentions it."""
    expect(submission.call("own_model", "hyena", 1_500_000)).raises(ValueError, mentioning=["hyena"])
