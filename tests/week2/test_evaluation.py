"""Graded tests of the evaluation harness: models whose answers, speed and memory are known.

No test knows how fast the machine is: a model that sleeps notes how long it slept, and the reported times are compared
with its notes. A model's answer is the sum of the digits in a text, modulo the number of classes; each unmasked padding
token adds 1, and so does training mode.
"""

import contextlib
import json
import math
import re
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from xml.etree import ElementTree

import matplotlib.image
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from grading import expect
from tests.oracles import evaluation as oracle

# --- data ---------------------------------------------------------------------------------------------------------


class Column(Sequence):
    """A column of a data set: like that of a datasets.Dataset, it isn't a list."""

    def __init__(self, values):
        self.values = list(values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        return self.values[key]


class Dataset:
    """What of a datasets.Dataset can be used."""

    def __init__(self, columns):
        self.columns = columns
        self.column_names, self.num_rows = list(columns), len(next(iter(columns.values())))

    def __len__(self):
        return self.num_rows

    def __getitem__(self, key):
        if isinstance(key, str):
            return Column(self.columns[key])
        return {name: values[key] for name, values in self.columns.items()}

    def __iter__(self):
        return (self[number] for number in range(len(self)))

    def select(self, numbers):
        numbers = list(numbers)
        return Dataset({name: [values[each] for each in numbers] for name, values in self.columns.items()})


VOCABULARY = {token: number for number, token in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", *"0123456789", "nan"])}


def tokenizer_of(vocabulary, ends=(), typed=False, milliseconds=0):
    """Words separated by spaces, between the tokens `ends` if given. typed: it returns token types too."""
    from transformers import PreTrainedTokenizerFast

    class SlowTokenizer(PreTrainedTokenizerFast):
        def __call__(self, *args, **kwargs):
            time.sleep(milliseconds / 1000)
            return super().__call__(*args, **kwargs)

    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    if ends:
        first, last = ends
        numbers = [(token, vocabulary[token]) for token in ends]
        words.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=numbers)
        special |= {"cls_token": first, "sep_token": last}
    inputs = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    return SlowTokenizer(tokenizer_object=words, model_input_names=inputs, **special)


def columns_of(texts, labels):
    return {"idx": list(range(len(texts))), "labels": [0] * len(texts), "label": labels, "text": texts}


def some(draw, number, longest=5, classes=3):
    """Texts of digits, and labels that a good model predicts in two cases of three."""
    digits = draw.integers(0, 9, number, longest).tolist()
    lengths = draw.integers(1, longest + 1, number).tolist()
    texts = [" ".join(map(str, row[:length])) for row, length in zip(digits, lengths, strict=True)]
    right = oracle.predictions(texts, classes, 10**6)
    return texts, [(label + (n % 3 == 2)) % classes for n, label in enumerate(right)]


# --- the model ----------------------------------------------------------------------------------------------------


class Pace:
    """How long calls take, and notes of how long they took.

    ms: each call. The first_calls, and the last_calls of `expected`, take factor times as long. queued: calls only
    queue their work, and work() does it.
    """

    def __init__(self, ms=0, first_calls=0, last_calls=0, factor=1.0, queued=False, expected=math.inf):
        self.ms, self.factor, self.queued = ms, factor, queued
        self.first_odd, self.last_odd = first_calls, expected - last_calls
        self.calls, self.jobs, self.usual, self.odd = 0, [], [], []  # usual, odd: seconds slept

    def call(self):
        odd = self.calls < self.first_odd or self.calls >= self.last_odd
        self.calls += 1
        self.jobs.append((self.ms / 1000 * (self.factor if odd else 1), self.odd if odd else self.usual))
        if not self.queued:
            self.work()

    def work(self):
        while self.jobs:
            seconds, notes = self.jobs.pop(0)
            start = time.perf_counter()
            time.sleep(seconds)
            notes.append(time.perf_counter() - start)


class Memory:
    """What a model holds, in MB of 2**20 bytes.

    weights_mb: all the time. passing_mb: for a moment in each call. nine_mb: in the call for a batch with a 9 in it.
    """

    def __init__(self, weights_mb=0, passing_mb=0, nine_mb=0):
        self.weights = torch.full((weights_mb << 18,), 1.0)
        self.passing_mb, self.nine_mb = passing_mb, nine_mb

    def call(self, input_ids):
        hold(self.passing_mb or self.nine_mb * bool((input_ids == VOCABULARY["9"]).any()))


def hold(megabytes):
    held = torch.full((megabytes << 18,), 1.0)  # float32, every page written
    if len(held):
        time.sleep(0.015)  # for harnesses that take samples


class Model(nn.Module):
    """A classifier that answers by digits, and notes what it sees in each call.

    most: tokens that it can read. typed: it wants token types. drawn: its answers are random numbers. failing: its
    second call fails. training: its mode; frozen: a part of it is in eval mode all the same.
    """

    dtype = torch.float32

    def __init__(
        self, pace, memory, *, classes=3, most=None, typed=False, drawn=False, failing=False, training=False,
        frozen=False,
    ):  # fmt: skip
        super().__init__()
        self.pace, self.memory, self.classes = pace, memory, classes
        self.typed, self.drawn, self.failing = typed, drawn, failing
        self.value = nn.Embedding(len(VOCABULARY), 1)
        self.value.weight.data[:, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0, *range(10), 0.0])
        self.part = nn.Dropout()
        self.register_buffer("weights", memory.weights)
        self.config = SimpleNamespace(num_labels=classes, id2label={n: f"class {n}" for n in range(classes)})
        if most:
            self.config.max_position_embeddings = most
        self.train(training)
        if frozen:
            self.part.eval()
        self.notes, self.threads = [], set(threading.enumerate())

    @property
    def device(self):
        return self.value.weight.device

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
        value = self.value(input_ids)[..., 0]
        self.notes.append(
            {
                "batch": list(input_ids.shape),
                "training": self.training or self.part.training,
                "watched": self.is_watched(),
                "labels": labels is not None,
                "graph": value.requires_grad,
            }
        )
        if self.failing and len(self.notes) > 1:
            raise RuntimeError("out of order")
        self.pace.call()
        self.memory.call(input_ids)
        if attention_mask is not None:
            value = value * attention_mask
        answer = value.sum(1).long() + self.training + (self.typed and token_type_ids is None)
        logits = nn.functional.one_hot(answer % self.classes, self.classes).float() * 4 - 2
        if self.drawn:
            logits = torch.rand(len(input_ids), self.classes)
            self.notes[-1]["drawn"] = logits[0, 0].item()
        return SimpleNamespace(
            logits=logits.masked_fill((input_ids == VOCABULARY["nan"]).any(1, keepdim=True), math.nan)
        )

    def is_watched(self):
        """Whether something observes memory or operators."""
        observers = [
            _get_current_dispatch_mode_stack(),
            set(threading.enumerate()) - self.threads,
            tracemalloc.is_tracing(),
            torch.autograd._profiler_enabled(),
        ]
        return any(observers)


