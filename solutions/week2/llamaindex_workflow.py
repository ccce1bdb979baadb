"""Two LlamaIndex workflows: one that researches a question in parallel, one that waits for a person's decision.

A step accepts an event and returns events; its annotations say which, and the workflow connects the steps by them.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.workflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from llama_index.llms.openai_like import OpenAILike

_Reading = TypeVar("_Reading")

_FENCE = re.compile(r"^\s*```(?:json)?|```\s*$")  # many models put one around JSON

_SPLIT = PromptTemplate(
    "Split the question into the sub-questions that must be answered first, each of which can be understood without "
    "the others. Reply with a JSON list of strings and with nothing else.\n\nQuestion: {question}"
)
_ANSWER = PromptTemplate(
    "Answer the question from the document alone, in one sentence.\n\nDocument: {document}\n\nQuestion: {question}"
)
_CONCLUDE = PromptTemplate("Answer the question with the help of these findings.\n\n{findings}\n\nQuestion: {question}")
_DRAFT = PromptTemplate("Write what is asked for, and nothing else.\n\n{request}")
_REVISE = PromptTemplate(
    "Change the draft as the comment says. Reply with the new text and with nothing else.\n\n"
    "Draft: {draft}\n\nComment: {comment}"
)


def connect(url: str, model: str, api_key: str = "none") -> LLM:
    """LlamaIndex's client for a model served with OpenAI's chat protocol.

    It caches no answers and never retries: a request that fails raises the client's error at once.

    Args:
        url: base address of the API; ends in /v1.
        model: the server's name for the model, sent unchanged in each request.
        api_key: sent with each request.
    """
    # The client's timeout is longer than any workflow's is likely to be, so that the workflow's decides.
    return OpenAILike(model=model, api_base=url, api_key=api_key, is_chat_model=True, max_retries=0, timeout=600)


class _Question(StartEvent):
    question: str


class _SubQuestion(Event):
    place: int
    question: str


class _Finding(Event):
    place: int
    answer: str
    document: str


class ResearchWorkflow(Workflow):
    """Splits a question, answers all parts at once, each from its best document, and makes one answer.

    `await workflow.run(question="…")` returns {"answer": str, "sources": list of str}:

    1. The model gets the question and replies with a JSON list of n sub-questions, which are strings.
    2. For each, the best document is found, and the model answers, given the sub-question and that document only.
       These n requests are sent at once, however many there are: none waits for another's answer.
    3. The model gets the question and the n answers, and its reply is the answer.

    That makes n + 2 requests; for an empty list, two. The sources are the documents used, one per sub-question, in the
    order of the sub-questions, whichever was answered first. The same sub-question may occur more than once.

    The best document is the one that shares the words of the sub-question. A word is a run of letters and digits of
    any script, in upper or lower case. How often a document repeats a word that the others have too makes no
    difference. If no document shares a word, it is any of them. Documents are passed on whole.

    A step that fails is retried up to `max_retries` times; other steps and finished work are not repeated. A step fails
    if the client raises any exception, or if the whole reply to 1. is not a JSON list of strings (a code fence around
    it may be stripped).
    After the last attempt the run raises that error: the client's own, or a ValueError that shows the reply.

    A workflow may be run many times, even at the same time; the runs are independent of each other.

    Args:
        llm: the model, as made by `connect`.
        documents: the texts to answer from, at least one.
        timeout: seconds after which a run raises WorkflowTimeoutError, whatever the model's server is doing.
        max_retries: at least 0, for this workflow alone.

    Raises:
        ValueError: no documents, or max_retries less than 0; the message names the argument and the value.
    """

    def __init__(self, llm: LLM, documents: Sequence[str], timeout: float = 30, max_retries: int = 2) -> None:
        if not documents:
            raise ValueError(f"documents must hold at least one text, not {documents!r}")
        if max_retries < 0:
            raise ValueError(f"max_retries must be at least 0, not {max_retries}")
        super().__init__(timeout=timeout)
        self.llm = llm
        self.library = _Library(documents)
        self.max_retries = max_retries

    @step
    async def _split(self, ctx: Context, event: _Question) -> list[_SubQuestion]:
        """Returning a list opens a batch: each of its events starts its own step."""
        await ctx.store.set("question", event.question)
        questions = await self._ask(_SPLIT, _json_list, question=event.question)
        return [_SubQuestion(place=place, question=question) for place, question in enumerate(questions)]

    @step(num_workers=1000)  # at the same time; the default is 4
    async def _answer(self, event: _SubQuestion) -> _Finding:
        document = self.library.best(event.question)
        answer = await self._ask(_ANSWER, str, document=document, question=event.question)
        return _Finding(place=event.place, answer=answer, document=document)

    @step
    async def _conclude(self, ctx: Context, findings: list[_Finding]) -> StopEvent:
        """Accepting a list waits for the whole batch, which is in the order in which the steps finished."""
        findings = sorted(findings, key=lambda finding: finding.place)
        answer = await self._ask(
            _CONCLUDE,
            str,
            findings="\n".join(finding.answer for finding in findings),
            question=await ctx.store.get("question"),
        )
        return StopEvent(result={"answer": answer, "sources": [finding.document for finding in findings]})

    async def _ask(self, prompt: PromptTemplate, read: Callable[[str], _Reading], **values: str) -> _Reading:
        """What `read` makes of the model's reply, with retries. (A @step(retry_policy=…) would belong to the class.)"""
        failures = 0
        while True:
            try:
                return read(await self.llm.apredict(prompt, **values))
            except Exception:
                failures += 1
                if failures > self.max_retries:
                    raise
                await asyncio.sleep(0.05 * 2**failures)  # give an overloaded server time to recover


