"""The Transformer: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), sections 3 and 5.4.

Sizes in the shapes below: B batch, S source length, T target length, E = d_model, H = nhead, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .self_attention import MultiheadAttention


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """The position encodings of section 3.5, which a model adds to its embeddings.

    PE[p, 2i] = sin(p / 10000^(2i / d_model)) and PE[p, 2i + 1] = cos(p / 10000^(2i / d_model))

    Args:
        length: number of positions, 0 … length - 1. It may be 0.
        d_model: width of an encoding. Where it is odd, the last column is a sine without its cosine.

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

    In training mode dropout hits, each number on its own: the attention weights, the activations between linear1 and
    linear2, and the output of each sublayer before it is added to the sublayer's input (section 5.4). In eval mode
    there is none.

    Args:
        d_model: E, the width of input and output.
        nhead: H, the number of attention heads.
        dim_feedforward: width between the two linear layers of the feed-forward network.
        dropout: probability with which a number is dropped.
        activation: "relu", "gelu" (the exact one, with the error function) or a function from a tensor to a tensor.
        layer_norm_eps: ε of the norms.
        batch_first: sequences are (B, S, E) if True, (S, B, E) if False.
        norm_first: False is the paper's LayerNorm(x + Sublayer(x)). True is x + Sublayer(LayerNorm(x)), the pre-norm
            of Xiong et al. 2020 (arXiv:2002.04745).
        bias: False leaves out every bias, those of the norms included.

    Raises:
        ValueError: activation is another string; the message names it.
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
        """Let the positions of src attend to each other, then transform each by itself.

        The layer adds no mask of its own. In boolean masks True = may not be attended; floating-point masks, of src's
        dtype, are added to the scaled scores. Where both masks are given they are of the same kind.

        Args:
            src: (B, S, E), (S, B, E) without batch_first.
            src_mask: (S, S), query by key, the same for all; or (B·H, S, S), head h of sequence b at b·H + h.
            src_key_padding_mask: (B, S), hides positions of src as keys.

        Returns:
            Of src's shape and dtype: a new tensor. What stands at padded positions is left open, and so is what a
            position gets that may attend to none.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout(_attend(self.self_attn, x, x, src_mask, src_key_padding_mask))

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + _feed_forward(self, self.norm2(x))
        x = self.norm1(src + attend(src))
        return self.norm2(x + _feed_forward(self, x))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, and a feed-forward network: section 3.1.

    Interchangeable with `torch.nn.TransformerDecoderLayer`: the same state dict, the same results. Only the default of
    batch_first differs. Arguments, dropout and errors are those of `EncoderLayer`.

    State dict: that of `EncoderLayer`, and multihead_attn.*, the attention to memory, and norm3. The norms are counted
    in the order of the sublayers: norm1 is self-attention's, norm2 multihead_attn's, norm3 the feed-forward network's.
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
        """Let the positions of tgt attend to each other, then to memory, then transform each by itself.

        The layer adds no mask of its own, no causal one either. Masks mean what they mean in `EncoderLayer`.

        Args:
            tgt: (B, T, E), (T, B, E) without batch_first.
            memory: (B, S, E) or (S, B, E), the encoder's output. It goes through none of this layer's norms.
            tgt_mask: (T, T) or (B·H, T, T), for tgt's attention to itself.
            memory_mask: (T, S) or (B·H, T, S), for its attention to memory.
            tgt_key_padding_mask: (B, T), hides positions of tgt.
            memory_key_padding_mask: (B, S), hides positions of memory.

        Returns:
            Of tgt's shape and dtype: a new tensor, with the same positions left open as in `EncoderLayer`.
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
    """The whole model of figure 1: embeddings with positions, encoder, decoder, and logits over the target's tokens.

    The widths inside, dropout, the scaling and tying of embeddings, the place of the norms and a final norm are yours
    to choose. What must be so: source and target carry positions, encoder and decoder have num_layers layers each,
    everything learned is in the state dict, and a gradient of the logits reaches every parameter.

    Args:
        src_vocab: number of source tokens.
        tgt_vocab: number of target tokens.
        d_model: E, the width between the layers, a multiple of nhead.
        nhead: H, the number of attention heads.
        num_layers: layers of the encoder, and of the decoder.
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
            nn.init.normal_(embedding.weight, std=d_model**-0.5)  # times √E (section 3.4) as large as the positions

    def forward(self, src: Tensor, tgt: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """Logits of the next target token after each target token.

        The causal mask on tgt is the model's own: the logits at t depend on tgt[:, : t + 1] and on all of src.

        Args:
            src: (B, S), int64.
            tgt: (B, T), int64, T ≥ 1.
            src_key_padding_mask: (B, S), bool, True = padding, at the end of a row. Which tokens stand there makes no
                difference: a padded row gives what the row alone gives, without padding and mask.

        Returns:
            (B, T, V) with V = tgt_vocab, in the dtype of the parameters.
        """
        return self.decode(tgt, self.encode(src, src_key_padding_mask), src_key_padding_mask)

    def encode(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """The encoder's output, (B, S, E). This and `decode` are not graded by themselves: the cut is yours."""
        x = self._embed(src, self.src_embedding)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=src_key_padding_mask)
        return x

    def decode(self, tgt: Tensor, memory: Tensor, memory_key_padding_mask: Tensor | None = None) -> Tensor:
        """The logits, (B, T, V), given the encoder's output: `greedy_decode` needs that only once."""
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
        bos: the id that every target begins with.
        eos: the id that ends a row once the model has chosen it. It may be the same id as bos.
        max_new_tokens: the most tokens to add to bos. It may be 0.
        src_key_padding_mask: (B, S), bool, True = padding.

    Returns:
        (B, 1 + N), int64: bos, the new ids, with the row's own eos the last of them, and after it eos up to the length
        of the longest row. N ≤ max_new_tokens is the number of new ids of the longest row. No graph is kept for
        backward, anywhere in the model.
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
    """Queries from the one sequence, keys and values from the other, or from the same."""
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
