"""Graded tests of the evaluation harness: models whose answers, speed and memory are known.

No test knows how fast the machine is. A model that sleeps notes by the clock how long it slept, and what is reported is
held against its notes. A model's answer is the sum of the digits in a text, modulo the number of classes; padding that
is not masked counts as 1, training mode as 1.
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
from xml.etree import ElementTree

import matplotlib.image
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from grading import expect
from tests.oracles import evaluation as oracle


def evaluated(
    module, texts, labels, options, *, classes=3, most=None, columns=None, names=(), training=False, frozen=False,
    typed=False, failing=False, drawn=False, sleep_ms=0, first_calls=0, last_calls=0, factor=1.0, queued=False,
    tokenizer_ms=0, passing_mb=0, nine_mb=0, weights_mb=0,
):  # fmt: skip
    """Evaluate a model that keeps book, and say what came and what the model saw, without anything that varies.

    columns: of the data set, text and label if None. names: of columns to rename. drawn: answers are random numbers.
    The first_calls, or the last_calls of as many as an evaluation makes, take factor times as long. typed: the model
    wants token types too. With queued it works only in synchronize(). passing_mb: held for a moment by each call,
    nine_mb: by that for a batch in which there is a 9. weights_mb: held from before the evaluation.
    """
    from transformers import PreTrainedTokenizerFast

    class Column(Sequence):  # like that of a datasets.Dataset, no list
        def __init__(self, values):
            self.values = list(values)

        def __len__(self):
            return len(self.values)

        def __getitem__(self, key):
            return self.values[key]

    class Dataset:
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

    class SlowTokenizer(PreTrainedTokenizerFast):
        def __call__(self, *args, **kwargs):
            time.sleep(tokenizer_ms / 1000)
            return super().__call__(*args, **kwargs)

    vocabulary = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3} | {str(digit): 4 + digit for digit in range(10)}
    vocabulary["nan"] = len(vocabulary)
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    tokenizer = SlowTokenizer(tokenizer_object=words, model_input_names=inputs, **special)

    calls, jobs, threads, ready = [], [], set(threading.enumerate()), []

    def work():
        while jobs:
            job, seconds = jobs.pop(0)
            start = time.perf_counter()
            time.sleep(seconds)
            job["slept"] = time.perf_counter() - start

    class Model(nn.Module):
        dtype = torch.float32

        def __init__(self):
            super().__init__()
            self.value = nn.Embedding(len(vocabulary), 1)
            self.value.weight.data[:, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0, *range(10), 0.0])
            self.frozen = nn.Dropout()
            self.register_buffer("weights", torch.full((weights_mb << 18,), 1.0))
            self.config = SimpleNamespace(num_labels=classes, id2label={n: f"class {n}" for n in range(classes)})
            if most:
                self.config.max_position_embeddings = most

        @property
        def device(self):
            return self.value.weight.device

        def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
            observers = [
                _get_current_dispatch_mode_stack(), set(threading.enumerate()) - threads, tracemalloc.is_tracing(),
                torch.autograd._profiler_enabled(),
            ]  # fmt: skip
            call = {
                "batch": list(input_ids.shape), "training": self.training or self.frozen.training,
                "watched": any(observers), "labels": labels is not None, "slept": 0.0,
            }  # fmt: skip
            call["slow"] = len(calls) < first_calls or (bool(ready) and len(calls) >= ready[0] - last_calls)
            calls.append(call)
            if failing and len(calls) > 1:
                raise RuntimeError("out of order")
            jobs.append((call, sleep_ms / 1000 * (factor if call["slow"] else 1)))
            if not queued:
                work()
            megabytes = passing_mb or nine_mb * bool((input_ids == vocabulary["9"]).any())
            held = torch.full((megabytes << 18,), 1.0)
            if len(held):
                time.sleep(0.015)  # for those who take samples
            value = self.value(input_ids)[..., 0]
            call["graph"] = value.requires_grad
            if attention_mask is not None:
                value = value * attention_mask
            answer = value.sum(1).long() + self.training + (typed and token_type_ids is None)
            logits = nn.functional.one_hot(answer % classes, classes).float() * 4 - 2
            if drawn:
                logits = torch.rand(len(input_ids), classes)
            logits = logits.masked_fill((input_ids == vocabulary["nan"]).any(1, keepdim=True), math.nan)
            return SimpleNamespace(logits=logits)

    if queued:
        Model.synchronize = lambda self: work()
    table = columns or {"idx": list(range(len(texts))), "labels": [0] * len(texts), "label": labels, "text": texts}
    dataset = Dataset({dict(names).get(name, name): values for name, values in table.items()})

    def evaluate():
        model = Model().train(training)
        if frozen:
            model.frozen.eval()
        before = [each.training for each in model.modules()]
        state = torch.get_rng_state()
        calls.clear()
        jobs.clear()
        try:
            found = module.evaluate(model, tokenizer, dataset, **options)
        except RuntimeError as error:
            if str(error) != "out of order":
                raise
            found = None
        return found, {
            "modes are as before": [each.training for each in model.modules()] == before,
            "random numbers go on as before": bool((torch.get_rng_state() == state).all()),
        }

    if last_calls:  # how many there are in an evaluation is seen in another one
        evaluate()
        ready.append(len(calls))
    found, after = evaluate()
    work()  # what is queued still, so that all have notes
    if found is None:
        return {"after": after}
    batch = options.get("batch_size", 16)
    batches, repeats = -(-len(texts) // batch), options.get("repeats", 3)
    seen = {
        "batches": [list(each) for each in sorted({tuple(call["batch"]) for call in calls})],
        "in eval mode": not any(call["training"] for call in calls),
        "a graph is built": any(call["graph"] for call in calls),
        "labels are passed": any(call["labels"] for call in calls),
        "unwatched passes suffice": sum(not call["watched"] for call in calls) >= repeats * batches,
        "calls suffice": len(calls) >= options.get("warmup", 2) + repeats * batches,
    }
    kinds = {key: type(value).__name__ for key, value in sorted(found.items())}
    kinds["predictions"] += " of " + ", ".join(sorted({type(each).__name__ for each in found["predictions"]}))
    answer = {"accuracy": round(found["accuracy"], 9), "predictions": [int(each) for each in found["predictions"]]}
    result = {"kinds": kinds, "answer": answer, "seen": seen, "after": after}
    sec, (quickest, slowest) = found["sec"], found["sec_spread"]
    result["throughput × sec"] = round(found["throughput"] * sec, 3)
    result["sec is within its spread"] = quickest <= sec <= slowest
    if sleep_ms:
        usual = [call["slept"] for call in calls if not call["slow"]]
        odd = [call["slept"] for call in calls if call["slow"]] or usual

        def judge(seconds, slept):
            if seconds < 0.85 * batches * min(slept):
                return "too short"
            return "right" if seconds < 1.5 * batches * max(slept) + 0.01 else "too long"

        print(f"sec = {sec:.4f}, spread {quickest:.4f} to {slowest:.4f}")
        print(f"a pass took the model {batches * min(usual):.4f} to {batches * max(usual):.4f} seconds")
        result["clock"] = judge(sec, usual)
        result["spread"] = [
            judge(quickest, odd if factor < 1 else usual), judge(slowest, odd if factor > 1 else usual)
        ]  # fmt: skip
    if passing_mb or nine_mb:
        megabytes = found["peak_mem_mb"]
        print(f"peak_mem_mb = {megabytes:.1f}")
        nearest = 64 * round(megabytes / 64)
        result["peak"] = nearest if abs(megabytes - nearest) <= 16 else f"past {64 * int(megabytes // 64)}"
    return result


def some(draw, number, longest=5, classes=3):
    """Texts of digits, a label for each that a good model would give in two cases of three."""
    digits = draw.integers(0, 9, number, longest).tolist()
    lengths = draw.integers(1, longest + 1, number).tolist()
    texts = [" ".join(map(str, row[:length])) for row, length in zip(digits, lengths, strict=True)]
    right = oracle.predictions(texts, classes, 10**6)
    return texts, [(label + (n % 3 == 2)) % classes for n, label in enumerate(right)]


def check(submission, texts, labels, options, **traits):
    """Predictions and accuracy are right; the rest of what came."""
    predicted = oracle.predictions(texts, traits.get("classes", 3), options["max_length"])
    came = submission.run(evaluated, texts, labels, options, **traits).output
    answer = came["answer"]
    expect.that(
        answer["predictions"] == predicted, "predictions are other ones",
        expected=str(predicted), got=str(answer["predictions"]),
    )  # fmt: skip
    accuracy = round(oracle.accuracy(predicted, labels), 9)
    expect.that(
        answer["accuracy"] == accuracy, "accuracy is another one", expected=str(accuracy), got=str(answer["accuracy"])
    )
    return came


def expect_part(came, key, expected):
    expect.that(came[key] == expected, f"{key} is another one", expected=str(expected), got=str(came[key]))


# --- accuracy and predictions -------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("form")
def test_a_dictionary_comes_back(submission, draw):
    """Six entries of plain Python numbers and lists."""
    texts, labels = some(draw, 4)
    came = submission.run(evaluated, texts, labels, {"batch_size": 2, "max_length": 8}).output
    kinds = {
        "accuracy": "float", "peak_mem_mb": "float", "predictions": "list of int", "sec": "float", "sec_spread": "list",
        "throughput": "float",
    }  # fmt: skip
    found = {key: came["kinds"].get(key) for key in kinds}
    expect.that(found == kinds, "the dictionary is another one", expected=str(kinds), got=str(found))


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
def test_a_data_set_is_read(submission, draw):
    """Predictions by the model's rule, accuracy by the labels, for batches that come out even."""
    for number, batch_size in ((6, 3), (6, 6), (3, 1)):
        check(submission, *some(draw, number), {"batch_size": batch_size, "max_length": 8})


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
@pytest.mark.parametrize(("number", "batch_size"), [(7, 3), (5, 16)], ids=["last", "only"])
def test_a_batch_that_is_not_full_counts(submission, draw, number, batch_size):
    """Texts that do not fill the last batch, or the only one: each counts as much as any other."""
    check(submission, *some(draw, number), {"batch_size": batch_size, "max_length": 8})


