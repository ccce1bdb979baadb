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

# Korean puts particles and other words right after a noun: 부산은, 부산역에서. So a Hangul word is cut into overlapping
# pairs of syllables (부산, 산역, 역에, 에서); any other word, and a syllable that stands alone, is one token.
_TOKENS = r"(?=([가-힣]{2}|(?<![가-힣])[가-힣](?![가-힣])|(?<![^\W가-힣])[^\W가-힣]+))"

_ANSWER = """Answer the question from these documents.
{% for document in documents %}
- {{ document.content }}
{% endfor %}
Question: {{ query }}"""

_UNKNOWN = "I do not know: the documents say nothing about it. 모르겠습니다. 문서에 없는 내용입니다."


def connect(url: str, model: str, api_key: str = "none") -> OpenAIChatGenerator:
    """A client of the language model that repeats no request: where the server fails, it raises.

    Args:
        url: of an OpenAI-compatible server; ends in /v1.
        model: the server's name for the model, which is the `model` of every request.
        api_key: goes along with every request.
    """
    return OpenAIChatGenerator(
        api_key=Secret.from_token(api_key), model=model, api_base_url=url, max_retries=0, timeout=600
    )


# --- search -------------------------------------------------------------------------------------------------------


def index(documents: Sequence[dict[str, Any]]) -> InMemoryDocumentStore:
    """A store of documents that BM25 searches. Documents that are equal in content and meta are kept once.

    A word finds the documents that it stands in, in upper or lower case. A Korean word of two syllables or more also
    finds those in which particles or other words are attached to it: 부산 finds 부산은 and 부산역에서, before documents
    that have only its syllables (산은, 부부). It may have a particle itself: 부산을 finds 부산은.

    Args:
        documents: {"content", "meta"} each; left as they are. There may be none.
    """
    store = InMemoryDocumentStore(bm25_tokenization_regex=_TOKENS, shared=False)
    store.write_documents([Document(**document) for document in documents], DuplicatePolicy.OVERWRITE)
    return store


def dense_index(documents: Sequence[dict[str, Any]], model_path: str) -> InMemoryDocumentStore:
    """A store of documents, each with its embedding by the sentence-transformers model at `model_path`."""
    # Takes seconds to import: only where somebody needs it.
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder

    embedder = SentenceTransformersDocumentEmbedder(model=model_path, progress_bar=False)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine", shared=False)
    embedded = embedder.run([Document(**document) for document in documents])["documents"]
    store.write_documents(embedded, DuplicatePolicy.OVERWRITE)
    return store


def dense_search(store: InMemoryDocumentStore, model_path: str, query: str, top_k: int = 3) -> list[dict[str, Any]]:
    """The `top_k` documents of a `dense_index` that are nearest to the query, best first.

    A document's score is the cosine of the angle between its embedding and the query's. `model_path` is the model that
    the index was made with.
    """
    from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

    pipeline = Pipeline()
    pipeline.add_component("embedder", SentenceTransformersTextEmbedder(model=model_path, progress_bar=False))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=top_k))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return [_plain(document) for document in pipeline.run({"text": query})["retriever"]["documents"]]


# --- answers of a language model ----------------------------------------------------------------------------------


def qa_pipeline(store: InMemoryDocumentStore, generator: OpenAIChatGenerator, top_k: int = 3) -> Pipeline:
    """A pipeline that answers a question from the documents that it finds, with one request.

    The request holds the question and the contents of the best `top_k` documents, or of all that were found where there
    are fewer: all as they are, whatever letters and braces are in them. The answer is the model's reply, its documents
    are those of the request with their raw BM25 scores.

    Args:
        store: made by `index`; several pipelines may search it.
        generator: made by `connect`, and for this pipeline only: Haystack has no component in two pipelines.
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
    """`qa_pipeline` with a branch: what the documents do not say is not asked.

    Where the best document has a raw BM25 score of at least `min_score`, the answer comes from the best three as in
    `qa_pipeline`. Otherwise, and where no document is found, it is a sentence saying that the answer is not known,
    without documents and without a request.
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
    """A pipeline whose answer is a dictionary: what the model says is checked, and sent back until it is right.

    A request holds the question and asks for a JSON object with every required key. A reply that is anything else (no
    JSON, JSON of another kind, an object in which a key is missing, a call of a tool instead of a text) goes back: the
    next request holds the question again, the reply, and what is wrong with it, the missing keys by name. The first
    reply that will do is the answer, with whatever other keys it has; there are no documents.

    No more than `max_loops` requests are made. Where none of the replies would do, an exception is raised.
    The next question starts afresh.
    """
    pipeline = Pipeline(max_runs_per_component=max_loops)
    pipeline.add_component("prompt", _JsonPrompt(required_keys))
    pipeline.add_component("generator", generator)
    pipeline.add_component("answer", _JsonAnswer(required_keys))
    pipeline.connect("prompt.messages", "generator.messages")
    pipeline.connect("generator.replies", "answer.replies")
    pipeline.connect("answer.reply", "prompt.reply")  # only when a mistake was found: that closes the loop
    pipeline.connect("answer.mistake", "prompt.mistake")
    return pipeline


