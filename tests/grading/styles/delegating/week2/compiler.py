"""A joint graph traced and cut by hand, a fused autograd.Function, PyTorch's while loop and its timer."""

import copy
import time
from collections import namedtuple

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer

Captured = namedtuple("Captured", "graphs breaks guards")


def capture(fn, *args):
    explained = torch._dynamo.explain(fn)(*args)
    breaks = [f"{reason.reason}\n{''.join(map(str, reason.user_stack))}" for reason in explained.break_reasons]
    return Captured(explained.graphs, breaks, list(map(str, explained.out_guards)))


def forward_and_backward_graphs(fn, *args):
    """Traces autograd itself: the joint graph is a function that calls torch.autograd.grad."""

    def joint(*inputs):
        primals, above = inputs[: len(args)], inputs[len(args) :]
        outputs = tree_leaves(fn(*primals))
        wanted = [primal for primal, arg in zip(primals, args, strict=True) if arg.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, above))
        return [*outputs, *(next(found) if arg.requires_grad else None for arg in args)]

    own = [arg.detach().clone().requires_grad_(arg.requires_grad) for arg in args]
    results = tree_leaves(fn(*own))
    graph = make_fx(joint)(*own, *map(torch.ones_like, results))
    return cut(graph, len(args), len(results))


def cut(joint, arguments, results):
    """Two copies of the joint graph: each keeps what its outputs need, and what both need is handed over."""
    nodes = list(joint.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    above = placeholders[arguments:]
    outputs = list(nodes[-1].args[0])
    late = set(above)  # what depends on a gradient from above
    for node in nodes:
        if any(each in late for each in node.all_input_nodes):
            late.add(node)
    needed = []
    for node in nodes[:-1]:
        if node not in late and any(
            user in late or (user.op == "output" and node in outputs[results:]) for user in node.users
        ):
            needed.append(node)
    forward, copies = fx.Graph(), {}
    for node in nodes[:-1]:
        if node not in late:
            copies[node] = forward.node_copy(node, copies.__getitem__)
    forward.output(tuple(copies[node] for node in [*outputs[:results], *needed]))
    backward, copies = fx.Graph(), {}
    for node in [*needed, *above]:
        copies[node] = backward.placeholder(node.name)
    for node in nodes[:-1]:
        if node in late and node not in copies:
            copies[node] = backward.node_copy(node, copies.__getitem__)
    backward.output(tuple(None if node is None else copies[node] for node in outputs[results:]))
    forward.eliminate_dead_code()
    backward.eliminate_dead_code()
    return fx.GraphModule(joint, forward), fx.GraphModule(joint, backward)


def lower(graph_module, *args):
    program = torch.export.export(graph_module, args, strict=True)
    program = program.run_decompositions(torch.export.default_decompositions())
    return program.module()


class LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias):
        output = F.linear(input, weight, bias)
        torch.relu_(output)
        ctx.save_for_backward(input, weight, output)
        return output

    @staticmethod
    def backward(ctx, above):
        input, weight, output = ctx.saved_tensors
        above = torch.where(output > 0, above, 0)
        rows, inputs = above.reshape(-1, above.size(-1)), input.reshape(-1, input.size(-1))
        return above @ weight, rows.mT @ inputs, rows.sum(0) if ctx.needs_input_grad[2] else None


def linear_relu(input, weight, bias=None):
    return LinearRelu.apply(input, weight, bias)


def fuse(graph_module):
    """Rebuilds the graph and then assigns it to the module."""
    kind = {}
    for node in graph_module.graph.nodes:
        called = type(graph_module.get_submodule(node.target)) if node.op == "call_module" else node.target
        if called in (nn.Linear, F.linear):
            kind[node] = "linear"
        elif called in (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"):
            kind[node] = "relu"
    pairs = {}
    for node in kind:
        if kind[node] == "linear" and [kind.get(user) for user in node.users] == ["relu"]:
            pairs[next(iter(node.users))] = node
    graph, copies = fx.Graph(), {}
    for node in graph_module.graph.nodes:
        if node in pairs:
            copies[node] = copies[pairs[node]]
        elif node in pairs.values():
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            if node.op == "call_module":
                given = graph_module.get_submodule(node.target)
                source = (args or tuple(kwargs.values()))[0]
                parts = [graph.get_attr(f"{node.target}.weight")]
                parts += [] if given.bias is None else [graph.get_attr(f"{node.target}.bias")]
                args, kwargs = (source, *parts), {}
            copies[node] = graph.call_function(linear_relu, args, kwargs)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph_module.graph = graph
    return len(pairs)


def backend(graph_module, example_inputs):
    copied = copy.copy(graph_module)
    fuse(copied)
    return lambda *inputs: copied(*inputs)


def masked_mean(x, mask):
    kept = torch.where(mask, x, torch.zeros_like(x))
    count = mask.sum()
    return torch.where(count == 0, kept.sum(), kept.sum() / torch.where(count == 0, 1, count)).to(x.dtype)


def clip_by_norm(x, max_norm):
    """The norm is not needed if it is not larger, so max_norm replaces it there: x · 1."""
    norm = torch.linalg.vector_norm(x)
    tall = torch.where(norm > max_norm, norm, torch.full_like(norm, max(max_norm, 1e-30)))
    return x * torch.where(norm > max_norm, max_norm / tall, torch.ones_like(tall))


def steps_until(x, limit, max_steps):
    def more(x, steps):
        return torch.logical_and(x.abs().amax() < limit, steps < max_steps)

    def double(x, steps):
        return x + x, steps + 1

    return torch.while_loop(more, double, (x, torch.zeros((), dtype=torch.int64)))


def now():
    """The Timer's own clock decides when PyTorch is imported whether it has to wait for an accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def compare_modes(model, inputs, repeats=30):
    saved = copy.deepcopy(model.state_dict())
    torch.compiler.reset()
    compiled = torch.compile(model, mode="default")
    first = Timer("f(*x)", timer=now, globals={"f": compiled, "x": inputs})._timeit(1)
    medians = {}
    for name, function in (("eager_s", model), ("compiled_s", compiled)):
        timer = Timer("f(*x)", timer=now, globals={"f": function, "x": inputs})
        times = torch.tensor([timer.timeit(1).median for _ in range(repeats)], dtype=torch.float64)
        medians[name] = times.quantile(0.5).item()
    model.load_state_dict(saved)
    return {**medians, "first_call_s": first, "speedup": medians["eager_s"] / medians["compiled_s"]}