@pytest.mark.points(2)
@pytest.mark.handout("accuracy")
def test_predictions_come_in_order(submission, draw):
    """Long and short texts mixed, some of them twice: each prediction in its text's place."""
    texts, labels = some(draw, 11, longest=9)
    check(submission, [*texts, *texts[:3]], [*labels, *labels[:3]], {"batch_size": 4, "max_length": 12})


@pytest.mark.points(1)
@pytest.mark.handout("accuracy")
def test_the_class_is_the_largest_logit(submission, draw):
    """Two classes, or seven."""
    for classes in (2, 7):
        texts, labels = some(draw, 6, classes=classes)
        check(submission, texts, labels, {"batch_size": 4, "max_length": 8}, classes=classes)


@pytest.mark.points(1)
@pytest.mark.handout("data")
def test_the_columns_are_text_and_label(submission, draw):
    """Columns have their names, wherever they stand, and "labels" is another one."""
    texts, labels = some(draw, 6)
    columns = {"labels": [1] * 6, "label_id": [0] * 6, "text": texts, "sentence": ["1"] * 6, "label": labels}
    check(submission, texts, labels, {"batch_size": 4, "max_length": 8}, columns=columns)


# --- what the model gets ------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("length")
def test_padding_is_masked(submission, draw):
    """The model gets the attention mask: a text is what it is, however long its row."""
    texts, labels = some(draw, 5)
    check(submission, texts, labels, {"batch_size": 2, "max_length": 17})


