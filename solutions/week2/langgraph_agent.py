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
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphRecursionError
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
    return ChatOpenAI(model=model, base_url=url, api_key=SecretStr(api_key), max_retries=0, cache=False)


def sqlite_checkpointer(path: str | Path) -> BaseCheckpointSaver:
    """A checkpointer that keeps everything in this file, which is created if missing.

    Several processes may have the file open, and several threads of a process may use the checkpointer.
    """
    return SqliteSaver(sqlite3.connect(path, check_same_thread=False))  # it has its own lock


# --- research: a pipeline with a cycle --------------------------------------------------------------------------------

_ANALYSE = "Which query to an encyclopedia would help to answer the question? Reply with the query only."
_JUDGE = (
    "Do the findings answer the question? Reply `yes`, or `no`, or `no: ` and the query that should be looked up next."
)
_CONCLUDE = "Answer the question from the findings."


class _Research(MessagesState):  # its messages are the questions and answers of the thread
    question: str
    query: str  # looked up next
    findings: Annotated[list[str], operator.add]  # what a node returns is appended
    enough: bool


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
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, not {max_rounds}")

    def consult(instruction: str, state: _Research) -> str:
        told = [f"Question: {state['question']}", *(f"Finding: {finding}" for finding in state["findings"])]
        return llm.invoke([("system", instruction), ("human", "\n".join(told))]).text.strip()

    def begin(state: _Research) -> dict[str, Any]:
        # Overwrite bypasses the reducer, to drop the previous question's findings.
        return {"question": state["messages"][-1].text, "findings": Overwrite([])}

    def analyse(state: _Research) -> dict[str, Any]:
        return {"query": consult(_ANALYSE, state)}

    def look_up(state: _Research) -> dict[str, Any]:
        try:
            finding = lookup(state["query"])
        except Exception as error:
            finding = f"{type(error).__name__}: {error}"
        return {"findings": [f"{state['query']}: {finding}"]}

    def judge(state: _Research) -> dict[str, Any]:
        verdict = consult(_JUDGE, state)
        named = re.match(r"no\s*:\s*(\S.*)", verdict, re.IGNORECASE | re.DOTALL)
        return {"enough": verdict.lower().startswith("yes"), "query": named[1] if named else state["query"]}

    def after_judgement(state: _Research) -> str:
        return "conclude" if state["enough"] or len(state["findings"]) >= max_rounds else "look_up"

    def conclude(state: _Research) -> dict[str, Any]:
        return {"messages": [AIMessage(consult(_CONCLUDE, state))]}

    graph = StateGraph(_Research)
    for node in (begin, analyse, look_up, judge, conclude):
        graph.add_node(node)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "analyse")
    graph.add_edge("analyse", "look_up")
    graph.add_edge("look_up", "judge")
    graph.add_conditional_edges("judge", after_judgement, ["look_up", "conclude"])
    graph.add_edge("conclude", END)
    return graph.compile(checkpointer)


# --- ReAct: the model decides what to do next -------------------------------------------------------------------------


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
    llm_with_tools = llm.bind_tools(tools)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [llm_with_tools.invoke(_complete(state["messages"]))]}

    def after_thought(state: MessagesState) -> str | list[str]:
        reply: Any = state["messages"][-1]
        return ["act", "complain"] if reply.tool_calls or reply.invalid_tool_calls else END

    def complain(state: MessagesState) -> dict[str, Any]:
        # LangChain keeps calls that it cannot parse apart, and ToolNode does not answer them.
        reply: Any = state["messages"][-1]
        return {
            "messages": [
                ToolMessage(f"The arguments are not a JSON object: {call['args']}", tool_call_id=call["id"])
                for call in reply.invalid_tool_calls
            ]
        }

    graph = StateGraph(MessagesState)
    graph.add_node(think)
    graph.add_node("act", ToolNode(tools, handle_tool_errors=True))
    graph.add_node(complain)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", after_thought, ["act", "complain", END])
    graph.add_edge("act", "think")
    graph.add_edge("complain", "think")
    return graph.compile(checkpointer)


