"""A team of agents on CrewAI: a researcher, an analyst and a writer, and a flow that sends a report back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from crewai import LLM, Agent, BaseLLM, Crew, Process, Task
from crewai.flow.flow import Flow, listen, or_, router, start
from crewai.tools import tool
from pydantic import BaseModel


def connect(url: str, model: str, api_key: str = "none") -> BaseLLM:
    """CrewAI's own client for a model behind an OpenAI-compatible server, for `team` and `ReportFlow`.

    It calls tools natively (they are in the request's `tools`), waits for a late reply, caches nothing and does not
    retry.

    Args:
        url: of the server, ending in /v1.
        model: the server's name for the model, sent unchanged as each request's `model`, even if it is like
            "openai/gpt-oss-20b", "Qwen/Qwen3-8B" or "qwen3:8b".
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
    """A crew for `report`: a researcher with the tools, an analyst and a writer, with one task each, in this order.

    Each task's requests hold the topic and the previous task's output, word for word. A task that needs no tool makes
    one request.

    "sequential": each agent does its own task. Only the researcher is offered tools, and only the given ones.
    "hierarchical": a manager, who uses `llm` too, gets the tasks one after another and can delegate work to the agents
    with CrewAI's own tools for delegation.

    Failures:

    - A tool that raises, arguments that are not JSON or lack the parameter, and an unknown tool do not end the
      researcher's task: its next request says what was wrong, in the exception's own words if a tool raised.
    - An agent or a manager that calls tools without end makes at most max_iter + 1 requests, the last one without
      tools. The reply to that one is its output, and the team goes on. The run may end in an exception if the model
      calls a tool when none is offered, or gets the same result for the same call five times.
    - A request that fails (status 500, or a reply that is not JSON) is never repeated: the run ends in the client's
      exception after that one request. If an agent working for a manager fails, the manager is told instead.

    Args:
        llm: from `connect`.
        tools: plain functions with one parameter, a name and a docstring, which are what the model is told about them.
            Each call by the model runs the function once, even if the same call was made before.
        process: "sequential" or "hierarchical".
        max_iter: at least 1.
        guardrail: returns what is wrong with the writer's report, or None if nothing is. A refused report goes back
            with what was wrong, and the writer writes again, at most three times; the other tasks are not repeated. If
            the last one is refused too, the run ends in an exception that says what was wrong.

    Raises:
        ValueError: unknown process, or max_iter less than 1; the message names the argument and the value.
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
        "You look things up, and say so if you find nothing.",
        tools=[tool(function) for function in tools],
    )
    analyst = agent("Analyst", "See what matters about {topic}", "You tell the important from the unimportant.")
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
    # Given only manager_llm, CrewAI makes a manager of its own, with 25 iterations and retries of failed requests.
    manager = agent("Manager", "Have a good report written", "You know who is good at what.")
    return Crew(
        agents=[researcher, analyst, writer],
        tasks=[research, analysis, writing],
        process=Process(process),
        manager_agent=manager if process == "hierarchical" else None,
    )


def _for_crewai(guardrail: Callable[[str], str | None]) -> Callable[[Any], tuple[bool, Any]]:
    """The guardrail in CrewAI's form, which returns whether the output passes, and the output or what is wrong."""

    def check(output):  # no return annotation: CrewAI inspects it, and rejects one that is a string
        wrong = guardrail(output.raw)
        return (True, output) if wrong is None else (False, wrong)

    return check


def report(crew: Crew, topic: str) -> dict[str, Any]:
    """Have a crew made by `team` write a report. It can be asked again and starts afresh, even after an exception.

    Args:
        topic: any text; reaches the model unchanged.

    Returns:
        {"text": the last task's output, "steps": [{"role": of the agent, "output": of its task}, …]}, with the steps
        in the order of the three tasks and all values str. In a sequential crew the roles contain "research", "analy"
        and "writ", in upper or lower case.
    """
    result = crew.kickoff(inputs={"topic": topic})
    steps = [{"role": output.agent, "output": output.raw} for output in result.tasks_output]
    return {"text": result.raw, "steps": steps}


class ReportState(BaseModel):
    """The state of a ReportFlow."""

    topic: str = ""
    drafts: list[str] = []


class ReportFlow(Flow[ReportState]):
    """A report rewritten until it is long enough: `ReportFlow(…).kickoff(inputs={"topic": …})` returns its text.

    Each draft is one request, which holds the topic. A draft of fewer than min_words words is sent back: the next
    request also holds that draft. The first draft that is long enough is the result; after max_rounds drafts have been
    sent back, the next one is, however short.

    A request that fails (status 500) is not repeated: kickoff raises the client's exception. A flow can be kicked off
    again, even after an exception, and starts afresh.

    The methods below are one possible design; any other is fine.

    Args:
        llm: from `connect`.
        min_words: of a report; words are separated by white space.
        max_rounds: 0 or more, possibly several hundred.

    Raises:
        ValueError: max_rounds is negative; the message names it and the value.
    """

    def __init__(self, llm: BaseLLM, min_words: int, max_rounds: int) -> None:
        if max_rounds < 0:
            raise ValueError(f"max_rounds must be 0 or more, not {max_rounds}")
        # By default CrewAI treats a method that runs more than 100 times as an endless loop.
        super().__init__(suppress_flow_events=True, max_method_calls=max_rounds + 1)
        self.llm = llm
        self.min_words = min_words
        self.max_rounds = max_rounds

    @start()
    def begin(self) -> None:
        """Start with no drafts."""
        self.state.drafts = []  # the last run's drafts may be there

    @listen(or_(begin, "too short"))
    def write(self) -> None:
        """Write the first draft, or a longer one than the last."""
        request = f"Write a report about {self.state.topic}, of at least {self.min_words} words."
        if self.state.drafts:
            request += f" This draft is too short, write a longer one:\n\n{self.state.drafts[-1]}"
        self.state.drafts.append(self.llm.call(request))

    @router(write)
    def judge(self) -> Literal["too short", "done"]:
        """Decide what happens to the last draft."""
        sent_back = len(self.state.drafts) - 1
        if len(self.state.drafts[-1].split()) < self.min_words and sent_back < self.max_rounds:
            return "too short"
        return "done"

    @listen("done")
    def hand_over(self) -> str:
        """Return the report."""
        return self.state.drafts[-1]
