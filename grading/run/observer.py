"""Runs a request on a submission and records what can be observed from outside.

Used in the test process and in the child (`grading.run.child`); it has no oracles and judges nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.fx.experimental.symbolic_shapes  # torch.autograd.grad imports it: not while a submission may be stopped

from grading.course.trees import Tree
from grading.data.plain import TensorFacts, make_plain, map_tensors, tensors_in
from grading.data.request import Request, Scenario, cotangents
from grading.data.result import Result
from grading.run.copies import Copies
from grading.run.guards import Interrupts, Printed, no_fresh_process, no_way_out, streams, time_limit
from grading.run.state import GlobalState
from grading.run.stopwatch import NoStopwatch, Stopwatch, stopwatch
from grading.run.trouble import check_call, explain_trouble, find, refuse_deferred

# Graded tensors are small: threads would only wait for each other. One thread also fixes the order of summation.
torch.set_num_threads(1)


def observe(request: Request, tree: Tree, exercise: str, *, live: bool = False) -> tuple[Result, BaseException | None]:
    """The result, and the submission's exception itself for a debugger in the same process.

    `live` leaves the terminal to the submission: its prints show at once and no time limit interrupts a debugger.
    """
    observer = _Observer(request, tree, exercise)
    printed = Printed()
    error: BaseException | None = None
    started = time.perf_counter()
    with Interrupts() as interrupts:
        try:
            with contextlib.ExitStack() as guards:
                if not live:
                    guards.enter_context(streams(printed))
                guards.enter_context(no_way_out())
                guards.enter_context(no_fresh_process())
                guards.enter_context(time_limit(None if live else request.seconds))
                observer.work()
        except BaseException as caught:
            if interrupts.seen and isinstance(caught, KeyboardInterrupt):
                raise
            error = caught
            observer.seen["trouble"] = explain_trouble(caught, request, tree, exercise, observer.imported)
    observer.state.put_back_random_numbers()
    observer.put_back()
    observer.seen.setdefault("seconds", time.perf_counter() - started)
    return Result(printed=printed.kept, left=tuple(dict.fromkeys(observer.left)), **observer.seen), error


class _Observer:
    """One running request; `seen` collects the fields of the Result, as far as the work gets."""

    def __init__(self, request: Request, tree: Tree, exercise: str) -> None:
        self.request, self.tree, self.exercise = request, tree, exercise
        self.seen: dict[str, Any] = {}
        self.imported = False
        self.clock: Stopwatch = NoStopwatch()
        self.state = GlobalState(f"{exercise}.py", tree.source(exercise))
        self.left: list[str] = []  # what the submission left changed

    def put_back(self) -> None:
        """Before anything else computes: the submission's settings are not the observer's."""
        self.left += self.state.put_back()

    def work(self) -> None:
        request = self.request
        module = self.tree.load(self.exercise)
        self.put_back()
        self.imported = True
        torch.manual_seed(request.seed)
        random.seed(request.seed)
        copies = Copies(request.inputs)
        inputs = copies.tensors
        for number in request.grad or ():
            inputs[number].requires_grad_()
        counts: dict[str, int] = {}
        try:
            target, parameters = self._target(module, copies)
            args, kwargs = copies.put_in((request.args, request.kwargs))
            if request.timed:
                self.clock = stopwatch(inputs)
            with self._counting([*inputs, *parameters.values()], counts):
                output = self._call(target, args, kwargs)
                self.put_back()
                if request.timed:  # misses what another thread writes later
                    self.seen["output"] = _snapshot(output)
                if request.grad is not None:
                    self.seen["grads"] = self._gradients(output, inputs, parameters)
        finally:
            self.seen["changed"] = copies.changed()
        self.seen["counts"] = counts
        self.seen["cost"] = self.clock.cost()
        self.seen["facts"] = tuple(_facts(tensor, inputs) for tensor in tensors_in(_shallow(output)))
        self.seen.setdefault("output", _snapshot(output))

    def _target(self, module: Any, copies: Copies) -> tuple[Callable[..., Any], Mapping[str, torch.Tensor]]:
        """What to call, and the parameters whose gradients may be requested."""
        request = self.request
        if request.scenario is not None:
            function = compile_scenario(request.scenario)
            return (lambda *args, **kwargs: function(module, *args, **kwargs)), {}
        target = find(request.name, module, self.exercise)
        if request.init is None:
            return target, {}
        init_args, init_kwargs = copies.put_in(request.init)
        check_call(target, init_args, init_kwargs, request.name)
        made = target(*init_args, **init_kwargs)
        if request.to:
            made = made.to(*request.to)
        if request.state is not None:
            state = copies.put_in(request.state)
            made.load_state_dict({name: value.detach().clone() for name, value in state.items()})
        if request.training is not None:
            made.train(request.training)
        parameters = dict(made.named_parameters()) if isinstance(made, torch.nn.Module) else {}
        return (made if request.method is None else getattr(made, request.method)), parameters

    def _call(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.request.scenario is None:
            signed = target.forward if isinstance(target, torch.nn.Module) else target
            self.seen["parameters"] = check_call(signed, args, kwargs, self.request.name)
        started = time.perf_counter()
        with self.clock:
            output = target(*args, **kwargs)
        self.seen["seconds"] = time.perf_counter() - started
        if self.request.scenario is None:
            refuse_deferred(output, self.request.name)
        return output

    def _gradients(
        self, output: Any, inputs: list[torch.Tensor], parameters: Mapping[str, torch.Tensor]
    ) -> dict[int | str, torch.Tensor | None]:
        """Vector-Jacobian products with the cotangents of the request; None where no gradient flows."""
        request = self.request
        floating = [tensor for tensor in tensors_in(_shallow(output)) if tensor.is_floating_point()]
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
            key: None if grad is None else make_plain(grad).clone() for key, grad in zip(wanted, found, strict=True)
        }

    @contextlib.contextmanager
    def _counting(self, inputs: list[torch.Tensor], into: dict[str, int]) -> Iterator[None]:
        if not self.request.count:
            yield
            return
        from grading.run.counters import count

        with count(exclude=inputs) as counts:
            yield
        into |= counts.figures()


_compiled = itertools.count(1)


def compile_scenario(scenario: Scenario) -> Callable[..., Any]:
    """Recreate the function in its own module, which holds only the imports and definitions that it needs."""
    # Registered under a unique name: Dynamo looks up the module of the code that it compiles, and caches it.
    module = types.ModuleType(f"scenario_{next(_compiled)}")
    sys.modules[module.__name__] = module
    exec(scenario.imports, vars(module))
    for line, source in scenario.definitions:
        exec(compile("\n" * (line - 1) + source, scenario.filename, "exec"), vars(module))
    return getattr(module, scenario.name)


def _snapshot(output: Any) -> Any:
    """A copy of the output as plain data."""
    return map_tensors(make_plain(output), torch.clone)


def _shallow(output: Any) -> Any:
    """The output's structure with its original tensors, for inspection."""
    if isinstance(output, (list, tuple)):
        return [_shallow(item) for item in output]
    if isinstance(output, Mapping):
        return {key: _shallow(item) for key, item in output.items() if isinstance(key, (str, int))}
    if isinstance(output, torch.Tensor) and isinstance(make_plain(output), torch.Tensor):
        return output
    return None


def _facts(tensor: torch.Tensor, inputs: list[torch.Tensor]) -> TensorFacts:
    memory = tensor.untyped_storage()
    aliases = [
        number
        for number, each in enumerate(inputs)
        if tensor.numel() and each.numel() and each.untyped_storage()._cdata == memory._cdata
    ]
    kind = type(tensor)
    return TensorFacts(
        type=kind.__name__,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=tensor.device.type,
        contiguous=tensor.is_contiguous(),
        requires_grad=tensor.requires_grad,
        aliases=tuple(aliases),
    )
