"""One step does everything with asyncio.gather; LlamaIndex's own keyword index finds the documents."""

from __future__ import annotations

import asyncio
import json

import tenacity
from llama_index.core import SimpleKeywordTableIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode
from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai_like import OpenAILike


def connect(url, model, api_key="none"):
    return OpenAILike(
        model=model, api_base=url, api_key=api_key, is_chat_model=True, is_function_calling_model=True, max_retries=0
    )


async def chat(llm, system, user):
    reply = await llm.achat([ChatMessage(role="system", content=system), ChatMessage(role="user", content=user)])
    return reply.message.content or ""


def read_list(reply):
    try:
        questions = json.loads(reply)
    except ValueError as error:
        raise ValueError(reply) from error
    if type(questions) is not list or {type(question) for question in questions} - {str}:
        raise ValueError(reply)
    return questions


class ResearchWorkflow(Workflow):
    def __init__(self, llm, documents, timeout=30, max_retries=2):
        if len(documents) == 0:
            raise ValueError(f"documents = {documents}")
        if max_retries < 0:
            raise ValueError(f"max_retries = {max_retries}")
        super().__init__(timeout=timeout)
        self.llm, self.documents, self.attempts = llm, documents, max_retries + 1
        nodes = [TextNode(text=document) for document in documents]
        index = SimpleKeywordTableIndex(nodes, llm=llm, max_keywords_per_chunk=10**6)
        self.retriever = index.as_retriever(retriever_mode="simple", max_keywords_per_query=1000)

    @step
    async def research(self, event: StartEvent) -> StopEvent:
        questions = await self.attempt(self.split, event.question)
        pairs = await asyncio.gather(*[self.answer(question) for question in questions])
        facts = [f"{question} {answer}" for question, (answer, _) in zip(questions, pairs, strict=True)]
        answer = await self.attempt(chat, self.llm, "Answer from these facts:\n" + "\n".join(facts), event.question)
        return StopEvent({"answer": answer, "sources": [document for _, document in pairs]})

    async def attempt(self, function, *args):
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.attempts), wait=tenacity.wait_fixed(0.05), reraise=True
        )
        return await retrying(function, *args)

    async def split(self, question):
        return read_list(await chat(self.llm, "Split into sub-questions, as a JSON list.", question))

    async def answer(self, question):
        nodes = await self.retriever.aretrieve(question)
        document = nodes[0].node.get_content() if nodes else self.documents[-1]
        return await self.attempt(chat, self.llm, f"You know this: {document}", question), document


class ReviewWorkflow(Workflow):
    def __init__(self, llm, timeout=30):
        super().__init__(timeout=timeout)
        self.llm = llm

    @step
    async def draft(self, event: StartEvent) -> InputRequiredEvent:
        draft = await chat(self.llm, "You write letters.", event.request)
        return InputRequiredEvent(prefix=draft)

    @step
    async def show(self, event: InputRequiredEvent, response: HumanResponseEvent) -> StopEvent:
        """Two events are collected: what was shown, and what came back."""
        if response.response.strip().casefold() in ("yes", "ok", "approve"):
            return StopEvent(event.prefix)
        return StopEvent(await chat(self.llm, f"Change this:\n{event.prefix}", response.response))
