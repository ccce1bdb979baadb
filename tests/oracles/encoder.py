"""Reference for encoders in `transformers`: BERT as plain formulas, in the dtype of its arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.oracles.attention import attention, dims


@dims("sentence", "channel")
def sentence_embeddings(
    state: Mapping[str, Tensor], words: Tensor, attention_mask: Tensor, *, num_heads: int, eps: float
) -> Tensor:
    """all-MiniLM-L6-v2's: each sentence's mean last hidden state, scaled to length 1. (B, L, E) -> (B, E)."""
    hidden, present = bert(state, words, attention_mask, num_heads=num_heads, eps=eps), attention_mask[..., None]
    mean = (hidden * present).sum(1) / present.sum(1)
    return mean / mean.square().sum(-1, keepdim=True).sqrt()


@dims("sentence", "position", "channel")
def bert(state: Mapping[str, Tensor], words: Tensor, attention_mask: Tensor, *, num_heads: int, eps: float) -> Tensor:
    """The last hidden states of `BertModel` for one segment; padding rows contain arbitrary numbers.

    state: its state dict. words: the words' embeddings, already looked up, (B, L, E). attention_mask: (B, L).
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    visible = (attention_mask != 0)[:, None, None]
    places = state["embeddings.position_embeddings.weight"][: words.size(1)]
    x = norm("embeddings.LayerNorm", words + places + state["embeddings.token_type_embeddings.weight"][0])
    number = 0
    while (layer := f"encoder.layer.{number}") + ".output.dense.weight" in state:
        q, k, v = (heads(linear(f"{layer}.attention.self.{part}", x)) for part in ("query", "key", "value"))
        seen = attention(q, k, v, visible).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", seen))
        inner = linear(f"{layer}.intermediate.dense", x)
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
        number += 1
    return x
