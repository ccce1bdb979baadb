"""The Transformer: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), sections 3 and 5.4.

Sizes in the shapes below: B batch, S source length, T target length, E = d_model, H = nhead, V vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

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
    raise NotImplementedError


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
        raise NotImplementedError

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
        raise NotImplementedError


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
        raise NotImplementedError

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
        raise NotImplementedError


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
        raise NotImplementedError

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
        raise NotImplementedError

    def encode(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """The encoder's output, (B, S, E). This and `decode` are not graded separately: the split is up to you."""
        raise NotImplementedError

    def decode(self, tgt: Tensor, memory: Tensor, memory_key_padding_mask: Tensor | None = None) -> Tensor:
        """The logits, (B, T, V), given the encoder's output, which `greedy_decode` computes only once."""
        raise NotImplementedError


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
    raise NotImplementedError
