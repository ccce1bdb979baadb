"""Search, read and answer with Haystack: pipelines of components, one with a branch and one with a loop.

A document goes in as {"content": str, "meta": dict}. It comes back as {"content", "meta", "score"}: unchanged, plus how
well it matches, a Python float.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from haystack import Document, Pipeline, component
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret


def connect(url: str, model: str, api_key: str = "none") -> OpenAIChatGenerator:
    """A client for the language model that raises if the server fails and never repeats a request.

    Args:
        url: of an OpenAI-compatible server; ends in /v1.
        model: the server's name for the model, sent as the `model` of every request.
        api_key: sent with every request.
    """
    raise NotImplementedError


def index(documents: Sequence[dict[str, Any]]) -> InMemoryDocumentStore:
    """A store of documents for search with BM25. Documents equal in content and meta are kept once.

    A word finds the documents that contain it, in upper or lower case. A Korean word of two syllables or more also
    finds those in which particles or other words are attached to it: 부산 finds 부산은 and 부산역에서, ahead of
    documents that contain only its syllables (산은, 부부). It may have a particle itself: 부산을 finds 부산은. Words of
    other scripts are found beside Hangul too: ktx and KTX로 find KTX로.

    Args:
        documents: {"content", "meta"} each; not modified. May be empty.
    """
    raise NotImplementedError


def dense_index(documents: Sequence[dict[str, Any]], model_path: str) -> InMemoryDocumentStore:
    """A store of documents, each with its embedding by the sentence-transformers model at `model_path`."""
    raise NotImplementedError


def dense_search(store: InMemoryDocumentStore, model_path: str, query: str, top_k: int = 3) -> list[dict[str, Any]]:
    """The `top_k` documents of a `dense_index` nearest to the query, best first.

    A document's score is the cosine of the angle between its embedding and the query's. `model_path` must be the model
    that made the index.
    """
    raise NotImplementedError


def qa_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, top_k: int = 3) -> Pipeline:
    """A pipeline that answers a question from the documents it finds, with one request.

    The request holds the question and the contents of the best `top_k` documents, or of all that were found if there
    are fewer, unchanged whatever characters and braces they hold. The answer is the model's reply; its documents are
    those of the request, with their raw BM25 scores.

    Args:
        store: made by `index`; several pipelines may search it.
        generator: made by `connect`, for this pipeline only: a Haystack component cannot be in two pipelines.
    """
    raise NotImplementedError


def routed_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, min_score: float) -> Pipeline:
    """`qa_pipeline` with a branch: the model is not asked what the documents do not say.

    If the best document's raw BM25 score is at least `min_score`, the answer comes from the best three documents as in
    `qa_pipeline`. Otherwise, or if no document is found, it is a sentence saying that the answer is not known, without
    documents and without a request.
    """
    raise NotImplementedError


def validated_pipeline(generator: OpenAIChatGenerator, required_keys: Sequence[str], max_loops: int = 3) -> Pipeline:
    """A pipeline whose answer is a dictionary: the model's reply is checked, and sent back until it is right.

    A request holds the question and asks for a JSON object with every required key. Any other reply (not JSON, JSON
    that is not an object, an object with a key missing, a tool call instead of text) is sent back: the next request
    holds the question again, the reply, and what is wrong with it, naming the missing keys. The first valid reply is
    the answer, including any other keys it has; there are no documents.

    At most `max_loops` requests are made. If no reply is valid, an exception is raised.
    The next question starts afresh.
    """
    raise NotImplementedError


def ask(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run any of the three pipelines above: returns {"answer", "documents"}, the documents best first.

    Exceptions of a component or the client propagate; the pipeline can be asked again afterwards.
    """
    raise NotImplementedError


def extractive_pipeline(store: InMemoryDocumentStore, reader_path: str, top_k: int = 3) -> Pipeline:
    """An extractive pipeline: its answer is a piece of one of the best `top_k` documents that BM25 finds.

    Args:
        store: made by `index`.
        reader_path: the folder of a transformers model for extractive question answering, with its tokenizer.
    """
    raise NotImplementedError


def extract(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run an `extractive_pipeline`: returns {"answer", "score", "document"}.

    The answer is the piece of any of the documents with the largest sum of start logit at its first token and end
    logit at its last, word for word as in the document. A document longer than the reader's input is read in
    overlapping windows. There is always an answer, however unsure the reader is, as long as BM25 finds a document.

    The score says how sure the reader is, a Python float from 0 to 1. The document is the one that contains the answer.
    """
    raise NotImplementedError
