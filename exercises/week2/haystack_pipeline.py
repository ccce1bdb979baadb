"""Search, read and answer with Haystack: pipelines of components, with a branch and with a loop in them.

A document goes in as {"content": str, "meta": dict}. It comes back as {"content", "meta", "score"}: as it went in, and
how well it fits, a Python float.
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
    """A client of the language model that repeats no request: where the server fails, it raises.

    Args:
        url: of an OpenAI-compatible server; ends in /v1.
        model: the server's name for the model, which is the `model` of every request.
        api_key: goes along with every request.
    """
    raise NotImplementedError


def index(documents: Sequence[dict[str, Any]]) -> InMemoryDocumentStore:
    """A store of documents that BM25 searches. Documents that are equal in content and meta are kept once.

    A word finds the documents that it stands in, in upper or lower case. A Korean word of two syllables or more also
    finds those in which particles or other words are attached to it: 부산 finds 부산은 and 부산역에서, before documents
    that have only its syllables (산은, 부부). It may have a particle itself: 부산을 finds 부산은.

    Args:
        documents: {"content", "meta"} each; left as they are. There may be none.
    """
    raise NotImplementedError


def dense_index(documents: Sequence[dict[str, Any]], model_path: str) -> InMemoryDocumentStore:
    """A store of documents, each with its embedding by the sentence-transformers model at `model_path`."""
    raise NotImplementedError


def dense_search(store: InMemoryDocumentStore, model_path: str, query: str, top_k: int = 3) -> list[dict[str, Any]]:
    """The `top_k` documents of a `dense_index` that are nearest to the query, best first.

    A document's score is the cosine of the angle between its embedding and the query's. `model_path` is the model that
    the index was made with.
    """
    raise NotImplementedError


def qa_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, top_k: int = 3) -> Pipeline:
    """A pipeline that answers a question from the documents that it finds, with one request.

    The request holds the question and the contents of the best `top_k` documents, or of all that were found where there
    are fewer: all as they are, whatever letters and braces are in them. The answer is the model's reply, its documents
    are those of the request with their raw BM25 scores.

    Args:
        store: made by `index`; several pipelines may search it.
        generator: made by `connect`, and for this pipeline only: Haystack has no component in two pipelines.
    """
    raise NotImplementedError


def routed_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, min_score: float) -> Pipeline:
    """`qa_pipeline` with a branch: what the documents do not say is not asked.

    Where the best document has a raw BM25 score of at least `min_score`, the answer comes from the best three as in
    `qa_pipeline`. Otherwise, and where no document is found, it is a sentence saying that the answer is not known,
    without documents and without a request.
    """
    raise NotImplementedError


def validated_pipeline(generator: OpenAIChatGenerator, required_keys: Sequence[str], max_loops: int = 3) -> Pipeline:
    """A pipeline whose answer is a dictionary: what the model says is checked, and sent back until it is right.

    A request holds the question and asks for a JSON object with every required key. A reply that is anything else (no
    JSON, JSON of another kind, an object in which a key is missing, a call of a tool instead of a text) goes back: the
    next request holds the question again, the reply, and what is wrong with it, the missing keys by name. The first
    reply that will do is the answer, with whatever other keys it has; there are no documents.

    No more than `max_loops` requests are made. Where none of the replies would do, an exception is raised.
    The next question starts afresh.
    """
    raise NotImplementedError


def ask(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run any of the three pipelines above: {"answer", "documents"}, the documents best first.

    What a component or the server raises is raised; the pipeline can be asked again afterwards.
    """
    raise NotImplementedError


def extractive_pipeline(store: InMemoryDocumentStore, reader_path: str, top_k: int = 3) -> Pipeline:
    """A pipeline that reads: its answer is a piece of one of the best `top_k` documents that BM25 finds.

    Args:
        store: made by `index`.
        reader_path: the folder of a transformers model for extractive question answering, with its tokenizer.
    """
    raise NotImplementedError


def extract(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run an `extractive_pipeline`: {"answer", "score", "document"}.

    The answer is the piece, in any of the documents, that the reader gives the largest sum of a start logit at its
    first and an end logit at its last token. It stands in the document word for word, also where that is longer than
    what the reader takes at once: then it is read in overlapping windows. There is always an answer, however unsure
    the reader is, as long as BM25 finds a document.

    The score says how sure the reader is, a Python float from 0 to 1. The document is the one that holds the answer.
    """
    raise NotImplementedError
