"""Plain functions around Haystack's client: BM25 by hand over all pieces of words, loops instead of graphs."""

import json
import math
import re
import unicodedata
from collections import Counter

import numpy as np
import torch
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret


def connect(url, model, api_key="none"):
    return OpenAIChatGenerator(
        Secret.from_token(api_key),
        model,
        api_base_url=url,
        max_retries=0,
        generation_kwargs={"temperature": 0},
        streaming_callback=lambda chunk: None,
    )


def terms(text):
    """Words; of a Hangul word, all pieces of two syllables or more."""
    for script, word in re.findall(r"([가-힣]+)|([^\W가-힣]+)", unicodedata.normalize("NFC", text).casefold()):
        if word or len(script) == 1:
            yield word or script
        for start in range(len(script)):
            for end in range(start + 2, len(script) + 1):
                yield script[start:end]


class Shelf:
    def __init__(self, documents):
        self.documents = []
        for document in documents:
            if document not in self.documents:
                self.documents.append(document)
        self.counts = [Counter(terms(document["content"])) for document in self.documents]
        self.spread = Counter(term for counts in self.counts for term in counts)
        self.mean = sum(map(Counter.total, self.counts)) / max(1, len(self.counts))

    def search(self, question, top_k):
        """Robertson's BM25 with Lucene's weights."""
        scored = []
        for document, counts in zip(self.documents, self.counts, strict=True):
            score = 0.0
            for term in set(terms(question)):
                if frequency := counts[term]:
                    rarity = math.log(1 + (len(self.documents) - self.spread[term] + 0.5) / (self.spread[term] + 0.5))
                    score += rarity * frequency * 2.2 / (frequency + 0.3 + 0.9 * counts.total() / self.mean)
            if score:
                scored.append({**document, "score": score})
        scored.sort(key=lambda document: -document["score"])
        return scored[:top_k]


def index(documents):
    return Shelf(documents)


def replied(generator, *messages):
    return generator.run(list(messages))["replies"][0].text


def qa_pipeline(store, generator, top_k=3, enough=lambda documents: True):
    def run(question):
        documents = store.search(question, top_k)
        if not enough(documents):
            return {"answer": "모르겠습니다.", "documents": []}
        system = ChatMessage.from_system("\n\n".join(document["content"] for document in documents))
        return {"answer": replied(generator, system, ChatMessage.from_user(question)), "documents": documents}

    return run


def routed_pipeline(store, generator, min_score):
    return qa_pipeline(store, generator, enough=lambda found: any(each["score"] >= min_score for each in found))


def validated_pipeline(generator, required_keys, max_loops=3):
    def run(question):
        wish = f"{question}\n\nGive me a JSON object with {' and '.join(map(repr, required_keys))}."
        complaints = ""
        for _ in range(max_loops):
            text = replied(generator, ChatMessage.from_user(wish + complaints))
            try:
                answer = json.loads(text or "")
                keys = answer.keys()
                lacking = [key for key in required_keys if key not in keys]
                if not lacking:
                    return {"answer": answer, "documents": []}
                problem = f"There is no {' and no '.join(lacking)} in it."
            except (json.JSONDecodeError, AttributeError) as error:
                problem = f"It is no JSON object: {error}"
            complaints += f"\n\nYour answer was\n{text or 'empty'}\n{problem}"
        raise RuntimeError(f"no usable answer in {max_loops} attempts")

    return run


def ask(pipeline, question):
    return pipeline(question)


def extractive_pipeline(store, reader_path, top_k=3):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reader_path)
    model = AutoModelForQuestionAnswering.from_pretrained(reader_path)

    def pieces(question, document):
        """The best piece of each window."""
        tokens = tokenizer(
            question,
            document["content"],
            truncation="only_second",
            max_length=128,
            stride=32,
            return_overflowing_tokens=True,
        )
        for number, ids in enumerate(tokens["input_ids"]):
            with torch.inference_mode():
                logits = model(torch.tensor([ids]))
            inside = [part == 1 for part in tokens.sequence_ids(number)]
            starts, ends = logits.start_logits[0].tolist(), logits.end_logits[0].tolist()
            best = -math.inf, 0, 0
            for first in range(len(ids)):
                for last in range(first, min(first + 20, len(ids))):
                    if inside[first] and inside[last]:
                        best = max(best, (starts[first] + ends[last], first, last))
            logit, first, last = best
            begin, end = tokens.token_to_chars(number, first).start, tokens.token_to_chars(number, last).end
            yield logit, document["content"][begin:end], document

    def run(question):
        found = [piece for document in store.search(question, top_k) for piece in pieces(question, document)]
        logit, answer, document = max(found, key=lambda piece: piece[0])
        return {"answer": answer, "score": 1 / (1 + math.exp(-logit / 4)), "document": document}

    return run


def extract(pipeline, question):
    return pipeline(question)


def embed(texts, model_path):
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(model_path), AutoModel.from_pretrained(model_path)
    rows = []
    for text in texts:
        with torch.inference_mode():
            states = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
        rows.append(states[0].numpy().mean(0))
    return np.stack(rows)


def dense_index(documents, model_path):
    return list(documents), embed([document["content"] for document in documents], model_path)


def dense_search(store, model_path, query, top_k=3):
    documents, rows = store
    (row,) = embed([query], model_path)
    cosines = rows @ row / np.linalg.norm(rows, axis=1) / np.linalg.norm(row)
    best = np.argsort(-cosines, kind="stable")[:top_k]
    return [{**documents[number], "score": float(cosines[number])} for number in best]
