"""Reference for week2/pipelines: classifies each text alone, without batches, padding or masks."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "exercises" / "week2" / "material" / "sentiment"


def config() -> dict[str, Any]:
    """The configuration of the classifier that the course ships."""
    return json.loads((FOLDER / "config.json").read_text("utf-8"))


def state() -> dict[str, Tensor]:
    """Its weights."""
    from safetensors.torch import load_file

    return load_file(FOLDER / "model.safetensors")


def sentences() -> list[tuple[str, str]]:
    """(label, text) of all sentences, those for training and those held out."""
    lines = (FOLDER / "sentences.tsv").read_text("utf-8").splitlines()[1:]
    return [(label, text) for label, _, text in (line.partition("\t") for line in lines)]


def classify(
    config: dict[str, Any], state: dict[str, Tensor], texts: Sequence[str], tokenizer: dict[str, Any]
) -> tuple[list[str], Tensor]:
    """The label of each text and the scores (len(texts),).

    Args:
        config: a transformers model's configuration, including `model_type`.
        state: its weights, whose dtype is that of the computation.
        texts: at least one.
        tokenizer: settings that differ from the folder's: model_max_length, truncation_side.
    """
    with torch.no_grad():
        logits = torch.cat([_logits(config, state, ids) for ids in encode(texts, **tokenizer)])
    problem, classes = config.get("problem_type"), logits.size(-1)
    if problem == "regression":
        scores = logits
    elif problem == "multi_label_classification" or classes == 1:
        scores = 1 / (1 + torch.exp(-logits))
    else:
        scores = torch.exp(logits - torch.logsumexp(logits, -1, keepdim=True))
    names = {int(index): name for index, name in config["id2label"].items()}
    return [names[index] for index in logits.argmax(-1).tolist()], scores.amax(-1)


classify.dims = (("label",), ("text",))  # type: ignore[attr-defined]


def encode(texts: Sequence[str], model_max_length: int = 64, truncation_side: str = "right", **_: Any) -> list[Tensor]:
    """The token ids of each text, (1, L)."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model_max_length, direction=truncation_side)
    return [torch.tensor([tokenizer.encode(text).ids]) for text in texts]


def _logits(config: dict[str, Any], state: dict[str, Tensor], ids: Tensor) -> Tensor:
    device = next(iter(state.values())).device
    return torch.func.functional_call(_model(json.dumps(config)), state, (ids.to(device),)).logits


@functools.lru_cache(4)
def _model(config: str) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    settings = AutoConfig.for_model(**json.loads(config))
    return AutoModelForSequenceClassification.from_config(settings, attn_implementation="eager").eval()
