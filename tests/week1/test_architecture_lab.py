"""Graded tests of the architecture lab: models with known costs, power laws with known exponents.

No test knows how fast the machine is: a model that sleeps notes how long it slept, and the reported times are compared
with its notes.
"""

import contextlib
import math
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from unittest.mock import patch
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
    good = len(numbers) == 3 and all(isinstance(number, float) for number in numbers)
    expect.that(good, "the result is not (exponent, (low, high)) of floats", expected=shown, got=repr(answer))
    close = [math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(numbers, expected, strict=True)]
    expect.that(close[0], "wrong exponent", expected=shown, got=repr(answer))
    expect.that(all(close), "wrong confidence interval", expected=shown, got=repr(answer))


@pytest.mark.points(1)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.handout("fit")
def test_a_power_law_gives_its_exponent(submission, exponent):
    """Costs of exactly a · lengthᵇ have the exponent b."""
    lengths = [128, 256, 512, 1024, 8192]
    costs = [3e-4 * length**exponent for length in lengths]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.parametrize("n", [3, 4, 5, 9, 25])
@pytest.mark.handout("fit")
def test_noise_gives_an_interval(submission, draw, n):
    """Noisy costs have the least-squares exponent and Student's interval for this many points."""
    lengths = [100 + 37 * i * i for i in range(n)]
    noise = draw.normal(n, scale=0.3).tolist()
    costs = [1e-3 * length**1.4 * math.exp(error) for length, error in zip(lengths, noise, strict=True)]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.handout("fit")
def test_the_order_of_the_points_does_not_matter(submission):
    """Points may be in any order, and a length may occur more than once."""
    lengths, costs = [4096, 128, 1024, 128, 512], [0.9, 0.031, 0.2, 0.024, 0.13]
    expect_fit(submission.call("fit_scaling_exponent", lengths, costs), lengths, costs)


@pytest.mark.points(1)
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.handout("fit")
def test_too_few_points_are_refused(submission, n):
    """Fewer than three points have no interval: a ValueError that says how many there are."""
    got = submission.call("fit_scaling_exponent", [128, 256][:n], [0.5, 0.7][:n])
    ordinary = submission.call("fit_scaling_exponent", [128, 256, 512], [0.5, 0.7, 1.1])
    expect(got).raises(ValueError, mentioning=[n], unlike=ordinary)


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
    """Unequal numbers of lengths and costs, a value ≤ 0, or equal lengths: a ValueError naming what is wrong."""
    ordinary = submission.call("fit_scaling_exponent", [1, 2, 4], [5, 7, 6])
    got = submission.call("fit_scaling_exponent", lengths, costs)
    expect(got).raises(ValueError, mentioning=named, unlike=ordinary)


# --- the clock ----------------------------------------------------------------------------------------------------


class Sleeper:
    """A model that sleeps, and notes in `slept[length, column]` how many seconds, for the runs that count.

    The first run at a length takes first_ms more in each part; run number odd_run at it takes odd_ms instead. Neither
    counts.
    """

    def __init__(self, prefill_ms, decode_ms, first_ms=0, odd_run=None, odd_ms=0):
        self.ms = {"prefill_s": prefill_ms, "s_per_token": decode_ms}
        self.first_ms, self.odd_run, self.odd_ms = first_ms, odd_run, odd_ms
        self.slept, self.runs = {}, {}

    def prefill(self, length):
        self.length = length
        self.runs[length] = self.runs.get(length, -1) + 1
        self.ask("prefill_s")

    def decode(self):
        self.ask("s_per_token")

    def ask(self, column):
        run, ms = self.runs[self.length], self.ms[column]
        if run == 0:
            ms += self.first_ms
        if run == self.odd_run:
            ms = self.odd_ms
        self.work(self.length, column, ms / 1000, run not in (0, self.odd_run))

    def work(self, length, column, seconds, counts):
        start = time.perf_counter()
        time.sleep(seconds)
        if counts:
            self.slept.setdefault((length, column), []).append(time.perf_counter() - start)


