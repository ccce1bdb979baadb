"""The Transformer in one file: einsum attention, pre-norm with final norms, tied embeddings, one sequence at a time."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def sinusoidal_positions(length, d_model):
    column = torch.arange(d_model)
    rate = torch.exp(-math.log(10000) * (column - column % 2) / d_model)
    angle = torch.einsum("p,c->pc", torch.arange(length).float(), rate)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


class _Attention(nn.Module):
    def __init__(self, width, heads, dropout, bias):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) / math.sqrt(width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.out_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x, y, mask, padding):
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(z, w, b).unflatten(-1, (self.heads, -1))
            for z, w, b in zip((x, y, y), self.in_proj_weight.chunk(3), biases, strict=True)
        )
        scores = torch.einsum("blhd,bshd->bhls", q, k) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = self._hide(scores, mask if mask.dim() == 2 else mask.view(scores.shape))
        if padding is not None:
            scores = self._hide(scores, padding[:, None, None])
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.out_proj(torch.einsum("bhls,bshd->blhd", weights, v).flatten(2))

    @staticmethod
    def _hide(scores, mask):
        return scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask


class _Layer(nn.Module):
    def __init__(
        self, norms, d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
    ):
        super().__init__()
        if not callable(activation):
            if activation not in ("relu", "gelu"):
                raise ValueError(f"activation={activation!r} is neither relu nor gelu")
            activation = getattr(F, activation)
        self.activation, self.batch_first, self.norm_first = activation, batch_first, norm_first
        self.self_attn = _Attention(d_model, nhead, dropout, bias)
        if norms == 3:
            self.multihead_attn = _Attention(d_model, nhead, dropout, bias)
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias)
        for number in range(1, norms + 1):
            self.add_module(f"norm{number}", nn.LayerNorm(d_model, layer_norm_eps, bias=bias))
        self.drop = nn.Dropout(dropout)

    def _turn(self, *tensors):
        return [x if self.batch_first else x.transpose(0, 1) for x in tensors]

    def _run(self, x, *sublayers):
        norms = [module for name, module in self.named_children() if name.startswith("norm")]
        for norm, sublayer in zip(norms, (*sublayers, self._ffn), strict=True):
            x = x + self.drop(sublayer(norm(x))) if self.norm_first else norm(x + self.drop(sublayer(x)))
        return self._turn(x)[0]

    def _ffn(self, x):
        return self.linear2(self.drop(self.activation(self.linear1(x))))


class EncoderLayer(_Layer):
    def __init__(
        self,
        d_model,
        nhead,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        batch_first=True,
        norm_first=False,
        bias=True,
    ):
        rest = (activation, layer_norm_eps, batch_first, norm_first, bias)
        super().__init__(2, d_model, nhead, dim_feedforward, dropout, *rest)

    def forward(self, src, src_mask=None, src_key_padding_mask=None):
        (src,) = self._turn(src)
        return self._run(src, lambda x: self.self_attn(x, x, src_mask, src_key_padding_mask))


class DecoderLayer(_Layer):
    def __init__(
        self,
        d_model,
        nhead,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        batch_first=True,
        norm_first=False,
        bias=True,
    ):
        rest = (activation, layer_norm_eps, batch_first, norm_first, bias)
        super().__init__(3, d_model, nhead, dim_feedforward, dropout, *rest)

    def forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
    ):
        tgt, memory = self._turn(tgt, memory)
        return self._run(
            tgt,
            lambda x: self.self_attn(x, x, tgt_mask, tgt_key_padding_mask),
            lambda x: self.multihead_attn(x, memory, memory_mask, memory_key_padding_mask),
        )


class Seq2Seq(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, nhead, num_layers):
        super().__init__()
        self.embed = nn.Parameter(0.3 * torch.randn(src_vocab + tgt_vocab, d_model))
        self.src_vocab, self.width = src_vocab, d_model
        options = {"dim_feedforward": 2 * d_model, "dropout": 0.0, "activation": "gelu", "norm_first": True}
        self.encoder = nn.Sequential(*(EncoderLayer(d_model, nhead, **options) for _ in range(num_layers)))
        self.decoder = nn.ModuleList([DecoderLayer(d_model, nhead, **options) for _ in range(num_layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])

    def forward(self, src, tgt, src_key_padding_mask=None):
        if src_key_padding_mask is None:
            src_key_padding_mask = torch.zeros_like(src, dtype=torch.bool)
        rows = []
        for source, target, padding in zip(src, tgt, src_key_padding_mask, strict=True):
            source = source[~padding]  # a row alone has no padding
            memory = self.norms[0](self.encoder(self._place(self.embed[source])[None]))
            x = self._place(self.embed[self.src_vocab + target])[None]
            earlier = torch.full((len(target), len(target)), -math.inf).triu(1)
            for layer in self.decoder:
                x = layer(x, memory, tgt_mask=earlier)
            rows.append(self.norms[1](x)[0] @ self.embed[self.src_vocab :].T)
        return torch.stack(rows)

    def _place(self, x):
        return x + sinusoidal_positions(len(x), self.width)


def greedy_decode(model, src, bos, eos, max_new_tokens, src_key_padding_mask=None):
    rows = []
    for index, source in enumerate(src):
        padding = None if src_key_padding_mask is None else src_key_padding_mask[index : index + 1]
        said = [bos]
        while len(said) <= max_new_tokens and (len(said) == 1 or said[-1] != eos):
            with torch.no_grad():
                logits = model(source[None], torch.tensor([said]), padding)
            said.append(int(logits[0, -1].argmax()))
        rows.append(said)
    longest = max(map(len, rows))
    return torch.tensor([row + [eos] * (longest - len(row)) for row in rows])
