"""Haystack 1.x, which the course's listing is written for: nodes, a PromptNode, a FARMReader."""

import json
import urllib.request

from haystack import Document, Pipeline
from haystack.document_stores import InMemoryDocumentStore
from haystack.nodes import BM25Retriever, EmbeddingRetriever, FARMReader, PromptModel, PromptNode
from haystack.nodes.base import BaseComponent
from haystack.nodes.prompt.invocation_layer import PromptModelInvocationLayer
from haystack.schema import Answer

PAIRS = r"(?=([가-힣]{2}|(?<![가-힣])[가-힣](?![가-힣])|(?<![^\W가-힣])[^\W가-힣]+))"


class Chat(PromptModelInvocationLayer):
    """OpenAI's protocol. Haystack's own layer repeats requests and fetches its tokenizer from the network."""

    def __init__(self, model_name_or_path, api_key, api_base, **_):
        super().__init__(model_name_or_path)
        self.url, self.key = f"{api_base}/chat/completions", api_key

    def invoke(self, prompt, **_):
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps({"model": self.model_name_or_path, "messages": messages}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        with urllib.request.urlopen(urllib.request.Request(self.url, body, headers), timeout=600) as response:
            return [json.load(response)["choices"][0]["message"]["content"] or ""]

    def _ensure_token_limit(self, prompt):
        return prompt


def connect(url, model, api_key="none"):
    return PromptModel(model, api_key=api_key, api_base=url, invocation_layer_class=Chat)


def index(documents):
    store = InMemoryDocumentStore(use_bm25=True, bm25_tokenization_regex=PAIRS, use_gpu=False, progress_bar=False)
    store.write_documents([_document(document) for document in documents], duplicate_documents="overwrite")
    return store


def _document(document):
    # The id is made of the content alone unless one says otherwise.
    return Document(content=document["content"], meta=dict(document["meta"]), id_hash_keys=["content", "meta"])


class Retriever(BM25Retriever):
    """Without the documents that share no word with the query, and at peace with an empty store."""

    def retrieve(self, query, *args, **kwargs):
        if not self.document_store.get_document_count():
            return []
        return [document for document in super().retrieve(query, *args, **kwargs) if document.score > 0]


class Router(BaseComponent):
    outgoing_edges = 2

    def __init__(self, min_score):
        super().__init__()
        self.min_score = min_score

    def run(self, documents):
        good = bool(documents) and documents[0].score >= self.min_score
        return {"documents": documents}, "output_1" if good else "output_2"

    def run_batch(self, **_):
        raise NotImplementedError


class Unknown(BaseComponent):
    outgoing_edges = 1

    def run(self, query):
        return {"results": ["I do not know."], "documents": []}, "output_1"

    def run_batch(self, **_):
        raise NotImplementedError


PROMPT = "Answer from these documents.\n{join(documents, delimiter=new_line)}\nQuestion: {query}"


def qa_pipeline(store, generator, top_k=3):
    pipeline = Pipeline()
    pipeline.add_node(Retriever(store, top_k=top_k, scale_score=False), "Retriever", ["Query"])
    pipeline.add_node(PromptNode(generator, default_prompt_template=PROMPT), "Prompt", ["Retriever"])
    return pipeline


def routed_pipeline(store, generator, min_score):
    pipeline = Pipeline()
    pipeline.add_node(Retriever(store, top_k=3, scale_score=False), "Retriever", ["Query"])
    pipeline.add_node(Router(min_score), "Router", ["Retriever"])
    pipeline.add_node(PromptNode(generator, default_prompt_template=PROMPT), "Prompt", ["Router.output_1"])
    pipeline.add_node(Unknown(), "Unknown", ["Router.output_2"])
    return pipeline


class JsonNode(BaseComponent):
    """A pipeline of Haystack 1.x has no circles: the loop is inside a node."""

    outgoing_edges = 1

    def __init__(self, generator, required_keys, max_loops):
        super().__init__()
        self.node = PromptNode(generator, default_prompt_template="{query}")
        self.required_keys, self.max_loops = required_keys, max_loops

    def run(self, query):
        wish = prompt = f"{query}\nAnswer with a JSON object. Its keys: {', '.join(self.required_keys)}"
        for _ in range(self.max_loops):
            (reply,) = self.node.run(query=prompt)[0]["results"]
            mistake = self.mistake(reply)
            if not mistake:
                return {"results": [json.loads(reply)]}, "output_1"
            prompt = f"{wish}\nYou have answered: {reply}\nThat will not do: {mistake}"
        raise ValueError(f"no reply was right: {mistake}")

    def mistake(self, reply):
        try:
            answer = json.loads(reply)
        except ValueError as error:
            return f"it is no JSON: {error}"
        if not isinstance(answer, dict):
            return "it is no object"
        missing = [key for key in self.required_keys if key not in answer]
        return f"these keys are missing: {', '.join(missing)}" if missing else ""

    def run_batch(self, **_):
        raise NotImplementedError


def validated_pipeline(generator, required_keys, max_loops=3):
    pipeline = Pipeline()
    pipeline.add_node(JsonNode(generator, required_keys, max_loops), "Json", ["Query"])
    return pipeline


def ask(pipeline, question):
    result = pipeline.run(query=question)
    return {"answer": result["results"][0], "documents": [_plain(document) for document in result.get("documents", [])]}


def extractive_pipeline(store, reader_path, top_k=3):
    reader = FARMReader(
        reader_path, use_gpu=False, num_processes=0, max_seq_len=160, doc_stride=32, top_k=1, progress_bar=False
    )
    pipeline = Pipeline()
    pipeline.add_node(Retriever(store, top_k=top_k, scale_score=False), "Retriever", ["Query"])
    pipeline.add_node(reader, "Reader", ["Retriever"])
    return pipeline


def extract(pipeline, question):
    result = pipeline.run(query=question)
    best: Answer = result["answers"][0]
    (document,) = (document for document in result["documents"] if document.id in best.document_ids)
    return {"answer": best.answer, "score": float(best.score), "document": _plain(document)}


def dense_index(documents, model_path):
    store = InMemoryDocumentStore(similarity="cosine", embedding_dim=384, use_gpu=False, progress_bar=False)
    store.write_documents([_document(document) for document in documents], duplicate_documents="overwrite")
    store.update_embeddings(_embedder(store, model_path))
    return store


def dense_search(store, model_path, query, top_k=3):
    return [_plain(document) for document in _embedder(store, model_path).retrieve(query, top_k=top_k)]


def _embedder(store, model_path):
    return EmbeddingRetriever(
        model_path, store, model_format="sentence_transformers", use_gpu=False, scale_score=False, progress_bar=False
    )


def _plain(document):
    return {"content": document.content, "meta": document.meta, "score": float(document.score)}
