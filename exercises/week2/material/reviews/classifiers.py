"""The two classifiers of this folder, with equally many parameters: a BERT with rotary positions, and a Mamba."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    MambaConfig,
    MambaModel,
    MambaPreTrainedModel,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

HERE = Path(__file__).parent
NAMES = ("bert", "mamba")
LABELS = ("negative", "positive")


class MambaForSequenceClassification(MambaPreTrainedModel):
    """Mamba, the mean of its output over the tokens of the text, and a linear layer. transformers has no such class.

    The state dict is that of `MambaModel`, with `backbone.` before each name, plus `classifier.weight` and `.bias`.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        self.backbone = MambaModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """input_ids (B, L) and attention_mask (B, L), 1 for text and 0 for padding -> logits (B, C)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.backbone(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state  # (B, L, D)
        weights = attention_mask[..., None].to(hidden.dtype)
        logits = self.classifier((hidden * weights).sum(1) / weights.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def new(name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained classifier, "bert" or "mamba", for this tokenizer."""
    common = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "num_hidden_layers": 2, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id,
        "id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)},
    }  # fmt: skip
    if name == "mamba":
        return MambaForSequenceClassification(MambaConfig(state_size=8, initializer_range=0.02, **common))
    return ModernBertForSequenceClassification(
        ModernBertConfig(
            intermediate_size=48, num_attention_heads=4, global_attn_every_n_layers=1, classifier_pooling="cls",
            cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, **common,
        )
    )  # fmt: skip


def load(name: str, folder: Path = HERE, **options: object) -> PreTrainedModel:
    """The trained classifier "bert" or "mamba", in eval mode. Options are those of `from_pretrained`."""
    kind = MambaForSequenceClassification if name == "mamba" else ModernBertForSequenceClassification
    return kind.from_pretrained(folder / name, **options)


def load_tokenizer(folder: Path = HERE) -> PreTrainedTokenizerFast:
    """The tokenizer that both share."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
