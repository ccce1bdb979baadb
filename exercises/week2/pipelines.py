"""From text to label and score: what `transformers.pipeline("sentiment-analysis")` does in between.

Sizes in the shapes below: B texts in a batch, L tokens in the longest of them, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        raise NotImplementedError

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
        raise NotImplementedError
