"""LangChain's prebuilt agent with middleware; nodes that name their successors; a static interrupt and update_state.

The state holds complete values, without reducers, and a callback counts the calls to the model.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Literal

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain.chat_models import init_chat_model
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import StateGraph
from langgraph.types import Command

_open = contextlib.ExitStack()  # the files of all checkpointers, until the program ends


def connect(url, model, api_key="none"):
    options = {"base_url": url, "api_key": api_key, "max_retries": 0, "cache": False, "temperature": 0}
    return init_chat_model(model, model_provider="openai", **options)


def sqlite_checkpointer(path):
    return _open.enter_context(SqliteSaver.from_conn_string(str(path)))


# --- research ---------------------------------------------------------------------------------------------------------


@dataclass
class _Notes:
    text: str
    query: str = ""
    findings: list[str] = field(default_factory=list)
    answer: str = ""


def research_graph(llm, lookup, checkpointer=None, max_rounds=3):
    if max_rounds <= 0:
        raise ValueError(f"max_rounds: {max_rounds}")

    def sheet(state):
        return "\n- ".join([state.text, *state.findings])

    def analysis(state: _Notes) -> Command[Literal["search"]]:
        reply = llm.invoke(f"Make a query of this: {state.text}")
        return Command(goto="search", update={"query": reply.text.strip(), "findings": []})

    def search(state: _Notes) -> Command[Literal["judgement"]]:
        try:
            found = lookup(state.query)
        except Exception as error:
            found = repr(error)
        return Command(goto="judgement", update={"findings": [*state.findings, found]})

    def judgement(state: _Notes) -> Command[Literal["search", "report"]]:
        reply = llm.invoke(f"Does that suffice, yes, no, or no: next query?\n{sheet(state)}").text.strip()
        if reply[:3].lower() == "yes" or len(state.findings) == max_rounds:
            return Command(goto="report")
        further = reply[3:].strip() if reply[:3].lower() == "no:" else ""
        return Command(goto="search", update={"query": further or state.query})

    def report(state: _Notes):
        return {"answer": llm.invoke(f"Answer this.\n{sheet(state)}").text}

    builder = StateGraph(_Notes)
    for node in (analysis, search, judgement, report):
        builder.add_node(node.__name__, node)
    builder.set_entry_point("analysis")
    builder.set_finish_point("report")
    return builder.compile(checkpointer=checkpointer, name="research")


# --- the agent --------------------------------------------------------------------------------------------------------


class _Careful(AgentMiddleware):
    """What goes wrong with a tool call is told to the model."""

    def wrap_model_call(self, request, handler):
        answered = {getattr(message, "tool_call_id", None) for message in request.messages}
        gone = {
            call["id"]
            for message in request.messages
            if isinstance(message, AIMessage)
            and not {call["id"] for call in message.tool_calls + message.invalid_tool_calls} <= answered
            for call in message.tool_calls + message.invalid_tool_calls
        }

        def stays(message):
            calls = message.tool_calls if isinstance(message, AIMessage) else []
            return not gone & {getattr(message, "tool_call_id", None), *(call["id"] for call in calls)}

        return handler(request.override(messages=[message for message in request.messages if stays(message)]))

    @hook_config(can_jump_to=["model"])
    def after_model(self, state, runtime):
        reply = state["messages"][-1]
        told = [
            ToolMessage("The arguments are not JSON.", tool_call_id=call["id"]) for call in reply.invalid_tool_calls
        ]
        if told and not reply.tool_calls:
            return {"messages": told, "jump_to": "model"}
        return {"messages": told} if told else None

    def wrap_tool_call(self, request, handler):
        try:
            return handler(request)
        except Exception as error:
            return ToolMessage(f"That failed: {error}", tool_call_id=request.tool_call["id"], status="error")


def tool_agent(llm, tools, checkpointer=None):
    return create_agent(llm, list(tools), middleware=[_Careful()], checkpointer=checkpointer, name="agent")


# --- running both -----------------------------------------------------------------------------------------------------


class _Enough(Exception):
    pass


class _Count(BaseCallbackHandler):
    raise_error = True

    def __init__(self, calls):
        self.left = calls

    def on_chat_model_start(self, *args, **kwargs):
        if self.left == 0:
            raise _Enough
        self.left -= 1


def _thread(thread_id):
    return {"configurable": {"thread_id": thread_id}}


def _last(graph, given, config):
    state = {}
    with_checkpoints = {"durability": "sync"} if graph.checkpointer is not None else {}
    for state in graph.stream(given, config, stream_mode="values", **with_checkpoints):  # noqa: B007
        pass
    return state


def _answer(graph, state):
    return state["answer"] if graph.name == "research" else state["messages"][-1].text


def ask(graph, text, thread_id, recursion_limit=25):
    if recursion_limit < 1:
        raise ValueError(f"recursion_limit must be positive: {recursion_limit}")
    given = {"text": text} if graph.name == "research" else {"messages": [{"role": "user", "content": text}]}
    try:
        return _answer(graph, _last(graph, given, _thread(thread_id) | {"callbacks": [_Count(recursion_limit)]}))
    except _Enough:
        return f"recursion_limit={recursion_limit} is used up, and there is no answer yet."


def resume(graph, thread_id):
    if graph.checkpointer is None:
        raise ValueError(f"nothing is stored, so nothing of {thread_id} either")
    found = graph.get_state(_thread(thread_id))
    if not found.values and not found.next:
        raise ValueError(f"nothing is stored of {thread_id}")
    return _answer(graph, _last(graph, None, _thread(thread_id)) if found.next else found.values)


# --- approval ---------------------------------------------------------------------------------------------------------


@dataclass
class _Letter:
    request: str
    draft: str | None = None
    text: str | None = None
    outcome: dict | None = None


def approval_graph(llm, act, checkpointer):
    def draft(state: _Letter):
        return {"draft": llm.invoke(state.request).text}

    def send(state: _Letter):
        return {"outcome": {"status": "done", "result": act(state.text)}}

    builder = StateGraph(_Letter).add_sequence([("drafting", draft), ("sending", send)]).set_entry_point("drafting")
    return builder.compile(checkpointer=checkpointer, interrupt_before=["sending"])


def start(graph, request, thread_id):
    fresh = replace(_Letter(request))
    _last(graph, {**vars(fresh)}, _thread(thread_id))
    return {"status": "waiting", "draft": graph.get_state(_thread(thread_id)).values["draft"]}


def decide(graph, thread_id, approved, edit=None):
    config = _thread(thread_id)
    seen = graph.get_state(config)
    if seen.values.get("draft") is None:
        raise ValueError(f"{thread_id} has no draft")
    if seen.values.get("outcome") is not None:
        return seen.values["outcome"]
    if seen.values.get("text") is None:
        if not approved:
            graph.update_state(config, {"outcome": {"status": "rejected", "result": None}}, as_node="sending")
            return {"status": "rejected", "result": None}
        graph.update_state(config, {"text": seen.values["draft"] if edit is None else edit})
    return _last(graph, None, config)["outcome"]
