"""Why there is no answer: the submission's exception in one line for the student, with the submission's own frames."""

from __future__ import annotations

import difflib
import inspect
import traceback
from typing import Any

from grading.course.trees import LoadError, Tree
from grading.data.request import Request
from grading.data.result import Trouble
from grading.run.guards import (
    PRINT_LIMIT,
    EndedProcess,
    OutOfTime,
    PrintedTooMuch,
    ReadKeyboard,
    StartedAfresh,
    Stopped,
)


class Missing(Exception):
    """The submission has no such name."""


class BadSignature(Exception):
    """The submission's function cannot be called like this."""


def find(name: str, module: Any, exercise: str) -> Any:
    """The submission's `name`. Missing if there is none."""
    if not hasattr(module, name):
        public = [each for each in vars(module) if not each.startswith("_")]
        close = difflib.get_close_matches(name, public, 1)
        raise Missing(f"{exercise}.py has no {name}" + (f"; is {close[0]} a typo?" if close else ""))
    return getattr(module, name)


def check_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[str, ...]:
    """The names of the parameters that the positional arguments fill. BadSignature if the call does not fit."""
    if not callable(target):
        raise BadSignature(f"{name} is not callable: its type is {type(target).__name__}")
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # some builtins have none
        return ()
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadSignature(f"{name}{signature} does not fit the call: {error}") from None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind in positional]
    return tuple(names[: len(args)])


def refuse_deferred(output: Any, name: str) -> None:
    """BadSignature for an answer that has not been computed yet."""
    if inspect.iscoroutine(output):
        output.close()
        raise BadSignature(f"{name} returned a coroutine: remove `async` from its definition")
    if inspect.isasyncgen(output) or inspect.isgenerator(output):
        raise BadSignature(f"{name} returned a generator: `yield` makes one; `return` the value instead")


def explain_trouble(error: BaseException, request: Request, tree: Tree, exercise: str, imported: bool) -> Trouble:
    """What went wrong. `imported`: whether the submission's file had been imported by then."""
    frames = _own_frames(error, request, tree)
    last = frames[-1] if frames else None
    place = f" at {_place(last, tree)}" if last else ""
    text = " ".join(_words(error).replace(tree.package + ".", "").split())[:300]
    name = type(error).__name__
    line = f"{name}: {text}" if text else name
    if isinstance(error, ModuleNotFoundError) and error.name and frames:
        line += f": {_how_to_import(error.name, tree, exercise)}"
    about = (name, tuple(base.__name__ for base in type(error).__mro__), _show(frames, tree))
    if not imported and isinstance(error, Stopped | MemoryError | ReadKeyboard | StartedAfresh):
        cause = explain_trouble(error, request, tree, exercise, imported=True)
        return Trouble("load", f"{exercise}.py does not import: {cause.message}", *about)
    match error:
        case Missing():
            return Trouble("missing", text)
        case BadSignature():
            return Trouble("signature", text)
        case LoadError():
            return Trouble("load", text)
        case FileNotFoundError() if tree.file(exercise) is None:
            return Trouble("no file", text)
        case ModuleNotFoundError() if error.name and error.name.startswith(tree.package):
            needed = error.name.removeprefix(tree.package + ".").replace(".", "/")
            return Trouble("unstarted", f"{needed}.py is missing", exercise=needed)
        case OutOfTime():
            waited = f"did not finish within {request.seconds:g} s"
            return Trouble("time", waited + (place and f" (stopped{place})"), *about)
        case PrintedTooMuch():
            return Trouble("printed", f"printed more than {PRINT_LIMIT // 10**6} MB and was stopped{place}", *about)
        case EndedProcess():
            return Trouble("died", f"tried to end the process{place}", *about)
        case ReadKeyboard():
            return Trouble("raised", f"reads from the keyboard{place}: nobody is there to type", *about)
        case StartedAfresh():
            words = f"starts a process by {text!r}{place}: such a process can't import a hand-in; use 'fork'"
            return Trouble("raised", words, *about)
        case MemoryError():
            return Trouble("memory", f"ran out of memory{place}", *about)
        case RuntimeError() if "can't allocate memory" in text:
            return Trouble("memory", f"ran out of memory{place}", *about)
        case NotImplementedError() if last and _raised_in(error, last.filename):
            return Trouble("unstarted", text, exercise=tree.exercise_of(last.filename) or exercise)
    if not imported:
        return Trouble("load", f"{exercise}.py can't be imported: {line}", *about)
    return Trouble("raised", line, *about)


def _how_to_import(name: str, tree: Tree, exercise: str) -> str:
    """What to write where the hand-in has a file of that name."""
    folders = exercise.split("/")[:-1]
    for up in range(len(folders) + 1):
        path = "/".join([*folders[: len(folders) - up], *name.split(".")])
        if any((root / f"{path}.py").is_file() or (root / path).is_dir() for root in tree.roots):
            return f"it is a file of the hand-in itself, so write `from {'.' * (up + 1)}{name} import …`"
    return "no package of that name is installed here, and the hand-in has no such file"


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as another:
        return f"<its __str__ raised {type(another).__name__}>"


def _own_frames(error: BaseException, request: Request, tree: Tree) -> list[traceback.FrameSummary]:
    scenario = request.scenario
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if tree.exercise_of(frame.filename) or (scenario and frame.filename == scenario.filename)
    ]


def _show(frames: list[traceback.FrameSummary], tree: Tree) -> str:
    lines = []
    for frame in frames[-4:]:
        lines.append(f"{_place(frame, tree)}, in {frame.name}")
        if frame.line:
            lines.append(f"    {frame.line.strip()}")
    return "\n".join(lines)


def _place(frame: traceback.FrameSummary, tree: Tree) -> str:
    exercise = tree.exercise_of(frame.filename)
    return f"{exercise + '.py' if exercise else frame.filename.rpartition('/')[2]}, line {frame.lineno}"


def _raised_in(error: BaseException, filename: str) -> bool:
    """Whether the error was raised in this file (PyTorch raises NotImplementedError as well)."""
    return traceback.extract_tb(error.__traceback__)[-1].filename == filename
