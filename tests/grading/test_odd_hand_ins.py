"""No state of a hand-in ends a run, passes for success, or is felt by the next one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.grading.conftest import TOY, environment, grade_trees, write_hand_in
from tests.grading.test_students import SOLUTION, with_body, with_line

# What a hand-in leaves changed, at import or in a call, and how a failure names it.
LEFT_CHANGED = {
    "the default dtype": ("torch.set_default_dtype(torch.float64)", "torch's default dtype (torch.float64)"),
    "the default device": ("torch.set_default_device('meta')", "torch's default device (meta)"),
    "gradients off": ("torch.set_grad_enabled(False)", "torch's gradient mode (False)"),
    "autocast": ("torch.set_autocast_enabled('cpu', True)", "torch's autocast"),
    "deterministic": ("torch.use_deterministic_algorithms(True)", "torch's deterministic mode"),
    "matmul precision": ("torch.set_float32_matmul_precision('medium')", "torch's matmul precision (medium)"),
    "threads": ("torch.set_num_threads(2)", "torch's number of threads (2)"),
    "numpy": ("import numpy; numpy.seterr(all='raise')", "numpy's error handling"),
    "environment": ("import os; os.environ['WHETSTONE_ODD'] = '1'", "the environment variable WHETSTONE_ODD"),
    "directory": ("import os; os.chdir('/')", "the working directory (/)"),
    "a signal": ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "a signal handler"),
    "the path": ("import sys; sys.path.insert(0, '/nowhere')", "sys.path"),
    "print options": ("torch.set_printoptions(precision=1)", "torch's print options"),
    "start method": (
        "import multiprocessing; multiprocessing.set_start_method('spawn', force=True)",
        "multiprocessing's start method (spawn)",
    ),
    "recursion": ("import sys; sys.setrecursionlimit(3000)", "the recursion limit (3000)"),
    "a function of torch": ("torch.softmax = lambda *a, **k: 3", "torch.softmax"),
    "a method of tensors": ("torch.Tensor.exp = lambda *a, **k: 3", "Tensor.exp"),
    "a builtin": ("import builtins; builtins.sorted = lambda *a, **k: []", "builtins.sorted"),
    "a clock": ("import time; time.perf_counter = lambda: 0.0", "time.perf_counter"),
    "a module": ("import sys; sys.modules['json'] = None", "the module json"),
}


def test_what_a_hand_in_leaves_changed_is_put_back_and_named(tmp_path):
    trees, names = [], []
    for number, (what, (statement, _)) in enumerate(LEFT_CHANGED.items()):
        for where, source in (
            (
                "import",
                with_line(f"{statement}\n") + "\n\nweighted_mean = lambda x, weights=None, dim=-1: x.sum(dim)\n",
            ),
            ("call", with_body(f"{statement}\nreturn x.sum(dim)")),
        ):
            names.append((what, where))
            trees.append(str(write_hand_in(tmp_path / f"{number}-{where}", mean=source)))
    honest = str(write_hand_in(tmp_path / "honest", mean=SOLUTION))
    *odd, after = grade_trees(TOY, "week1/mean", *trees, honest)
    assert {record["verdict"] for record in after} == {"passed"}
    for (what, where), records in zip(names, odd, strict=True):
        assert {record["verdict"] for record in records} <= {"passed", "failed"}, (what, where, records)
        messages = [" ".join(record["message"].split()) for record in records]
        named = re.escape(LEFT_CHANGED[what][1]) + r"[^;]*, week1/mean\.py, line \d+"
        assert any("the grader put back" in each and re.search(named, each) for each in messages), (
            what,
            where,
            messages,
        )


# What a hand-in does in a call, and how the test that saw it ends.
DOES = {
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
    "SystemExit": ("raise SystemExit(0)", "SystemExit: 0"),
    "an exception without words": (
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "E: <its __str__ raised ValueError>",
    ),
    "os._exit": ("import os; os._exit(0)", r"tried to end the process at week1/mean\.py, line \d+"),
    **{
        statement: (f"import os, signal, sys\n{statement}", "tried to end the process")
        for statement in (
            "os.abort()",
            "os.kill(os.getpid(), signal.SIGKILL)",
            "os.kill(0, signal.SIGTERM)",
            "os.kill(os.getppid(), signal.SIGTERM)",
            "os.execv('/bin/true', ['true'])",
            "os.execlp('true', 'true')",
        )
    },
    "input": ("input('? ')", r"reads from the keyboard at week1/mean\.py, line \d+"),
    "sys.stdin": ("import sys; sys.stdin.readline()", "reads from the keyboard"),
    "a fork that comes back": ("import os\nif os.fork(): os.wait()\nreturn 3", "no tensor was returned"),
    **{
        what: (f"import {module}\n{statement}", r"starts a process .* at week1/mean\.py, line \d+: .*use 'fork'")
        for what, module, statement in (
            ("a spawned process", "multiprocessing", "multiprocessing.get_context('spawn').Process().start()"),
            ("a spawned pool", "multiprocessing", "multiprocessing.get_context('spawn').Pool(2).map(abs, [1])"),
            ("a fork server", "multiprocessing", "multiprocessing.get_context('forkserver').Pool(2).map(abs, [1])"),
            ("torch's spawn", "torch.multiprocessing", "torch.multiprocessing.spawn(abs, (1,), nprocs=2)"),
            (
                "an executor",
                "concurrent.futures, multiprocessing",
                "list(concurrent.futures.ProcessPoolExecutor("
                "2, mp_context=multiprocessing.get_context('spawn')).map(abs, [1]))",
            ),
        )
    },
    "yield": ("yield x.mean(dim)", "returned a generator: `yield` makes one"),
    "no return": ("x.mean(dim)", "no tensor was returned"),
}


def test_what_a_call_does_costs_its_tests_and_no_run(tmp_path):
    trees = [
        str(write_hand_in(tmp_path / str(number), mean=with_body(body)))
        for number, (body, _) in enumerate(DOES.values())
    ]
    trees.append(str(write_hand_in(tmp_path / "async", mean=SOLUTION.replace("def weighted", "async def weighted"))))
    expected = [*(words for _, words in DOES.values()), "returned a coroutine: remove `async`"]
    for records, words in zip(grade_trees(TOY, "week1/mean", *trees), expected, strict=True):
        assert {record["verdict"] for record in records} == {"failed"}, words
        assert any(re.search(words, record["reason"]) for record in records), (words, records)


# Imports that fail beside week1/helpers.py, week1/parts/, and shared.py above them, and what to write instead.
IMPORTS = {
    "from helpers import a": "write `from .helpers import …`",
    "import helpers": "write `from .helpers import …`",
    "from parts.inner import a": "write `from .parts import …`",
    "from week1.helpers import a": "write `from ..week1 import …`",
    "from week1 import helpers": "write `from ..week1 import …`",
    "from shared import a": "write `from ..shared import …`",
    "import no_such_package": "no package of that name is installed here",
    "import os.nothing": "no package of that name is installed here",
}


@pytest.mark.parametrize("lazily", [False, True], ids=["above", "in a function"])
def test_an_import_of_the_hand_in_s_own_file_names_the_right_one(tmp_path, lazily):
    trees = []
    for number, statement in enumerate(IMPORTS):
        source = with_body(f"{statement}\nreturn x.mean(dim)") if lazily else with_line(f"{statement}\n")
        tree = write_hand_in(tmp_path / str(number), mean=source, helpers="a = 1\n")
        (tree / "week1" / "parts").mkdir()
        (tree / "shared.py").write_text("a = 1\n")
        trees.append(str(tree))
    for (statement, words), records in zip(IMPORTS.items(), grade_trees(TOY, "week1/mean", *trees), strict=True):
        assert any(words in record["reason"] for record in records), (statement, records)


# Ways to print that work everywhere else.
PRINTS = (
    "import sys\nsys.stdout.reconfigure(encoding='utf-8')",
    "import sys\nsys.stdout.buffer.write(b'said\\n')",
    "import sys\nprint('said', file=sys.__stdout__)",
    "import sys\nsys.stdout.writelines(['said'])\nsys.stdout.flush()",
    "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()): print('said')",
    "import logging\nlogging.warning('said')",
    "import sys\nassert sys.stdout.encoding and not sys.stdout.isatty()",
    "import sys\nsys.stdout.close()",
    "import sys\nsys.stderr.close()\nsys.__stdout__.close()\nsys.__stderr__.close()",
    "import sys\nsys.stdout = sys.stderr = sys.__stderr__ = None",
)


def test_printing_costs_nothing(tmp_path):
    body = "\n".join(f"    {line}" for line in SOLUTION.partition("    if weights is None:")[2].splitlines())
    assert body
    trees = []
    for number, statements in enumerate(PRINTS):
        indented = "".join(f"    {line}\n" for line in statements.splitlines())
        source = SOLUTION.replace("    if weights is None:", indented + "    if weights is None:", 1)
        trees.append(str(write_hand_in(tmp_path / str(number), mean=source)))
    for statements, records in zip(PRINTS, grade_trees(TOY, "week1/mean", *trees), strict=True):
        assert {record["verdict"] for record in records} == {"passed"}, (statements, records)


def test_a_part_that_is_not_started_leaves_the_others_their_points(toy, run_pytest):
    """The forward pass is done, the backward pass still raises NotImplementedError."""
    source = SOLUTION.replace(
        "class Centred",
        "def half_done(x, weights=None, dim=-1):\n    if x.requires_grad:\n        raise NotImplementedError\n"
        "    return whole(x, weights, dim)\n\n\nwhole, weighted_mean = weighted_mean, half_done\n\n\nclass Centred",
    )
    run = run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source)))
    record = run.record("test_weights_count")
    assert run.status == 1 and len(run.grade["records"]) == 7
    assert (record["verdict"], record["points"], record["max_points"]) == ("not started", 2, 3)
    assert run.grade["total"]["points"] == sum(each["points"] for each in run.grade["records"])


def test_an_exit_handler_does_not_change_the_exit_status(toy, run_pytest):
    source = with_body(
        "import atexit, os\natexit.register(os._exit, 0)\natexit.register(lambda: os._exit(0))\nreturn x"
    )
    assert run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source))).status == 1


def test_a_thread_that_is_left_running_does_not_keep_the_run(toy, run_pytest):
    source = with_body(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nreturn x.mean(dim)"
    )
    run = run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source)))
    assert run.status == 1
    assert "left" in run.text and "running" in run.text


def test_a_person_can_interrupt(toy):
    """Ctrl-C ends the run, whatever the submission is doing."""
    write_hand_in(toy / "hand-in", mean=with_body("open('started', 'w').close()\nwhile True: pass"))
    command = [sys.executable, "-m", "pytest", "exercises", "--impl", "hand-in", "--report", "report"]
    run = subprocess.Popen(command, cwd=toy, env=environment(), stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        if (toy / "started").exists():
            break
        time.sleep(0.1)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(60) == pytest.ExitCode.INTERRUPTED


def test_after_two_timeouts_a_function_is_not_tried_again(toy, run_pytest):
    tests = toy / "tests/week1/test_mean.py"
    tests.write_text(
        tests.read_text("utf-8").replace("@pytest.mark.points", "@pytest.mark.limit(seconds=1)\n@pytest.mark.points")
    )
    source = with_body("while True: pass")
    run = run_pytest(toy, "exercises", "--impl", str(write_hand_in(toy / "hand-in", mean=source)))
    reasons = [record["reason"] for record in run.grade["records"]]
    assert sum("did not finish within 1 s" in reason for reason in reasons) == 2 + 1, "and once for the class Centred"
    assert any("not tried: 2 earlier calls of weighted_mean did not finish in time" in reason for reason in reasons)


def test_sleeping_has_more_time_than_computing(toy, run_pytest):
    """The limit is in CPU seconds: a machine that is busy with something else costs nobody points."""
    tests = toy / "tests/week1/test_mean.py"
    tests.write_text(
        tests.read_text("utf-8").replace("@pytest.mark.points", "@pytest.mark.limit(seconds=1)\n@pytest.mark.points")
    )
    source = SOLUTION.replace(
        "    if weights is None:", "    import time\n    time.sleep(1.5)\n    if weights is None:", 1
    )
    run = run_pytest(toy, "exercises", "-k", "plain_mean", "--impl", str(write_hand_in(toy / "hand-in", mean=source)))
    assert run.status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--impl", "solutions", "--impl", "exercises"], "--impl solutions --impl exercises: give one tree"),
    ],
)
def test_options_that_contradict_themselves_are_refused(toy, run_pytest, arguments, words):
    run = run_pytest(toy, "exercises", *arguments)
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert words in run.text


def test_praise_names_what_was_graded(toy, run_pytest):
    assert "Well done" not in run_pytest(toy, "tests/week1").text
    assert "solutions: all 10 points" in run_pytest(toy, "tests/week1").text