class QueueingModel(Model):
    """Its calls only queue work."""

    def synchronize(self):
        self.pace.work()


@contextlib.contextmanager
def accelerator(work):
    """A stand-in for an accelerator: whoever waits for it, by torch.accelerator or by torch.cuda, does this work."""

    def synchronize(device=None):
        work()

    with contextlib.ExitStack() as stack:
        for kind in (torch.accelerator, torch.cuda):
            stack.enter_context(patch.multiple(kind, is_available=lambda: True, synchronize=synchronize))
        yield


# --- evaluating it ------------------------------------------------------------------------------------------------


def evaluated(module, columns, options, *, model=None, pace=None, memory=None, tokenizer_ms=0, accelerated=False):
    """The report of an evaluation and what the model saw, without anything that varies.

    model, pace and memory: settings of the classes Model, Pace and Memory. accelerated: what the model queues is done
    by a stand-in for an accelerator, not by the model's own synchronize().
    """
    model, pace, memory = model or {}, pace or {}, memory or {}
    dataset, typed = Dataset(columns), model.get("typed", False)
    tokenizer = tokenizer_of(VOCABULARY, ("[CLS]", "[SEP]"), typed, tokenizer_ms)
    kind = QueueingModel if pace.get("queued") and not accelerated else Model
    expected = math.inf
    if pace.get("last_calls"):  # an evaluation beforehand shows how many calls there are
        trial = kind(Pace(), Memory(**memory), **model)
        evaluate_once(module, trial, tokenizer, dataset, options)
        expected = len(trial.notes)
    classifier = kind(Pace(**pace, expected=expected), Memory(**memory), **model)
    with accelerator(classifier.pace.work) if accelerated else contextlib.nullcontext():
        report, after = evaluate_once(module, classifier, tokenizer, dataset, options)
    if report is None:
        return {"after": after}
    batches = math.ceil(len(dataset) / options.get("batch_size", 16))
    result = {"after": after, "seen": seen_by(classifier, batches, options), **plain_parts(report)}
    if classifier.drawn:
        numbers = [call["drawn"] for call in classifier.notes]
        result["passes from the seed"] = passes_from(options.get("seed", 0), numbers, len(dataset), classifier, options)
    if pace:
        result |= judged_times(report, classifier.pace, batches)
    if memory:
        print(f"peak_mem_mb = {report['peak_mem_mb']:.1f}")
        result["peak_mem_mb"] = rounded_peak(report["peak_mem_mb"])
    return result


def evaluate_once(module, model, tokenizer, dataset, options):
    """The submission's report, or None if the model failed, and whether modes and random numbers are unchanged."""
    modes, state = [each.training for each in model.modules()], torch.get_rng_state()
    try:
        report = module.evaluate(model, tokenizer, dataset, **options)
    except RuntimeError as error:
        if str(error) != "out of order":
            raise
        report = None
    return report, {
        "modes": [each.training for each in model.modules()] == modes,
        "random numbers": bool((torch.get_rng_state() == state).all()),
    }


def seen_by(model, batches, options):
    """What the model noted in all its calls."""
    notes, repeats = model.notes, options.get("repeats", 3)
    return {
        "batches": [list(each) for each in sorted({tuple(call["batch"]) for call in notes})],
        "training mode": any(call["training"] for call in notes),
        "graph": any(call["graph"] for call in notes),
        "labels": any(call["labels"] for call in notes),
        "enough unwatched calls": sum(not call["watched"] for call in notes) >= repeats * batches,
        "enough calls": len(notes) >= options.get("warmup", 2) + repeats * batches,
    }


def passes_from(seed, numbers, texts, model, options):
    """How many passes, as far as they were asked for, drew what torch's random numbers give from this seed on."""
    generator, size = torch.Generator().manual_seed(seed), options["batch_size"]
    batches = [min(size, texts - start) for start in range(0, texts, size)]
    right = [torch.rand(each, model.classes, generator=generator)[0, 0].item() for each in batches]
    found = sum(numbers[start : start + len(right)] == right for start in range(len(numbers)))
    return min(found, options.get("repeats", 3))


def plain_parts(report):
    """The types in a report, its answers, and numbers that do not depend on the machine."""
    kinds = {key: type(value).__name__ for key, value in sorted(report.items())}
    kinds["predictions"] += " of " + ", ".join(sorted({type(each).__name__ for each in report["predictions"]}))
    sec, (quickest, slowest) = report["sec"], report["sec_spread"]
    return {
        "kinds": kinds,
        "accuracy": round(report["accuracy"], 9),
        "predictions": [int(each) for each in report["predictions"]],
        "throughput × sec": round(report["throughput"] * sec, 3),
        "sec is within sec_spread": quickest <= sec <= slowest,
        "sec and sec_spread are one number": quickest == sec == slowest,
    }