def ask(pipeline: Pipeline, question: str) -> dict[str, Any]:
    """Run any of the three pipelines above: {"answer", "documents"}, the documents best first.

    What a component or the server raises is raised; the pipeline can be asked again afterwards.
    """
    result = pipeline.run({"query": question})["answer"]
    return {"answer": result["answer"], "documents": [_plain(document) for document in result["documents"]]}


@component
class _Answer:
    """Where every pipeline of a language model's answer ends."""

    @component.output_types(answer=str, documents=list[Document])
    def run(self, replies: list[ChatMessage], documents: list[Document] | None = None) -> dict[str, Any]:
        return {"answer": replies[0].text, "documents": documents or []}


@component
class _ScoreRouter:
    """Lets documents pass where the best one has at least this score, and gives a reply of its own where not."""

    def __init__(self, min_score: float) -> None:
        self.min_score = min_score

    @component.output_types(documents=list[Document], unknown=list[ChatMessage])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        if documents and (documents[0].score or 0.0) >= self.min_score:
            return {"documents": documents}
        return {"unknown": [ChatMessage.from_assistant(_UNKNOWN)]}


@component
class _JsonPrompt:
    """Asks for a JSON object with these keys; with the last reply and what is wrong with it, if there is one."""

    def __init__(self, required_keys: Sequence[str]) -> None:
        self.system = f"Answer with a JSON object and nothing else. Its keys: {', '.join(required_keys)}"

    @component.output_types(messages=list[ChatMessage])
    def run(self, query: str, reply: str = "", mistake: str = "") -> dict[str, list[ChatMessage]]:
        messages = [ChatMessage.from_system(self.system), ChatMessage.from_user(query)]
        if mistake:
            messages += [ChatMessage.from_assistant(reply), ChatMessage.from_user(f"That will not do: {mistake}")]
        return {"messages": messages}


@component
class _JsonAnswer:
    """The dictionary that a reply is in JSON, or what is wrong with the reply."""

    def __init__(self, required_keys: Sequence[str]) -> None:
        self.required_keys = required_keys

    @component.output_types(answer=dict[str, Any], documents=list[Document], reply=str, mistake=str)
    def run(self, replies: list[ChatMessage]) -> dict[str, Any]:
        reply = replies[0].text or ""  # none where the model calls a tool
        try:
            return {"answer": self._read(reply), "documents": []}
        except ValueError as error:  # json.JSONDecodeError is one
            return {"reply": reply, "mistake": str(error)}

    def _read(self, reply: str) -> dict[str, Any]:
        answer = json.loads(reply)
        if not isinstance(answer, dict):
            raise ValueError("it is JSON, but no JSON object")
        if missing := [key for key in self.required_keys if key not in answer]:
            raise ValueError(f"these keys are missing: {', '.join(missing)}")
        return answer


# --- answers that stand in a document -----------------------------------------------------------------------------


def extractive_pipeline(store: InMemoryDocumentStore, reader_path: str, top_k: int = 3) -> Pipeline:
    """A pipeline that reads: its answer is a piece of one of the best `top_k` documents that BM25 finds.

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
    """Run an `extractive_pipeline`: {"answer", "score", "document"}.

    The answer is the piece, in any of the documents, that the reader gives the largest sum of a start logit at its
    first and an end logit at its last token. It stands in the document word for word, also where that is longer than
    what the reader takes at once: then it is read in overlapping windows. There is always an answer, however unsure
    the reader is, as long as BM25 finds a document.

    The score says how sure the reader is, a Python float from 0 to 1. The document is the one that holds the answer.
    """
    (best,) = pipeline.run({"query": question})["reader"]["answers"]
    return {"answer": best.data, "score": best.score, "document": _plain(best.document)}


def _plain(document: Document) -> dict[str, Any]:
    return {"content": document.content, "meta": document.meta, "score": document.score}
