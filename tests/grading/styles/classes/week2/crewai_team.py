"""A team as a class with decorated methods, tools as subclasses of BaseTool, a flow with two methods that write."""

from __future__ import annotations

import inspect
from typing import Any

from crewai import Agent, Crew, Process, Task
from crewai.flow.flow import Flow, listen, or_, router, start
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.project import CrewBase, agent, crew, task
from crewai.tools import BaseTool
from pydantic import create_model


def connect(url, model, api_key="none"):
    return OpenAICompletion(model=model, base_url=url, api_key=api_key, max_retries=0)


class PlainFunction(BaseTool):
    """A function as a tool."""

    function: Any

    def _run(self, **arguments: str) -> str:
        return self.function(**arguments)


def as_tool(function):
    (parameter,) = inspect.signature(function).parameters
    schema = create_model(f"{function.__name__}_arguments", **{parameter: (str, ...)})
    return PlainFunction(
        name=function.__name__, description=inspect.getdoc(function), args_schema=schema, function=function
    )


@CrewBase
class Team:
    """The team's agents and tasks."""

    agents_config = tasks_config = None

    def __init__(self, llm, tools, process, max_iter, guardrail):
        self.thinking = {"llm": llm, "max_iter": max_iter, "max_retry_limit": 0}
        self.lookups = [as_tool(function) for function in tools]
        self.process = process
        self.guardrail = guardrail

    @agent
    def researcher(self) -> Agent:
        return Agent(
            role="Head of research on {topic}",
            goal="Know all about it",
            backstory="A librarian.",
            tools=self.lookups,
            **self.thinking,
        )

    @agent
    def analyst(self) -> Agent:
        return Agent(role="analyst", goal="Understand", backstory="Loves numbers.", **self.thinking)

    @agent
    def writer(self) -> Agent:
        return Agent(role="WRITER", goal="Be read", backstory="Wrote for newspapers.", **self.thinking)

    @task
    def research(self) -> Task:
        return Task(description="Research {topic}", expected_output="notes", agent=self.researcher())

    @task
    def analysis(self) -> Task:
        return Task(description="Analyse the notes on {topic}", expected_output="a list", agent=self.analyst())

    @task
    def writing(self) -> Task:
        def passes(output):
            complaint = self.guardrail(output.raw) if self.guardrail else None
            return complaint is None, complaint or output.raw

        return Task(
            description="Write up {topic}", expected_output="a text", agent=self.writer(), guardrails=[passes]
        )  # fmt: skip

    @crew
    def crew(self) -> Crew:
        managed = {}
        if self.process == "hierarchical":
            managed["manager_agent"] = Agent(
                role="Boss", goal="Get it done", backstory="Knows everybody.", allow_delegation=True, **self.thinking
            )
        return Crew(agents=self.agents, tasks=self.tasks, process=Process[self.process], **managed)


def team(llm, tools=(), process="sequential", max_iter=5, guardrail=None):
    if max_iter <= 0 or process not in Process.__members__:
        raise ValueError(f"process={process!r}, max_iter={max_iter!r}: there is no such team")
    return Team(llm, tools, process, max_iter, guardrail).crew()


def report(crew, topic):
    crew.kickoff({"topic": topic})
    steps = [{"role": task.output.agent, "output": task.output.raw} for task in crew.tasks]
    return {"text": steps[-1]["output"], "steps": steps}


class ReportFlow(Flow):
    """State in a dictionary; one method for the first draft, one for the others."""

    def __init__(self, llm, min_words, max_rounds):
        super().__init__(suppress_flow_events=True)
        if max_rounds < 0:
            raise ValueError(f"max_rounds={max_rounds}")
        self.max_method_calls = 10 + 2 * max_rounds
        self.llm, self.min_words, self.max_rounds = llm, min_words, max_rounds

    @start()
    def first(self):
        self.state["left"] = self.max_rounds
        return self.llm.call([{"role": "user", "content": self.state["topic"]}])

    @router(or_("first", "again"))
    def look(self, draft):
        self.state["draft"] = draft
        if len(draft.split()) >= self.min_words:
            return "long enough"
        if not self.state["left"]:
            return "given up"
        return "once more"

    @listen("once more")
    def again(self):
        self.state["left"] -= 1
        messages = [
            {"role": "user", "content": self.state["topic"]},
            {"role": "assistant", "content": self.state["draft"]},
            {"role": "user", "content": "Longer, please."},
        ]
        return self.llm.call(messages)

    @listen(or_("long enough", "given up"))
    def end(self):
        return self.state["draft"]