@pytest.mark.points(1)
@pytest.mark.handout("length")
def test_long_texts_are_cut_off(submission, draw):
    """max_length tokens are read, the special ones included, of a text that is longer."""
    texts, labels = some(draw, 6, longest=20)
    for max_length in (6, 13):
        check(submission, texts, labels, {"batch_size": 4, "max_length": max_length})


@pytest.mark.points(2)
@pytest.mark.handout("length")
def test_every_batch_has_the_same_length(submission, draw):
    """Each row is max_length tokens, no less if the texts are short: the length is what is compared."""
    came = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 20})
    batches = came["seen"]["batches"]
    expect.that(
        batches == [[1, 20], [2, 20]], "the model read batches of other shapes",
        expected="[1, 20], [2, 20]", got=str(batches),
    )  # fmt: skip


@pytest.mark.points(1)
@pytest.mark.handout("length")
def test_all_that_the_tokenizer_says_is_passed(submission, draw):
    """A tokenizer that also returns token types; and the labels are not the model's business."""
    came = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9}, typed=True)
    expect.that(not came["seen"]["labels are passed"], "the model was told the labels")


# --- the model is a guest -----------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("modes")
def test_the_model_is_in_eval_mode(submission, draw):
    """A model that is in training mode is measured as it is used."""
    came = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9}, training=True)
    expect.that(came["seen"]["in eval mode"], "the model read a batch in training mode")


@pytest.mark.points(1)
@pytest.mark.handout("modes")
def test_no_graph_is_built(submission, draw):
    """Nothing is kept for a backward pass, which would count as memory and cost time."""
    came = check(submission, *some(draw, 5), {"batch_size": 2, "max_length": 9})
    expect.that(not came["seen"]["a graph is built"], "the model's activations require a gradient")


@pytest.mark.points(1)
@pytest.mark.handout("modes")
@pytest.mark.parametrize("failing", [False, True], ids=["success", "exception"])
def test_modes_are_afterwards_as_before(submission, draw, failing):
    """Each module is in the mode that it was in, also if a part of a model in training is not, or reading fails."""
    for traits in ({}, {"training": True}, {"training": True, "frozen": True}):
        options = {"batch_size": 2, "max_length": 9}
        came = submission.run(evaluated, *some(draw, 5), options, failing=failing, **traits).output
        expect.that(came["after"]["modes are as before"], "a module of the model is in another mode than before")


