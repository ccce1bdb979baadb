"""The encoder's oracle agrees with `transformers`."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from tests.oracles import encoder as oracle


def test_bert_is_transformers_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 24}
    model = BertModel(BertConfig(vocab_size=30, max_position_embeddings=12, **sizes), add_pooling_layer=False).eval()
    for parameter in model.parameters():  # norms and biases too, which start as 1 and 0
        torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.randint(0, 30, (3, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask.long()).last_hidden_state
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    words = state.pop("embeddings.word_embeddings.weight")[ids]
    got = oracle.bert(state, words, mask, num_heads=4, eps=1e-12)
    assert_close(got[mask].float(), wanted[mask], rtol=1e-4, atol=1e-5)

    embeddings = oracle.sentence_embeddings(state, words, mask, num_heads=4, eps=1e-12)
    assert_close(embeddings.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    mean = wanted[1, :4].mean(0)
    assert_close(embeddings[1].float(), mean / mean.norm(), rtol=1e-4, atol=1e-5)
