"""Only Haystack's own components, no custom ones: routers, joiners, adapters, an answer builder."""

import json

from haystack import Document, Pipeline
from haystack.components.builders import AnswerBuilder, ChatPromptBuilder
from haystack.components.converters import OutputAdapter
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.components.joiners import BranchJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.components.routers import ConditionalRouter
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader


def connect(url, model, api_key="none"):
    return OpenAIChatGenerator(api_key=Secret.from_token(api_key), model=model, api_base_url=url, max_retries=0)


def index(documents):
    store = InMemoryDocumentStore(
        bm25_tokenization_regex=r"(?=([가-힣]{2}|(?<![a-z0-9])[a-z0-9]+))", bm25_algorithm="BM25Plus"
    )
    DocumentWriter(store, policy=DuplicatePolicy.SKIP).run([Document(**document) for document in documents])
    return store


TEMPLATE = [
    ChatMessage.from_system("Answer from the documents only, briefly."),
    ChatMessage.from_user(
        "{% for document in documents %}Document {{ loop.index }}:\n{{ document.content }}\n\n{% endfor %}{{ query }}"
    ),
]


def from_documents(generator, store, top_k, condition):
    """Asks only where the condition holds."""
    routes = [
        {
            "condition": condition,
            "output": "documents",
            "output_name": "good",
            "output_type": list[Document],
            "output_passthrough": True,
        },
        {
            "condition": "{{ True }}",
            "output": "I don't know, nothing that I have is about it.",
            "output_name": "sorry",
            "output_type": str,
        },
    ]
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=top_k))
    pipeline.add_component("router", ConditionalRouter(routes))
    pipeline.add_component("prompt_builder", ChatPromptBuilder(template=TEMPLATE))
    pipeline.add_component("llm", generator)
    pipeline.add_component("answer_builder", AnswerBuilder())
    pipeline.connect("retriever.documents", "router.documents")
    pipeline.connect("router.good", "prompt_builder.documents")
    pipeline.connect("prompt_builder.prompt", "llm.messages")
    pipeline.connect("llm.replies", "answer_builder.replies")
    pipeline.connect("router.good", "answer_builder.documents")
    return pipeline


def qa_pipeline(store, generator, top_k=3):
    return from_documents(generator, store, top_k, "{{ documents is defined }}")


def routed_pipeline(store, generator, min_score):
    return from_documents(generator, store, 3, f"{{{{ documents and documents[0].score >= {min_score!r} }}}}")


def validated_pipeline(generator, required_keys, max_loops=3):
    def problem(replies):
        try:
            found = json.loads(replies[-1].text or "")
        except ValueError as error:
            return f"not valid JSON ({error})"
        if type(found) is not dict:
            return f"a {type(found).__name__} and no object"
        return ", ".join(f"without {key}" for key in required_keys if key not in found)

    def corrected(messages, replies):
        said = replies[-1].text or "(nothing)"
        objection = ChatMessage.from_user(f"What you sent is {problem(replies)}. Send the whole object again.")
        return [*messages, ChatMessage.from_assistant(said), objection]

    first = ChatMessage.from_user("{{ query }}\nReply in JSON: an object with " + " and ".join(required_keys))
    routes = [
        {"condition": condition, "output": "replies", "output_name": name, "output_type": list[ChatMessage]}
        | {"output_passthrough": True}
        for condition, name in (("{{ (replies | problem) == '' }}", "valid"), ("{{ True }}", "bad"))
    ]
    pipeline = Pipeline(max_runs_per_component=max_loops)
    pipeline.add_component("first", ChatPromptBuilder(template=[first]))
    pipeline.add_component("joiner", BranchJoiner(list[ChatMessage]))
    pipeline.add_component("llm", generator)
    pipeline.add_component("checker", ConditionalRouter(routes, custom_filters={"problem": problem}))
    pipeline.add_component(
        "again",
        OutputAdapter("{{ messages | corrected(replies) }}", list[ChatMessage], {"corrected": corrected}, unsafe=True),
    )
    pipeline.add_component("reader", OutputAdapter("{{ replies[-1].text | read }}", dict, {"read": json.loads}, True))
    pipeline.connect("first.prompt", "joiner")
    pipeline.connect("joiner", "llm.messages")
    pipeline.connect("llm.replies", "checker.replies")
    pipeline.connect("checker.bad", "again.replies")
    pipeline.connect("joiner", "again.messages")
    pipeline.connect("again.output", "joiner")
    pipeline.connect("checker.valid", "reader.replies")
    return pipeline


def ask(pipeline, question):
    result = pipeline.run({"query": question})
    if "reader" in result:
        return {"answer": result["reader"]["output"], "documents": []}
    if "answer_builder" not in result:
        return {"answer": result["router"]["sorry"], "documents": []}
    (answer,) = result["answer_builder"]["answers"]
    documents = [
        {
            "content": each.content,
            "score": each.score,
            "meta": {k: v for k, v in each.meta.items() if k != "source_index"},
        }
        for each in answer.documents
    ]
    return {"answer": answer.data, "documents": documents}


def extractive_pipeline(store, reader_path, top_k=3):
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=top_k))
    pipeline.add_component("reader", TransformersExtractiveReader(reader_path, max_seq_length=100, stride=20))
    pipeline.connect("retriever", "reader.documents")
    return pipeline


def extract(pipeline, question):
    found = pipeline.run({"query": question})["reader"]["answers"]
    best = max((answer for answer in found if answer.data is not None), key=lambda answer: answer.score)
    return {"answer": best.data, "score": best.score, "document": best.document.to_dict(flatten=False)}


def dense_index(documents, model_path):
    store = InMemoryDocumentStore()
    pipeline = Pipeline()
    pipeline.add_component(
        "embedder", SentenceTransformersDocumentEmbedder(model=model_path, normalize_embeddings=True)
    )
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder", "writer")
    pipeline.run({"documents": [Document(**document) for document in documents]})
    return store


def dense_search(store, model_path, query, top_k=3):
    embedder = SentenceTransformersTextEmbedder(model=model_path, normalize_embeddings=True)
    found = InMemoryEmbeddingRetriever(store).run(embedder.run(query)["embedding"], top_k=top_k)["documents"]
    return [{"content": each.content, "meta": each.meta, "score": each.score} for each in found]