@pytest.mark.points(1)
@pytest.mark.handout("seed")
def test_random_numbers_are_repeatable(submission, draw):
    """A model that draws its answers draws the same ones for the same seed, and the caller's numbers go on."""
    texts, labels = some(draw, 12)
    came = []
    for seed in (5, 5, 6):
        options = {"batch_size": 5, "max_length": 8, "seed": seed}
        came.append(submission.run(evaluated, texts, labels, options, drawn=True).output)
    first, again, other = (each["answer"]["predictions"] for each in came)
    expect.that(first == again, "the same seed, other answers", expected=str(first), got=str(again))
    expect.that(first != other, "another seed, and all twelve answers are the same")
    kept = all(each["after"]["random numbers go on as before"] for each in came)
    expect.that(kept, "torch's random numbers are not where the caller had left them")


# --- the clock ----------------------------------------------------------------------------------------------------


def check_clock(submission, texts, labels, options, part="clock", right="right", **traits):
    """The clock, or another part, is right. What another program may disturb is measured again, twice at most."""
    for _ in range(3):
        came = check(submission, texts, labels, options, **traits)
        if came[part] == right:
            break
    expect_part(came, part, right)
    expect_part(came, "sec is within its spread", True)


@pytest.mark.points(1)
@pytest.mark.handout("clock")
def test_a_pass_is_timed(submission, draw):
    """sec is what all batches take together, once."""
    check_clock(submission, *some(draw, 5), {"batch_size": 2, "max_length": 8}, sleep_ms=8)


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_tokenising_is_not_timed(submission, draw):
    """A slow tokenizer makes the model no slower."""
    check_clock(submission, *some(draw, 4), {"batch_size": 2, "max_length": 8}, sleep_ms=8, tokenizer_ms=40)


@pytest.mark.points(2)
@pytest.mark.handout("clock")
def test_warming_up_is_not_timed(submission, draw):
    """Any number of batches to warm up with, more than there are too: they are not part of sec."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 9}
    check_clock(submission, *some(draw, 4), options, sleep_ms=8)


@pytest.mark.points(1)
@pytest.mark.handout("clock")
def test_the_first_calls_are_not_timed(submission, draw):
    """A model that compiles during its first calls: warmup of them are over when the clock begins."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 7, "repeats": 1}
    check_clock(submission, *some(draw, 4), options, sleep_ms=5, first_calls=7, factor=8.0)


