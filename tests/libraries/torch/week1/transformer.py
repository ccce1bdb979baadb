"""PyTorch's own Transformer layers."""

from torch import nn


def sinusoidal_positions(length, d_model):
    raise NotImplementedError("PyTorch has no position encodings")


class EncoderLayer(nn.TransformerEncoderLayer):
    def __init__(self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", **options):
        options = {"batch_first": True, **options}
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, **options)


class DecoderLayer(nn.TransformerDecoderLayer):
    def __init__(self, d_model, nhead, dim_feedforward=2048, dropout=0.1, activation="relu", **options):
        options = {"batch_first": True, **options}
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, **options)


def Seq2Seq(src_vocab, tgt_vocab, d_model, nhead, num_layers):
    raise NotImplementedError("nn.Transformer has neither embeddings nor a causal mask of its own")


def greedy_decode(model, src, bos, eos, max_new_tokens, src_key_padding_mask=None):
    raise NotImplementedError("PyTorch does not decode")
