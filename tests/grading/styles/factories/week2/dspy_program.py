"""DSPy's own parts, configured and composed by functions: no classes, a thread pool, BestOfN, cloudpickle."""

from __future__ import annotations

import functools
import statistics
import typing
from pathlib import Path

import cloudpickle
import dspy


def connect(url, model, api_key="none"):
    client = dspy.LM(model=f"openai/{model}", api_base=url, api_key=api_key)
    return client.copy(cache=False, num_retries=0)


MAKERS = {"predict": dspy.Predict, "chain_of_thought": dspy.ChainOfThought}


def predictor(kind="predict"):
    try:
        return MAKERS[kind](dspy.Signature("question: str -> answer: int", "Count."))
    except KeyError:
        raise ValueError(f"unknown kind: {kind}") from None


def react_agent(tools, max_iters=5):
    agent = dspy.ReAct("question -> answer", tools=[dspy.Tool(tool) for tool in tools], max_iters=max_iters)
    for field, type_ in (("next_tool_name", str), ("next_tool_args", typing.Any)):
        agent.react.signature = agent.react.signature.with_updated_fields(field, type_=type_)
    agent.forward = functools.partial(_without_fallback, agent.forward)
    return agent


def _without_fallback(forward, **inputs):
    with dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return forward(**inputs)


def examples(rows):
    return [dspy.Example(base=dict(row)).with_inputs("question") for row in rows]


def metric(example, prediction, trace=None):
    try:
        answers = (example.answer, prediction.answer)
    except AttributeError:
        return False
    return None not in answers and len(set(map(_normal, answers))) == 1


def _normal(answer):
    try:
        return float(answer)
    except Exception:
        return " ".join(f"{answer}".lower().split())


def evaluate(program, devset, metric):
    result = dspy.Evaluate(devset=devset, num_threads=4, failure_score=0)(program, metric=metric)
    return statistics.fmean(float(score) for *_, score in result.results)


def optimise(program, trainset, metric, max_bootstrapped_demos=4, max_labeled_demos=4):
    limits = {"max_bootstrapped_demos": max_bootstrapped_demos, "max_labeled_demos": max_labeled_demos}
    return dspy.BootstrapFewShot(metric=metric, max_rounds=1, **limits).compile(program, trainset=trainset)


def refine(program, reward, threshold, attempts):
    if attempts <= 0:
        raise ValueError(f"attempts={attempts}")
    return dspy.BestOfN(module=program, N=attempts, reward_fn=functools.partial(reward), threshold=threshold)


def save(program, path):
    Path(path).write_bytes(cloudpickle.dumps(program))


def load(path):
    return cloudpickle.loads(Path(path).read_bytes())