@pytest.mark.points(3)
@pytest.mark.handout("clock")
def test_queued_work_is_waited_for(submission, draw):
    """A model that only queues its work is synchronised before each reading of the clock."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 9, "repeats": 1}
    check_clock(submission, *some(draw, 4), options, sleep_ms=8, queued=True)


@pytest.mark.points(1)
@pytest.mark.handout("average")
@pytest.mark.parametrize("factor", [9.0, 0.05], ids=["interrupted", "lucky"])
def test_an_odd_pass_does_not_move_the_median(submission, draw, factor):
    """One pass of three that was interrupted, or unusually quick: sec stays, and the spread tells of it."""
    options = {"batch_size": 2, "max_length": 8, "repeats": 3}
    check_clock(submission, *some(draw, 4), options, sleep_ms=6, last_calls=2, factor=factor)


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_the_spread_is_from_the_quickest_to_the_slowest(submission, draw):
    """sec_spread holds both ends of several passes, and sec is between them."""
    options = {"batch_size": 2, "max_length": 8, "repeats": 4}
    check_clock(submission, *some(draw, 4), options, part="spread", right=["right", "right"], sleep_ms=8)


@pytest.mark.points(1)
@pytest.mark.handout("average")
def test_there_are_as_many_repeats_as_asked_for(submission, draw):
    """That many passes, and nothing that observes memory works during them."""
    for repeats in (1, 5):
        options = {"batch_size": 2, "max_length": 8, "repeats": repeats, "warmup": 3}
        came = check(submission, *some(draw, 5), options)
        expect.that(came["seen"]["calls suffice"], "the model is called too few times for warm-up and repeats")
        expect.that(came["seen"]["unwatched passes suffice"], "something observes memory while the clock runs")


@pytest.mark.points(2)
@pytest.mark.handout("average")
def test_throughput_is_in_texts(submission, draw):
    """All texts divided by sec: no padding, no tokens, no places that stay empty in the last batch."""
    came = check(submission, *some(draw, 7), {"batch_size": 4, "max_length": 11})
    expect_part(came, "throughput × sec", 7.0)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("memory")
@pytest.mark.parametrize("weights_mb", [0, 64], ids=["light", "heavy"])
def test_the_peak_is_what_is_held_at_once(submission, draw, weights_mb):
    """What each batch holds for a moment counts once; weights, which were there before, do not."""
    options = {"batch_size": 2, "max_length": 8, "warmup": 0, "repeats": 1}
    came = check(submission, *some(draw, 3), options, passing_mb=64, weights_mb=weights_mb)
    expect_part(came, "peak", 64)


@pytest.mark.points(1)
@pytest.mark.handout("memory")
def test_every_batch_has_a_say(submission, draw):
    """One batch needs more than the others, whichever it is."""
    for place in (0, 3, 5):
        texts, labels = some(draw, 6)
        texts[place], labels[place] = "9", 0
        came = check(
            submission, texts, labels, {"batch_size": 2, "max_length": 8, "warmup": 0, "repeats": 1}, nine_mb=64
        )
        expect_part(came, "peak", 64)


@pytest.mark.points(2)
@pytest.mark.handout("memory")
def test_each_evaluation_has_its_own_peak(submission, draw):
    """A model that needs much, then one that needs little: the second peak is its own."""
    texts, labels = some(draw, 2)
    came = check(
        submission, texts, labels, {"batch_size": 2, "max_length": 8, "warmup": 0, "repeats": 1}, passing_mb=128
    )
    expect_part(came, "peak", 128)
    came = check(
        submission, texts, labels, {"batch_size": 2, "max_length": 8, "warmup": 0, "repeats": 1}, passing_mb=64
    )
    expect_part(came, "peak", 64)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_numbers_that_make_no_sense_are_refused(submission, draw):
    """No batch, no pass, fewer than no warm-up, more tokens than the model reads: a ValueError that tells."""
    texts, labels = some(draw, 5)
    for name, value in (("batch_size", 0), ("repeats", 0), ("warmup", -2), ("max_length", 64)):
        options = {"batch_size": 2, "max_length": 8} | {name: value}
        got = submission.run(evaluated, texts, labels, options, most=32)
        expect(got).raises(ValueError, mentioning=[name, str(value)])
    check(submission, texts, labels, {"batch_size": 2, "max_length": 32}, most=32)


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_an_empty_data_set_is_refused(submission):
    """No rows, no accuracy: a ValueError, not a division by zero."""
    got = submission.run(evaluated, [], [], {"batch_size": 2, "max_length": 8})
    expect(got).raises(ValueError, mentioning=["dataset"])


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_a_missing_column_is_named(submission, draw):
    """A ValueError names the column that is missing, and those that there are."""
    for column, other in (("text", "document"), ("label", "sentiment")):
        got = submission.run(evaluated, *some(draw, 5), {"batch_size": 2, "max_length": 8}, names=[(column, other)])
        expect(got).raises(ValueError, mentioning=[column, other])


@pytest.mark.points(1)
@pytest.mark.handout("errors")
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_refused(submission, draw, label):
    """A label that the model has no class for, or the -1 of a hidden one, is named with its row."""
    texts, labels = some(draw, 7)
    labels[5] = label
    got = submission.run(evaluated, texts, labels, {"batch_size": 4, "max_length": 8})
    expect(got).raises(ValueError, mentioning=["label", str(label), "5"])


@pytest.mark.points(1)
@pytest.mark.handout("errors")
def test_nan_is_refused(submission, draw):
    """A model that answers NaN has no accuracy: a ValueError that names the row."""
    for row, batch_size in ((0, 3), (5, 4)):
        texts, labels = some(draw, 6)
        texts[row] += " nan"
        got = submission.run(evaluated, texts, labels, {"batch_size": batch_size, "max_length": 8})
        expect(got).raises(ValueError, mentioning=["logits", str(row)])


# --- comparing ----------------------------------------------------------------------------------------------------


def compared(module, names, lengths, options, *, batch_size=2, changed=None, fails=None, most=None, token_mb=0):
    """The rows of `compare` for models that answer 1 where a text is cut off, without anything that varies.

    changed: what the last entry has different: "batch_size", "dtype", "text", "label". fails: {"name", "length",
    "kind"} of a call that raises. token_mb: held for a moment for each token of the length.
    """
    from transformers import PreTrainedTokenizerFast

    calls = []

    class Column(Sequence):
        def __init__(self, values):
            self.values = list(values)

        def __len__(self):
            return len(self.values)

        def __getitem__(self, key):
            return self.values[key]

    class Dataset:
        def __init__(self, **columns):
            self.columns, self.column_names = columns, list(columns)

        def __len__(self):
            return len(self.columns["text"])

        def __getitem__(self, key):
            return Column(self.columns[key]) if isinstance(key, str) else {n: v[key] for n, v in self.columns.items()}

    class Model(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.one = name, nn.Parameter(torch.ones(1))
            self.config = SimpleNamespace(num_labels=2, id2label={0: "short", 1: "long"}, max_position_embeddings=most)
            if not most:
                del self.config.max_position_embeddings

        @property
        def dtype(self):
            return self.one.dtype

        @property
        def device(self):
            return self.one.device

        def forward(self, input_ids, attention_mask):
            length = input_ids.size(1)
            calls.append(length)
            if fails and (fails["name"], fails["length"]) == (self.name, length):
                if fails["kind"] == "allocator":
                    torch.empty(1 << 60, dtype=torch.uint8)
                kinds = {"python": MemoryError(), "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to …")}
                raise kinds.get(fails["kind"], RuntimeError("shapes do not match"))
            held = torch.full((length * token_mb << 18,), 1.0)
            if token_mb:
                time.sleep(0.015)
            del held
            return SimpleNamespace(logits=nn.functional.one_hot(attention_mask.min(1).values, 2) * self.one)

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "so": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_input_names": ["input_ids", "attention_mask"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    texts, labels = [" ".join(["so"] * number) for number in (2, 9, 17, 33, 65)], [0, 0, 1, 1, 1]
    entries = []
    for name in names:
        dataset = Dataset(text=list(texts), label=list(labels))
        entries.append(
            {"name": name, "model": Model(name), "tokenizer": tokenizer, "dataset": dataset, "batch_size": batch_size}
        )
    if changed == "batch_size":
        entries[-1]["batch_size"] = 3
    if changed == "dtype":
        entries[-1]["model"].double()
    if changed in ("text", "label"):
        entries[-1]["dataset"].columns[changed][3] = {"text": "so so", "label": 0}[changed]
    try:
        rows = module.compare(entries, iter(lengths), **options)
    except ValueError as error:
        raise ValueError(f"{error} [the models were called {len(calls)} times]") from None
    found = []
    for row in rows:
        keys = ["name", "max_length", "accuracy", "error"]
        line = {key: round(row[key], 9) if key == "accuracy" and row[key] is not None else row[key] for key in keys}
        numbers = [row[key] for key in ("sec", "throughput", "peak_mem_mb")]
        line["measured"] = [type(each).__name__ for each in numbers] + [type(row["sec_spread"]).__name__]
        if token_mb and row["peak_mem_mb"] is not None:
            print(f"{row['name']}, {row['max_length']}: peak_mem_mb = {row['peak_mem_mb']:.1f}")
            nearest = 64 * round(row["peak_mem_mb"] / 64)
            near = abs(row["peak_mem_mb"] - nearest) <= 16
            line["peak"] = nearest if near else f"past {64 * int(row['peak_mem_mb'] // 64)}"
        found.append(line)
    return found


def expected_rows(names, lengths, fails=None):
    """Accuracy: which of the five texts are cut off at the length, against labels that say so for 16."""
    rows = []
    for name in names:
        for length in lengths:
            row = {"name": name, "max_length": length, "error": None}
            row["accuracy"] = sum((n >= length) == (n > 16) for n in (2, 9, 17, 33, 65)) / 5
            row["measured"] = ["float"] * 3 + ["list"]
            if fails == (name, length):
                row |= {"accuracy": None, "error": "out of memory", "measured": ["NoneType"] * 4}
            rows.append(row)
    return rows


def expect_rows(came, expected):
    for number, (a, b) in enumerate(zip(came, expected, strict=False)):
        expect.that(a == b, f"row {number} is another one", expected=str(b), got=str(a))
    expect.that(len(came) == len(expected), f"{len(came)} rows, should be {len(expected)}")


@pytest.mark.points(2)
@pytest.mark.handout("compare")
def test_every_model_is_measured_at_every_length(submission):
    """All of the first entry's rows in the order of the lengths, which may be an iterator, then the second's."""
    names, lengths = ["small", "a", "other"], [16, 40, 4]
    came = submission.run(compared, names, lengths, {"warmup": 0, "repeats": 1}).output
    expect_rows(came, expected_rows(names, lengths))


@pytest.mark.points(2)
@pytest.mark.handout("compare")
def test_each_length_has_its_own_peak(submission):
    """A long one measured first does not raise the peak of a short one."""
    came = submission.run(compared, ["a"], [64, 32], {"warmup": 0, "repeats": 1}, batch_size=5, token_mb=2).output
    peaks = [row["peak"] for row in came]
    expect.that(peaks == [128, 64], "the peaks are other ones", expected="[128, 64]", got=str(peaks))


@pytest.mark.points(1)
@pytest.mark.handout("memory-runs-out")
def test_where_memory_runs_out_a_row_says_so(submission):
    """A GPU's error, the CPU allocator's, Python's: the row of that length has no numbers, all others have theirs."""
    names, lengths = ["a", "b"], [16, 64, 32]
    for kind in ("cuda", "allocator", "python"):
        fails = {"name": "a", "length": 64, "kind": kind}
        came = submission.run(compared, names, lengths, {"warmup": 0, "repeats": 1}, fails=fails).output
        expect_rows(came, expected_rows(names, lengths, ("a", 64)))


