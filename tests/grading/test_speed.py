"""Grading speed: verdicts, how they are reached, and code that only looks fast and earns nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from grading.ask.marks import AtLeast
from grading.ask.submission import Submission
from grading.course.layout import Course
from grading.course.trees import find_tree
from grading.explain.outcome import Inconclusive, Unmet
from grading.judge.ratios import GREY, Pair, PairedRatios, take_pairs
from grading.judge.speed import IMPOSSIBLE, Contest, judge_speed
from grading.run.executors import Isolated
from grading.run.sandbox import Sandbox
from tests.grading.conftest import TOY, write_hand_in
from tests.grading.test_students import SOLUTION, with_body

LIMIT = AtLeast(("0.5x",), ("solutions",), seconds=10)
SLOWLY = """
def slowly(x, weights, dim):
    for _ in range(200):
        answer = _divide((x * weights).sum(dim), weights.expand_as(x).sum(dim))
    return answer
"""
# Ways to make a slow function look fast: its body, and words of the reason why it earns nothing.
CHEATS = {
    "honestly slow": ("return slowly(x, weights, dim)", "too slow"),
    "cached by shape": ("return cached(x.shape, x, weights, dim)", "timed answer is wrong"),
    "cached by pointer": (
        "return cached((x.data_ptr(), x._version), x, weights, dim)",
        "timed answer is wrong|too slow",
    ),
    "cached by content": ("return cached(float(x.sum()) + float(weights.sum()), x, weights, dim)", "too slow"),
    "finished by another thread": (
        "answer = torch.empty(x.shape[0])\n"
        "threading.Thread(target=lambda: answer.copy_(slowly(x, weights, dim))).start()\n"
        "return answer",
        "timed answer is wrong|too slow",
    ),
    "finished by another thread, waited for": (
        "answer = []\n"
        "thread = threading.Thread(target=lambda: answer.append(slowly(x, weights, dim)))\n"
        "thread.start()\nthread.join()\nreturn answer[0]",
        "too slow",
    ),
    "shared among threads": (
        "torch.set_num_threads(2)\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool:\n"
        "    halves = list(pool.map(lambda half: slowly(half, weights, dim), x.chunk(2)))\n"
        "return torch.cat(halves)",
        "too slow",
    ),
    "finished by another process": (
        "answer = torch.empty(x.shape[0]).share_memory_()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    answer.copy_(slowly(x, weights, dim))\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\nreturn answer.clone()",
        "too slow",
    ),
    "computed on import": (
        "answer = FORESEEN.get(float(x.sum()))\nreturn slowly(x, weights, dim) if answer is None else answer.clone()",
        "too slow",
    ),
    "lazy": ("return Lazy(lambda: slowly(x, weights, dim))", "no tensor was returned"),
    "lazy, as a tensor": (
        "return LazyTensor.promise(x, weights, dim)",
        r"not a plain torch\.Tensor|timed answer is wrong",
    ),
    "patched timers": (
        "frozen = time.perf_counter_ns()\n"
        "for name in ('perf_counter', 'perf_counter_ns', 'thread_time_ns', 'process_time_ns', 'monotonic'):\n"
        "    setattr(time, name, lambda: frozen)\n"
        "return slowly(x, weights, dim)",
        "too slow|call times are impossible|replaced what observes it",
    ),
    "patched stopwatch": (
        "clock = sys.modules['grading.run.stopwatch']\n"
        "clock.perf_counter_ns = clock.thread_time_ns = clock.process_time_ns = lambda: 0\n"
        "return slowly(x, weights, dim)",
        "reported call times are impossible|replaced what observes it",
    ),
    "stopwatch that lies a little": (
        "clock = sys.modules['grading.run.stopwatch']\n"
        "clock._CpuStopwatch.cost = lambda self: 5e-5\n"
        "return [slowly(x, weights, dim) for _ in range(5)][0]",
        "reported call times are impossible|replaced what observes it",
    ),
    "no garbage collected, no time waited": (
        "time.sleep(0.02)\nreturn _divide((x * weights).sum(dim), weights.expand_as(x).sum(dim))",
        "too slow",
    ),
}
HELPERS = """
import hashlib, os, sys, threading, time

class Lazy:
    def __init__(self, make): self.make = make
    def __torch_function__(self, *args): return self.make()

class LazyTensor(torch.Tensor):
    @staticmethod
    def promise(x, weights, dim):
        made = torch.empty(x.shape[0]).as_subclass(LazyTensor)
        made.promised = lambda: slowly(x, weights, dim)
        return made
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [each.promised() if hasattr(each, "promised") else each for each in args]
        return super().__torch_function__(function, types, args, kwargs or {})

FORESEEN = {}
for number in range(60):  # as grading.ask.draw.Draw draws, with the seed of these tests
    seed = int.from_bytes(hashlib.sha256(f"1/{number}".encode()).digest()[:7], "little")
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((200, 1000), generator=generator, dtype=torch.float64).float()
    weights = torch.rand((1000,), generator=generator, dtype=torch.float64).float()
    FORESEEN[float(x.sum())] = (x * weights).sum(-1) / weights.sum()

