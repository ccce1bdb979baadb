"""The Transformer: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), sections 3 and 5.4.

Sizes in the shapes below: B batch, S source length, T target length, E = d_model, H = nhead, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

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
    raise NotImplementedError


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
        raise NotImplementedError

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
        raise NotImplementedError


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
        raise NotImplementedError


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
        raise NotImplementedError

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
        raise NotImplementedError

    def encode(self, src: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        """The encoder's output, (B, S, E). This and `decode` are not graded by themselves: the cut is yours."""
        raise NotImplementedError

    def decode(self, tgt: Tensor, memory: Tensor, memory_key_padding_mask: Tensor | None = None) -> Tensor:
        """The logits, (B, T, V), given the encoder's output: `greedy_decode` needs that only once."""
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
        bos: the id that every target begins with.
        eos: the id that ends a row once the model has chosen it. It may be the same id as bos.
        max_new_tokens: the most tokens to add to bos. It may be 0.
        src_key_padding_mask: (B, S), bool, True = padding.

    Returns:
        (B, 1 + N), int64: bos, the new ids, with the row's own eos the last of them, and after it eos up to the length
        of the longest row. N ≤ max_new_tokens is the number of new ids of the longest row. No graph is kept for
        backward, anywhere in the model.
    """
    raise NotImplementedError