@pytest.mark.points(1)
@pytest.mark.handout("memory-runs-out")
def test_another_error_is_an_error(submission):
    """A RuntimeError that has nothing to do with memory is not hidden in a row."""
    fails = {"name": "b", "length": 64, "kind": "shapes"}
    got = submission.run(compared, ["a", "b"], [16, 64], {"warmup": 0, "repeats": 1}, fails=fails)
    expect(got).raises(RuntimeError, mentioning=["shapes do not match"])


@pytest.mark.points(1)
@pytest.mark.handout("compare")
@pytest.mark.parametrize("changed", ["batch_size", "dtype", "dataset"])
def test_unlike_entries_are_not_compared(submission, changed):
    """Another batch size, dtype or data set is a ValueError that names it and the two entries, before any call."""
    for what in ("text", "label") if changed == "dataset" else (changed,):
        got = submission.run(compared, ["ada", "bob", "cem"], [16], {}, changed=what)
        expect(got).raises(ValueError, mentioning=[changed, "cem", "called 0 times"])


@pytest.mark.points(1)
@pytest.mark.handout("compare")
def test_two_entries_of_one_name_are_refused(submission):
    """Nobody could tell their rows apart."""
    expect(submission.run(compared, ["ada", "bob", "ada"], [16], {})).raises(ValueError, mentioning=["ada"])