def judged_times(report, pace, batches):
    """Whether sec and sec_spread are what calls took by the model's own notes."""
    pace.work()  # what is still queued
    usual, odd = pace.usual, pace.odd or pace.usual

    def judge(seconds, slept):
        if seconds < 0.05 * batches * min(slept):
            return "next to nothing"
        if seconds < 0.85 * batches * min(slept):
            return "too short"
        return "right" if seconds < 1.5 * batches * max(slept) + 0.01 else "too long"

    sec, (quickest, slowest) = report["sec"], report["sec_spread"]
    print(f"sec = {sec:.4f}, spread {quickest:.4f} to {slowest:.4f}")
    print(f"a pass took the model {batches * min(usual):.4f} to {batches * max(usual):.4f} seconds")
    ends = [judge(quickest, odd if pace.factor < 1 else usual), judge(slowest, odd if pace.factor > 1 else usual)]
    return {"sec": judge(sec, usual), "sec_spread": ends}


def rounded_peak(megabytes):
    """To the nearest multiple of 64 MB, if it is within the ± 16 MB that a peak may be off."""
    nearest = 64 * round(megabytes / 64)
    return nearest if abs(megabytes - nearest) <= 16 else f"past {64 * int(megabytes // 64)}"


def check(submission, texts, labels, options, *, columns=None, **settings):
    """Predictions and accuracy are right. Returns the rest of the report and of what the model saw."""
    classes = settings.get("model", {}).get("classes", 3)
    predicted = oracle.predictions(texts, classes, options["max_length"])
    report = submission.run(evaluated, columns or columns_of(texts, labels), options, **settings).output
    expect_part(report, "predictions", predicted)
    expect_part(report, "accuracy", round(oracle.accuracy(predicted, labels), 9))
    return report


def expect_part(report, key, expected):
    expect.that(report[key] == expected, f"wrong {key}", expected=str(expected), got=str(report[key]))


# --- accuracy and predictions -------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_a_dictionary_comes_back(submission, draw):
    """The result is a dictionary of plain Python numbers and lists, with six entries."""
    columns = columns_of(*some(draw, 4))
    report = submission.run(evaluated, columns, {"batch_size": 2, "max_length": 8}).output
    kinds = {
        "accuracy": "float",
        "peak_mem_mb": "float",
        "predictions": "list of int",
        "sec": "float",
        "sec_spread": "list",
        "throughput": "float",
    }
    found = {key: report["kinds"].get(key) for key in kinds}
    expect.that(found == kinds, "entries are missing or of the wrong type", expected=str(kinds), got=str(found))


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
def test_a_data_set_is_read(submission, draw):
    """Where the texts fill every batch, predictions are the model's answers and accuracy is right."""
    for number, batch_size in ((6, 3), (6, 6), (3, 1)):
        check(submission, *some(draw, number), {"batch_size": batch_size, "max_length": 8})


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
@pytest.mark.parametrize(("number", "batch_size"), [(7, 3), (5, 16)], ids=["last", "only"])
def test_a_batch_that_is_not_full_counts(submission, draw, number, batch_size):
    """Texts in a last, or only, batch that is not full count as much as any others."""
    check(submission, *some(draw, number), {"batch_size": batch_size, "max_length": 8})


@pytest.mark.points(2)
@pytest.mark.handout("accuracy")
def test_predictions_come_in_order(submission, draw):
    """Each prediction is in its text's place, with long and short texts mixed and some repeated."""
    texts, labels = some(draw, 11, longest=9)
    check(submission, [*texts, *texts[:3]], [*labels, *labels[:3]], {"batch_size": 4, "max_length": 12})


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
def test_the_class_is_the_largest_logit(submission, draw):
    """The prediction is the class with the largest logit, of two classes or seven."""
    for classes in (2, 7):
        texts, labels = some(draw, 6, classes=classes)
        check(submission, texts, labels, {"batch_size": 4, "max_length": 8}, model={"classes": classes})


@pytest.mark.points(1)
@pytest.mark.handout("data")
def test_the_columns_are_text_and_label(submission, draw):
    """Columns are found by name, in any position; "labels" is a different column."""
    texts, labels = some(draw, 6)
    columns = {"labels": [1] * 6, "label_id": [0] * 6, "text": texts, "sentence": ["1"] * 6, "label": labels}
    check(submission, texts, labels, {"batch_size": 4, "max_length": 8}, columns=columns)


# --- what the model gets ------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("length")
def test_padding_is_masked(submission, draw):
    """The model gets the attention mask: padding does not change its answer."""
    texts, labels = some(draw, 5)
    check(submission, texts, labels, {"batch_size": 2, "max_length": 17})


@pytest.mark.points(1)
@pytest.mark.handout("length")
def test_long_texts_are_cut_off(submission, draw):
    """A long text is truncated to max_length tokens, special tokens included."""
    texts, labels = some(draw, 6, longest=20)
    for max_length in (6, 13):
        check(submission, texts, labels, {"batch_size": 4, "max_length": max_length})


@pytest.mark.points(2)
@pytest.mark.handout("length")
def test_every_batch_has_the_same_length(submission, draw):
    """Every row has max_length tokens, even if all texts are shorter: models are compared by length."""
    report = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 20})
    shapes = report["seen"]["batches"]
    expect.that(
        shapes == [[1, 20], [2, 20]], "the batches have wrong shapes", expected="[1, 20], [2, 20]", got=str(shapes)
    )


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_sizes_may_be_left_out(submission, draw):
    """Without sizes, a batch has 16 texts of 256 tokens."""
    shapes = submission.run(evaluated, columns_of(*some(draw, 17)), {}).output["seen"]["batches"]
    right = [[1, 256], [16, 256]]
    expect.that(shapes == right, "the batches have wrong shapes", expected=str(right), got=str(shapes))


@pytest.mark.points(1)
@pytest.mark.handout("length")
def test_all_that_the_tokenizer_says_is_passed(submission, draw):
    """The model gets everything that the tokenizer returns, token types included, but no labels."""
    report = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9}, model={"typed": True})
    expect.that(not report["seen"]["labels"], "the model was passed the labels")


# --- the model is a guest -----------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("modes")
def test_the_model_is_in_eval_mode(submission, draw):
    """A model that is in training mode is evaluated in eval mode."""
    report = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9}, model={"training": True})
    expect.that(not report["seen"]["training mode"], "the model read a batch in training mode")


@pytest.mark.points(1)
@pytest.mark.handout("modes")
def test_no_graph_is_built(submission, draw):
    """Nothing is kept for a backward pass, which would cost time and count as memory."""
    report = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9})
    expect.that(not report["seen"]["graph"], "the model's activations require a gradient")


