"""The stages of torch.compile, one function each: Ansel et al. 2024, "PyTorch 2" (doi:10.1145/3620665.3640366).

TorchDynamo captures graphs from Python bytecode (`capture`), AOTAutograd cuts forward and backward out of one joint
graph (`forward_and_backward_graphs`), decompositions bring them down to a small set of operators (`lower`), and a
backend makes something faster of them (`fuse`, `backend`). Then: code that Dynamo can take in one piece, and what
compiling it gains.
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

# AOTAutograd's joint graph has no public entrance. PyTorch's own higher-order operators take this one.
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._functorch.partitioners import default_partition
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

# --- TorchDynamo ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """What TorchDynamo makes of one call."""

    graphs: list[fx.GraphModule]
    """One for each piece of tensor work that Python had to be left alone between, in the order of the call."""
    breaks: list[Any]
    """One entry for each graph break, in order. Its `str` says why, as Dynamo does, and the number of the line."""
    guards: list[Any]
    """What must hold for the graphs to be used again. The `str` of each names what it looks at: "L['x']"."""


def capture(fn: Callable[..., Any], *args: Any) -> Capture:
    """Call fn(*args) under TorchDynamo and say what it captured, and where and why it broke.

    Args:
        fn: a function or an `nn.Module`.
        args: tensors and Python numbers.

    Returns:
        The graphs, breaks and guards of this call (an object with the attributes of `Capture`). Every call starts from
        a Dynamo that has compiled nothing yet, whatever was compiled or captured before, and leaves such a one behind.
        What counts as a break is Dynamo's business where no tensor work stands on one of its sides, or inside of a
        function that fn calls.
    """
    explained = torch._dynamo.explain(fn)(*args)
    return Capture(explained.graphs, explained.break_reasons, explained.out_guards)


# --- AOTAutograd ----------------------------------------------------------------------------------------------------


def forward_and_backward_graphs(fn: Callable[..., Any], *args: Tensor) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs of fn's forward and backward pass, cut out of one joint graph before anything runs.

    Args:
        fn: takes tensors and returns one or more, in tuples, lists and dicts. Each result is of floating point and
            depends on an argument that requires a gradient. None is a view of an argument, and fn changes none.
        args: tensors, distinct ones. Those that require a gradient get one. They, their `requires_grad` and their
            `.grad` are left as they are.

    Returns:
        forward, backward: graph modules that call nothing but aten operators (OpOverload) and `operator.getitem`.
        `forward(*args)` gives fn's results as one flat sequence (dicts in the order of `torch.utils._pytree`), and
        after them whatever backward needs.
        `backward(*needed, *gradients)` takes that and the gradient of each result. It gives one gradient for each
        argument, None for one that requires none. Both are made for args' shapes, and right for any numbers.
    """

    def flat(*args: Tensor) -> tuple[Any, ...]:
        return tuple(tree_leaves(fn(*args)))

    own = tuple(arg.detach().requires_grad_(arg.requires_grad) for arg in args)
    joint: Any = aot_export_joint_simple(flat, own, trace_joint=True)  # (args, gradients) -> (results, gradients)
    (outputs,) = joint.graph.output_node().args
    # What stands before the first use of a gradient is the forward pass. Inductor's own partition recomputes what is
    # cheap, to save less.
    return default_partition(joint, own, num_fwd_outputs=len(outputs) - len(args))


# --- decomposition --------------------------------------------------------------------------------------------------


def lower(graph_module: fx.GraphModule, *args: Any) -> fx.GraphModule:
    """The same computation in core ATen, the few operators that a backend has to know.

    Args:
        graph_module: of any PyTorch calls; it may write to its intermediate results in place. It changes no state of
            its own (no batch norm in training mode) and takes no vector norm: these have no decomposition into core
            operators. It is left as it is.
        args: example inputs.

    Returns:
        A graph module with the same parameters that gives the same results, in the same structure, for inputs of
        args' shapes. Every call_function in it is `operator.getitem` or an OpOverload with the tag `torch.Tag.core`;
        it calls no modules or methods, but for the `_guards_fn` that `torch.export` adds.
    """
    program = torch.export.export(graph_module, args)
    return program.run_decompositions(core_aten_decompositions()).module()