def _json_list(reply: str) -> list[str]:
    try:
        found = json.loads(_FENCE.sub("", reply))
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"the model should reply with a JSON list of strings, not {reply!r}")
    return found


class _Library:
    """Documents found by their words; the fewer documents have a word, the more it weighs."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.documents = list(documents)
        self.words = [_words(document) for document in documents]
        holders = Counter(word for words in self.words for word in words)
        self.weights = {word: math.log(1 + len(documents) / count) for word, count in holders.items()}

    def best(self, question: str) -> str:
        """The document whose shared words weigh most; the first one on ties."""
        asked = _words(question)
        scores = [math.fsum(self.weights[word] for word in asked & words) for words in self.words]
        return self.documents[scores.index(max(scores))]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


class _Request(StartEvent):
    request: str


class _Draft(InputRequiredEvent):
    prefix: str


class ReviewWorkflow(Workflow):
    """Drafts a text and lets a person decide on it.

    `handler = workflow.run(request="…")`:

    1. The model gets the request; its reply is the draft.
    2. `handler.stream_events()` yields an InputRequiredEvent whose `prefix` is the draft, and the run waits.
    3. The person answers: `handler.ctx.send_event(HumanResponseEvent(response="…"))`.
       - "yes", "ok" or "approve", in upper or lower case and with or without surrounding white space: the draft is the
         result, without a further request.
       - Anything else, including "": the model gets the draft and the response, and its reply is the result.

    `await handler` returns the result, a str. Nothing is retried: a request that fails raises the client's error.
    A workflow may be run many times, even at the same time; the runs are independent of each other.

    Args:
        llm: the model, as made by `connect`.
        timeout: seconds after which a run raises WorkflowTimeoutError, including the wait for the person.
    """

    def __init__(self, llm: LLM, timeout: float = 30) -> None:
        super().__init__(timeout=timeout)
        self.llm = llm

    @step
    async def _draft(self, ctx: Context, event: _Request) -> _Draft:
        draft = await self.llm.apredict(_DRAFT, request=event.request)
        await ctx.store.set("draft", draft)
        return _Draft(prefix=draft)

    @step
    async def _decide(self, ctx: Context, event: HumanResponseEvent) -> StopEvent:
        draft = await ctx.store.get("draft")
        if event.response.strip().lower() in {"yes", "ok", "approve"}:
            return StopEvent(result=draft)
        return StopEvent(result=await self.llm.apredict(_REVISE, draft=draft, comment=event.response))