@pytest.mark.points(1)
@pytest.mark.handout("compare")
def test_a_length_that_is_too_long_is_refused_at_once(submission):
    """Not after minutes of measuring at those that are not."""
    got = submission.run(compared, ["a", "b"], [16, 24, 4096], {}, most=1024)
    expect(got).raises(ValueError, mentioning=["max_length", "4096", "called 0 times"])


# --- where lines cross --------------------------------------------------------------------------------------------


def rows_of(column, **lines):
    """Rows of `compare` with these values, and rows out of memory where there is None."""
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
    came = submission.call("crossing", rows, "bert", "mamba", column).output
    good = came is None if expected is None else isinstance(came, float) and math.isclose(came, expected, rel_tol=1e-6)
    expect.that(good, "the lines meet elsewhere", expected=str(expected), got=repr(came))


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_lines_cross_between_two_lengths(submission, draw):
    """Power laws with noise: the logarithmic lines meet where straight pieces do."""
    for column in ("throughput", "sec", "peak_mem_mb"):
        noise = [math.exp(each) for each in draw.normal(8, scale=0.1).tolist()]
        lengths = [128, 256, 512, 1024]
        first = {length: 2e-6 * length**2 * each for length, each in zip(lengths, noise[:4], strict=True)}
        second = {length: 8e-4 * length * each for length, each in zip(lengths, noise[4:], strict=True)}
        expect_crossing(submission, column, first, second)


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_lines_need_not_cross(submission):
    """None where one is above the other at all lengths, however close they come."""
    expect_crossing(submission, "sec", {128: 4.0, 256: 5.0, 512: 6.0}, {128: 1.0, 256: 2.0, 512: 5.9})


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_the_first_crossing_counts(submission):
    """Lines that meet at a measured length, or thrice."""
    expect_crossing(submission, "sec", {128: 1.0, 256: 2.0, 512: 4.0}, {128: 2.0, 256: 2.0, 512: 3.0})
    line = {100: 2.0, 200: 3.0, 400: 6.0, 800: 7.0}
    expect_crossing(submission, "sec", {100: 1.0, 200: 4.0, 400: 5.0, 800: 9.0}, line)
    expect_crossing(submission, "sec", {100: 1.0, 200: 4.0, 400: 6.0, 800: 9.0}, line)
    expect_crossing(submission, "sec", {100: 1.0, 200: 2.0, 400: 4.0, 800: 7.0}, line)


@pytest.mark.points(1)
@pytest.mark.handout("crossing")
def test_rows_may_be_out_of_order_or_missing(submission):
    """Lengths in any order, measured for one model only, or without a value: the line goes on to the next."""
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
    expect(submission.call("crossing", rows, "bert", "mambo", "sec")).raises(ValueError, mentioning=["mambo"])


# --- reporting ----------------------------------------------------------------------------------------------------


