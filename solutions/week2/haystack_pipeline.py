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

# Korean puts particles and other words right after a noun: 부산은, 부산역에서. So a Hangul word is cut into overlapping
# pairs of syllables (부산, 산역, 역에, 에서); any other word, and a single syllable, is one token.
_TOKENS = r"(?=([가-힣]{2}|(?<![가-힣])[가-힣](?![가-힣])|(?<![^\W가-힣])[^\W가-힣]+))"

_ANSWER = """Answer the question from these documents.
{% for document in documents %}
- {{ document.content }}
{% endfor %}
Question: {{ query }}"""

_UNKNOWN = "I do not know: the documents say nothing about it. 모르겠습니다. 문서에 없는 내용입니다."


def connect(url: str, model: str, api_key: str = "none") -> OpenAIChatGenerator:
    """A client for the language model that raises if the server fails and never repeats a request.

    Args:
        url: of an OpenAI-compatible server; ends in /v1.
        model: the server's name for the model, sent as the `model` of every request.
        api_key: sent with every request.
    """
    return OpenAIChatGenerator(
        api_key=Secret.from_token(api_key), model=model, api_base_url=url, max_retries=0, timeout=600
    )


# --- search -------------------------------------------------------------------------------------------------------


def index(documents: Sequence[dict[str, Any]]) -> InMemoryDocumentStore:
    """A store of documents for search with BM25. Documents equal in content and meta are kept once.

    A word finds the documents that contain it, in upper or lower case. A Korean word of two syllables or more also
    finds those in which particles or other words are attached to it: 부산 finds 부산은 and 부산역에서, ahead of
    documents that contain only its syllables (산은, 부부). It may have a particle itself: 부산을 finds 부산은. Words of
    other scripts are found beside Hangul too: ktx and KTX로 find KTX로.

    Args:
        documents: {"content", "meta"} each; not modified. May be empty.
    """
    store = InMemoryDocumentStore(bm25_tokenization_regex=_TOKENS, shared=False)
    store.write_documents([Document(**document) for document in documents], DuplicatePolicy.OVERWRITE)
    return store


def dense_index(documents: Sequence[dict[str, Any]], model_path: str) -> InMemoryDocumentStore:
    """A store of documents, each with its embedding by the sentence-transformers model at `model_path`."""
    # Takes seconds to import, so only when it is needed.
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

    embedder = SentenceTransformersDocumentEmbedder(model=model_path, progress_bar=False)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)
    embedded = embedder.run([Document(**document) for document in documents])["documents"]
    store.write_documents(embedded, DuplicatePolicy.OVERWRITE)
    return store


def dense_search(store: InMemoryDocumentStore, model_path: str, query: str, top_k: int = 3) -> list[dict[str, Any]]:
    """The `top_k` documents of a `dense_index` nearest to the query, best first.

    A document's score is the cosine of the angle between its embedding and the query's. `model_path` must be the model
    that made the index.
    """
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

    pipeline = Pipeline()
    pipeline.add_component("embedder", SentenceTransformersTextEmbedder(model=model_path, progress_bar=False))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=top_k))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return [_plain(document) for document in pipeline.run({"text": query})["retriever"]["documents"]]


# --- answers of a language model ----------------------------------------------------------------------------------


def qa_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, top_k: int = 3) -> Pipeline:
    """A pipeline that answers a question from the documents it finds, with one request.

    The request holds the question and the contents of the best `top_k` documents, or of all that were found if there
    are fewer, unchanged whatever characters and braces they hold. The answer is the model's reply; its documents are
    those of the request, with their raw BM25 scores.

    Args:
        store: made by `index`; several pipelines may search it.
        generator: made by `connect`, for this pipeline only: a Haystack component cannot be in two pipelines.
    """
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=top_k))
    pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(_ANSWER)]))
    pipeline.add_component("generator", generator)
    pipeline.add_component("answer", _Answer())
    pipeline.connect("retriever.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "generator.messages")
    pipeline.connect("generator.replies", "answer.replies")
    pipeline.connect("retriever.documents", "answer.documents")
    return pipeline


def routed_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, min_score: float) -> Pipeline:
    """`qa_pipeline` with a branch: the model is not asked what the documents do not say.

    If the best document's raw BM25 score is at least `min_score`, the answer comes from the best three documents as in
    `qa_pipeline`. Otherwise, or if no document is found, it is a sentence saying that the answer is not known, without
    documents and without a request.
    """
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    pipeline.add_component("router", _ScoreRouter(min_score))
    pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(_ANSWER)]))
    pipeline.add_component("generator", generator)
    pipeline.add_component("answer", _Answer())
    pipeline.connect("retriever.documents", "router.documents")
    pipeline.connect("router.documents", "prompt.documents")
    pipeline.connect("prompt.prompt", "generator.messages")
    pipeline.connect("generator.replies", "answer.replies")
    pipeline.connect("router.unknown", "answer.replies")
    pipeline.connect("router.documents", "answer.documents")
    return pipeline


