"""Makes the classifier of this folder from `sentences.tsv`: a word-piece tokenizer and a BERT of 46,000 parameters.

    python exercises/week2/material/sentiment/train.py [FOLDER]

takes seconds on one core and writes to this folder, or to FOLDER. Every fifth group of the table is held out, and the
script prints how many of those sentences the new classifier gets right. No two runs make quite the same one.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

HERE = Path(__file__).parent
LABELS = ("negative", "positive")
MAX_LENGTH = 64  # tokens
EPOCHS, BATCH = 25, 16

Sentence = tuple[str, str]  # label, text


def read_sentences() -> tuple[list[Sentence], list[Sentence]]:
    """Those to train with, and those held out. Four lines are a group: two English sentences, two Korean ones."""
    with (HERE / "sentences.tsv").open(encoding="utf-8", newline="") as file:
        rows = [(row["label"], row["text"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    held_out = [row for number, row in enumerate(rows) if number // 4 % 5 == 4]
    return [row for row in rows if row not in held_out], held_out


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces over decomposed characters: any Korean syllable can be spelt with a few dozen letters of Hangul."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFD()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    alphabet = [chr(code) for code in (*range(0x21, 0x7F), *range(0x1100, 0x1113), *range(0x1161, 0x1176))]
    alphabet += [chr(code) for code in range(0x11A8, 0x11C3)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=800, min_frequency=2, initial_alphabet=alphabet, special_tokens=list(special.values())
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **special)


def make_model(tokenizer: PreTrainedTokenizerFast, sentences: list[Sentence]) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=MAX_LENGTH, type_vocab_size=2, pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    tokens = tokenizer([text for _, text in sentences], padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(label) for label, _ in sentences])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(sentences)).split(BATCH):
            optimizer.zero_grad()
            logits = model(**{name: column[rows] for name, column in tokens.items()}).logits
            F.cross_entropy(logits, labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, sentences: list[Sentence]
) -> float:
    """The share of sentences that get their label."""
    tokens = tokenizer([text for _, text in sentences], padding=True, truncation=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(label) for label, _ in sentences])
    return (model(**tokens).logits.argmax(-1) == labels).float().mean().item()


def main(folder: Path = HERE) -> None:
    sentences, held_out = read_sentences()
    tokenizer = make_tokenizer([text for _, text in sentences])
    tokenizer.save_pretrained(folder)  # as it is new: using it leaves traces in what is saved
    model = make_model(tokenizer, sentences)
    model.save_pretrained(folder)
    print(f"{accuracy(model, tokenizer, held_out):.0%} of {len(held_out)} sentences that were held out")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
