"""Delegates as much as possible: a loader makes the batches, transformers' collator pads them."""

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding


class SentimentPipeline:
    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def __call__(self, texts, batch_size=8):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is impossible")
        rows = [self.tokenizer(text, truncation=True) for text in ([texts] if isinstance(texts, str) else texts)]
        before = {part: part.training for part in self.model.modules()}
        try:
            self.model.eval()
            with torch.inference_mode():
                batches = DataLoader(rows, batch_size, collate_fn=DataCollatorWithPadding(self.tokenizer))
                return [answer for batch in batches for answer in self.answers(**batch.to(self.model.device))]
        finally:
            for part, mode in before.items():
                part.training = mode

    def answers(self, **batch):
        logits, config = self.model(**batch).logits.double(), self.model.config
        kind = config.problem_type or ("multi_label_classification" if config.num_labels == 1 else None)
        score = {"regression": torch.nn.Identity(), "multi_label_classification": torch.nn.Sigmoid()}
        best = score.get(kind, torch.nn.Softmax(-1))(logits).topk(1)
        for value, index in zip(best.values, best.indices, strict=True):
            yield {"label": config.id2label[index.item()], "score": value.item()}
