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
    return LLM(model=model, provider="openai", base_url=url, api_key=api_key, max_retries=0)


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
    if process not in ("sequential", "hierarchical"):
        raise ValueError(f'process must be "sequential" or "hierarchical", not {process!r}')
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, not {max_iter}")

    def agent(role: str, goal: str, backstory: str, **options: Any) -> Agent:
        return Agent(
            role=role, goal=goal, backstory=backstory, llm=llm, max_iter=max_iter, max_retry_limit=0, **options
        )

    researcher = agent(
        "Researcher",
        "Find out what there is to know about {topic}",
        "You look things up, and say so where you found nothing.",
        tools=[tool(function) for function in tools],
    )
    analyst = agent("Analyst", "See what matters about {topic}", "You tell what is important from what is not.")
    writer = agent("Writer", "Write so that everybody understands {topic}", "You write briefly, in plain words.")

    research = Task(
        description="Collect facts about {topic}.",
        expected_output="A list of facts.",
        agent=researcher,
    )
    analysis = Task(
        description="Work out from the facts what matters about {topic}.",
        expected_output="The most important points, each with its reason.",
        agent=analyst,
        context=[research],
    )
    writing = Task(
        description="Write a report about {topic} from the analysis.",
        expected_output="A report of a few paragraphs.",
        agent=writer,
        context=[analysis],
        guardrail=guardrail and _for_crewai(guardrail),
    )
    # Given only manager_llm, CrewAI makes a manager itself, who asks 25 times and tries failing requests again.
    manager = agent("Manager", "Have a good report written", "You know who is good at what.")
    return Crew(
        agents=[researcher, analyst, writer],
        tasks=[research, analysis, writing],
        process=Process(process),
        manager_agent=manager if process == "hierarchical" else None,
    )


def _for_crewai(guardrail: Callable[[str], str | None]) -> Callable[[Any], tuple[bool, Any]]:
    """The guardrail in CrewAI's form: whether the output passes, and the output itself or what is wrong with it."""

    def check(output):  # CrewAI inspects the annotation of the result, and takes a string for a wrong one
        wrong = guardrail(output.raw)
        return (True, output) if wrong is None else (False, wrong)

    return check


def report(crew: Crew, topic: str) -> dict[str, Any]:
    """Have a crew of `team` write a report. The crew can be asked again and begins anew, also after an exception.

    Args:
        topic: any text, reaches the model as it is.

    Returns:
        {"text": the last task's output, "steps": [{"role": of the agent, "output": of its task}, …]}, the steps in the
        order of the three tasks, all of it str. In a sequential crew the roles contain "research", "analy" and "writ",
        in capitals or not.
    """
    result = crew.kickoff(inputs={"topic": topic})
    steps = [{"role": output.agent, "output": output.raw} for output in result.tasks_output]
    return {"text": result.raw, "steps": steps}


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
        if max_rounds < 0:
            raise ValueError(f"max_rounds must be 0 or more, not {max_rounds}")
        # CrewAI takes a method that runs more than 100 times for an endless loop.
        super().__init__(suppress_flow_events=True, max_method_calls=max_rounds + 1)
        self.llm = llm
        self.min_words = min_words
        self.max_rounds = max_rounds

    @start()
    def begin(self) -> None:
        """Nothing is written yet."""
        self.state.drafts = []  # there are some where the flow has run before

    @listen(or_(begin, "too short"))
    def write(self) -> None:
        """The first draft, or a longer one than the last."""
        request = f"Write a report about {self.state.topic}, of at least {self.min_words} words."
        if self.state.drafts:
            request += f" This draft is too short, write a longer one:\n\n{self.state.drafts[-1]}"
        self.state.drafts.append(self.llm.call(request))

    @router(write)
    def judge(self) -> Literal["too short", "done"]:
        """Where the last draft goes."""
        sent_back = len(self.state.drafts) - 1
        if len(self.state.drafts[-1].split()) < self.min_words and sent_back < self.max_rounds:
            return "too short"
        return "done"

    @listen("done")
    def hand_over(self) -> str:
        """The report."""
        return self.state.drafts[-1]