CACHE = {}
def cached(key, x, weights, dim):
    if key not in CACHE:
        CACHE[key] = slowly(x, weights, dim)
    return CACHE[key].clone()
"""


def ask(submission, draw):
    return submission.call("weighted_mean", draw.normal(200, 1000), draw.uniform(1000))


@pytest.fixture
def contest(tmp_path) -> Iterator[object]:
    """`contest(source)`: the submission with this source against the toy course's solution."""
    executors = []

    def arrange(source: str, limit: AtLeast = LIMIT) -> Contest:
        course = Course(TOY)
        tree = find_tree(course, str(write_hand_in(tmp_path / "hand-in", mean=source)), Path.cwd())
        executors.append(Isolated(Sandbox()))
        submission = Submission(tree, "week1/mean", executors[-1], seed=1, seconds=20, process=None)
        return Contest.arrange(submission, course, limit, "cpu", ask)

    yield arrange
    for executor in executors:
        executor.close()


def judged(contest: Contest) -> list[str]:
    """The limits that are earned; Unmet and Inconclusive are passed on."""
    earned: list[str] = []
    judge_speed(contest, ask, contest.run(ask), earned.append)
    return earned


@pytest.mark.parametrize("how", CHEATS)
def test_what_only_looks_fast_earns_nothing(contest, how):
    body, reason = CHEATS[how]
    source = with_body(f"weights = torch.ones(x.shape[-1]) if weights is None else weights\n{body}") + SLOWLY + HELPERS
    with pytest.raises(Unmet, match=reason):
        judged(contest(source))


def test_the_work_of_other_processes_is_paid_for(contest):
    body = """
import os, time
for _ in range(2):
    if os.fork() == 0:
        os.sched_setaffinity(0, range(os.cpu_count()))
        while time.process_time() < 0.1:
            pass
        os._exit(0)
os.wait(), os.wait()
return _divide((x * weights).sum(dim), weights.expand_as(x).sum(dim))"""
    once = contest(with_body(body))
    assert once._ask(once.submission, ask, 1).result.cost > 0.18


@pytest.mark.parametrize("undisturbed", [True, False])
def test_a_clock_is_doubted_only_where_more_pairs_say_the_same(contest, undisturbed):
    once = contest(SOLUTION)
    comparison = once.run(ask)
    once.overheads = [(0.1, 0.001)] * 10  # as if another program used the core during every call
    later = iter(range(50))

    def pairs():
        for number in later:
            once.overheads.append((0.001, 0.001) if undisturbed and number == 49 else (0.1, 0.001))
            yield comparison.pairs[0]

    if undisturbed:
        once._check_clock(comparison, pairs())
    else:
        with pytest.raises(Unmet, match="reported call times are impossible"):
            once._check_clock(comparison, pairs())
    assert not list(later)


def test_the_solution_is_as_fast_as_itself(contest):
    assert judged(contest(SOLUTION)) == ["0.5x"]


def test_limits_along_the_way_are_earned_one_by_one(contest):
    limit = AtLeast(("0.001x", "0.5x"), ("solutions",), seconds=10)
    once = contest(with_body("return slowly(x, weights, dim)") + SLOWLY, limit)
    earned: list[str] = []
    with pytest.raises(Unmet, match=r"the solution's speed \(0\.5× required\)") as caught:
        judge_speed(once, ask, once.run(ask), earned.append)
    assert earned == ["0.001x"]
    assert "PyTorch operations per call" in caught.value.explanation.location


def noisy(ratio: float, spread: float, seed: int) -> Iterator[Pair]:
    generator = random.Random(seed)
    while True:
        yield Pair(0.010 * generator.lognormvariate(0, spread), 0.010 * ratio * generator.lognormvariate(0, spread))


@pytest.mark.parametrize("ratio", [0.7, 0.9, 1.1, 1.4])
def test_verdicts_hold_amid_noise(ratio):
    verdicts = [take_pairs(noisy(ratio, 0.10, seed), AtLeast(("1x",), ("x",))).verdict(1.0) for seed in range(100)]
    assert set(verdicts) == {"fast enough" if ratio > 1 else "too slow"}


def test_too_much_noise_gives_no_verdict(contest):
    comparison = take_pairs(noisy(1.0, 1.0, 0), AtLeast(("1x",), ("x",)))
    assert comparison.verdict(1.0) == "inconclusive"
    arranged = contest(SOLUTION, AtLeast(("1x",), ("solutions",)))
    with pytest.raises(Inconclusive, match="too noisy"):
        judge_speed(arranged, ask, comparison, list[str]().append)


def test_a_time_that_the_hardware_cannot_reach_is_no_measurement(contest):
    once = contest(with_body("return torch.mm(x[:, :200], x[:, :200])"))
    once.reference = once.submission
    comparison = once.run(ask)
    once.figures(comparison, ask)
    assert 0 < once.floor < IMPOSSIBLE * comparison.cost
    broken = PairedRatios([Pair(once.floor / (2 * IMPOSSIBLE), once.floor)] * 10)
    with pytest.raises(Inconclusive, match="the measurement is broken"):
        judge_speed(once, ask, broken, list[str]().append)