@pytest.mark.points(2)
@pytest.mark.handout("report")
def test_the_table_has_a_line_for_each_row(submission):
    """A Markdown table: names, lengths, accuracy in percent, numbers, and where memory ran out."""
    rows = rows_of("throughput", bert={128: 41.25, 8192: None}, mamba={128: 30.5, 8192: 1.5})
    rows[0] |= {"accuracy": 0.875, "sec": 0.32, "sec_spread": [0.31, 0.47], "peak_mem_mb": 77.0}
    text = submission.call("table", rows).output
    expect.that(isinstance(text, str), f"the table is a {type(text).__name__}, should be a str")
    lines = text.strip().splitlines()
    good = len(lines) == 6 and all(line.startswith("|") and line.endswith("|") for line in lines)
    expect.that(good, "six lines are expected, each from | to |", got=text)
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    expect.that(set(lines[1]) <= set("|-: "), "the second line must only rule off the heading", got=lines[1])
    expect.that(len({len(row) for row in cells}) == 1, "the lines have different numbers of columns", got=text)
    for row, line in zip(rows, cells[2:], strict=True):
        good = line[:2] == [row["name"], str(row["max_length"])]
        expect.that(good, f"the line of {row['name']} at {row['max_length']} begins with {line[:2]}")
    missing = [part for part, cell in zip(("87.5", "41", "0.32", "77"), cells[2][2:], strict=False) if part not in cell]
    expect.that(not missing, f"not to be found in their columns: {', '.join(missing)}", got=lines[2])
    spread = [part for part in ("0.31", "0.47") if part not in cells[2][4]]
    expect.that(not spread, f"the spread is not shown: {', '.join(spread)}", got=lines[2])
    expect.that("out of memory" in lines[3] and "None" not in lines[3], "a row without numbers", got=lines[3])


def recorded(module, rows):
    """The file that `write_record` leaves, and whether it is strict JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.json")
        path.write_text("x" * 100_000)
        module.write_record(rows, str(path))
        record = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
        files = [each.name for each in Path(folder).iterdir()]
    environment = record["environment"]
    return {
        "files": files,
        "rows": record["rows"],
        "versions": [environment["python"] == sys.version.split()[0], environment["torch"] == torch.__version__],
        "threads": environment["threads"] == torch.get_num_threads(),
        "others": sorted({"platform", "transformers"} & environment.keys()),
    }


@pytest.mark.points(1)
@pytest.mark.handout("report")
def test_the_record_holds_rows_and_environment(submission):
    """Strict JSON in one file: each number as exact as it was, and what it was measured with."""
    rows = rows_of("throughput", 버트={128: 41.12345678901234, 8192: None}, mamba={128: 30.5})
    came = submission.run(recorded, rows).output
    expect.that(came["rows"] == rows, "the rows are other ones", expected=str(rows[0]), got=str(came["rows"][:1]))
    expected = {"files": ["record.json"], "versions": [True, True], "threads": True}
    expected |= {"others": ["platform", "transformers"]}
    found = {key: came[key] for key in expected}
    expect.that(found == expected, "the record is another one", expected=str(expected), got=str(found))


def plotted(module, rows):
    """What `plot` leaves behind. It finds another file of that name, and the current folder is a temporary one."""
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
    """An SVG file, that one only, with all names and the lengths at which throughput and memory cross."""
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
    """Whether a PNG file holds a picture, what can be seen in it, and what matplotlib is left with."""

    def pixels(folder, name="opal", column="sec", factor=1.0):
        values = {"accuracy": 0.5, "sec": 1.0, "sec_spread": [1.0, 1.0], "throughput": 64.0, "peak_mem_mb": 8.0}
        rows = [
            {"name": each, "max_length": length, "error": None} | values | {"throughput": 8192.0 / length}
            for each in ("ruby", name)
            for length in (128, 256, 512)
        ]
        rows[-1][column] *= factor
        rows.append({"name": "ruby", "max_length": 1024, "error": "out of memory"} | dict.fromkeys(values))
        path = Path(folder, "picture.png")
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
        others = {"names": pixels(folder, name="jade")}
        others |= {each: pixels(folder, column=each, factor=0.5) for each in ("accuracy", "throughput", "peak_mem_mb")}
        changed = [name for name, value in matplotlib.rcParams.copy().items() if value != settings[name]]
    return {
        "to be seen": [
            name for name, each in others.items() if each.shape != picture.shape or bool((each != picture).any())
        ],
        "settings changed": [name for name in changed if name != "backend"],
        "figures left open": len(figures()),
    }


@pytest.mark.points(1)
@pytest.mark.handout("report")
def test_the_figure_shows_all_that_was_measured(submission):
    """A PNG file in which names, accuracy, throughput and memory are to be seen; matplotlib is left as it was."""
    expect(submission.run(drawn)).equal_to(
        {
            "to be seen": ["names", "accuracy", "throughput", "peak_mem_mb"],
            "settings changed": [],
            "figures left open": 0,
        }
    )
