"""The course's own data and models, for machines with a network: IMDB, NSMC, and checkpoints of the Hugging Face hub.

Needs `datasets`, which the course does not install. With `files`, local files of the same form are read instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MambaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from .classifiers import MambaForSequenceClassification

NSMC = "https://raw.githubusercontent.com/e9t/nsmc/master/ratings_test.txt"


def imdb(files: str | None = None) -> Any:
    """The test split of IMDB, 25,000 English reviews in Parquet files; 1 is positive.

    In the files all negative reviews come first. Here they are shuffled, in the same way each time.
    """
    from datasets import load_dataset

    if files is None:
        rows = load_dataset("stanfordnlp/imdb", split="test")
    else:
        rows = load_dataset("parquet", data_files=files, split="train")  # "train" is what a list of files is called
    return rows.shuffle(seed=0)


def nsmc(files: str = NSMC) -> Any:
    """The test split of NSMC, 50,000 Korean reviews in a table of id, document and label; 1 is positive.

    Empty documents are left out. `load_dataset("nsmc")` needs a script, which `datasets` 4 no longer runs.
    """
    from datasets import Features, Value, load_dataset

    features = Features({"id": Value("string"), "document": Value("string"), "label": Value("int64")})
    rows = load_dataset(
        "csv", data_files=files, split="train", delimiter="\t", quoting=3, keep_default_na=False, features=features
    )
    return rows.filter(lambda row: bool(row["document"])).rename_column("document", "text")


def checkpoint(name: str, tokenizer: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier in eval mode and its tokenizer, from the hub or a folder.

    `AutoModelForSequenceClassification` does not support Mamba. Checkpoints with Mamba's original parameter names, with
    d_model and n_layer in their configuration, are read into `MambaForSequenceClassification`, which pools as they do.

    Args:
        name: of the model, such as "textattack/bert-base-uncased-imdb" or "trinhxuankhai/mamba_text_classification".
        tokenizer: the name of one, if the model comes without. A tokenizer without a padding token pads with its
            end-of-text token.
    """
    config = json.loads(Path(cached_file(name, "config.json")).read_text("utf-8"))
    if "d_model" in config:
        model = _original_mamba(name, config)
    elif config["model_type"] == "mamba":
        model = MambaForSequenceClassification.from_pretrained(name)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(name)
    words = AutoTokenizer.from_pretrained(tokenizer or name)
    if words.pad_token is None:
        words.pad_token = words.eos_token
    if isinstance(model, MambaForSequenceClassification):
        words.model_input_names = ["input_ids", "attention_mask"]
    return model.eval(), words


def _original_mamba(name: str, config: dict[str, Any]) -> PreTrainedModel:
    state = torch.load(cached_file(name, "pytorch_model.bin"), map_location="cpu", weights_only=True)
    head = {key.rpartition(".")[2]: tensor for key, tensor in state.items() if "classif" in key}
    sizes = {ours: config["ssm_cfg"][key] for ours, key in _SIZES.items() if key in config.get("ssm_cfg", {})}
    model = MambaForSequenceClassification(
        MambaConfig(
            hidden_size=config["d_model"], num_hidden_layers=config["n_layer"], num_labels=len(head["weight"]),
            vocab_size=len(state["backbone.embedding.weight"]), **sizes,
        )
    )  # fmt: skip
    weights = {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    weights["backbone.embeddings.weight"] = weights.pop("backbone.embedding.weight")
    weights["classifier.weight"] = head["weight"]
    weights["classifier.bias"] = head.get("bias", torch.zeros(len(head["weight"])))
    model.load_state_dict(weights)
    return model


_SIZES = {"state_size": "d_state", "conv_kernel": "d_conv", "expand": "expand"}
