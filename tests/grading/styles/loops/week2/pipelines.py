"""Token by token in Python: texts sorted by length and padded by hand, scores by NumPy, answers put back in order."""

import numpy as np
import torch


class SentimentPipeline:
    def __init__(self, classifier, tokenizer):
        self.classifier, self.tokenizer = classifier, tokenizer

    def __call__(self, texts, batch_size=8):
        if not batch_size > 0:
            raise ValueError(f"batch_size = {batch_size}: a batch holds one text at least")
        if isinstance(texts, str):
            return self((texts,), batch_size)
        encoded = [self.tokenizer(text, truncation=True) for text in texts]
        waiting = sorted(range(len(encoded)), key=lambda n: -len(encoded[n]["input_ids"]))
        found = [None] * len(encoded)
        while waiting:
            now, waiting = waiting[:batch_size], waiting[batch_size:]
            for number, logits in zip(now, self.logits([encoded[n] for n in now]), strict=True):
                found[number] = self.answer(logits)
        return found

    def logits(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        columns = {}
        for name in rows[0]:
            filler = self.tokenizer.pad_token_id if name == "input_ids" else 0
            padded = []
            for row in rows:
                missing = [filler] * (longest - len(row[name]))
                padded.append(missing + row[name] if self.tokenizer.padding_side == "left" else row[name] + missing)
            columns[name] = torch.tensor(padded, device=self.classifier.device)
        training = {name for name, part in self.classifier.named_modules() if part.training}
        self.classifier.eval()
        try:
            with torch.inference_mode():
                return self.classifier(**columns).logits.float().cpu().numpy()
        finally:
            for name, part in self.classifier.named_modules():
                part.training = name in training

    def answer(self, logits):
        config = self.classifier.config
        if config.problem_type == "regression":
            scores = logits
        elif config.problem_type == "multi_label_classification" or len(logits) == 1:
            scores = np.exp(-np.logaddexp(0, -logits))
        else:
            powers = np.exp(logits - logits.max())
            scores = powers / powers.sum()
        best = int(np.argmax(scores))
        return {"score": float(scores[best]), "label": config.id2label[best]}