def test_what_is_at_the_limit_is_given_to_the_submission():
    assert PairedRatios([Pair(1.0, 1 - GREY / 2)] * 20).verdict(1.0) == "fast enough"
    assert PairedRatios([Pair(1.0, 1 - GREY * 2)] * 20).verdict(1.0) == "too slow"


def test_calls_that_still_get_faster_are_not_judged():
    warming = [Pair(1.0, 0.01), Pair(0.5, 0.01), Pair(0.2, 0.01)]
    comparison = take_pairs(iter(warming + [Pair(0.01, 0.01)] * 40), AtLeast(("0.8x",), ("x",)))
    assert comparison.ratio == 1 and comparison.verdict(0.8) == "fast enough"


# --- as a graded test -----------------------------------------------------------------------------------------------

SPEED_TEST = '''

@pytest.mark.points(2)
@pytest.mark.at_least("0.01x", "0.5x", of=("nobody", "solutions"))
def test_speed(speed):
    """The mean is fast."""
    speed(lambda submission, draw: submission.call("weighted_mean", draw.normal(200, 1000), draw.uniform(1000)))


@pytest.mark.points(1)
@pytest.mark.at_most(ops="1.5x", saved_bytes=0, of="solutions")
def test_operations(submission, draw):
    """The mean needs few operations."""
    expect(submission.call("weighted_mean", draw.normal(3, 20), draw.uniform(20), count=True)).close_to(mean)
'''


@pytest.fixture
def timed(toy) -> Path:
    """The toy course with a speed test, a counting test, and a library that offers nothing."""
    with (toy / "tests/week1/test_mean.py").open("a", encoding="utf-8") as file:
        file.write(SPEED_TEST)
    (toy / "tests/libraries/nobody/week1").mkdir(parents=True)
    (toy / "tests/libraries/nobody/week1/other.py").write_text("", "utf-8")
    return toy


def test_a_graded_test_of_speed_is_recorded(timed, run_pytest, tmp_path):
    for _ in range(4):  # a busy machine may leave it open
        kept_run = f"--benchmark-json={tmp_path / 'run.json'}"
        run = run_pytest(timed, "exercises", "--impl", "solutions", "--benchmark-only", kept_run)
        speed = run.record("test_speed")
        if speed["verdict"] != "inconclusive":
            break
    assert run.status == 0, run.text
    assert speed["points"] == 2
    assert speed["figures"]["reference"] == "solutions"
    assert run.record("test_operations")["figures"] == {"ops": 10, "saved_bytes": 0}
    assert run.record("test_plain_mean[float32]")["verdict"] == "not gradable here"
    assert "benchmark 'week1/mean': 1 tests" in run.text and "'week1/mean, counted': 1 tests" in run.text
    kept = {each["fullname"]: each for each in json.loads((tmp_path / "run.json").read_text("utf-8"))["benchmarks"]}
    info = kept["week1/mean::test_speed"]["extra_info"]
    assert info["limits"] == ["0.01x", "0.5x"] and info["tolerance"] == 0.1
    assert len(info["ratios"]) == len(info["reference_costs"]) == kept["week1/mean::test_speed"]["stats"]["rounds"]
    assert kept["week1/mean::test_operations"]["extra_info"]["counts"] == {"ops": 10, "saved_bytes": 0}


def test_what_is_slow_or_wasteful_loses_points(timed, run_pytest):
    body = "weights = torch.ones_like(x) if weights is None else weights.expand_as(x)\nreturn slowly(x, weights, dim)"
    hand_in = write_hand_in(timed / "hand-in", mean=with_body(body) + SLOWLY)
    run = run_pytest(timed, "exercises", "--impl", str(hand_in), "-k", "speed or operations")
    assert run.status == 1
    speed, operations = run.record("test_speed"), run.record("test_operations")
    assert speed["points"] == 1 and "(0.5× required)" in speed["reason"]
    assert operations["points"] == 0 and operations["reason"].startswith("ops: ")
    assert "1.5× the solution's" in operations["message"]


@pytest.mark.parametrize(
    "mark, words",
    [
        ('at_least("0.8", of="solutions")', "expected a factor such as \"0.8x\", not '0.8'"),
        ('at_least("0.8x", "0.4x", of="solutions")', "limits in ascending order"),
        ('at_least("0.8x")', "of="),
        ('at_most(ops="2x")', "of= if one is relative"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(timed, run_pytest, mark, words):
    tests = timed / "tests/week1/test_mean.py"
    tests.write_text(tests.read_text("utf-8").replace('at_least("0.01x", "0.5x", of=("nobody", "solutions"))', mark))
    run = run_pytest(timed, "exercises", "--impl", "solutions", "-k", "speed")
    assert words in run.text
