"""Agents as graphs whose state is stored after each step: what is finished stays finished, whatever happens."""

from __future__ import annotations

import operator
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel
from langgraph.types import Command, Overwrite, interrupt
from pydantic import SecretStr


def connect(url: str, model: str, api_key: str = "none") -> BaseChatModel:
    """LangChain's client of a server that speaks OpenAI's chat completions.

    It never tries again: one call is one request, and an answer that is an error or no JSON raises the client's own
    exception. It keeps no answer for later, also where LangChain has a cache for all models.

    Args:
        url: of the API, it ends in /v1.
        model: the server's name for the model, which is the `model` of each request.
        api_key: what the server wants to see.
    """
    raise NotImplementedError


def sqlite_checkpointer(path: str | Path) -> BaseCheckpointSaver:
    """A checkpointer that keeps everything in this file, which is made where there is none.

    Several processes may have the file open, and several threads of a process may use the checkpointer.
    """
    raise NotImplementedError


def research_graph(
    llm: BaseChatModel,
    lookup: Callable[[str], str],
    checkpointer: BaseCheckpointSaver | None = None,
    max_rounds: int = 3,
) -> Pregel:
    """A graph that looks things up until they answer the question. `ask` and `resume` run it.

    The model is called

    1. to analyse the question: its reply, without white space around it, is the first query;
    2. to judge, after each look-up, the last one too, by the question and all findings so far. A reply that begins
       with `yes` ends the search, `no: QUERY` names the next query, in capitals or not; after any other reply the query
       stays the same;
    3. to answer, from the question and all findings, after a `yes` or max_rounds look-ups: its reply is the answer.

    Args:
        llm: the model.
        lookup: finds something by a query. Where it raises, the exception's message is the finding.
        checkpointer: where the state is stored after each step, None for nowhere.
        max_rounds: at least 1. No question takes more look-ups than that.

    Raises:
        ValueError: max_rounds is less than 1; the message names it and the value.
    """
    raise NotImplementedError


def tool_agent(
    llm: BaseChatModel, tools: Sequence[Callable[[str], str]], checkpointer: BaseCheckpointSaver | None = None
) -> Pregel:
    """A ReAct agent: the model calls tools until it says something instead. `ask` and `resume` run it.

    With a checkpointer the questions of a thread are one conversation, which each request holds in full. A request is
    always one that the protocol allows: behind the model's tool calls stand the results, one for each.

    None of these ends the run; the result of such a call tells the model what was wrong, and other calls of the same
    reply are done as usual:

    - a tool raises: the result holds the exception's message,
    - the arguments are no JSON, or not what the tool takes,
    - there is no such tool: the result holds the name that the model used.

    Args:
        llm: the model.
        tools: functions with a name and a docstring, which is what the model is told about them. It may call several
            at once, and the same one again.
        checkpointer: where the state is stored after each step, None for nowhere.
    """
    raise NotImplementedError


def ask(graph: Pregel, text: str, thread_id: str, recursion_limit: int = 25) -> str:
    """Ask a `research_graph` or a `tool_agent`, and give its answer.

    With a checkpointer, the result of each node is on disk before the next one begins, even if the disk is slow. What
    is asked on one thread is not known on another. A second question on the same thread has all its rounds and model
    calls before it; a run that was cut off there before is given up.

    Args:
        graph: with or without a checkpointer.
        text: the question.
        thread_id: the conversation that it belongs to.
        recursion_limit: at least 1. The model is called so many times at most. Where the run has not come to its end by
            then, the answer is a sentence that names this number.

    Raises:
        ValueError: recursion_limit is less than 1; the message names it and the value.
        Exception: the client's own, when a call of the model fails. It is not tried again.
    """
    raise NotImplementedError


def resume(graph: Pregel, thread_id: str) -> str:
    """Finish the run that was cut off on this thread by a failing call or the death of its process. Give its answer.

    Nodes that were finished don't run again: neither the model nor a look-up is asked again what it has answered. The
    one that was cut off does run again. It need not be the same process, nor the same graph object, only one of the
    same kind on the same checkpoints. Where the last run is finished, its answer is given, and nobody is asked.

    Raises:
        ValueError: there is no run on the thread, or the graph has no checkpointer; the message names thread_id.
        Exception: the client's own, when a call of the model fails. The run can be resumed again.
    """
    raise NotImplementedError


def approval_graph(llm: BaseChatModel, act: Callable[[str], str], checkpointer: BaseCheckpointSaver) -> Pregel:
    """A graph that drafts something, waits for a person, and then acts. `start` and `decide` run it.

    Args:
        llm: the model, which makes the draft of the request.
        act: does it, and cannot be undone.
        checkpointer: where the draft waits, perhaps for days and for another process.
    """
    raise NotImplementedError


def start(graph: Pregel, request: str, thread_id: str) -> dict[str, str]:
    """Have a draft of the request made by an `approval_graph`, with one call of the model.

    A new request on the same thread takes the place of the one before.

    Returns:
        {"status": "waiting", "draft": what the model replied}

    Raises:
        Exception: the client's own, when the call fails. It is not tried again.
    """
    raise NotImplementedError


def decide(graph: Pregel, thread_id: str, approved: bool, edit: str | None = None) -> dict[str, str | None]:
    """Decide about the draft that waits on this thread, perhaps in another process than the one that had it made.

    The model is not asked again. Where the draft is approved, act is called with it, or with the edit, exactly once: a
    second decide gives the outcome of the first and never acts. Only if the process dies inside act, or act raises,
    does the next decide call it again, with the same text, by the decision that was made then.

    Args:
        graph: an `approval_graph`.
        thread_id: as given to `start`.
        approved: whether to act.
        edit: a text to act on in place of the draft; an empty text is a text.

    Returns:
        {"status": "done", "result": what act returned} or {"status": "rejected", "result": None}

    Raises:
        ValueError: there is no draft on the thread; the message names thread_id.
        Exception: that of act.
    """
    raise NotImplementedError
