"""Trains both classifiers on `train.tsv`, and makes the tokenizer that they share.

    python -m exercises.week2.material.reviews.train [FOLDER] [--threads 1]

takes a minute or two for each and writes to this folder, or to FOLDER. Tokenizers, and so classifiers, differ slightly
from run to run.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .classifiers import HERE, NAMES, new
from .data import Table, read

EPOCHS = {"bert": 24, "mamba": 4}  # Mamba needs fewer, but takes longer for each
RATES = {"bert": 2e-3, "mamba": 4e-3}
BATCH = 16


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces of lower-case words."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=640, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **special)


def train(name: str, tokenizer: PreTrainedTokenizerFast, reviews: Table) -> PreTrainedModel:
    """A new classifier, trained on batches of reviews of about equal length, in random order."""
    torch.manual_seed(0)
    model = new(name, tokenizer).train()
    ids = [torch.tensor(each) for each in tokenizer(reviews["text"]).input_ids]
    labels = torch.tensor(reviews["label"])
    steps = EPOCHS[name] * math.ceil(len(ids) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES[name], total_steps=steps)
    with tqdm(total=steps, desc=f"training {name}", unit="batch") as progress:
        for _ in range(EPOCHS[name]):
            order = torch.randperm(len(ids)).tolist()
            order.sort(key=lambda number: len(ids[number]) // 8)
            batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
            for number in torch.randperm(len(batches)).tolist():
                rows = batches[number]
                tokens = pad_sequence(
                    [ids[row] for row in rows], batch_first=True, padding_value=tokenizer.pad_token_id
                )
                loss = model(tokens, attention_mask=(tokens != tokenizer.pad_token_id).long(), labels=labels[rows]).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                progress.update()
    return model.eval()


def main(folder: Path = HERE) -> None:
    reviews = read("train")
    tokenizer = make_tokenizer(reviews["text"])
    tokenizer.save_pretrained(folder)
    for name in NAMES:
        start = time.perf_counter()
        model = train(name, tokenizer, reviews)
        model.save_pretrained(folder / name)
        print(f"{name}: {model.num_parameters():,} parameters, trained in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train both classifiers.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    parser.add_argument("--threads", type=int, default=1, help="tensors this small gain little from more (1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.folder)
