"""transformers' own pipeline, as it is."""

from transformers import pipeline


class SentimentPipeline:
    def __init__(self, model, tokenizer):
        self.pipeline = pipeline("sentiment-analysis", model=model, tokenizer=tokenizer, truncation=True)

    def __call__(self, texts, batch_size=8):
        return self.pipeline(texts, batch_size=batch_size)
