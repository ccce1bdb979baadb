"""Two workflows of LlamaIndex: one that researches a question in parallel, one that waits for a person's word.

A step takes an event and gives events; its annotations say which, and the workflow connects the steps by them.
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
    """LlamaIndex's client of a model that is served with OpenAI's chat protocol.

    It keeps no answers and repeats no request: a request that fails raises the client's error at once.

    Args:
        url: where the API begins, ending in /v1.
        model: the server's name for the model, which the requests carry as it is.
        api_key: sent with each request.
    """
    raise NotImplementedError


class ResearchWorkflow(Workflow):
    """Splits a question, answers all parts at once, each from the document that fits it, and makes one answer.

    `await workflow.run(question="…")` gives {"answer": str, "sources": list of str}:

    1. The model gets the question and replies with a JSON list of n sub-questions, which are strings.
    2. For each the best document is found, and the model, given the two and no other document, answers. These n
       requests are sent at once, however many they are: none waits for the answer to another.
    3. The model gets the question and the n answers, and its reply is the answer.

    That makes n + 2 requests; for an empty list, two. The sources are the documents that were used, one for each
    sub-question, in the order of the sub-questions, whichever was answered first. Sub-questions may be alike.

    The best document is the one that shares the words of the sub-question. A word is a run of letters and digits of
    any script, in upper or lower case. How often a document says a word that the others have, too, decides nothing.
    Where no document shares a word, it is any of them. Documents are passed on whole.

    A step that fails is tried again up to `max_retries` more times, the others and what is finished are not repeated.
    Failing means: the client raises whatever exception, or the reply to 1. is, as a whole, no JSON list of strings (a
    code fence around it may be taken off).
    After the last attempt the run raises that error: the client's own, or a ValueError that shows the reply.

    A workflow may be run many times, also at the same time; the runs have nothing to do with each other.

    Args:
        llm: the model, as made by `connect`.
        documents: what the answers are taken from, at least one text.
        timeout: seconds after which a run raises WorkflowTimeoutError, whatever the model's server does meanwhile.
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
    2. `handler.stream_events()` gives an InputRequiredEvent whose `prefix` is the draft, and the run waits.
    3. The person answers: `handler.ctx.send_event(HumanResponseEvent(response="…"))`.
       - "yes", "ok" or "approve", in upper or lower case and with or without white space around it: the draft is the
         result, without another request.
       - Anything else, "" as well: the model gets the draft and the response, and its reply is the result.

    `await handler` gives the result, a str. Nothing is tried again: a request that fails raises the client's error.
    A workflow may be run many times, also at the same time; the runs have nothing to do with each other.

    Args:
        llm: the model, as made by `connect`.
        timeout: seconds after which a run raises WorkflowTimeoutError, the wait for the person included.
    """

    def __init__(self, llm: LLM, timeout: float = 30) -> None:
        raise NotImplementedError