@pytest.mark.points(1)
@pytest.mark.handout("modes")
@pytest.mark.parametrize("failing", [False, True], ids=["success", "exception"])
def test_modes_are_afterwards_as_before(submission, draw, failing):
    """Each module keeps its mode, even if only part of the model is training or a call fails; so do random numbers."""
    for traits in ({}, {"training": True}, {"training": True, "frozen": True}):
        columns, model = columns_of(*some(draw, 5)), traits | {"failing": failing}
        report = submission.run(evaluated, columns, {"batch_size": 2, "max_length": 9}, model=model).output
        expect.that(report["after"]["modes"], "the evaluation changed the mode of a module of the model")
        expect.that(report["after"]["random numbers"], "the evaluation changed the state of torch's random numbers")


@pytest.mark.points(1)
@pytest.mark.handout("seed")
def test_random_numbers_are_repeatable(submission, draw):
    """A model with random answers repeats them for the same seed; the caller's random state is restored."""
    columns, reports = columns_of(*some(draw, 12)), []
    for seed in (5, 5, 6):
        options = {"batch_size": 5, "max_length": 8, "seed": seed}
        reports.append(submission.run(evaluated, columns, options, model={"drawn": True}).output)
    first, again, other = (report["predictions"] for report in reports)
    expect.that(first == again, "the same seed gave different answers", expected=str(first), got=str(again))
    expect.that(first != other, "a different seed gave the same twelve answers")
    kept = all(report["after"]["random numbers"] for report in reports)
    expect.that(kept, "the evaluation changed the state of torch's random numbers")


@pytest.mark.points(2)
@pytest.mark.handout("seed")
def test_each_pass_begins_at_the_seed(submission, draw):
    """Each pass draws the random numbers of the seed, which is 0 by default, whatever was drawn before it."""
    columns = columns_of(*some(draw, 7))
    for options in ({"seed": 11, "warmup": 1, "repeats": 2}, {"warmup": 4, "repeats": 3}):
        options |= {"batch_size": 3, "max_length": 8}
        found = submission.run(evaluated, columns, options, model={"drawn": True}).output["passes from the seed"]
        seed, repeats = options.get("seed", 0), options["repeats"]
        right = found == repeats
        expect.that(right, f"{found} passes draw the random numbers of seed {seed}; {repeats} were timed")


# --- the clock ----------------------------------------------------------------------------------------------------


def check_clock(submission, texts, labels, options, *, part="sec", right="right", **settings):
    """sec, or another part, is right. Other programs may disturb the clock, so there are three tries."""
    for _ in range(3):
        report = check(submission, texts, labels, options, **settings)
        if report[part] == right:
            break
    expect_part(report, part, right)
    expect.that(report["sec is within sec_spread"], "sec is not within sec_spread")


@pytest.mark.points(1)
@pytest.mark.handout("clock")
def test_a_pass_is_timed(submission, draw):
    """sec is the time of one pass over all batches."""
    check_clock(submission, *some(draw, 5), {"batch_size": 2, "max_length": 8}, pace={"ms": 8})


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_tokenising_is_not_timed(submission, draw):
    """A slow tokenizer does not make the model slower."""
    check_clock(submission, *some(draw, 4), {"batch_size": 2, "max_length": 8}, pace={"ms": 8}, tokenizer_ms=40)


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_warming_up_is_not_timed(submission, draw):
    """Warm-up batches are not part of sec, even if there are more than the data set has."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 9}
    check_clock(submission, *some(draw, 4), options, pace={"ms": 8})


@pytest.mark.points(1)
@pytest.mark.handout("clock")
def test_the_first_calls_are_not_timed(submission, draw):
    """The clock starts after warmup calls, so a model may compile during its first calls."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 7, "repeats": 1}
    check_clock(submission, *some(draw, 4), options, pace={"ms": 5, "first_calls": 7, "factor": 8.0})


@pytest.mark.points(3)
@pytest.mark.handout("clock")
def test_queued_work_is_waited_for(submission, draw):
    """A model that only queues its work is synchronised before each reading of the clock."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 9, "repeats": 1}
    check_clock(submission, *some(draw, 4), options, pace={"ms": 8, "queued": True})


@pytest.mark.points(1)
@pytest.mark.handout("clock")
def test_the_accelerator_is_waited_for(submission, draw):
    """Where there is an accelerator, it is synchronised before each reading of the clock."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 9, "repeats": 1}
    check_clock(submission, *some(draw, 4), options, pace={"ms": 8, "queued": True}, accelerated=True)


@pytest.mark.points(1)
@pytest.mark.handout("average")
@pytest.mark.parametrize("factor", [9.0, 0.05], ids=["interrupted", "lucky"])
def test_an_odd_pass_does_not_move_the_median(submission, draw, factor):
    """One interrupted or unusually quick pass of three does not change sec."""
    options = {"batch_size": 2, "max_length": 8, "repeats": 3}
    check_clock(submission, *some(draw, 4), options, pace={"ms": 6, "last_calls": 2, "factor": factor})


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_the_spread_is_from_the_quickest_to_the_slowest(submission, draw):
    """sec_spread holds the times of the quickest and the slowest pass, and sec is between them."""
    options = {"batch_size": 2, "max_length": 8, "repeats": 4}
    check_clock(submission, *some(draw, 4), options, part="sec_spread", right=["right", "right"], pace={"ms": 8})


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_there_are_as_many_repeats_as_asked_for(submission, draw):
    """There are as many timed passes as repeats says, and nothing observes memory during them."""
    for repeats in (1, 5):
        options = {"batch_size": 2, "max_length": 8, "repeats": repeats, "warmup": 3}
        report = check(submission, *some(draw, 5), options)
        seen, one = report["seen"], report["sec and sec_spread are one number"]
        expect.that(one or repeats > 1, "one pass was to be timed, but sec and both ends of sec_spread are not equal")
        expect.that(seen["enough calls"], "too few calls of the model for warmup and repeats")
        expect.that(seen["enough unwatched calls"], "something observes memory while the clock runs")