class QueueingSleeper(Sleeper):
    """Its calls only queue work, which finish() does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.jobs = []

    def work(self, *job):
        self.jobs.append(job)

    def finish(self):
        while self.jobs:
            super().work(*self.jobs.pop(0))


class SynchronisedSleeper(QueueingSleeper):
    """It finishes its work itself."""

    def synchronize(self):
        self.finish()


@contextlib.contextmanager
def accelerator(work):
    """A stand-in for an accelerator: whoever waits for it, by torch.accelerator or by torch.cuda, does this work."""

    def synchronize(device=None):
        work()

    with contextlib.ExitStack() as stack:
        for kind in (torch.accelerator, torch.cuda):
            stack.enter_context(patch.multiple(kind, is_available=lambda: True, synchronize=synchronize))
        yield


def timed(module, lengths, new_tokens, prefill_ms, decode_ms, queued=None, **odd):
    """Measure a model that sleeps: is each reported time what the model took by its own notes?

    queued: None, or who does the work that calls only queue, the "model" or an "accelerator". odd: settings of Sleeper.
    """
    kind = {None: Sleeper, "model": SynchronisedSleeper, "accelerator": QueueingSleeper}[queued]
    model = kind(prefill_ms, decode_ms, **odd)
    with accelerator(model.finish) if queued == "accelerator" else contextlib.nullcontext():
        rows = module.measure_generation(model, lengths, new_tokens)
    columns = ("prefill_s", "s_per_token")
    return [{"context": row["context"]} | {column: judged(row, column, model) for column in columns} for row in rows]


def judged(row, column, model):
    slept = model.slept.get((row["context"], column), [model.ms[column] / 1000])
    low, high, value = min(slept), max(slept), row[column]
    print(f"{row['context']}: {column} = {value:.4f}; the model took {low:.4f} to {high:.4f}")
    if 0.9 * low <= value <= 1.3 * high + 0.003:
        return "right"
    return "too short" if value < low else "too long"


def expect_right_times(submission, lengths, *arguments, **options):
    """Both times are right at each length. Other programs may disturb the clock, so there are three tries."""
    right = [{"context": length, "prefill_s": "right", "s_per_token": "right"} for length in lengths]
    for _ in range(3):
        got = submission.run(timed, lengths, *arguments, **options)
        if got.output == right:
            break
    expect(got).equal_to(right)


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_prefill_and_decode_are_timed_apart(submission):
    """prefill_s is the time of the prefill alone, s_per_token that of one decode."""
    expect_right_times(submission, [32], 2, 14, 2)


@pytest.mark.points(1)
@pytest.mark.parametrize("new_tokens", [1, 3])
@pytest.mark.handout("clock")
def test_a_token_costs_the_same_however_many_there_are(submission, new_tokens):
    """s_per_token is the time of one token, not of all."""
    expect_right_times(submission, [16], new_tokens, 1, 8)


@pytest.mark.points(2)
@pytest.mark.handout("clock")
@pytest.mark.parametrize("queued", ["model", "accelerator"])
def test_work_that_is_queued_is_waited_for(submission, queued):
    """A model that only queues its work, or the accelerator, is synchronised before each reading of the clock."""
    expect_right_times(submission, [32], 2, 20, 6, queued=queued)


@pytest.mark.points(2)
@pytest.mark.handout("average")
def test_the_first_run_is_not_counted(submission):
    """The first run at each length, which compiles and warms caches, is not part of the averages."""
    expect_right_times(submission, [16, 8], 1, 4, 4, first_ms=40)


@pytest.mark.points(2)
@pytest.mark.parametrize("odd_run", [1, 3])
@pytest.mark.handout("average")
def test_an_interrupted_run_does_not_move_the_average(submission, odd_run):
    """One interrupted run does not move the average."""
    expect_right_times(submission, [16], 1, 5, 5, odd_run=odd_run, odd_ms=60)


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_a_run_that_was_unusually_quick_does_not_move_the_average(submission):
    """One unusually quick run does not move the average: the minimum is not a robust average."""
    expect_right_times(submission, [16], 1, 12, 12, odd_run=2, odd_ms=1)


# --- what is run --------------------------------------------------------------------------------------------------


class Witness:
    """A model that only notes its runs: their lengths, their decodes, and whether something observes memory."""

    def __init__(self):
        self.runs, self.threads = [], set(threading.enumerate())

    def prefill(self, length):
        self.runs.append({"length": length, "decodes": 0, "watched": False})
        self.look()

    def decode(self):
        self.runs[-1]["decodes"] += 1
        self.look()

    def look(self):
        watchers = [
            _get_current_dispatch_mode_stack(),
            set(threading.enumerate()) - self.threads,
            tracemalloc.is_tracing(),
            torch.autograd._profiler_enabled(),
        ]
        self.runs[-1]["watched"] |= any(watchers)


def followed(module, lengths, new_tokens):
    """The form of the rows, and the runs that a model saw."""
    model = Witness()
    rows = module.measure_generation(model, lengths, new_tokens)
    runs = [[run for run in model.runs if run["length"] == length] for length in lengths]
    full = [[run for run in each if run["decodes"] == new_tokens] for each in runs]
    return {
        "columns": sorted(rows[0]),
        "contexts": [row["context"] for row in rows],
        "the first run at each length is full": all(each[0]["decodes"] == new_tokens for each in runs),
        "at least five more are full": all(len(each) > 5 for each in full),
        "at least five are not watched": all(sum(not run["watched"] for run in each) >= 5 for each in full),
        "most decodes after a prefill": max(run["decodes"] for run in model.runs),
    }


@pytest.mark.points(2)
@pytest.mark.parametrize("new_tokens", [1, 7])
@pytest.mark.handout("average")
def test_each_length_is_run_often_enough(submission, new_tokens):
    """Every length has a full run first, then at least five, none with more than new_tokens decodes."""
    expect(submission.run(followed, [64, 8, 16], new_tokens)).equal_to(
        {
            "columns": ["context", "peak_bytes", "prefill_s", "s_per_token"],
            "contexts": [64, 8, 16],
            "the first run at each length is full": True,
            "at least five more are full": True,
            "at least five are not watched": True,
            "most decodes after a prefill": new_tokens,
        }
    )


# --- memory -------------------------------------------------------------------------------------------------------


class Holder:
    """A model that holds tensors, in MB of 10**6 bytes.

    kept_mb: from a prefill, times the length, until the next. passing_mb: freed before the prefill returns. token_mb:
    for each token. weights_mb: from before the measurement. once_mb: from the first prefill on.
    """

    def __init__(self, kept_mb=0, passing_mb=0, token_mb=0, weights_mb=0, once_mb=0):
        self.kept_mb, self.passing_mb, self.token_mb, self.once_mb = kept_mb, passing_mb, token_mb, once_mb
        self.weights, self.once = tensor_of(weights_mb), None

    def prefill(self, length):
        self.cache = []
        if self.once is None:
            self.once = tensor_of(self.once_mb)
        self.cache.append(tensor_of(self.kept_mb * length))
        passing = tensor_of(self.passing_mb)
        if self.passing_mb:
            time.sleep(0.015)  # for submissions that take samples
        del passing

    def decode(self):
        self.cache.append(tensor_of(self.token_mb))
        time.sleep(0.015)


def tensor_of(megabytes):
    return torch.full((megabytes * 250_000,), 1.0) if megabytes else None  # float32, every page written


def peaks(module, lengths, new_tokens=1, **holds):
    """The reported peaks in MB, for a model that holds tensors: settings of Holder."""
    rows = module.measure_generation(Holder(**holds), lengths, new_tokens)
    for row in rows:
        print(f"{row['context']}: peak_bytes = {row['peak_bytes'] / 1e6:.1f} MB")
    return [rounded_peak(row["peak_bytes"] / 1e6) for row in rows]


def rounded_peak(megabytes):
    """To the nearest multiple of 64 MB, if it is within the ± 16 MB that a peak may be off."""
    nearest = 64 * round(megabytes / 64)
    return nearest if abs(megabytes - nearest) <= 16 else f"between {64 * int(megabytes // 64)} and the next"


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
    """The peak is the most that was held at one moment, less what was held before the measurement."""
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


class Counter:
    """A model that notes in `most[length]` the most decodes after a prefill."""

    def __init__(self, decode_ms):
        self.decode_ms, self.most = decode_ms, {}

    def prefill(self, length):
        self.length, self.tokens = length, 0
        self.most.setdefault(length, 0)

    def decode(self):
        self.tokens += 1
        self.most[self.length] = max(self.most[self.length], self.tokens)
        time.sleep(self.decode_ms / 1000)


def compared(module, names, lengths, new_tokens):
    """The form of the rows of `compare`, and what each model was asked to do. The one called "slow" sleeps."""
    models = {name: Counter(decode_ms=5 if name == "slow" else 0) for name in names}
    rows = module.compare(models, iter(lengths), new_tokens)
    return {
        "rows": [(row["model"], row["context"]) for row in rows],
        "columns": sorted(rows[0]),
        "most decodes": {name: model.most for name, model in models.items()},
        "slowest": max(rows, key=lambda row: row["s_per_token"])["model"],
    }


@pytest.mark.points(3)
@pytest.mark.handout("compare")
def test_all_models_do_the_same_work(submission):
    """Models are measured in the dictionary's order, at the same lengths, with the same number of new tokens."""
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
    """What `plot` leaves in a temporary current folder, where it writes over an existing file."""
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
    """One SVG file is written, and it names all models."""
    names = ["transformer", "mamba", "rwkv", "jamba"]
    got = submission.run(plotted, "costs.of.models.svg", names)
    expect(got).equal_to({"files": ["figures/costs.of.models.svg"], "kind": "svg", "named": names})


