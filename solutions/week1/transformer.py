"""The Transformer: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), sections 3 and 5.4.

Sizes in the shapes below: B batch, S source length, T target length, E = d_model, H = nhead, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .self_attention import MultiheadAttention


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """The position encodings of section 3.5, which a model adds to its token embeddings.

    PE[p, 2i] = sin(p / 10000^(2i / d_model)) and PE[p, 2i + 1] = cos(p / 10000^(2i / d_model))

    Args:
        length: number of positions, counted from 0. It may be 0.
        d_model: width of an encoding. If it is odd, the last column is a sine without its cosine.

    Returns:
        (length, d_model), float32.
    """
    positions = torch.arange(length, dtype=torch.float64)[:, None]  # (length, 1)
    wavelengths = 10000 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)  # (⌈d_model / 2⌉,), over 2π
    angles = positions / wavelengths  # (length, ⌈d_model / 2⌉)
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (length, ⌈d_model / 2⌉, 2)
    return pairs.flatten(1)[:, :d_model].float()


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each with a residual connection and LayerNorm: section 3.1.

    Interchangeable with `torch.nn.TransformerEncoderLayer`: the same state dict, the same results. Only the default of
    batch_first differs.

    State dict: self_attn.*, that of `torch.nn.MultiheadAttention`; linear1 and linear2, the two `nn.Linear` of the
    feed-forward network (E to dim_feedforward and back); norm1 and norm2, the `nn.LayerNorm` of the two sublayers.

    In training mode, dropout applies independently to each number of: the attention weights, the activations between
    linear1 and linear2, and the output of each sublayer before it is added to the sublayer's input (section 5.4). There
    is no dropout in eval mode.

    Args:
        d_model: E, the width of input and output.
        nhead: H, the number of attention heads.
        dim_feedforward: width between the two linear layers of the feed-forward network.
        dropout: probability of dropping a number.
        activation: "relu", "gelu" (the exact one, with the error function) or a function from a tensor to a tensor.
        layer_norm_eps: ε of the norms.
        batch_first: sequences are (B, S, E) if True, (S, B, E) if False.
        norm_first: False is the paper's LayerNorm(x + Sublayer(x)). True is x + Sublayer(LayerNorm(x)), the pre-norm
            of Xiong et al. 2020 (arXiv:2002.04745).
        bias: False leaves out every bias, including those of the norms.

    Raises:
        ValueError: activation is any other string; the message names it.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.activation = _activation(activation)
        self.norm_first = norm_first

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Let the positions of src attend to each other, then transform each one separately.

        The layer adds no mask of its own. In boolean masks True = may not be attended; floating-point masks, of src's
        dtype, are added to the scaled scores. If both masks are given, they are of the same kind.

        Args:
            src: (B, S, E), or (S, B, E) without batch_first.
            src_mask: (S, S), query by key, the same for all; or (B·H, S, S), with head h of sequence b at b·H + h.
            src_key_padding_mask: (B, S), hides positions of src as keys.

        Returns:
            A new tensor of src's shape and dtype. The output is unspecified at padded positions, and at positions that
            may attend to nothing.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout(_attend(self.self_attn, x, x, src_mask, src_key_padding_mask))

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + _feed_forward(self, self.norm2(x))
        x = self.norm1(src + attend(src))
        return self.norm2(x + _feed_forward(self, x))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, then a feed-forward network: section 3.1.

    Interchangeable with `torch.nn.TransformerDecoderLayer`: the same state dict, the same results. Only the default of
    batch_first differs. Arguments, dropout and errors are those of `EncoderLayer`.

    State dict: that of `EncoderLayer`, plus multihead_attn.*, the attention to memory, and norm3. The norms are
    numbered in the order of the sublayers: norm1 belongs to self-attention, norm2 to multihead_attn, norm3 to the
    feed-forward network.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)
        self.norm1 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm3 = nn.LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.activation = _activation(activation)
        self.norm_first = norm_first

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Let the positions of tgt attend to each other, then to memory, then transform each one separately.

        The layer adds no mask of its own, not even a causal one. Masks have the same meaning as in `EncoderLayer`.

        Args:
            tgt: (B, T, E), or (T, B, E) without batch_first.
            memory: (B, S, E) or (S, B, E), the encoder's output. This layer's norms do not apply to it.
            tgt_mask: (T, T) or (B·H, T, T), for tgt's attention to itself.
            memory_mask: (T, S) or (B·H, T, S), for its attention to memory.
            tgt_key_padding_mask: (B, T), hides positions of tgt.
            memory_key_padding_mask: (B, S), hides positions of memory.

        Returns:
            A new tensor of tgt's shape and dtype, unspecified at the same positions as in `EncoderLayer`.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout(_attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask))

        def attend_to_memory(x: Tensor) -> Tensor:
            return self.dropout(_attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask))

        if self.norm_first:
            x = tgt + attend(self.norm1(tgt))
            x = x + attend_to_memory(self.norm2(x))
            return x + _feed_forward(self, self.norm3(x))
        x = self.norm1(tgt + attend(tgt))
        x = self.norm2(x + attend_to_memory(x))
        return self.norm3(x + _feed_forward(self, x))


class Seq2Seq(nn.Module):
    """The whole model of figure 1: embeddings with positions, encoder, decoder, and logits over the target vocabulary.

    The inner widths, dropout, the scaling and tying of embeddings, the place of the norms and a final norm are up to
    you. Required: source and target carry positions, encoder and decoder have num_layers layers each, everything
    learned is in the state dict, and a gradient of the logits reaches every parameter.

    Args:
        src_vocab: size of the source vocabulary.
        tgt_vocab: size of the target vocabulary.
        d_model: E, the width between the layers, a multiple of nhead.
        nhead: H, the number of attention heads.
        num_layers: number of layers in the encoder, and in the decoder.
    """

    def __init__(self, src_vocab: int, tgt_vocab: int, d_model: int, nhead: int, num_layers: int) -> None:
        super().__init__()
        self.src_embedding = nn.Embedding(src_vocab, d_model)
        self.tgt_embedding = nn.Embedding(tgt_vocab, d_model)
        self.encoder = nn.ModuleList(EncoderLayer(d_model, nhead, 4 * d_model) for _ in range(num_layers))
        self.decoder = nn.ModuleList(DecoderLayer(d_model, nhead, 4 * d_model) for _ in range(num_layers))
        self.to_logits = nn.Linear(d_model, tgt_vocab)
        self.dropout = nn.Dropout(0.1)
        for embedding in (self.src_embedding, self.tgt_embedding):
            nn.init.normal_(embedding.weight, std=d_model**-0.5)  # after · √E about as large as positions

    def forward(self, src: Tensor, tgt: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """Logits for the target token after each target token.

        The model applies the causal mask on tgt itself: the logits at t depend on tgt[:, : t + 1] and on all of src.

        Args:
            src: (B, S), int64.
            tgt: (B, T), int64, T ≥ 1.
            src_key_padding_mask: (B, S), bool, True = padding, at the end of a row. The tokens there make no
                difference: a padded row yields the same logits as the row alone, without padding and mask.

        Returns:
            (B, T, V) with V = tgt_vocab, in the dtype of the parameters.
        """
        return self.decode(tgt, self.encode(src, src_key_padding_mask), src_key_padding_mask)

    def encode(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """The encoder's output, (B, S, E). This and `decode` are not graded separately: the split is up to you."""
        x = self._embed(src, self.src_embedding)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=src_key_padding_mask)
        return x

    def decode(self, tgt: Tensor, memory: Tensor, memory_key_padding_mask: Tensor | None = None) -> Tensor:
        """The logits, (B, T, V), given the encoder's output, which `greedy_decode` computes only once."""
        length = tgt.size(1)
        later = torch.ones(length, length, dtype=torch.bool, device=tgt.device).triu(1)  # (T, T), True = hidden
        x = self._embed(tgt, self.tgt_embedding)
        for layer in self.decoder:
            x = layer(x, memory, tgt_mask=later, memory_key_padding_mask=memory_key_padding_mask)
        return self.to_logits(x)

    def _embed(self, ids: Tensor, embedding: nn.Embedding) -> Tensor:
        """(B, S) -> (B, S, E)."""
        x = embedding(ids) * math.sqrt(embedding.embedding_dim)
        return self.dropout(x + sinusoidal_positions(ids.size(1), embedding.embedding_dim).to(x))


