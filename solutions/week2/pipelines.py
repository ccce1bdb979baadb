"""From text to label and score: what `transformers.pipeline("sentiment-analysis")` does in between.

Sizes in the shapes below: B texts in a batch, L tokens in the longest of them, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ._modes import eval_mode


class SentimentPipeline:
    """Answers like `transformers.pipeline("sentiment-analysis", model, tokenizer, truncation=True)` in eval mode.

    The pipeline works with the model and the tokenizer that it is given, not with copies: if the weights are trained
    later, later answers use them. Making a pipeline changes nothing about the model.

    The steps from text to label are written here, with the model and the tokenizer: no pipeline of transformers
    (`transformers.pipeline` or a subclass of `transformers.Pipeline`) is made for them.

    Args:
        model: any sequence classifier of transformers, an encoder or a decoder, with any number of classes, in any
            floating-point dtype, on any device, in training or eval mode.
        tokenizer: the model's. It has a padding token; which side it pads and which side it truncates are its own
            settings.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def __call__(self, texts: str | Sequence[str], batch_size: int = 8) -> list[dict[str, str | float]]:
        """Classify texts.

        The model computes in eval mode and builds no graph. It is called ceil(number of texts / batch_size) times,
        each time with batch_size texts or fewer, padded to the longest of them and no further.
        Afterwards, even after an exception, the model is as it was: its numbers, their dtype, what requires a gradient,
        and which of its modules are in training mode.

        Args:
            texts: one text, or a list or tuple of texts, which is not changed. Any text is allowed: empty, in any
                script, containing the names of special tokens. The tokenizer gets each text unchanged, and truncates
                it to `tokenizer.model_max_length` tokens, including special tokens.
            batch_size: at least 1. It changes no answer by more than rounding.

        Returns:
            For each text, in order, {"label": str, "score": Python float}; a list of one for a single text, even an
            empty one. [] for [], without calling the model.
            The score is the largest of the class scores, computed from the logits in float32 or float64, and the label
            is that class's name in `model.config.id2label`. The class scores are

            - the logits themselves where `model.config.problem_type` is "regression",
            - otherwise their sigmoid where it is "multi_label_classification", or where there is only one class,
            - otherwise their softmax over the classes. Logits may be in the thousands.

        Raises:
            ValueError: batch_size is less than 1; the message names it and gives the value.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        texts = [texts] if isinstance(texts, str) else list(texts)
        answers = []
        with eval_mode(self.model), torch.no_grad():
            for start in range(0, len(texts), batch_size):
                answers += self._classify(texts[start : start + batch_size])
        return answers

    def _classify(self, texts: list[str]) -> list[dict[str, str | float]]:
        """One batch."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")  # (B, L) each
        logits = self.model(**tokens.to(self.model.device)).logits  # (B, C)
        scores, classes = self._scores(logits.float()).max(dim=-1)  # (B,) each
        id2label = self.model.config.id2label
        return [
            {"label": id2label[index], "score": score}
            for index, score in zip(classes.tolist(), scores.tolist(), strict=True)
        ]

    def _scores(self, logits: Tensor) -> Tensor:
        """(B, C) -> (B, C), depending on the kind of problem that the model was trained for."""
        problem = self.model.config.problem_type
        if problem == "regression":
            return logits
        if problem == "multi_label_classification" or logits.size(-1) == 1:
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=-1)
