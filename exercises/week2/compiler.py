"""The stages of torch.compile, one function each: Ansel et al. 2024, "PyTorch 2" (doi:10.1145/3620665.3640366).

TorchDynamo captures graphs from Python bytecode (`capture`), AOTAutograd splits one joint graph into forward and
backward (`forward_and_backward_graphs`), decompositions lower them to a small set of operators (`lower`), and a backend
turns them into something faster (`fuse`, `backend`). Then: code that Dynamo can capture in one piece, and what
compiling gains.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions

# AOTAutograd's joint graph has no public entry point. PyTorch's own higher-order operators use this one.
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import default_partition
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Capture:
    """What TorchDynamo captured of one call."""

    graphs: list[fx.GraphModule]
    """One for each stretch of tensor operations between graph breaks, in the order of execution."""
    breaks: list[Any]
    """One entry per graph break, in order. Its `str` contains Dynamo's reason and the line number."""
    guards: list[Any]
    """What must hold for the graphs to be reused. The `str` of each names what it checks: "L['x']"."""


def capture(fn: Callable[..., Any], *args: Any) -> Capture:
    """Call fn(*args) under TorchDynamo and report what it captured, and where and why the graph broke.

    Args:
        fn: a function or an `nn.Module`.
        args: tensors and Python numbers.

    Returns:
        The graphs, breaks and guards of this call (an object with the attributes of `Capture`). Every call starts from
        a Dynamo that has compiled nothing yet, whatever was compiled or captured before, and leaves Dynamo that way.
        Dynamo decides what counts as a break if there is no tensor operation on one side of it, or inside a function
        that fn calls.
    """
    raise NotImplementedError