# --- a backend ------------------------------------------------------------------------------------------------------


def backend(graph_module: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """A backend for `torch.compile(model, backend=backend)` that runs the graph with every linear and relu fused.

    Args:
        graph_module: a graph from TorchDynamo; the backend may change it.
        example_inputs: what it will first be called with.

    Returns:
        What Dynamo calls in place of the graph: the same inputs, the same results. Differentiable.
    """
    fuse(graph_module)
    return graph_module.forward


def fuse(graph_module: fx.GraphModule) -> int:
    """Put one node in the place of every linear followed by a relu. In place; the module is recompiled.

    - A linear is a call of `F.linear` (which is `torch._C._nn.linear`) or of an `nn.Linear`.
    - A relu is a call of `F.relu`, `torch.relu`, the method `relu` or an `nn.ReLU`, or of what writes to its argument
      (`inplace=True`, `F.relu_`, `torch.relu_`, `relu_`).
    - Their arguments may be given by position or by name.
    - They are fused only where the relu is the single user of the linear's result. A module may be called more than
      once; each call is a case of its own.

    The graph computes what it did before: the same numbers to the last bit, NaN where there was NaN, the same
    gradients, and its arguments are read where the linear read them. Parameters are read at every call.
    The fused node makes one tensor where linear and relu made two: without autograd, nothing else of the result's
    size is allocated.

    Returns:
        The number of pairs that were fused.
    """
    graph, modules = graph_module.graph, dict(graph_module.named_modules())
    fused = 0
    for relu in graph.nodes:
        if not _calls(relu, modules, _RELU_FUNCTIONS, _RELU_METHODS, nn.ReLU):
            continue
        (linear,) = relu.all_input_nodes
        if not _calls(linear, modules, _LINEAR_FUNCTIONS, frozenset(), nn.Linear) or len(linear.users) > 1:
            continue
        # Not where the relu stands: what lies between may write to the linear's arguments.
        with graph.inserting_before(linear):
            both = graph.call_function(_linear_relu, linear.args, {**linear.kwargs, **_parameters(linear, modules)})
        relu.replace_all_uses_with(both)
        graph.erase_node(relu)
        graph.erase_node(linear)
        fused += 1
    graph_module.recompile()
    return fused


def _linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(x Wᵀ + b) in the memory of x Wᵀ + b, which nobody else needs: the backward pass of neither does."""
    return F.linear(input, weight, bias).relu_()


_LINEAR_FUNCTIONS = frozenset({F.linear})
_RELU_FUNCTIONS = frozenset({F.relu, F.relu_, torch.relu, torch.relu_})
_RELU_METHODS = frozenset({"relu", "relu_"})


def _calls(
    node: fx.Node, modules: dict[str, nn.Module], functions: frozenset[Any], methods: frozenset[str], kind: type
) -> bool:
    """Whether a node calls one of these functions or methods, or a module of exactly this kind."""
    match node.op:
        case "call_function":
            return node.target in functions
        case "call_method":
            return node.target in methods
        case "call_module":
            return type(modules[str(node.target)]) is kind
    return False


def _parameters(linear: fx.Node, modules: dict[str, nn.Module]) -> dict[str, fx.Node]:
    """Nodes that read the parameters of the module that `linear` calls; none where it calls the function."""
    if linear.op != "call_module":
        return {}
    names = [name for name, _ in modules[str(linear.target)].named_parameters()]
    return {name: linear.graph.get_attr(f"{linear.target}.{name}") for name in names}


# --- code that Dynamo takes in one piece ------------------------------------------------------------------------------

# given: three functions that break the graph. Leave them as they are, and write them anew below.


def masked_mean_eager(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of x where mask is True; 0 where it is nowhere True."""
    count = mask.sum().item()
    if count == 0:
        return x.new_zeros(())
    return x[mask].sum() / count


def clip_by_norm_eager(x: Tensor, max_norm: float) -> Tensor:
    """x, scaled down to the norm max_norm where its own is larger."""
    norm = x.norm()
    if norm > max_norm:
        print("clipped")
        x = x * (max_norm / norm)
    return x


def steps_until_eager(x: Tensor, limit: float, max_steps: int) -> tuple[Tensor, int]:
    """x, doubled until its largest absolute value reaches limit, and how often: max_steps times at most."""
    steps = 0
    while steps < max_steps and x.abs().max().item() < limit:
        x = x * 2
        steps += 1
    return x, steps


# end given


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """What `masked_mean_eager` computes, without a graph break.

    `torch.compile(masked_mean, fullgraph=True)` takes it as it is, with Dynamo's configuration as it is: by PyTorch's
    own operators alone, without `allow_in_graph` or a custom operator. What is compiled for one x and mask is right
    for all others of their shapes.

    Args:
        x: floating point, of any shape. It may hold inf or NaN where mask is False.
        mask: bool, of x's shape.

    Returns:
        The mean of x over the places where mask is True, 0-d, of x's dtype; 0 where there is none. The gradient is 0
        where mask is False, and never NaN.
    """
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def clip_by_norm(x: Tensor, max_norm: float) -> Tensor:
    """What `clip_by_norm_eager` computes, without a graph break (see `masked_mean`) and without its message.

    Args:
        x: floating point, of any shape. Its norm is one number, the 2-norm of all its elements.
        max_norm: at least 0.

    Returns:
        x · max_norm / norm where norm > max_norm, of x's shape and dtype; else x. The gradient is that of these
        formulas, through the norm too: where x is all zeros it is that of x.
    """
    norm = torch.linalg.vector_norm(x)
    above = norm > max_norm
    # Both branches are computed, and a NaN in the one that is not taken would still reach the gradient.
    return torch.where(above, x * (max_norm / torch.where(above, norm, 1.0)), x)


def steps_until(x: Tensor, limit: float, max_steps: int) -> tuple[Tensor, int | Tensor]:
    """What `steps_until_eager` computes, without a graph break (see `masked_mean`).

    Args:
        x: floating point, of any shape but an empty one.
        limit: x is doubled while its largest absolute value is below. NaN is below nothing.
        max_steps: at least 0.

    Returns:
        x · 2^steps, of x's shape and dtype, and steps, 0 … max_steps: an int or a 0-d tensor of integers. The gradient
        of the first is 2^steps everywhere; steps has none.
    """
    steps = torch.zeros((), dtype=torch.int64, device=x.device)
    for _ in range(max_steps):  # a number of Python's, so the loop is unrolled in the graph
        below = x.detach().abs().max() < limit
        x = torch.where(below, x * 2, x)
        steps = steps + below
    return x, steps


# --- what it gains ----------------------------------------------------------------------------------------------------


def compare_modes(model: nn.Module, inputs: tuple[Any, ...], repeats: int = 30) -> dict[str, float]:
    """How long model(*inputs) takes, eager and compiled.

    Compiles by calling `torch.compile`, by that name and when it is needed. All calls are made in one autograd mode,
    with gradients or without. The model is left as it was: its parameters, buffers and training modes, not compiled.

    Args:
        model: any module, in training or in eval mode.
        inputs: its positional arguments.
        repeats: how many single calls of each mode are timed, at least 1. Before them each mode is called once or more
            without being timed.

    Returns:
        eager_s, compiled_s: seconds of a typical single call, by an average that a few slow calls do not move.
        first_call_s: seconds of the compiled model's first call, which is when it is compiled.
        speedup: eager_s / compiled_s.
        On an accelerator a call ends when the device has finished.
    """
    model = copy.deepcopy(model)  # a call may write to buffers
    torch.compiler.reset()  # or the first call could find what was compiled before
    compiled = torch.compile(model)
    first_call_s = _seconds(compiled, inputs)
    _seconds(model, inputs)
    # In turns, so that both modes meet the same disturbances.
    eager, steady = zip(*((_seconds(model, inputs), _seconds(compiled, inputs)) for _ in range(repeats)), strict=True)
    eager_s, compiled_s = statistics.median(eager), statistics.median(steady)
    return {
        "eager_s": eager_s,
        "compiled_s": compiled_s,
        "first_call_s": first_call_s,
        "speedup": eager_s / compiled_s,
    }


def _seconds(model: Callable[..., Any], inputs: tuple[Any, ...]) -> float:
    """Of one call."""
    _synchronize()
    started = time.perf_counter()
    model(*inputs)
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