def _complete(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The messages without tool calls that have no result, left by an interrupted run that a new question replaced."""
    done = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    return [
        message
        for message in messages
        if not isinstance(message, AIMessage) or all(call["id"] in done for call in message.tool_calls)
    ]


# --- running both -----------------------------------------------------------------------------------------------------


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
    if recursion_limit < 1:
        raise ValueError(f"recursion_limit must be at least 1, not {recursion_limit}")
    return _answer(graph, {"messages": [HumanMessage(text)]}, thread_id, recursion_limit)


def resume(graph: Pregel, thread_id: str) -> str:
    """Finish the run on this thread that a failing call or the death of its process interrupted; return its answer.

    Finished nodes do not run again: no model call or lookup that was answered is repeated. The interrupted node does
    run again. Process and graph object may be different ones, as long as the graph is of the same kind and uses the
    same checkpoints. If the last run is finished, its answer is returned without calling anything.

    Raises:
        ValueError: there is no run on the thread, or the graph has no checkpointer; the message names thread_id.
        Exception: the client's own, if a model call fails. The run can be resumed again.
    """
    if graph.checkpointer is None or not (seen := graph.get_state(_config(thread_id))).values:
        raise ValueError(f"thread_id {thread_id!r}: there is no run to resume")
    return _answer(graph, None, thread_id) if seen.next else seen.values["messages"][-1].text


def _answer(graph: Pregel, given: dict[str, Any] | None, thread_id: str, recursion_limit: int = 25) -> str:
    # LangGraph counts steps, two per model call: begin and analyse, look_up and judge; think and act. Only the last
    # call takes one (conclude; think), which leaves the spare step that LangGraph needs to stop without an error.
    config = _config(thread_id) | {"recursion_limit": 2 * recursion_limit}
    try:
        return _run(graph, given, config)["messages"][-1].text
    except GraphRecursionError:
        return f"There is no answer: the run did not finish within {recursion_limit} model calls, the limit."


def _config(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def _run(graph: Pregel, given: dict[str, Any] | Command[Any] | None, config: RunnableConfig) -> dict[str, Any]:
    """Run the graph and return its final state; without an input it continues where it stopped."""
    # By default a checkpoint is written while the next node is already running: too late if the process dies there.
    return graph.invoke(given, config, durability=None if graph.checkpointer is None else "sync")


# --- approval by a person ---------------------------------------------------------------------------------------------

_DRAFT = "Write what the person asks for. Reply with the text only."


class _Approval(TypedDict):
    request: str
    draft: str | None
    approved: bool
    text: str  # as approved
    result: str | None


def approval_graph(llm: BaseChatModel, act: Callable[[str], str], checkpointer: BaseCheckpointSaver) -> Pregel:
    """A graph that drafts a text, waits for a person, and then acts on it. `start` and `decide` run it.

    Args:
        llm: the model, which drafts what the request asks for.
        act: called with the approved text; cannot be undone.
        checkpointer: where the draft waits, perhaps for days and for another process.
    """

    def write(state: _Approval) -> dict[str, Any]:
        return {"draft": llm.invoke([("system", _DRAFT), ("human", state["request"])]).text}

    def wait(state: _Approval) -> dict[str, Any]:
        # A node of its own, because an interrupted node runs again from its first line.
        decision = interrupt(state["draft"])
        text = state["draft"] if decision["edit"] is None else decision["edit"]
        return {"approved": decision["approved"], "text": text}

    def do(state: _Approval) -> dict[str, Any]:
        return {"result": act(state["text"])}

    graph = StateGraph(_Approval)
    for node in (write, wait, do):
        graph.add_node(node)
    graph.add_edge(START, "write")
    graph.add_edge("write", "wait")
    graph.add_conditional_edges("wait", lambda state: "do" if state["approved"] else END, ["do", END])
    graph.add_edge("do", END)
    return graph.compile(checkpointer)


def start(graph: Pregel, request: str, thread_id: str) -> dict[str, str]:
    """Have an `approval_graph` draft what the request asks for, with one model call.

    A new request on the same thread replaces the previous one.

    Returns:
        {"status": "waiting", "draft": the model's reply}

    Raises:
        Exception: the client's own, if the call fails. It is not retried.
    """
    state = _run(graph, {"request": request, "draft": None, "result": None}, _config(thread_id))
    return {"status": "waiting", "draft": state["draft"]}


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
    seen = graph.get_state(_config(thread_id))
    if seen.values.get("draft") is None:
        raise ValueError(f"thread_id {thread_id!r}: there is no draft to decide about")
    state = seen.values
    if seen.next:
        decision: Command[Any] = Command(resume={"approved": approved, "edit": edit})
        state = _run(graph, decision if seen.interrupts else None, _config(thread_id))
    return {"status": "done" if state["approved"] else "rejected", "result": state["result"]}
