"""Agents and tasks from YAML, a manager who delegates the work, a flow whose drafts are written by an agent."""

from __future__ import annotations

import yaml
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, router, start
from crewai.tools import tool
from pydantic import BaseModel

AGENTS = """
researcher:
  role: Senior Researcher
  goal: Collect what is known about {topic}
  backstory: You have worked in archives for thirty years.
analyst:
  role: Data Analyst
  goal: Separate what matters from what does not
  backstory: You never believe a number at once.
writer:
  role: Technical Writer
  goal: Explain {topic} to newcomers
  backstory: 짧고 분명하게 씁니다.
manager:
  role: Editor
  goal: Publish a good report
  backstory: You know your people.
  allow_delegation: true
"""

TASKS = """
research:
  description: Find sources about {topic}.
  expected_output: Notes.
analysis:
  description: Read the notes about {topic} and order them.
  expected_output: An outline.
writing:
  description: Turn the outline about {topic} into a report.
  expected_output: The report.
"""


def connect(url, model, api_key="none"):
    return LLM(model=f"openai/{model}", custom_openai=True, base_url=url, api_key=api_key, max_retries=0)


def team(llm, tools=(), process="sequential", max_iter=5, guardrail=None):
    if max_iter < 1:
        raise ValueError(f"max_iter: {max_iter}")
    if process not in {"sequential", "hierarchical"}:
        raise ValueError(f"process: {process}")
    people = {}
    for name, config in yaml.safe_load(AGENTS).items():
        config |= {"max_iter": max_iter, "max_retry_limit": 0}
        people[name] = Agent(config=config, llm=llm)
    manager = people.pop("manager")
    people["researcher"].tools = [tool(function.__name__)(function) for function in tools]

    def check(output):
        complaint = guardrail(output.raw)
        return (complaint is None, output.raw if complaint is None else complaint)

    todo = []
    for (name, config), agent in zip(yaml.safe_load(TASKS).items(), people.values(), strict=True):
        if process == "sequential":
            config["agent"] = agent
        if name == "writing" and guardrail:
            config["guardrail"] = check
        todo.append(Task(**config))
    if process == "hierarchical":
        return Crew(agents=list(people.values()), tasks=todo, process=process, manager_agent=manager)
    return Crew(agents=list(people.values()), tasks=todo)


def report(crew, topic):
    output = crew.kickoff(inputs={"topic": topic}).model_dump()
    steps = [{"role": each["agent"], "output": each["raw"]} for each in output["tasks_output"]]
    return {"text": output["raw"], "steps": steps}


class Desk(BaseModel):
    topic: str = ""
    draft: str | None = None
    number: int = 0


class ReportFlow(Flow[Desk]):
    def __init__(self, llm, min_words, max_rounds):
        if max_rounds < 0:
            raise ValueError(f"max_rounds may not be {max_rounds}")
        super().__init__(max_method_calls=10_000)
        self.min_words, self.most = min_words, max_rounds + 1
        self.writer = Agent(role="Writer", goal="Write", backstory="A poet.", llm=llm, max_retry_limit=0)

    @start()
    def sit_down(self):
        self.state.draft, self.state.number = None, 0

    @router(sit_down)
    def go(self):
        return "draft"

    @listen("draft")
    def write(self):
        wish = f"{self.min_words} words or more about: {self.state.topic}"
        if self.state.draft is not None:
            wish = f"{wish}\nNot like this, it is too short: {self.state.draft}"
        self.state.draft = self.writer.kickoff(wish).raw
        self.state.number += 1

    @router(write)
    def judge(self):
        fine = len(self.state.draft.split()) >= self.min_words
        return "hand in" if fine or self.state.number == self.most else "draft"

    @listen("hand in")
    def hand_in(self):
        return self.state.draft
