"""The Transformer from PyTorch's own layers and nn.Transformer, with learned positions."""

import torch
from torch import nn
from torch.nn import functional as F


def sinusoidal_positions(length, d_model):
    table = torch.zeros(length, d_model)
    position = torch.arange(0, length).unsqueeze(1).float()
    div_term = 1 / torch.pow(torch.tensor(10000.0), torch.arange(0, d_model, 2).float() / d_model)
    table[:, 0::2] = torch.sin(position * div_term)
    table[:, 1::2] = torch.cos(position * div_term[: d_model // 2])
    return table


def _known(activation):
    if isinstance(activation, str) and activation not in {"relu", "gelu"}:
        raise ValueError(f"unknown activation: {activation}")
    return activation


class EncoderLayer(nn.TransformerEncoderLayer):
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
        rest = (layer_norm_eps, batch_first, norm_first, bias)
        super().__init__(d_model, nhead, dim_feedforward, dropout, _known(activation), *rest)


class DecoderLayer(nn.TransformerDecoderLayer):
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
        rest = (layer_norm_eps, batch_first, norm_first, bias)
        super().__init__(d_model, nhead, dim_feedforward, dropout, _known(activation), *rest)


class Seq2Seq(nn.Module):
    def __init__(self, src_vocab, tgt_vocab, d_model, nhead, num_layers):
        super().__init__()
        self.src, self.tgt = nn.Embedding(src_vocab, d_model), nn.Embedding(tgt_vocab, d_model)
        self.where = nn.Embedding(512, d_model)
        self.transformer = nn.Transformer(d_model, nhead, num_layers, num_layers, 100, batch_first=True)
        self.out = nn.Linear(d_model, tgt_vocab)

    def forward(self, src, tgt, src_key_padding_mask=None):
        a = self.src(src) + self.where.weight[: src.size(1)]
        b = self.tgt(tgt) + self.where.weight[: tgt.size(1)]
        causal = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        if src_key_padding_mask is not None:
            src_key_padding_mask = torch.zeros(src.shape).masked_fill(src_key_padding_mask, float("-inf"))
        padding = {"src_key_padding_mask": src_key_padding_mask, "memory_key_padding_mask": src_key_padding_mask}
        return self.out(self.transformer(a, b, tgt_mask=causal, **padding))


@torch.inference_mode()
def greedy_decode(model, src, bos, eos, max_new_tokens, src_key_padding_mask=None):
    ids = src.new_full((len(src), 1), bos)
    done = src.new_zeros(len(src), dtype=torch.bool)
    while ids.size(1) <= max_new_tokens and not done.all():
        probabilities = F.softmax(model(src, ids, src_key_padding_mask=src_key_padding_mask)[:, -1], -1)
        new = torch.where(done, eos, probabilities.topk(1).indices[:, 0])
        ids = torch.cat((ids, new.unsqueeze(1)), 1)
        done |= new.eq(eos)
    return ids.clone()
