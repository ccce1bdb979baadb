"""Does what a request asks with a loaded submission and notes what can be seen from outside.

Runs in the test process or in a child (`grading.worker`); holds no oracle and judges nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from grading import plain
from grading.request import Request, Result, Scenario, Trouble, cotangents
from grading.stopwatch import NoStopwatch, Stopwatch, stopwatch
from grading.trees import LoadError, Tree

# Graded tensors are small: threads would only wait for each other, on a busy machine for ages. And a sum has one order.
torch.set_num_threads(1)

PRINT_KEPT = 20_000  # characters of a submission's output that are kept
PRINT_LIMIT = 10_000_000  # characters after which printing stops the call


class OutOfTime(BaseException):
    """Not an Exception, so that a submission's `except Exception` does not swallow it."""


class PrintedTooMuch(BaseException):
    """Likewise."""


def perform(request: Request, tree: Tree, exercise: str, *, live: bool = False) -> tuple[Result, BaseException | None]:
    """The result, and the submission's exception itself for a debugger in the same process.

    `live` leaves the terminal to the submission: its prints show at once and no time limit interrupts a debugger.
    """
    watcher = _Watcher(request, tree, exercise)
    printed = _Printed()
    error: BaseException | None = None
    started = time.perf_counter()
    outlet = contextlib.nullcontext() if live else contextlib.redirect_stdout(printed)
    try:
        with outlet, _time_limit(None if live else request.seconds):
            watcher.work()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as caught:
        error = caught
        watcher.seen["trouble"] = watcher.trouble(caught)
    watcher.seen["seconds"] = watcher.seen.get("seconds", time.perf_counter() - started)
    return Result(printed=printed.kept, **watcher.seen), error