def validated_pipeline(generator: OpenAIChatGenerator, required_keys: Sequence[str], max_loops: int = 3) -> Pipeline:
    """A pipeline whose answer is a dictionary: the model's reply is checked, and sent back until it is right.

    A request holds the question and asks for a JSON object with every required key. Any other reply (not JSON, JSON
    that is not an object, an object with a key missing, a tool call instead of text) is sent back: the next request
    holds the question again, the reply, and what is wrong with it, naming the missing keys. The first valid reply is
    the answer, including any other keys it has; there are no documents.

    At most `max_loops` requests are made. If no reply is valid, an exception is raised.
    The next question starts afresh.
    """
    pipeline = Pipeline(max_runs_per_component=max_loops)
    pipeline.add_component("prompt", _JsonPrompt(required_keys))
    pipeline.add_component("generator", generator)
    pipeline.add_component("answer", _JsonAnswer(required_keys))
    pipeline.connect("prompt.messages", "generator.messages")
    pipeline.connect("generator.replies", "answer.replies")
    pipeline.connect("answer.reply", "prompt.reply")  # sent only if there is a mistake: closes the loop
    pipeline.connect("answer.mistake", "prompt.mistake")
    return pipeline


def ask(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run any of the three pipelines above: returns {"answer", "documents"}, the documents best first.

    Exceptions of a component or the client propagate; the pipeline can be asked again afterwards.
    """
    result = pipeline.run({"query": question})["answer"]
    return {"answer": result["answer"], "documents": [_plain(document) for document in result["documents"]]}


@component
class _Answer:
    """The last component of qa_pipeline and routed_pipeline: the answer and its documents."""

    @component.output_types(answer=str, documents=list[Document])
    def run(self, replies: list[ChatMessage], documents: list[Document] | None = None) -> dict[str, Any]:
        return {"answer": replies[0].text, "documents": documents or []}


@component
class _ScoreRouter:
    """Passes the documents on if the best one has at least this score; otherwise outputs a reply of its own."""

    def __init__(self, min_score: float) -> None:
        self.min_score = min_score

    @component.output_types(documents=list[Document], unknown=list[ChatMessage])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        if documents and (documents[0].score or 0.0) >= self.min_score:
            return {"documents": documents}
        return {"unknown": [ChatMessage.from_assistant(_UNKNOWN)]}


@component
class _JsonPrompt:
    """Asks for a JSON object with these keys, repeating the last reply and what was wrong with it, if any."""

    def __init__(self, required_keys: Sequence[str]) -> None:
        self.system = f"Answer with a JSON object and nothing else. Its keys: {', '.join(required_keys)}"

    @component.output_types(messages=list[ChatMessage])
    def run(self, query: str, reply: str = "", mistake: str = "") -> dict[str, list[ChatMessage]]:
        messages = [ChatMessage.from_system(self.system), ChatMessage.from_user(query)]
        if mistake:
            messages += [ChatMessage.from_assistant(reply), ChatMessage.from_user(f"Not acceptable: {mistake}")]
        return {"messages": messages}


@component
class _JsonAnswer:
    """The dictionary that a reply holds as JSON, or what is wrong with the reply."""

    def __init__(self, required_keys: Sequence[str]) -> None:
        self.required_keys = required_keys

    @component.output_types(answer=dict[str, Any], documents=list[Document], reply=str, mistake=str)
    def run(self, replies: list[ChatMessage]) -> dict[str, Any]:
        reply = replies[0].text or ""  # None if the model calls a tool
        try:
            return {"answer": self._read(reply), "documents": []}
        except ValueError as error:  # json.JSONDecodeError is one
            return {"reply": reply, "mistake": str(error)}

    def _read(self, reply: str) -> dict[str, Any]:
        answer = json.loads(reply)
        if not isinstance(answer, dict):
            raise ValueError("it is JSON, but not an object")
        if missing := [key for key in self.required_keys if key not in answer]:
            raise ValueError(f"these keys are missing: {', '.join(missing)}")
        return answer


# --- answers read in a document -----------------------------------------------------------------------------------


def extractive_pipeline(store: InMemoryDocumentStore, reader_path: str, top_k: int = 3) -> Pipeline:
    """An extractive pipeline: its answer is a piece of one of the best `top_k` documents that BM25 finds.

    Args:
        store: made by `index`.
        reader_path: the folder of a transformers model for extractive question answering, with its tokenizer.
    """
    from haystack_integrations.components.readers.transformers import TransformersExtractiveReader

    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=top_k))
    pipeline.add_component("reader", TransformersExtractiveReader(reader_path, top_k=1, no_answer=False))
    pipeline.connect("retriever.documents", "reader.documents")
    return pipeline


def extract(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run an `extractive_pipeline`: returns {"answer", "score", "document"}.

    The answer is the piece of any of the documents with the largest sum of start logit at its first token and end
    logit at its last, word for word as in the document. A document longer than the reader's input is read in
    overlapping windows. There is always an answer, however unsure the reader is, as long as BM25 finds a document.

    The score says how sure the reader is, a Python float from 0 to 1. The document is the one that contains the answer.
    """
    (best,) = pipeline.run({"query": question})["reader"]["answers"]
    return {"answer": best.data, "score": best.score, "document": _plain(best.document)}


def _plain(document: Document) -> dict[str, Any]:
    return {"content": document.content, "meta": document.meta, "score": document.score}