@pytest.mark.points(2)
@pytest.mark.handout("average")
def test_throughput_is_in_texts(submission, draw):
    """throughput is all texts divided by sec: tokens, padding and an unfilled last batch do not matter."""
    report = check(submission, *some(draw, 7), {"batch_size": 4, "max_length": 11})
    expect_part(report, "throughput × sec", 7.0)


# --- memory -------------------------------------------------------------------------------------------------------

ONE_PASS = {"batch_size": 2, "max_length": 8, "warmup": 0, "repeats": 1}


@pytest.mark.points(1)
@pytest.mark.handout("memory")
@pytest.mark.parametrize("weights_mb", [0, 64], ids=["light", "heavy"])
def test_the_peak_is_what_is_held_at_once(submission, draw, weights_mb):
    """Memory that each batch holds for a moment counts once; weights allocated beforehand do not count."""
    memory = {"passing_mb": 64, "weights_mb": weights_mb}
    expect_part(check(submission, *some(draw, 3), ONE_PASS, memory=memory), "peak_mem_mb", 64)


@pytest.mark.points(1)
@pytest.mark.handout("memory")
def test_every_batch_has_a_say(submission, draw):
    """The peak is that of the batch that needs the most, whichever it is."""
    for place in (0, 3, 5):
        texts, labels = some(draw, 6)
        texts[place], labels[place] = "9", 0
        expect_part(check(submission, texts, labels, ONE_PASS, memory={"nine_mb": 64}), "peak_mem_mb", 64)


