"""LangGraph's functional API: an agent is an ordinary function, and the result of each of its tasks is stored."""

from __future__ import annotations

import sqlite3
import time

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt


def connect(url, model, api_key="none"):
    return ChatOpenAI(model=model, base_url=url, api_key=api_key, max_retries=0, cache=False)


def sqlite_checkpointer(path):
    return SqliteSaver(sqlite3.connect(path, check_same_thread=False))


class _Spent(Exception):
    """No call of the model is left."""


class _Desk:
    """Runs the tasks of one workflow, and waits for what they give to be stored.

    LangGraph hands it to a thread that stores it, whatever the durability, and goes on at once.
    """

    def __init__(self, checkpointer, config, limit=None):
        self.checkpointer = checkpointer
        self.thread = {"configurable": {"thread_id": config["configurable"].get("thread_id")}}
        self.limit, self.calls, self.finished = limit, 0, 0

    def ask(self, call, *args):
        if self.calls == self.limit:
            raise _Spent
        self.calls += 1
        (reply,) = self.do([call(*args)])
        return reply

    def do(self, futures):
        given = [future.result() for future in futures]
        self.finished += len(given)
        while self.checkpointer is not None and self._stored() < self.finished:
            time.sleep(0.002)
        return given

    def _stored(self):
        seen = self.checkpointer.get_tuple(self.thread)
        return sum(channel == "__return__" for _, channel, _ in seen.pending_writes) if seen else 0


def research_graph(llm, lookup, checkpointer=None, max_rounds=3):
    if max_rounds < 1:
        raise ValueError(f"{max_rounds=} is too small")

    @task
    def consult(what, question, findings):
        return llm.invoke(f"{question}\n\n{findings}\n\n{what}").text

    @task
    def find(query):
        try:
            return lookup(query)
        except Exception as error:
            return str(error)

    @entrypoint(checkpointer=checkpointer)
    def research(given: dict, *, config: RunnableConfig) -> str:
        desk, question = _Desk(checkpointer, config, given["limit"]), given["text"]
        query, findings = desk.ask(consult, "What shall be looked up?", question, []).strip(), []
        for _ in range(max_rounds):
            findings += desk.do([find(query)])
            word, _, rest = desk.ask(consult, "Enough? yes, or no: next query", question, findings).partition(":")
            if word.lower().startswith("yes"):
                break
            if word.lower() == "no" and rest.strip():
                query = rest.strip()
        return desk.ask(consult, "Answer.", question, findings)

    return research


def tool_agent(llm, tools, checkpointer=None):
    functions = {function.__name__: function for function in tools}
    model = llm.bind_tools(tools)

    @task
    def think(messages):
        return model.invoke(messages)

    @task
    def act(call):
        try:
            if not isinstance(call["args"], dict):
                raise ValueError(f"not JSON: {call['args']}")
            result = functions[call["name"]](**call["args"])
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        return ToolMessage(result, tool_call_id=call["id"])

    @entrypoint(checkpointer=checkpointer)
    def agent(given: dict, *, previous: list | None = None, config: RunnableConfig):
        desk, messages = _Desk(checkpointer, config, given["limit"]), [*(previous or []), HumanMessage(given["text"])]
        while True:
            reply = desk.ask(think, messages)
            messages.append(reply)
            calls = reply.tool_calls + reply.invalid_tool_calls
            if not calls:
                return entrypoint.final(value=reply.text, save=messages)
            messages += desk.do([act(call) for call in calls])

    return agent


def _config(thread_id):
    return {"configurable": {"thread_id": thread_id}}


def _run(workflow, given, thread_id):
    options = {"durability": "sync"} if workflow.checkpointer else {}
    return workflow.invoke(given, _config(thread_id), **options)


def ask(graph, text, thread_id, recursion_limit=25):
    if recursion_limit < 1:
        raise ValueError(f"recursion_limit={recursion_limit}, should be positive")
    try:
        return _run(graph, {"text": text, "limit": recursion_limit}, thread_id)
    except _Spent:
        return f"I was allowed {recursion_limit} calls of the model, which did not suffice."


def resume(graph, thread_id):
    seen = graph.get_state(_config(thread_id)) if graph.checkpointer else None
    if seen is None or seen.created_at is None:
        raise ValueError(f"no run on {thread_id}")
    return _run(graph, None, thread_id) if seen.next else seen.values


def approval_graph(llm, act, checkpointer):
    @task
    def write(request):
        return llm.invoke(request).text

    @task
    def keep(decision):
        return decision

    @task
    def send(text):
        return act(text)

    @entrypoint(checkpointer=checkpointer)
    def approval(request: str, *, config: RunnableConfig) -> dict:
        desk = _Desk(checkpointer, config)
        draft = desk.ask(write, request)
        approved, text = desk.ask(keep, interrupt(draft))
        if not approved:
            return {"status": "rejected", "result": None}
        return {"status": "done", "result": desk.ask(send, draft if text is None else text)}

    return approval


def start(graph, request, thread_id):
    _run(graph, request, thread_id)
    (waiting,) = graph.get_state(_config(thread_id)).interrupts
    return {"status": "waiting", "draft": waiting.value}


def decide(graph, thread_id, approved, edit=None):
    seen = graph.get_state(_config(thread_id))
    if seen.interrupts:
        return _run(graph, Command(resume=[approved, edit]), thread_id)
    if seen.created_at is None or seen.next:
        raise ValueError(f"nothing waits on {thread_id}")
    return seen.values
