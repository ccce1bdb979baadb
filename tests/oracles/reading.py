"""Reference for week2/haystack_pipeline: embeddings computed text by text, and a small reader made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

# word: (start, end), how strongly the reader wants an answer to start or end there, from −1 to 1.
STRENGTHS = {
    "1446": (0.9, 0.9),
    "1592": (0.7, 0.7),
    "1876": (0.5, 0.5),
    "2024": (0.2, 0.2),
    "1988": (1.0, 1.0),
    "Nakdong": (0.8, -0.7),
    "river": (-0.7, 0.8),
    "해운대": (0.8, -0.7),
    "해변": (-0.7, 0.8),
}
WEAK = (-0.8, -0.8)  # every other word
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ENDINGS = ("##년", "##년에", "##에", "##에서", "##은", "##이")
LOGITS = 10.0  # of strength 1


def save_reader(folder: Path) -> None:
    """Write a hand-made BERT for extractive question answering, without layers, and its tokenizer of 20 words.

    Its logits are ten times STRENGTHS for any question: an embedding holds the strengths of its word, normalised so
    that the layer norm does not change it.
    """
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

    words = [*SPECIAL, *ENDINGS, *STRENGTHS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    BertTokenizerFast(
        str(folder / "vocab.txt"), do_lower_case=False, strip_accents=False, model_max_length=512
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=6, num_hidden_layers=0, num_attention_heads=1, intermediate_size=6
    )
    model = BertForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1.0)
        model.bert.embeddings.word_embeddings.weight.copy_(torch.stack([_embedding(word) for word in words]))
        model.qa_outputs.weight[0, 0] = model.qa_outputs.weight[1, 1] = LOGITS
    model.save_pretrained(folder)


def _embedding(word: str) -> Tensor:
    """The strengths, then numbers that make the mean 0 and the variance 1."""
    start, end = STRENGTHS.get(word, WEAK)
    rest = (3 - start**2 - end**2) ** 0.5
    return torch.tensor([start, end, rest, -start, -end, -rest])


def embeddings(model_path: str, texts: Sequence[str]) -> Tensor:
    """A sentence transformer's embeddings (texts, D), each text alone: the mean of its tokens, scaled to length 1."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model_path), AutoModel.from_pretrained(model_path)
    with torch.no_grad():
        means = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state.mean(1)
            for text in texts
        ]
    return torch.nn.functional.normalize(torch.cat(means))
