"""Agents as graphs whose state is stored after each step: finished work stays finished, whatever happens."""

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
    """LangChain's client for a server that speaks OpenAI's chat-completions protocol.

    It never retries: one call is one request, and a reply that is an error or not JSON raises the client's own
    exception. It caches no answers, even if LangChain has a cache for all models.

    Args:
        url: of the API; ends in /v1.
        model: the server's name for the model, sent as the `model` of each request.
        api_key: sent with each request.
    """
    raise NotImplementedError


def sqlite_checkpointer(path: str | Path) -> BaseCheckpointSaver:
    """A checkpointer that keeps everything in this file, which is created if missing.

    Several processes may have the file open, and several threads of a process may use the checkpointer.
    """
    raise NotImplementedError


def research_graph(
    llm: BaseChatModel,
    lookup: Callable[[str], str],
    checkpointer: BaseCheckpointSaver | None = None,
    max_rounds: int = 3,
) -> Pregel:
    """A graph that looks things up until the findings answer the question. `ask` and `resume` run it.

    The model is called

    1. to analyse the question: its reply, without surrounding white space, is the first query;
    2. to judge, after each lookup including the last, from the question and all findings so far. A reply that begins
       with `yes` ends the search, `no: QUERY` names the next query, both in upper or lower case; after any other reply
       the query stays the same;
    3. to answer, from the question and all findings, after a `yes` or max_rounds lookups: its reply is the answer.

    Args:
        llm: the model.
        lookup: returns what it finds for a query. If it raises, the exception's message is the finding.
        checkpointer: where the state is stored after each step; None for nowhere.
        max_rounds: at least 1; the maximum number of lookups per question.

    Raises:
        ValueError: max_rounds is less than 1; the message names it and the value.
    """
    raise NotImplementedError


def tool_agent(
    llm: BaseChatModel, tools: Sequence[Callable[[str], str]], checkpointer: BaseCheckpointSaver | None = None
) -> Pregel:
    """A ReAct agent: the model calls tools until it replies without a tool call. `ask` and `resume` run it.

    With a checkpointer the questions of a thread are one conversation, which each request holds in full. Every request
    is one that the protocol allows: the model's tool calls are followed by their results, one for each.

    None of these ends the run; the result of such a call tells the model what was wrong, and the other calls of the
    same reply run as usual:

    - a tool raises: the result holds the exception's message,
    - the arguments are not JSON, or do not fit the tool,
    - the tool does not exist: the result holds the name that the model used.

    Args:
        llm: the model.
        tools: functions with a name and a docstring, which are what the model is told about them. It may call several
            at once, and the same one again.
        checkpointer: where the state is stored after each step; None for nowhere.
    """
    raise NotImplementedError


def ask(graph: Pregel, text: str, thread_id: str, recursion_limit: int = 25) -> str:
    """Ask a `research_graph` or a `tool_agent`, and return its answer.

    With a checkpointer, each node's result is on disk before the next node begins, even if the disk is slow. Threads
    know nothing of each other. A second question on the same thread has all its rounds and model calls again; an
    interrupted run on the thread is abandoned.

    Args:
        graph: with or without a checkpointer.
        text: the question.
        thread_id: the conversation that it belongs to.
        recursion_limit: at least 1; the maximum number of model calls. If the run has not finished by then, the answer
            is a sentence that names this number.

    Raises:
        ValueError: recursion_limit is less than 1; the message names it and the value.
        Exception: the client's own, if a model call fails. It is not retried.
    """
    raise NotImplementedError


def resume(graph: Pregel, thread_id: str) -> str:
    """Finish the run on this thread that a failing call or the death of its process interrupted; return its answer.

    Finished nodes do not run again: no model call or lookup that was answered is repeated. The interrupted node does
    run again. Process and graph object may be different ones, as long as the graph is of the same kind and uses the
    same checkpoints. If the last run is finished, its answer is returned without calling anything.

    Raises:
        ValueError: there is no run on the thread, or the graph has no checkpointer; the message names thread_id.
        Exception: the client's own, if a model call fails. The run can be resumed again.
    """
    raise NotImplementedError


def approval_graph(llm: BaseChatModel, act: Callable[[str], str], checkpointer: BaseCheckpointSaver) -> Pregel:
    """A graph that drafts a text, waits for a person, and then acts on it. `start` and `decide` run it.

    Args:
        llm: the model, which drafts what the request asks for.
        act: called with the approved text; cannot be undone.
        checkpointer: where the draft waits, perhaps for days and for another process.
    """
    raise NotImplementedError


def start(graph: Pregel, request: str, thread_id: str) -> dict[str, str]:
    """Have an `approval_graph` draft what the request asks for, with one model call.

    A new request on the same thread replaces the previous one.

    Returns:
        {"status": "waiting", "draft": the model's reply}

    Raises:
        Exception: the client's own, if the call fails. It is not retried.
    """
    raise NotImplementedError


def decide(graph: Pregel, thread_id: str, approved: bool, edit: str | None = None) -> dict[str, str | None]:
    """Decide about the draft that is waiting on this thread, possibly in a different process from `start`.

    The model is not called again. If the draft is approved, act is called with it, or with the edit, exactly once: a
    second decide returns the outcome of the first and never acts. Only if the process dies inside act, or act raises,
    does the next decide call it again, with the same text, as the first decision says.

    Args:
        graph: an `approval_graph`.
        thread_id: as given to `start`.
        approved: whether to act.
        edit: a text to act on instead of the draft; an empty text counts.

    Returns:
        {"status": "done", "result": what act returned} or {"status": "rejected", "result": None}

    Raises:
        ValueError: there is no draft on the thread; the message names thread_id.
        Exception: that of act.
    """
    raise NotImplementedError
