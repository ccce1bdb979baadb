"""The oracle of week2/pipelines and the course's classifier agree with transformers."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from tests.oracles import pipelines as oracle

TEXTS = ["Good", "좋아요", "", " ", "👎", "[PAD] [SEP] good", "지루해요 " * 200, "x" * 9000, "A wonderful film. " * 9]


def held_out():
    """The sentences that the classifier was not trained on: (English, Korean)."""
    rows = [row for number, row in enumerate(oracle.sentences()) if number // 4 % 5 == 4]
    return [[row for number, row in enumerate(rows) if number % 4 in part] for part in ((0, 1), (2, 3))]


def share_of_right_answers(folder, rows):
    answers = pipeline("sentiment-analysis", str(folder))([text for _, text in rows])
    return sum(answer["label"] == label for answer, (label, _) in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression"},
        {"id2label": {0: "spam"}},
        {"id2label": {0: "spam"}, "problem_type": "regression"},
    ],
    ids=["softmax", "multi-label", "regression", "one-class", "one-number"],
)
@pytest.mark.parametrize("tokenizer", [{}, {"model_max_length": 7, "truncation_side": "left"}], ids=["as-is", "cut"])
def test_one_by_one_it_is_the_pipeline_of_transformers(changes, tokenizer):
    config, state = oracle.config() | changes, oracle.state()
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][: len(config["id2label"])]
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config)).eval()
    model.load_state_dict(state)
    theirs = pipeline(
        "sentiment-analysis",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(str(oracle.FOLDER), **tokenizer),
        truncation=True,
    )(TEXTS)
    labels, scores = oracle.classify(config, state, TEXTS, tokenizer)
    assert labels == [answer["label"] for answer in theirs]
    assert torch.allclose(scores, torch.tensor([answer["score"] for answer in theirs]), rtol=1e-5)


def test_the_classifier_knows_more_than_chance():
    for rows in held_out():
        assert share_of_right_answers(oracle.FOLDER, rows) >= 0.75


def test_it_can_be_made_again(tmp_path, capsys):
    """Training the tokenizer breaks ties at random, so each run makes another classifier: hence the lower bar."""
    spec = importlib.util.spec_from_file_location("train", oracle.FOLDER / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    train.main(tmp_path)
    assert "held out" in capsys.readouterr().out
    made, shipped = (AutoTokenizer.from_pretrained(str(folder)) for folder in (tmp_path, oracle.FOLDER))
    assert len(made) == len(shipped) == oracle.config()["vocab_size"]
    assert made.model_max_length == shipped.model_max_length == 64
    english, korean = held_out()
    assert share_of_right_answers(tmp_path, english + korean) >= 0.65


def test_it_is_small():
    assert (oracle.FOLDER / "model.safetensors").stat().st_size < 250_000