@pytest.mark.points(2)
@pytest.mark.handout("memory")
def test_each_evaluation_has_its_own_peak(submission, draw):
    """A model that needs little has its own peak, even after one that needs much."""
    texts, labels = some(draw, 2)
    for megabytes in (128, 64):
        report = check(submission, texts, labels, ONE_PASS, memory={"passing_mb": megabytes})
        expect_part(report, "peak_mem_mb", megabytes)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_numbers_that_make_no_sense_are_refused(submission, draw):
    """batch_size, repeats or warmup too small or max_length too large is a ValueError naming it and the value."""
    texts, labels = some(draw, 5)
    for name, value in (("batch_size", 0), ("repeats", 0), ("warmup", -2), ("max_length", 64)):
        options = {"batch_size": 2, "max_length": 8} | {name: value}
        got = submission.run(evaluated, columns_of(texts, labels), options, model={"most": 32})
        expect(got).raises(ValueError, mentioning=[name, str(value)])
    check(submission, texts, labels, {"batch_size": 2, "max_length": 32}, model={"most": 32})


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_an_empty_data_set_is_refused(submission):
    """An empty data set is a ValueError, not a division by zero."""
    got, ordinary = (
        submission.run(evaluated, columns, {"batch_size": 2, "max_length": 8})
        for columns in (columns_of([], []), columns_of(["1"], [0]))
    )
    expect(got).raises(ValueError, mentioning=["dataset"], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_a_missing_column_is_named(submission, draw):
    """A missing column is a ValueError naming it and the columns that exist."""
    right, options = columns_of(*some(draw, 5)), {"batch_size": 2, "max_length": 8}
    ordinary = submission.run(evaluated, right, options)
    for column, other in (("text", "document"), ("label", "sentiment")):
        columns = {other if name == column else name: values for name, values in right.items()}
        got = submission.run(evaluated, columns, options)
        expect(got).raises(ValueError, mentioning=[column, other], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_refused(submission, draw, label):
    """A label outside the model's classes, or -1 for a hidden one, is a ValueError naming it and its row."""
    (texts, labels), options = some(draw, 7), {"batch_size": 4, "max_length": 8}
    ordinary = submission.run(evaluated, columns_of(texts, list(labels)), options)
    labels[5] = label
    got = submission.run(evaluated, columns_of(texts, labels), options)
    expect(got).raises(ValueError, mentioning=["label", label, 5], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_nan_is_refused(submission, draw):
    """NaN among the logits is a ValueError naming the row."""
    for row, batch_size in ((0, 3), (5, 4)):
        (texts, labels), options = some(draw, 6), {"batch_size": batch_size, "max_length": 8}
        ordinary = submission.run(evaluated, columns_of(list(texts), labels), options)
        texts[row] += " nan"
        got = submission.run(evaluated, columns_of(texts, labels), options)
        expect(got).raises(ValueError, mentioning=["logits", row], unlike=ordinary)


# --- comparing ----------------------------------------------------------------------------------------------------

LENGTHS_OF_TEXTS = (2, 9, 17, 33, 65)  # in tokens; the label says whether it is more than 16
ONE_REPEAT = {"warmup": 0, "repeats": 1}


class LengthModel(nn.Module):
    """A classifier that answers 1 for a text that fills its row, as one that is cut off does.

    It notes the first random number of each call in `drawn`. token_mb: held for a moment for each token of a row.
    fails: {"name", "length", "kind"} of calls that raise.
    """

    def __init__(self, name, calls, most=None, token_mb=0, fails=None):
        super().__init__()
        self.name, self.calls, self.token_mb, self.fails = name, calls, token_mb, fails
        self.drawn = []
        self.one = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(num_labels=2, id2label={0: "short", 1: "long"})
        if most:
            self.config.max_position_embeddings = most

    @property
    def dtype(self):
        return self.one.dtype

    @property
    def device(self):
        return self.one.device

    def forward(self, input_ids, attention_mask):
        length = input_ids.size(1)
        self.calls.append(length)
        self.drawn.append(torch.rand(()).item())
        if self.fails and (self.fails["name"], self.fails["length"]) == (self.name, length):
            fail(self.fails["kind"])
        hold(length * self.token_mb)
        return SimpleNamespace(logits=nn.functional.one_hot(attention_mask.min(1).values, 2) * self.one)


def fail(kind):
    """Raise what a GPU, the CPU's allocator or Python raises when memory runs out, or an unrelated error."""
    if kind == "allocator":
        torch.empty(1 << 60, dtype=torch.uint8)
    if kind == "python":
        raise MemoryError
    if kind == "cuda":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to …")
    raise RuntimeError("shapes do not match")


def compared(module, names, lengths, options, *, batch_size=2, changed=None, **model):
    """The rows of `compare`, without anything that varies.

    changed: what differs in the last entry: "batch_size", "dtype", "device", "text", "label". model: settings of
    LengthModel.
    """
    calls = []
    entries = entries_of(names, calls, batch_size, **model)
    change(entries[-1], changed)
    try:
        rows = module.compare(entries, iter(lengths), **options)
    except ValueError as error:
        raise ValueError(f"{error} [the models were called {len(calls)} times]") from None
    return [plain_row(row, bool(model.get("token_mb"))) for row in rows]


def entries_of(names, calls, batch_size=2, **model):
    """What `compare` is given: a LengthModel for each name."""
    tokenizer = tokenizer_of({"[PAD]": 0, "[UNK]": 1, "so": 2})
    return [
        {
            "name": name,
            "model": LengthModel(name, calls, **model),
            "tokenizer": tokenizer,
            "dataset": Dataset(
                {
                    "text": [" ".join(["so"] * length) for length in LENGTHS_OF_TEXTS],
                    "label": [int(length > 16) for length in LENGTHS_OF_TEXTS],
                }
            ),
            "batch_size": batch_size,
        }
        for name in names
    ]


def change(entry, what):
    if what == "batch_size":
        entry["batch_size"] = 3
    if what == "dtype":
        entry["model"].double()
    if what == "device":
        entry["model"].to("meta")
    if what in ("text", "label"):
        entry["dataset"].columns[what][3] = {"text": "so so", "label": 0}[what]


def plain_row(row, with_peak):
    """A row with only the types of what was measured, and with the rounded peak if it is known."""
    accuracy = row["accuracy"]
    plain = {
        "name": row["name"],
        "max_length": row["max_length"],
        "accuracy": accuracy if accuracy is None else round(accuracy, 9),
        "error": row["error"],
        "measured": [type(row[key]).__name__ for key in ("sec", "throughput", "peak_mem_mb", "sec_spread")],
    }
    if with_peak and row["peak_mem_mb"] is not None:
        print(f"{row['name']}, {row['max_length']}: peak_mem_mb = {row['peak_mem_mb']:.1f}")
        plain["peak_mem_mb"] = rounded_peak(row["peak_mem_mb"])
    return plain


def expected_rows(names, lengths, fails=None):
    """The rows for these models at these lengths; memory runs out for (name, length) = fails."""
    rows = []
    for name in names:
        for length in lengths:
            right = [(tokens >= length) == (tokens > 16) for tokens in LENGTHS_OF_TEXTS]
            row = {"name": name, "max_length": length, "accuracy": sum(right) / len(right), "error": None}
            row["measured"] = ["float", "float", "float", "list"]
            if fails == (name, length):
                row |= {"accuracy": None, "error": "out of memory", "measured": ["NoneType"] * 4}
            rows.append(row)
    return rows


def expect_rows(rows, expected):
    for number, (row, right) in enumerate(zip(rows, expected, strict=False)):
        expect.that(row == right, f"row {number} is wrong", expected=str(right), got=str(row))
    expect.that(len(rows) == len(expected), f"{len(rows)} rows, should be {len(expected)}")


@pytest.mark.points(2)
@pytest.mark.handout("compare")
def test_every_model_is_measured_at_every_length(submission):
    """Rows come entry by entry, each at all lengths in the order given; lengths may be an iterator."""
    names, lengths = ["small", "a", "other"], [16, 40, 4]
    rows = submission.run(compared, names, lengths, ONE_REPEAT).output
    expect_rows(rows, expected_rows(names, lengths))


def settings_kept(module, names, options, warmup, repeats, seed):
    """For each model: whether it had all of its calls, and whether each timed pass began at the seed."""
    entries = entries_of(names, [])
    module.compare(entries, [16], **options)
    batches = math.ceil(len(LENGTHS_OF_TEXTS) / 2)
    first = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    drawn = [entry["model"].drawn for entry in entries]
    return {
        "calls": [len(each) >= warmup + repeats * batches for each in drawn],
        "seed": [each.count(first) >= repeats for each in drawn],
    }


@pytest.mark.points(2)
@pytest.mark.handout("compare")
def test_every_model_is_measured_with_the_same_settings(submission):
    """warmup, repeats and seed, given or left out, hold for each model as they do in evaluate."""
    defaults = {"warmup": 2, "repeats": 3, "seed": 0}
    for options in ({}, {"warmup": 40, "repeats": 1, "seed": 7}, {"warmup": 0, "repeats": 12, "seed": 8}):
        settings = defaults | options
        kept = submission.run(settings_kept, ["a", "b"], options, *settings.values()).output
        for what, those in (("calls", "warmup and repeats ask for"), ("seed", "the same passes from the seed need")):
            expect.that(all(kept[what]), f"with {settings}, a model had fewer calls than {those}: {kept[what]}")


@pytest.mark.points(2)
@pytest.mark.handout("compare")
def test_each_length_has_its_own_peak(submission):
    """A long length measured first does not raise the peak of a short one."""
    rows = submission.run(compared, ["a"], [64, 32], ONE_REPEAT, batch_size=5, token_mb=2).output
    peaks = [row["peak_mem_mb"] for row in rows]
    expect.that(peaks == [128, 64], "wrong peak_mem_mb", expected="[128, 64]", got=str(peaks))


@pytest.mark.points(1)
@pytest.mark.handout("memory-runs-out")
def test_where_memory_runs_out_a_row_says_so(submission):
    """Running out of memory (GPU, CPU allocator or Python) costs that row its numbers and no other row."""
    names, lengths = ["a", "b"], [16, 64, 32]
    for kind in ("cuda", "allocator", "python"):
        fails = {"name": "a", "length": 64, "kind": kind}
        rows = submission.run(compared, names, lengths, ONE_REPEAT, fails=fails).output
        expect_rows(rows, expected_rows(names, lengths, ("a", 64)))


@pytest.mark.points(1)
@pytest.mark.handout("memory-runs-out")
def test_another_error_is_an_error(submission):
    """A RuntimeError that has nothing to do with memory is raised, not hidden in a row."""
    fails = {"name": "b", "length": 64, "kind": "shapes"}
    got = submission.run(compared, ["a", "b"], [16, 64], ONE_REPEAT, fails=fails)
    expect(got).raises(RuntimeError, mentioning=["shapes do not match"])


@pytest.mark.points(1)
@pytest.mark.handout("compare")
@pytest.mark.parametrize("changed", ["batch_size", "dtype", "device", "dataset"])
def test_unlike_entries_are_not_compared(submission, changed):
    """Entries that differ in batch size, dtype, device or data are a ValueError naming the two, before any call."""
    for what in ("text", "label") if changed == "dataset" else (changed,):
        got = submission.run(compared, ["ada", "bob", "cem"], [16], {}, changed=what)
        expect(got).raises(ValueError, mentioning=[changed, "cem", "called 0 times"])


@pytest.mark.points(1)
@pytest.mark.handout("compare")
def test_two_entries_of_one_name_are_refused(submission):
    """Two entries with the same name are a ValueError: their rows could not be told apart."""
    got, ordinary = (submission.run(compared, ["ada", "bob", name], [16], {}) for name in ("ada", "cem"))
    expect(got).raises(ValueError, mentioning=["ada"], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("compare")
def test_a_length_that_is_too_long_is_refused_at_once(submission):
    """A length that a model can't read is a ValueError before any call, not after minutes of measuring."""
    got = submission.run(compared, ["a", "b"], [16, 24, 4096], {}, most=1024)
    expect(got).raises(ValueError, mentioning=["max_length", "4096", "called 0 times"])


# --- where lines cross --------------------------------------------------------------------------------------------


def rows_of(column, **lines):
    """Rows of `compare` with these values in a column; where the value is None, memory ran out."""
    rows = []
    for name, values in lines.items():
        for length, value in values.items():
            measured = {"accuracy": 0.5, "sec": 2.0, "sec_spread": [1.0, 3.0], "throughput": 4.0, "peak_mem_mb": 5.0}
            row = {"name": name, "max_length": length} | measured | {"error": None, column: value}
            if value is None:
                row |= dict.fromkeys(measured) | {"error": "out of memory"}
            rows.append(row)
    return rows


def expect_crossing(submission, column, first, second):
    rows = rows_of(column, bert=first, mamba=second)
    present = [{length: value for length, value in line.items() if value is not None} for line in (first, second)]
    expected = oracle.crossing(*present)
    found = submission.call("crossing", rows, "bert", "mamba", column).output
    if expected is None:
        good = found is None
    else:
        good = isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-6)
    expect.that(good, "wrong length", expected=str(expected), got=repr(found))


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_lines_cross_between_two_lengths(submission, draw):
    """Noisy power laws cross where the straight pieces between lengths do, on logarithmic axes."""
    for column in ("throughput", "sec", "peak_mem_mb"):
        noise = [math.exp(each) for each in draw.normal(8, scale=0.1).tolist()]
        lengths = [128, 256, 512, 1024]
        first = {length: 2e-6 * length**2 * each for length, each in zip(lengths, noise[:4], strict=True)}
        second = {length: 8e-4 * length * each for length, each in zip(lengths, noise[4:], strict=True)}
        expect_crossing(submission, column, first, second)


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_lines_need_not_cross(submission):
    """The result is None if one line is above the other at all lengths, however close they come."""
    expect_crossing(submission, "sec", {128: 4.0, 256: 5.0, 512: 6.0}, {128: 1.0, 256: 2.0, 512: 5.9})


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_the_first_crossing_counts(submission):
    """The first crossing counts, where lines meet at a measured length or cross three times."""
    expect_crossing(submission, "sec", {128: 1.0, 256: 2.0, 512: 4.0}, {128: 2.0, 256: 2.0, 512: 3.0})
    line = {100: 2.0, 200: 3.0, 400: 6.0, 800: 7.0}
    expect_crossing(submission, "sec", {100: 1.0, 200: 4.0, 400: 5.0, 800: 9.0}, line)
    expect_crossing(submission, "sec", {100: 1.0, 200: 4.0, 400: 6.0, 800: 9.0}, line)
    expect_crossing(submission, "sec", {100: 1.0, 200: 2.0, 400: 4.0, 800: 7.0}, line)


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_rows_may_be_out_of_order_or_missing(submission):
    """Lengths in any order, for one model only or without a value: the line continues to the next one."""
    expect_crossing(
        submission, "sec", {512: 9.0, 128: 1.0, 64: 2.0, 256: 3.0}, {256: 4.0, 1024: 3.0, 512: 6.0, 128: 7.0}
    )
    line = {128: 5.0, 256: 6.0, 512: 1.0, 1024: 8.0}
    expect_crossing(submission, "sec", {128: 3.0, 256: 4.0, 512: None, 1024: 20.0}, line)


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_a_name_without_rows_is_refused(submission):
    """A misspelt name is a ValueError, not a line that never crosses."""
    rows = rows_of("sec", bert={128: 1.0}, mamba={128: 2.0})
    got, ordinary = (submission.call("crossing", rows, "bert", name, "sec") for name in ("mambo", "mamba"))
    expect(got).raises(ValueError, mentioning=["mambo"], unlike=ordinary)


# --- reporting ----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("report")
def test_the_table_has_a_line_for_each_row(submission):
    """A Markdown table shows names, lengths, accuracy in percent, numbers, and where memory ran out."""
    rows = rows_of("throughput", bert={128: 41.25, 8192: None}, mamba={128: 30.5, 8192: 1.5})
    rows[0] |= {"accuracy": 0.875, "sec": 0.32, "sec_spread": [0.31, 0.47], "peak_mem_mb": 77.0}
    text = submission.call("table", rows).output
    expect.that(isinstance(text, str), f"the table's type is {type(text).__name__}, should be str")
    lines = text.strip().splitlines()
    good = len(lines) == 6 and all(line.startswith("|") and line.endswith("|") for line in lines)
    expect.that(good, "the table should have six lines, each from | to |", got=text)
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    expect.that(set(lines[1]) <= set("|-: "), "the second line should only separate the heading", got=lines[1])
    expect.that(len({len(row) for row in cells}) == 1, "the lines have different numbers of columns", got=text)
    for row, line in zip(rows, cells[2:], strict=True):
        good = line[:2] == [row["name"], str(row["max_length"])]
        expect.that(good, f"the line for {row['name']} at {row['max_length']} begins with {line[:2]}")
    missing = [part for part, cell in zip(("87.5", "41", "0.32", "77"), cells[2][2:], strict=False) if part not in cell]
    expect.that(not missing, f"missing from their columns: {', '.join(missing)}", got=lines[2])
    spread = [part for part in ("0.31", "0.47") if part not in cells[2][4]]
    expect.that(not spread, f"sec_spread is not shown: {', '.join(spread)} missing", got=lines[2])
    good = "out of memory" in lines[3] and "None" not in lines[3]
    expect.that(good, "a row without numbers should say out of memory and not None", got=lines[3])


def recorded(module, rows, as_path):
    """The strict JSON that `write_record` writes over an existing file, and the files there are then."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.json")
        path.write_text("x" * 100_000)
        module.write_record(rows, path if as_path else str(path))
        record = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse_constant)
        files = [each.name for each in Path(folder).iterdir()]
    environment = record["environment"]
    return {
        "files": files,
        "rows": record["rows"],
        "versions": [environment["python"] == sys.version.split()[0], environment["torch"] == torch.__version__],
        "threads": environment["threads"] == torch.get_num_threads(),
        "others": sorted({"platform", "transformers"} & environment.keys()),
    }


def refuse_constant(constant):
    raise ValueError(f"{constant} is not JSON")


@pytest.mark.points(1)
@pytest.mark.handout("report")
def test_the_record_holds_rows_and_environment(submission):
    """The record is one file of strict JSON: the rows, every number exact, and the environment."""
    rows = rows_of("throughput", 버트={128: 41.12345678901234, 8192: None}, mamba={128: 30.5})
    for as_path in (False, True):
        record = submission.run(recorded, rows, as_path).output
        expect.that(record["rows"] == rows, "wrong rows", expected=str(rows[0]), got=str(record["rows"][:1]))
        expected = {"files": ["record.json"], "versions": [True, True], "threads": True}
        expected |= {"others": ["platform", "transformers"]}
        found = {key: record[key] for key in expected}
        expect.that(found == expected, "wrong file or environment", expected=str(expected), got=str(found))


def plotted(module, rows):
    """What `plot` leaves in a temporary current folder, where it writes over an existing file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        path = Path(folder, "figures", "bert.and.mamba.svg")
        path.parent.mkdir()
        path.write_bytes(b"not a picture" * 100_000)
        module.plot(rows, str(path))
        files = sorted(each.relative_to(folder).as_posix() for each in Path(folder).rglob("*") if each.is_file())
        text = path.read_text("utf-8")
    root = ElementTree.fromstring(text)
    words = " ".join([*re.findall(r"<!--(.*?)-->", text, re.DOTALL), *root.itertext()])
    return {
        "files": files,
        "kind": root.tag.rpartition("}")[2],
        "names": [name for name in dict.fromkeys(row["name"] for row in rows) if name in words],
        "numbers": [number for number in ("362", "2896") if re.search(rf"\b{number}\b", words)],
    }


@pytest.mark.points(3)
@pytest.mark.handout("report")
def test_the_figure_shows_where_lines_cross(submission):
    """One SVG file shows all names, and the lengths at which throughput and memory cross."""
    lengths = [128, 256, 512, 1024, 2048, 4096]
    rows = rows_of(
        "throughput", bert={n: 362.0387**2 / n**2 for n in lengths}, mamba={n: 362.0387 / n for n in lengths}
    )
    for row in rows:  # memory: the lines meet at 2896.3
        row["peak_mem_mb"] = row["max_length"] ** 2 / 2896.3094 if row["name"] == "bert" else float(row["max_length"])
    expect(submission.run(plotted, rows)).equal_to(
        {"files": ["figures/bert.and.mamba.svg"], "kind": "svg", "names": ["bert", "mamba"], "numbers": ["362", "2896"]}
    )


def drawn(module):
    """What can be seen in a PNG file, and how matplotlib is left."""
    close_figures()  # those of an earlier test
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings = matplotlib.rcParams.copy()
        picture = picture_of(module)
        others = {"names": picture_of(module, name="jade")}
        for column in ("accuracy", "throughput", "peak_mem_mb"):
            others[column] = picture_of(module, column=column, factor=0.5)
        changed = [name for name, value in matplotlib.rcParams.copy().items() if value != settings[name]]
    return {
        "visible": [
            what for what, each in others.items() if each.shape != picture.shape or bool((each != picture).any())
        ],
        "settings changed": [name for name in changed if name != "backend"],
        "open figures": len(open_figures()),
    }


def picture_of(module, name="opal", column="sec", factor=1.0):
    """The pixels (height, width, 3 or 4) of what `plot` draws; the last number of a column is multiplied by factor."""
    values = {"accuracy": 0.5, "sec": 1.0, "sec_spread": [1.0, 1.0], "throughput": 64.0, "peak_mem_mb": 8.0}
    rows = [
        {"name": each, "max_length": length, "error": None} | values | {"throughput": 8192.0 / length}
        for each in ("ruby", name)
        for length in (128, 256, 512)
    ]
    rows[-1][column] *= factor
    rows.append({"name": "ruby", "max_length": 1024, "error": "out of memory"} | dict.fromkeys(values))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture.png")
        module.plot(rows, path)
        return matplotlib.image.imread(path)


def open_figures():
    return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []


def close_figures():
    for number in open_figures():
        sys.modules["matplotlib.pyplot"].close(number)


@pytest.mark.points(1)
@pytest.mark.handout("report")
def test_the_figure_shows_all_that_was_measured(submission):
    """A PNG file shows names, accuracy, throughput and memory, and matplotlib is left as it was."""
    expect(submission.run(drawn)).equal_to(
        {
            "visible": ["names", "accuracy", "throughput", "peak_mem_mb"],
            "settings changed": [],
            "open figures": 0,
        }
    )
