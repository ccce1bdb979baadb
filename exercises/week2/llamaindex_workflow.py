"""Two LlamaIndex workflows: one that researches a question in parallel, one that waits for a person's decision.

A step accepts an event and returns events; its annotations say which, and the workflow connects the steps by them.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence

from llama_index.core.llms import LLM
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


def connect(url: str, model: str, api_key: str = "none") -> LLM:
    """LlamaIndex's client for a model served with OpenAI's chat protocol.

    It caches no answers and never retries: a request that fails raises the client's error at once.

    Args:
        url: base address of the API; ends in /v1.
        model: the server's name for the model, sent unchanged in each request.
        api_key: sent with each request.
    """
    raise NotImplementedError


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
        raise NotImplementedError


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
        raise NotImplementedError
