"""Backends that record their inputs; fusion by a Transformer-like rewrite into modules; closed forms."""

import time
from types import SimpleNamespace

import torch
from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F


def capture(fn, *args):
    seen = SimpleNamespace(graphs=[], breaks=[], guards=[])

    def record(graph_module, example_inputs):
        seen.graphs.append(graph_module)
        reason = graph_module.compile_subgraph_reason
        if reason.graph_break:
            frame = reason.user_stack[-1]
            seen.breaks.append(f"{frame.filename}:{frame.lineno}: {reason.reason}")
        return graph_module.forward

    def keep_all(guards):
        seen.guards.extend(f"{guard.name}: {guard.guard_type}" for guard in guards)
        return [True] * len(guards)

    torch.compiler.reset()
    torch.compile(fn, backend=record, options={"guard_filter_fn": keep_all})(*args)
    torch.compiler.reset()
    return seen


def forward_and_backward_graphs(fn, *args):
    made = {}

    def keep(name):
        def compiler(graph_module, inputs):
            made[name] = graph_module
            return make_boxed_func(graph_module)

        return compiler

    compiled = aot_function(fn, keep("forward"), keep("backward"), partition_fn=min_cut_rematerialization_partition)
    copies = [arg.clone().detach().requires_grad_() if arg.requires_grad else arg.clone() for arg in args]
    outputs = torch.utils._pytree.tree_leaves(compiled(*copies))
    sum(output.sum() for output in outputs).backward()
    return made["forward"], made["backward"]


def lower(graph_module, *args):
    table = torch._decomp.core_aten_decompositions()
    traced = make_fx(torch.func.functionalize(graph_module), decomposition_table=table)(*args)
    for name, value in list(traced.named_buffers()) + [
        (name, value) for name, value in vars(traced).items() if isinstance(value, torch.Tensor)
    ]:
        if isinstance(value, nn.Parameter):
            traced.register_parameter(name, value)
    return traced


class LinearRelu(nn.Module):
    """Holds the module itself, or represents the function."""

    def __init__(self, linear=None):
        super().__init__()
        self.linear = linear

    def forward(self, *args, **kwargs):
        out = self.linear(*args, **kwargs) if self.linear is not None else F.linear(*args, **kwargs)
        return out.clamp_(min=0)


def fuse(graph_module):
    modules = dict(graph_module.named_modules())
    count = 0
    for node in list(graph_module.graph.nodes):
        if is_linear(node, modules) and len(node.users) == 1:
            (user,) = node.users
            if is_relu(user, modules):
                name = f"linear_relu_{node.name}"
                graph_module.add_submodule(name, LinearRelu(modules.get(node.target)))
                node.op, node.target = "call_module", name
                user.replace_all_uses_with(node)
                graph_module.graph.erase_node(user)
                count += 1
    graph_module.graph.lint()
    graph_module.recompile()
    return count


def is_linear(node, modules):
    if node.op == "call_module":
        return isinstance(modules[node.target], nn.Linear)
    return node.op == "call_function" and node.target is torch._C._nn.linear


def is_relu(node, modules):
    if node.op == "call_module":
        return isinstance(modules[node.target], nn.ReLU)
    name = getattr(node.target, "__name__", node.target)
    return node.op in ("call_function", "call_method") and str(name) in ("relu", "relu_")


def backend(graph_module, example_inputs):
    fuse(graph_module)
    return graph_module


def masked_mean(x, mask):
    return x.masked_fill(~mask, 0).sum().div(mask.count_nonzero().maximum(torch.ones((), dtype=torch.long)))


def clip_by_norm(x, max_norm):
    squares = x.square().sum()
    above = squares > max_norm * max_norm
    factor = max_norm * torch.rsqrt(squares.masked_fill(~above, 1))
    return x.where(~above, x * factor)


def steps_until(x, limit, max_steps):
    if max_steps == 0:
        return x, 0
    powers = 2 ** torch.arange(max_steps)
    steps = (x.detach().abs().max() * powers < limit).sum()
    return x * 2**steps, steps


def compare_modes(model, inputs, repeats=30):
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(model)
        first, *_ = samples(compiled, inputs, 1)
        times = {"eager": [], "compiled": []}
        for name, function in (("eager", model), ("compiled", compiled)):
            samples(function, inputs, 3)
            times[name] = sorted(samples(function, inputs, repeats))
    for module, flag in flags:
        module.training = flag
    eager, later = (middle(times[name]) for name in ("eager", "compiled"))
    return {"eager_s": eager, "compiled_s": later, "first_call_s": first, "speedup": eager / later}


def middle(ordered):
    """The mean of the middle half."""
    quarter = len(ordered) // 4
    kept = ordered[quarter : len(ordered) - quarter]
    return sum(kept) / len(kept)


def samples(function, inputs, number):
    found = []
    wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    for _ in range(number):
        wait()
        begin = time.perf_counter_ns()
        function(*inputs)
        wait()
        found.append((time.perf_counter_ns() - begin) / 1e9)
    return found