def drawn(module):
    """What can be seen in a PNG file, and how matplotlib is left."""
    close_figures()  # those of an earlier test
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings = matplotlib.rcParams.copy()
        picture = picture_of(module)
        others = {"the names": picture_of(module, last_name="opal"), "the costs": picture_of(module, factor=100)}
        changed = [name for name, value in matplotlib.rcParams.copy().items() if value != settings[name]]
    ink = (picture != picture[0, 0]).any(axis=-1).mean()
    print(f"{picture.shape[1]} x {picture.shape[0]} pixels, {ink:.1%} of them not in the background's colour")
    return {
        "blank": bool(ink < 0.002),
        "visible": [
            what for what, each in others.items() if each.shape != picture.shape or bool((each != picture).any())
        ],
        "settings changed": [name for name in changed if name != "backend"],
        "open figures": len(open_figures()),
    }


def picture_of(module, last_name="jade", factor=1):
    """The pixels (height, width, 3 or 4) of what `plot` draws; the costs of the last row are multiplied by factor."""
    costs = {"prefill_s": 0.02, "s_per_token": 0.004, "peak_bytes": 3_000_000}
    rows = [
        {"model": name, "context": length} | {column: each * length for column, each in costs.items()}
        for name in ("ruby", last_name)
        for length in (128, 256, 512)
    ]
    rows[-1] |= {column: rows[-1][column] * factor for column in costs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "costs.png")
        module.plot(rows, path)
        return matplotlib.image.imread(path)


