"""Signatures and programs as classes, every loop written out: of DSPy only Predict and its state."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import dspy


def connect(url, model, api_key="none"):
    return dspy.LM("openai/" + model, base_url=url, api_key=api_key, cache=False, num_retries=0)


class Question(dspy.Signature):
    """Answer with a whole number."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField(desc="digits only")


class ReasonedQuestion(dspy.Signature):
    """Think first, then answer with a whole number."""

    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField(desc="why it is so")
    answer: int = dspy.OutputField(desc="digits only")


class Answerer(dspy.Module):
    kinds = {"predict": Question, "chain_of_thought": ReasonedQuestion}  # noqa: RUF012

    def __init__(self, kind):
        super().__init__()
        if kind not in self.kinds:
            raise ValueError(f"kind {kind!r} is none of {', '.join(self.kinds)}")
        self.kind = kind
        self.answer = dspy.Predict(self.kinds[kind])

    def forward(self, question):
        return self.answer(question=question)


def predictor(kind="predict"):
    return Answerer(kind)


class Turn(dspy.Signature):
    """Find out what the question needs, by one tool in each turn; say finish when you know enough."""

    question: str = dspy.InputField()
    tools: str = dspy.InputField()
    history: list[str] = dspy.InputField(desc="what you did so far and what came of it")
    next_thought: str = dspy.OutputField()
    next_tool_name: str = dspy.OutputField()
    next_tool_args: str = dspy.OutputField(desc="a JSON object")


class Report(dspy.Signature):
    """Answer the question from what was found."""

    question: str = dspy.InputField()
    history: list[str] = dspy.InputField()
    answer: str = dspy.OutputField()


class Agent(dspy.Module):
    def __init__(self, tools, max_iters):
        super().__init__()
        self.tools, self.max_iters = tuple(tools), max_iters
        self.turn, self.report = dspy.Predict(Turn), dspy.Predict(Report)

    def forward(self, question):
        with dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
            return self.research(question)

    def research(self, question):
        history: list[str] = []
        manual = "\n".join(f"{tool.__name__}: {tool.__doc__}" for tool in self.tools)
        for _ in range(self.max_iters):
            turn = self.turn(question=question, tools=manual, history=history)
            if turn.next_tool_name.strip() == "finish":
                break
            outcome = self.use(turn.next_tool_name.strip(), turn.next_tool_args)
            history.append(f"{turn.next_tool_name}({turn.next_tool_args}): {outcome}")
        return dspy.Prediction(answer=self.report(question=question, history=history).answer)

    def use(self, name, arguments):
        for tool in self.tools:
            if tool.__name__ == name:
                try:
                    return tool(**json.loads(arguments))
                except Exception as problem:
                    return f"This went wrong: {type(problem).__name__}, {problem}"
        return f"This is an unknown tool: {name}"


def react_agent(tools, max_iters=5):
    return Agent(tools, max_iters)


def examples(rows):
    made = []
    for row in rows:
        example = dspy.Example(row)
        made.append(example.with_inputs("question"))
    return made


def metric(example, prediction, trace=None):
    sides = []
    for side in (example, prediction):
        answer = None if side is None else side.get("answer")
        if answer is None:
            return False
        sides.append(answer)
    numbers = [number(side) for side in sides]
    if None not in numbers:
        return numbers[0] == numbers[1]
    if numbers != [None, None]:
        return False
    one, other = (str(side).lower().split() for side in sides)
    return one == other


def number(answer):
    try:
        return float(answer)
    except Exception:
        return None


def evaluate(program, devset, metric):
    if not devset:
        raise ValueError("devset is empty: []")
    total, failures = 0.0, 0
    for example in devset:
        try:
            total += float(metric(example, program(**example.inputs())))
        except Exception:
            failures += 1
            if failures >= dspy.settings.max_errors:
                raise
    return total / len(devset)


def optimise(program, trainset, metric, max_bootstrapped_demos=4, max_labeled_demos=4):
    trainset = list(trainset)
    made: dict[int, list[Any]] = {}
    for number, example in enumerate(trainset):
        if len(made) == max_bootstrapped_demos:
            break
        teacher = copy.deepcopy(program)
        others = trainset[:number] + trainset[number + 1 :]
        for each in teacher.predictors():
            each.demos = others[:max_labeled_demos]
        try:
            with dspy.context(trace=[]):
                prediction = teacher(**example.inputs())
                steps = [dspy.Example(**inputs, **outputs) for _, inputs, outputs in dspy.settings.trace]
            if metric(example, prediction, steps):
                made[number] = steps
        except Exception:
            continue
    rest = [example for number, example in enumerate(trainset) if number not in made]
    random.Random(1).shuffle(rest)
    student = copy.deepcopy(program)
    for position, each in enumerate(student.predictors()):
        demos = [steps[position] for steps in made.values()]
        each.demos = demos + rest[: max(max_labeled_demos - len(demos), 0)]
    return student


class Refined(dspy.Module):
    def __init__(self, program, reward, threshold, attempts):
        super().__init__()
        if attempts < 1:
            raise ValueError(f"{attempts} attempts are none")
        self.program, self.reward, self.threshold, self.attempts = program, reward, threshold, attempts

    def forward(self, **inputs):
        best, highest, problem = None, float("-inf"), None
        for _ in range(self.attempts):
            try:
                prediction = self.program(**inputs)
            except Exception as caught:
                problem = caught
                continue
            rewarded = self.reward(inputs, prediction)
            if rewarded > highest:
                best, highest = prediction, rewarded
            if rewarded >= self.threshold:
                break
        if best is None:
            raise problem
        return best


def refine(program, reward, threshold, attempts):
    return Refined(program, reward, threshold, attempts)


def save(program, path):
    folder = Path(path)
    folder.mkdir()
    program.save(folder / "state.json")
    (folder / "kind").write_text(program.kind, "utf-8")


def load(path):
    program = Answerer((Path(path) / "kind").read_text("utf-8"))
    program.load(Path(path) / "state.json")
    return program