def forward_and_backward_graphs(fn: Callable[..., Any], *args: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs of fn's forward and backward pass, split from one joint graph before anything runs.

    Args:
        fn: takes tensors and returns one or more, in tuples, lists and dicts. Each result is floating-point and depends
            on an argument that requires a gradient. No result is a view of an argument, and fn modifies no argument.
        args: distinct tensors. Those that require a gradient get one. They, their `requires_grad` and their `.grad` are
            left unchanged.

    Returns:
        forward, backward: graph modules that call only aten operators (OpOverload) and `operator.getitem`.
        `forward(*args)` returns fn's results as one flat sequence (dicts in the order of `torch.utils._pytree`),
        followed by whatever backward needs.
        `backward(*needed, *gradients)` takes those values and the gradient of each result. It returns one gradient per
        argument, None for one that requires none. Both are made for args' shapes and right for any values.
    """
    raise NotImplementedError


def lower(graph_module: fx.GraphModule, *args: Any) -> fx.GraphModule:
    """The same computation in core ATen, the small set of operators that a backend has to support.

    Args:
        graph_module: of any PyTorch calls; it may modify its intermediate results in place. It modifies no state of
            its own (no batch norm in training mode) and computes no vector norm: these have no decomposition into core
            operators. It is left unchanged.
        args: example inputs.

    Returns:
        A graph module with the same parameters that returns the same results, in the same structure, for inputs of
        args' shapes. Every call_function in it is `operator.getitem` or an OpOverload with the tag `torch.Tag.core`;
        it calls no modules or methods except the `_guards_fn` that `torch.export` adds.
    """
    raise NotImplementedError


def backend(graph_module: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """A backend for `torch.compile(model, backend=backend)` that runs the graph with every linear and relu fused.

    Args:
        graph_module: a graph from TorchDynamo; the backend may change it.
        example_inputs: the inputs of its first call.

    Returns:
        What Dynamo calls instead of the graph, with the same inputs and results. Differentiable.
    """
    raise NotImplementedError


def fuse(graph_module: fx.GraphModule) -> int:
    """Replace every linear followed by a relu with one node, in place, and recompile the module.

    - A linear is a call of `F.linear` (which is `torch._C._nn.linear`) or of an `nn.Linear`.
    - A relu is a call of `F.relu`, `torch.relu`, the method `relu` or an `nn.ReLU`, or of an in-place form
      (`inplace=True`, `F.relu_`, `torch.relu_`, `relu_`).
    - Their arguments may be given by position or by name.
    - They are fused only if the relu is the only user of the linear's result. A module may be called more than once;
      each call is decided separately.

    The graph computes what it did before: the same numbers to the last bit, NaN included, and the same gradients.
    Arguments are read where the linear read them, parameters at every call. The fused node allocates one tensor where
    linear and relu allocated two: without autograd, nothing else of the result's size is allocated.

    Returns:
        The number of fused pairs.
    """
    raise NotImplementedError


# given: three functions that break the graph. Leave them unchanged, and rewrite them below.


def masked_mean_eager(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x where mask is True; 0 if it is nowhere True."""
    count = mask.sum().item()
    if count == 0:
        return x.new_zeros(())
    return x[mask].sum() / count


def clip_by_norm_eager(x: Tensor, max_norm: float) -> Tensor:
    """x, scaled down to norm max_norm if its own norm is larger."""
    norm = x.norm()
    if norm > max_norm:
        print("clipped")
        x = x * (max_norm / norm)
    return x


def steps_until_eager(x: Tensor, limit: float, max_steps: int) -> tuple[Tensor, int]:
    """x, doubled until its largest absolute value reaches limit, at most max_steps times; and how often."""
    steps = 0
    while steps < max_steps and x.abs().max().item() < limit:
        x = x * 2
        steps += 1
    return x, steps


# end given


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """What `masked_mean_eager` computes, without a graph break.

    `torch.compile(masked_mean, fullgraph=True)` captures it under Dynamo's default configuration: it uses only
    PyTorch's own operators, without `allow_in_graph` or a custom operator. The graph captured for one x and mask is
    right for all others of their shapes.

    Args:
        x: floating-point, of any shape. It may contain inf or NaN where mask is False.
        mask: bool, of x's shape.

    Returns:
        The mean of x where mask is True, 0-d, of x's dtype; 0 if mask is nowhere True. The gradient is 0 where mask is
        False, and never NaN.
    """
    raise NotImplementedError


def clip_by_norm(x: Tensor, max_norm: float) -> Tensor:
    """What `clip_by_norm_eager` computes, without a graph break (see `masked_mean`) and without its message.

    Args:
        x: floating-point, of any shape. Its norm is one number, the 2-norm of all its elements.
        max_norm: at least 0.

    Returns:
        x · max_norm / norm if norm > max_norm, else x; of x's shape and dtype. The gradient is that of these formulas,
        through the norm too; if x is all zeros, it is that of x.
    """
    raise NotImplementedError


def steps_until(x: Tensor, limit: float, max_steps: int) -> tuple[Tensor, int | Tensor]:
    """What `steps_until_eager` computes, without a graph break (see `masked_mean`).

    Args:
        x: floating-point, of any non-empty shape.
        limit: x is doubled while its largest absolute value is below limit. NaN is never below.
        max_steps: at least 0.

    Returns:
        x · 2^steps, of x's shape and dtype, and steps, 0 … max_steps: an int or a 0-d integer tensor. The gradient of
        the first is 2^steps everywhere; steps has none.
    """
    raise NotImplementedError


def compare_modes(model: nn.Module, inputs: tuple[Any, ...], repeats: int = 30) -> dict[str, float]:
    """How long model(*inputs) takes, eager and compiled.

    Compiles by calling `torch.compile`, looked up by that name at each call. All calls of the model are made in the
    same autograd mode, with gradients or without. The model is left unchanged: its parameters, buffers and training
    modes, and not compiled.

    Args:
        model: any module, in training or in eval mode.
        inputs: its positional arguments.
        repeats: how many single calls of each mode are timed, at least 1, after one or more untimed calls of each. No
            mode is called more than 4 · repeats + 10 times in all.

    Returns:
        eager_s, compiled_s: seconds of a typical single call: an average that a few slow calls do not move.
        first_call_s: seconds of the compiled model's first call, which compiles it, even if it was compiled before.
        speedup: eager_s / compiled_s.
        On an accelerator a call ends when the device has finished: where `torch.accelerator.is_available()`,
        `torch.accelerator.synchronize()` is called before each reading of the clock. Both are looked up at each call.
    """
    raise NotImplementedError