def open_figures():
    return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []


def close_figures():
    for number in open_figures():
        sys.modules["matplotlib.pyplot"].close(number)


@pytest.mark.points(2)
@pytest.mark.handout("plot")
def test_a_plot_shows_names_and_costs(submission):
    """The suffix .png writes a picture that shows names and costs, and matplotlib is left as it was."""
    expect(submission.run(drawn)).equal_to(
        {"blank": False, "visible": ["the names", "the costs"], "settings changed": [], "open figures": 0}
    )


# --- the week's own models ----------------------------------------------------------------------------------------


class ParameterUse(TorchDispatchMode):
    """Notes the sizes of the parameters that operators use."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs))
        self.sizes |= {id(leaf): leaf.numel() for leaf in leaves if isinstance(leaf, nn.Parameter)}
        return func(*args, **(kwargs or {}))


def owned(module, name, parameters):
    """The size and the behaviour of an own model, seen from outside."""
    model, use, kept = module.own_model(name, parameters), ParameterUse(), []
    with use, saved_tensors_hooks(kept.append, lambda packed: packed):
        model.prefill(64)
        model.decode()
    first, long, again = (flops_of_a_decode(model, length) for length in (8, 64, 8))
    size, total = model.num_parameters, sum(use.sizes.values())
    print(f"num_parameters = {size}; parameters that operators used: {total}")
    print(f"FLOPs of a decode after 8 tokens: {first}; after 64: {long}; after 8 again: {again}")
    return {
        "num_parameters is within 2.5%": abs(size / parameters - 1) <= 0.025,
        "as many parameters are used": 0.95 * size <= total <= size,
        "a decode reads one token": long <= 8 * size,  # a token takes 2 FLOPs for each parameter
        "a prefill forgets": again <= 1.02 * first,
        "tensors kept for a backward pass": len(kept),
    }


def flops_of_a_decode(model, length):
    """After a prefill of this length."""
    model.prefill(length)
    with FlopCounterMode(display=False) as counter:
        model.decode()
    return counter.get_total_flops()


@pytest.mark.points(2)
@pytest.mark.parametrize("name", ["transformer", "rwkv", "mamba", "jamba"])
@pytest.mark.handout("models")
def test_the_week_s_own_models_are_equally_large(submission, name):
    """Each architecture has 1.5 million parameters, to within 2.5%, and works as a generating model should."""
    expect(submission.run(owned, name, 1_500_000)).equal_to(
        {
            "num_parameters is within 2.5%": True,
            "as many parameters are used": True,
            "a decode reads one token": True,
            "a prefill forgets": True,
            "tensors kept for a backward pass": 0,
        }
    )


def sizes(module, numbers):
    """Whether own models of these sizes have that many parameters, to within 2.5%."""
    return [abs(module.own_model("rwkv", number).num_parameters / number - 1) <= 0.025 for number in numbers]


@pytest.mark.points(1)
@pytest.mark.handout("models")
def test_a_model_may_be_larger(submission):
    """Two or three million parameters are met to within 2.5% as well."""
    numbers = [2_000_000, 3_100_000]
    found = submission.run(sizes, numbers).output
    wrong = [number for number, right in zip(numbers, found, strict=True) if not right]
    expect.that(not wrong, f"num_parameters is off by more than 2.5% where this many were requested: {wrong}")


def measured(module):
    """Whether an own model can be measured."""
    rows = module.compare({"own": module.own_model("rwkv", 1_500_000)}, [5, 3], 2)
    return [(row["model"], row["context"], row["prefill_s"] > 0 and row["s_per_token"] > 0) for row in rows]


@pytest.mark.points(1)
@pytest.mark.handout("models")
def test_an_own_model_can_be_measured(submission):
    """compare accepts what own_model returns."""
    expect(submission.run(measured)).equal_to([("own", 5, True), ("own", 3, True)])


@pytest.mark.points(1)
@pytest.mark.handout("models")
def test_an_architecture_that_nobody_knows_is_refused(submission):
    """An unknown name is a ValueError that mentions it."""
    got, ordinary = (submission.call("own_model", name, 1_500_000) for name in ("hyena", "rwkv"))
    expect(got).raises(ValueError, mentioning=["hyena"], unlike=ordinary)
