"""The oracle of week2/evaluation, and the reviews and classifiers that come with the course."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from exercises.week2.material.reviews import classifiers, compare, data, generate, public, train
from tests.oracles import evaluation as oracle

# --- the oracle ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [3, 5, 40])
def test_predictions_are_sums_of_the_digits_that_a_tokenizer_keeps(max_length):
    vocabulary = {"[CLS]": 10, "[SEP]": 11} | {str(digit): digit for digit in range(10)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 10), ("[SEP]", 11)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(max_length)
    texts = ["3 1 4 1 5", "9", "2 7 1 8 2 8 1 8 2 8"]
    sums = [sum(token for token in tokenizer.encode(text).ids if token < 10) % 7 for text in texts]
    assert oracle.predictions(texts, 7, max_length) == sums


def test_a_crossing_is_where_interpolated_logarithms_are_equal():
    random = np.random.default_rng(0)
    lengths = [100, 150, 400, 1000]
    met = 0
    for _ in range(50):
        first, second = (dict(zip(lengths, random.lognormal(size=4), strict=True)) for _ in range(2))
        x = oracle.crossing(first, second)
        at = np.log(np.geomspace(100, 1000, 100_000) if x is None else [x])
        one, two = (np.interp(at, np.log(lengths), np.log([*line.values()])) for line in (first, second))
        if x is None:
            assert (one > two).all() or (one < two).all()
        else:
            met += 1
            assert one[0] == pytest.approx(two[0])
    assert met


def test_power_laws_cross_where_algebra_says():
    first, second = ({n: a * n**b for n in (128, 512, 2048)} for a, b in ((2e-6, 2), (8e-4, 1)))
    assert oracle.crossing(first, second) == pytest.approx(400)
    assert oracle.crossing(first, {n: 2 * cost for n, cost in first.items()}) is None
    assert oracle.crossing(first, first) == 128.0


# --- the reviews --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_generator_writes_the_files(split, tmp_path):
    generate.main(tmp_path)
    assert (tmp_path / f"{split}.tsv").read_bytes() == (data.HERE / f"{split}.tsv").read_bytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_languages_and_labels_are_balanced(split):
    reviews = data.read(split)
    pairs = list(zip(reviews["language"], reviews["label"], strict=True))
    assert {pair: pairs.count(pair) for pair in pairs} == dict.fromkeys(
        [("en", 0), ("ko", 0), ("en", 1), ("ko", 1)], len(reviews) // 4
    )


def test_no_review_and_no_verdict_of_the_test_is_known_from_training():
    seen = {split: data.read(split)["text"] for split in ("train", "test")}
    assert not set(seen["train"]) & set(seen["test"])
    adjectives = {
        word.split("|")[0] for each in generate.LANGUAGES.values() for side in each.adjectives for word in side
    }
    verdicts = {
        split: {
            sentence
            for text in texts
            for sentence in text.split(". ")
            if sum(adjective in sentence for adjective in adjectives) == 2  # a contrast: the verdict
        }
        for split, texts in seen.items()
    }
    assert len(verdicts["test"]) > 50
    assert not verdicts["train"] & verdicts["test"]


# --- the classifiers ----------------------------------------------------------------------------------------------


def test_both_have_as_many_parameters():
    sizes = [classifiers.load(name).num_parameters() for name in classifiers.NAMES]
    assert max(sizes) <= 1.01 * min(sizes)


@pytest.mark.parametrize("name", classifiers.NAMES)
def test_they_are_right_more_often_than_not(name):
    from solutions.week2.evaluation import evaluate

    reviews = data.read("test")
    short = [number for number, text in enumerate(reviews["text"]) if len(text) < 300][:48]
    model, tokenizer = classifiers.load(name), classifiers.load_tokenizer()
    found = evaluate(model, tokenizer, reviews.select(short), batch_size=16, max_length=128, warmup=0, repeats=1)
    assert found["accuracy"] > 0.85
    ids = [tokenizer(reviews["text"][number], return_tensors="pt").input_ids for number in short]
    with torch.no_grad():
        alone = [model(each).logits.argmax().item() for each in ids]
    assert found["predictions"] == alone


@pytest.mark.parametrize("name", classifiers.NAMES)
def test_training_lowers_the_loss(name, monkeypatch):
    monkeypatch.setitem(train.EPOCHS, name, 4)
    reviews = data.read("train").select(range(32))
    tokenizer = classifiers.load_tokenizer()
    tokens = dict(tokenizer(reviews["text"], padding=True, return_tensors="pt"))
    tokens["labels"] = torch.tensor(reviews["label"])
    torch.manual_seed(0)
    before = classifiers.new(name, tokenizer).eval()
    after = train.train(name, tokenizer, reviews)
    assert after(**tokens).loss < before(**tokens).loss


def test_they_are_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "limit_memory", lambda: None)  # of this process
    compare.main([str(tmp_path), "--impl", "solutions", "--texts", "3", "--longest", "256", "--device", "cpu"])
    report = (tmp_path / "evaluation-cpu.md").read_text("utf-8")
    assert capsys.readouterr().out == report + "\n"
    assert [report.count(f"| {name} | ") for name in compare.MODELS] == [3, 3, 3]  # two lengths, exponents
    assert "| BERT, eager / Mamba | " in report
    rows = json.loads((tmp_path / "evaluation-cpu.json").read_text("utf-8"))["rows"]
    assert [row["max_length"] for row in rows] == 3 * [128, 256]
    assert (tmp_path / "evaluation-cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("tree", "message"),
    [("exercises", "unfinished: evaluate, compare, .* --impl solutions"), ("answers", "there is no answers/week2")],
)
def test_a_harness_that_cannot_compare_is_refused(tree, message):
    with pytest.raises(SystemExit, match=message):
        compare.main(["--impl", tree])


def test_transformers_has_no_mamba_that_classifies():
    with pytest.raises(ValueError, match="MambaConfig"):
        AutoModelForSequenceClassification.from_pretrained(classifiers.HERE / "mamba")


# --- public data and models, from files of the same form -----------------------------------------------------------


def test_imdb_is_read(tmp_path):
    pytest.importorskip("datasets")
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "test-00000-of-00001.parquet")
    texts, labels = [f"review {number}" for number in range(40)], [0] * 20 + [1] * 20
    parquet.write_table(pyarrow.table({"text": texts, "label": labels}), path)
    rows = public.imdb(path)
    assert sorted(zip(rows["text"], rows["label"], strict=True)) == sorted(zip(texts, labels, strict=True))
    assert len(set(rows["label"][:20])) == 2


def test_nsmc_is_read(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "ratings_test.txt"
    path.write_text('id\tdocument\tlabel\n1\t굳 "ㅋ\t1\n2\t\t0\n3\tNA\t0\n', "utf-8")
    rows = public.nsmc(str(path))
    assert (list(rows["text"]), list(rows["label"])) == (['굳 "ㅋ', "NA"], [1, 0])


def test_a_checkpoint_of_transformers_is_read(tmp_path):
    tokenizer = classifiers.load_tokenizer()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found, words = public.checkpoint(str(tmp_path))
    tokens = words(["좋았다.", "a dull film"], padding=True, return_tensors="pt")
    assert torch.equal(found(**tokens).logits, model(**tokens).logits)


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_a_checkpoint_of_the_original_mamba_is_read(tmp_path, bias):
    """As fine-tuning the original language model leaves it: other names, and a head on the mean of the states."""
    torch.manual_seed(0)
    config = {"d_model": 16, "n_layer": 2, "vocab_size": 640, "ssm_cfg": {"d_state": 4}}
    model = classifiers.MambaForSequenceClassification(
        classifiers.MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=640, state_size=4)
    ).eval()
    if not bias:
        model.classifier.bias.data.zero_()
    state = model.state_dict()
    state["backbone.embedding.weight"] = state.pop("backbone.embeddings.weight")
    head = {key: state.pop(f"classifier.{key}") for key in ("weight", "bias")}
    state |= {f"classification_head.classification_head.{key}": head[key] for key in ("weight", "bias")[: 1 + bias]}
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    found, words = public.checkpoint(str(tmp_path), str(classifiers.HERE))
    tokens = words(["a dull film", "좋았다."], padding=True, return_tensors="pt")
    torch.testing.assert_close(found(**tokens).logits, model(**tokens).logits)
