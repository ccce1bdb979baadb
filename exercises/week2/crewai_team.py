"""A team of agents on CrewAI: a researcher, an analyst and a writer, and a flow that sends a report back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from crewai import LLM, Agent, BaseLLM, Crew, Process, Task
from crewai.flow.flow import Flow, listen, or_, router, start
from crewai.tools import tool
from pydantic import BaseModel


def connect(url: str, model: str, api_key: str = "none") -> BaseLLM:
    """CrewAI's own client of a model behind an OpenAI-compatible server, for `team` and `ReportFlow`.

    It calls tools natively (they stand in the request's `tools`), waits for a late reply, caches nothing and does not
    try again.

    Args:
        url: of the server, ending in /v1.
        model: the server's name for it. Each request's `model` is this very name, also one like "openai/gpt-oss-20b",
            "Qwen/Qwen3-8B" or "qwen3:8b".
        api_key: sent with each request.
    """
    raise NotImplementedError


def team(
    llm: BaseLLM,
    tools: Sequence[Callable[[str], str]] = (),
    process: Literal["sequential", "hierarchical"] = "sequential",
    max_iter: int = 5,
    guardrail: Callable[[str], str | None] | None = None,
) -> Crew:
    """A crew for `report`: a researcher with the tools, an analyst and a writer, a task for each in this order.

    Each task's requests hold the topic, and the output of the task before it word for word. A task that needs no tool
    takes one request.

    "sequential": each agent does its own task. Only the researcher is offered tools, and no other tools than these.
    "hierarchical": a manager, who thinks with `llm` too, gets the tasks one after another, and can delegate work to the
    agents with CrewAI's own tools for that.

    What goes wrong:

    - A tool that raises, arguments that are no JSON or lack the parameter, and an unknown tool do not end the
      researcher's task: its next request says what was wrong, in the exception's own words where a tool raised.
    - An agent or a manager that calls tools without end makes at most max_iter + 1 requests before it answers, the
      last one without tools. The reply to that is its output, and the team goes on. A model that calls a tool where it
      is offered none may end the run in an exception, and so may one that gets the same result for the same call five
      times.
    - A request that fails (status 500, or a reply that is no JSON) is not repeated by anybody: the run ends in the
      client's exception, after this one request. Only where an agent works for a manager, the manager is told instead.

    Args:
        llm: from `connect`.
        tools: plain functions with one parameter, a name and a docstring, which is what the model is told of them.
            Each call of the model runs the function once, also a call that was made before.
        process: "sequential" or "hierarchical".
        max_iter: at least 1.
        guardrail: says of the writer's report what is wrong with it, or None where nothing is. A report that it
            refuses goes back with what was wrong, and the writer writes again, at most three times; nobody else's
            task is done again. If even the last one is refused, the run ends in an exception with what was wrong.

    Raises:
        ValueError: process is another one, or max_iter less than 1; the message names it and the value.
    """
    raise NotImplementedError


def report(crew: Crew, topic: str) -> dict[str, Any]:
    """Have a crew of `team` write a report. The crew can be asked again and begins anew, also after an exception.

    Args:
        topic: any text, reaches the model as it is.

    Returns:
        {"text": the last task's output, "steps": [{"role": of the agent, "output": of its task}, …]}, the steps in the
        order of the three tasks, all of it str. In a sequential crew the roles contain "research", "analy" and "writ",
        in capitals or not.
    """
    raise NotImplementedError


class ReportState(BaseModel):
    """What a ReportFlow knows."""

    topic: str = ""
    drafts: list[str] = []


class ReportFlow(Flow[ReportState]):
    """A report that is written again while it is too short: `ReportFlow(…).kickoff(inputs={"topic": …})` is its text.

    A draft is one request, which holds the topic. A draft of fewer than min_words words is sent back: the next request
    holds that draft, too. The first draft that is long enough is the result, and after max_rounds drafts have been sent
    back, the one that comes then, however short.

    A request that fails (status 500) is not repeated: kickoff raises the client's exception. A flow can be kicked off
    again, also after an exception, and begins anew.

    The methods below are one way to lay it out. Others are as welcome.

    Args:
        llm: from `connect`.
        min_words: of a report; words are what white space separates.
        max_rounds: 0 or more, may be several hundred.

    Raises:
        ValueError: max_rounds is negative; the message names it and the value.
    """

    def __init__(self, llm: BaseLLM, min_words: int, max_rounds: int) -> None:
        raise NotImplementedError

    @start()
    def begin(self) -> None:
        """Nothing is written yet."""
        raise NotImplementedError

    @listen(or_(begin, "too short"))
    def write(self) -> None:
        """The first draft, or a longer one than the last."""
        raise NotImplementedError

    @router(write)
    def judge(self) -> Literal["too short", "done"]:
        """Where the last draft goes."""
        raise NotImplementedError

    @listen("done")
    def hand_over(self) -> str:
        """The report."""
        raise NotImplementedError