class _Watcher:
    """One request being performed; `seen` fills with the fields of the Result as far as the work gets."""

    def __init__(self, request: Request, tree: Tree, exercise: str) -> None:
        self.request, self.tree, self.exercise = request, tree, exercise
        self.seen: dict[str, Any] = {}
        self.imported = False
        self.clock: Stopwatch = NoStopwatch()

    def work(self) -> None:
        request = self.request
        module = self.tree.load(self.exercise)
        self.imported = True
        torch.manual_seed(request.seed)
        random.seed(request.seed)
        copy = plain.Copier()
        originals = request.tensors
        inputs = [copy(tensor) for tensor in originals]
        for number in request.grad or ():
            inputs[number].requires_grad_()
        counts: dict[str, int] = {}
        try:
            target, parameters = self._target(module, copy)
            args, kwargs = plain.map_tensors((request.args, request.kwargs), copy)
            if request.timed:
                self.clock = stopwatch(inputs)
            with self._counting([*inputs, *parameters.values()], counts):
                output = self._call(target, args, kwargs)
                if request.timed:  # what another thread still writes later is missing from it
                    self.seen["output"] = _snapshot(output)
                if request.grad is not None:
                    self.seen["grads"] = self._gradients(output, inputs, parameters)
        finally:
            self.seen["changed"] = tuple(number for number, tensor in enumerate(originals) if copy.changed(tensor))
        self.seen["counts"] = counts
        self.seen["cost"] = self.clock.cost()
        self.seen["facts"] = tuple(_facts(tensor, inputs) for tensor in plain.tensors_in(_shallow(output)))
        self.seen.setdefault("output", _snapshot(output))

    def _target(self, module: Any, copy: plain.Copier) -> tuple[Callable[..., Any], Mapping[str, torch.Tensor]]:
        """What is to be called, and the parameters that want a gradient."""
        request = self.request
        if request.scenario is not None:
            function = compile_scenario(request.scenario)
            return (lambda *args, **kwargs: function(module, *args, **kwargs)), {}
        if not hasattr(module, request.name):
            raise _Missing(_missing_line(request.name, module, self.exercise))
        target = getattr(module, request.name)
        if request.init is None:
            return target, {}
        init_args, init_kwargs = plain.map_tensors(request.init, copy)
        _check_call(target, init_args, init_kwargs, request.name)
        made = target(*init_args, **init_kwargs)
        if request.to:
            made = made.to(*request.to)
        if request.state is not None:
            state = plain.map_tensors(request.state, copy)
            made.load_state_dict({name: value.detach().clone() for name, value in state.items()})
        if request.training is not None:
            made.train(request.training)
        parameters = dict(made.named_parameters()) if isinstance(made, torch.nn.Module) else {}
        return (made if request.method is None else getattr(made, request.method)), parameters

    def _call(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.request.scenario is None:
            signed = target.forward if isinstance(target, torch.nn.Module) else target
            self.seen["parameters"] = _check_call(signed, args, kwargs, self.request.name)
        started = time.perf_counter()
        with self.clock:
            output = target(*args, **kwargs)
        self.seen["seconds"] = time.perf_counter() - started
        return output

    def _gradients(
        self, output: Any, inputs: list[torch.Tensor], parameters: Mapping[str, torch.Tensor]
    ) -> dict[int | str, torch.Tensor | None]:
        """Vector-Jacobian products with the cotangents of the request; None where nothing flows."""
        request = self.request
        floating = [tensor for tensor in plain.tensors_in(_shallow(output)) if tensor.is_floating_point()]
        above = cotangents(floating, request.cotangent, request.seed)
        pairs = [(tensor, grad) for tensor, grad in zip(floating, above, strict=True) if tensor.requires_grad]
        wanted: dict[int | str, torch.Tensor] = {number: inputs[number] for number in request.grad or ()}
        wanted |= {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        if not pairs or not wanted:
            return dict.fromkeys(wanted)
        tensors, gradients = zip(*pairs, strict=True)
        with self.clock:
            found = torch.autograd.grad(tensors, list(wanted.values()), gradients, allow_unused=True)
        return {
            key: None if grad is None else plain.make_plain(grad).clone()
            for key, grad in zip(wanted, found, strict=True)
        }

    @contextlib.contextmanager
    def _counting(self, inputs: list[torch.Tensor], into: dict[str, int]) -> Iterator[None]:
        if not self.request.count:
            yield
            return
        from grading.counters import count

        with count(exclude=inputs) as counts:
            yield
        into |= counts.figures()

    def trouble(self, error: BaseException) -> Trouble:
        """What went wrong, in one line and the submission's own frames."""
        frames = self._own_frames(error)
        where = frames[-1] if frames else None
        place = f" at {_place(where, self.tree)}" if where else ""
        text = " ".join(str(error).replace(self.tree.package + ".", "").split())[:300]
        name = type(error).__name__
        line = f"{name}: {text}" if text else name
        about = (name, tuple(base.__name__ for base in type(error).__mro__), self._show(frames))
        match error:
            case _Missing():
                return Trouble("missing", text)
            case _BadSignature():
                return Trouble("signature", text)
            case LoadError():
                return Trouble("load", text)
            case FileNotFoundError() if self.tree.file(self.exercise) is None:
                return Trouble("no file", text)
            case ModuleNotFoundError() if error.name and error.name.startswith(self.tree.package):
                needed = error.name.removeprefix(self.tree.package + ".").replace(".", "/")
                return Trouble("unstarted", f"{needed}.py is not there", exercise=needed)
            case OutOfTime():
                waited = f"did not finish within {self.request.seconds:g} s"
                return Trouble("time", waited + (place and f", was{place}"), *about)
            case PrintedTooMuch():
                return Trouble("printed", f"printed more than {PRINT_LIMIT // 10**6} MB and was stopped{place}", *about)
            case MemoryError():
                return Trouble("memory", f"ran out of memory{place}", *about)
            case RuntimeError() if "can't allocate memory" in text:
                return Trouble("memory", f"ran out of memory{place}", *about)
            case NotImplementedError() if where and _raised_in(error, where.filename):
                return Trouble("unstarted", text, exercise=self.tree.exercise_of(where.filename) or self.exercise)
        if not self.imported:
            return Trouble("load", f"{self.exercise}.py does not import: {line}", *about)
        return Trouble("raised", line, *about)

    def _own_frames(self, error: BaseException) -> list[traceback.FrameSummary]:
        scenario = self.request.scenario
        return [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if self.tree.exercise_of(frame.filename) or (scenario and frame.filename == scenario.filename)
        ]

    def _show(self, frames: list[traceback.FrameSummary]) -> str:
        lines = []
        for frame in frames[-4:]:
            lines.append(f"{_place(frame, self.tree)}, in {frame.name}")
            if frame.line:
                lines.append(f"    {frame.line.strip()}")
        return "\n".join(lines)


def _place(frame: traceback.FrameSummary, tree: Tree) -> str:
    exercise = tree.exercise_of(frame.filename)
    return f"{exercise + '.py' if exercise else frame.filename.rpartition('/')[2]}, line {frame.lineno}"


def _raised_in(error: BaseException, filename: str) -> bool:
    """Whether the statement that raised stands in this file (PyTorch raises NotImplementedError of its own)."""
    return traceback.extract_tb(error.__traceback__)[-1].filename == filename


class _Missing(Exception):
    pass


class _BadSignature(Exception):
    pass


def _missing_line(name: str, module: Any, exercise: str) -> str:
    public = [each for each in vars(module) if not each.startswith("_")]
    close = difflib.get_close_matches(name, public, 1)
    return f"{exercise}.py has no {name}" + (f"; it has {close[0]}: is that the one?" if close else "")


def _check_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[str, ...]:
    """The parameter names that the positional arguments go to. _BadSignature when the call does not fit."""
    if not callable(target):
        raise _BadSignature(f"{name} is not callable: it is a {type(target).__name__}")
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # a builtin does not tell
        return ()
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise _BadSignature(f"{name}{signature} does not fit the call: {error}") from None
    names = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names[: len(args)])


def compile_scenario(scenario: Scenario) -> Callable[..., Any]:
    """The function again, in a namespace of its own: it sees its arguments and the imports of its file, no more."""
    namespace: dict[str, Any] = {"__name__": "scenario"}
    exec(scenario.imports, namespace)
    exec(compile("\n" * (scenario.line - 1) + scenario.source, scenario.filename, "exec"), namespace)
    return namespace[scenario.name]


def _snapshot(output: Any) -> Any:
    """The output as plain data of its own."""
    return plain.map_tensors(plain.make_plain(output), torch.clone)


def _shallow(output: Any) -> Any:
    """The output's structure with its tensors as they are, for looking at them."""
    if isinstance(output, (list, tuple)):
        return [_shallow(item) for item in output]
    if isinstance(output, dict):
        return {key: _shallow(item) for key, item in output.items() if isinstance(key, (str, int))}
    if isinstance(output, torch.Tensor) and isinstance(plain.make_plain(output), torch.Tensor):
        return output
    return None


def _facts(tensor: torch.Tensor, inputs: list[torch.Tensor]) -> plain.TensorFacts:
    memory = tensor.untyped_storage()
    aliases = [
        number
        for number, each in enumerate(inputs)
        if tensor.numel() and each.numel() and each.untyped_storage()._cdata == memory._cdata
    ]
    kind = type(tensor)
    return plain.TensorFacts(
        type=kind.__name__,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=tensor.device.type,
        contiguous=tensor.is_contiguous(),
        requires_grad=tensor.requires_grad,
        aliases=tuple(aliases),
    )


class _Printed(io.TextIOBase):
    """Stands in for standard output: keeps the beginning, stops a flood."""

    def __init__(self) -> None:
        self.kept, self.length = "", 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.length += len(text)
        if len(self.kept) < PRINT_KEPT:
            self.kept += text[: PRINT_KEPT - len(self.kept)]
        if self.length > PRINT_LIMIT:
            raise PrintedTooMuch
        return len(text)


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the submission after so many seconds, where the platform and the thread allow it."""
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise OutOfTime

    def hold(*args: Any, **kwargs: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, 0)  # a debugger may take as long as it likes
        return breakpoint_hook(*args, **kwargs)

    breakpoint_hook, sys.breakpointhook = sys.breakpointhook, hold
    handler = signal.signal(signal.SIGALRM, interrupt)
    # Again every second, in case the submission catches everything.
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    started = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.breakpointhook = breakpoint_hook
        if others:  # somebody else's alarm, pytest-timeout's say, goes on
            signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - started), 0.001))