def greedy_decode(
    model: Seq2Seq,
    src: Tensor,
    bos: int,
    eos: int,
    max_new_tokens: int,
    src_key_padding_mask: Tensor | None = None,
) -> Tensor:
    """Translate token by token, taking the most likely one each time, until every row has ended.

    Args:
        model: a `Seq2Seq` in eval mode.
        src: (B, S), int64.
        bos: the id with which every target begins.
        eos: the id that ends a row once the model chooses it. It may equal bos.
        max_new_tokens: the maximum number of tokens to add to bos. It may be 0.
        src_key_padding_mask: (B, S), bool, True = padding.

    Returns:
        (B, 1 + N), int64: bos, then the new ids, of which the row's own eos is the last, then eos up to the length of
        the longest row. N ≤ max_new_tokens is the number of new ids in the longest row. No graph is kept for backward,
        anywhere in the model.
    """
    with torch.no_grad():
        memory = model.encode(src, src_key_padding_mask)  # (B, S, E)
        ids = torch.full((src.size(0), 1), bos, device=src.device)  # (B, 1 + new tokens so far)
        ended = torch.zeros(src.size(0), dtype=torch.bool, device=src.device)  # (B,)
        for _ in range(max_new_tokens):
            if ended.all():
                break
            logits = model.decode(ids, memory, src_key_padding_mask)[:, -1]  # (B, V)
            new = logits.argmax(dim=-1).masked_fill(ended, eos)  # (B,)
            ids = torch.cat([ids, new[:, None]], dim=1)
            ended = ended | (new == eos)
    return ids


def _attend(
    attention: MultiheadAttention, query: Tensor, memory: Tensor, mask: Tensor | None, padding: Tensor | None
) -> Tensor:
    """Attention with queries from `query`, and keys and values from `memory`, which may be the same sequence."""
    output, _ = attention(query, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask)
    return output


def _feed_forward(layer: EncoderLayer | DecoderLayer, x: Tensor) -> Tensor:
    """FFN(x) = max(0, x W₁ + b₁) W₂ + b₂, equation 2, with its two dropouts."""
    hidden = layer.dropout(layer.activation(layer.linear1(x)))
    return layer.dropout(layer.linear2(hidden))


def _activation(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise ValueError(f'activation must be "relu", "gelu" or a function, not {activation!r}')
    return F.relu if activation == "relu" else F.gelu
