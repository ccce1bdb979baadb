"""PyTorch's own compiler, as far as each stage is accessible."""

from types import SimpleNamespace

import torch
from functorch.compile import aot_function, make_boxed_func
from torch.utils._pytree import tree_leaves


def capture(fn, *args):
    explained = torch._dynamo.explain(fn)(*args)
    return SimpleNamespace(graphs=explained.graphs, breaks=explained.break_reasons, guards=explained.out_guards)


def forward_and_backward_graphs(fn, *args):
    graphs = []

    def keep(graph_module, inputs):
        graphs.append(graph_module)
        return make_boxed_func(graph_module.forward)

    args = [arg.detach().requires_grad_(arg.requires_grad) for arg in args]
    # aot_function compiles the backward pass when it is first needed
    results = tree_leaves(aot_function(fn, keep, keep)(*args))
    torch.autograd.grad(results, [arg for arg in args if arg.requires_grad], list(map(torch.ones_like, results)))
    return tuple(graphs)


def lower(graph_module, *args):
    return torch.export.export(graph_module, args).run_decompositions().module()


def backend(graph_module, example_inputs):
    raise NotImplementedError("what fuses in PyTorch is Inductor, which needs a C++ compiler")


def fuse(graph_module):
    raise NotImplementedError("torch.fx fuses convolutions with batch norms, and no linear with a relu")


def masked_mean(x, mask):
    raise NotImplementedError("torch.masked.mean gives NaN where the mask is nowhere True")


def clip_by_norm(x, max_norm):
    raise NotImplementedError("torch.nn.utils.clip_grad_norm_ clips gradients, in place")


def steps_until(x, limit, max_steps):
    steps = torch.zeros((), dtype=torch.int64, device=x.device)
    return torch.while_loop(
        lambda x, steps: (x.abs().max() < limit) & (steps < max_steps),
        lambda x, steps: (x * 2, steps + 1),
        (x, steps),
    )


def compare_modes(model, inputs, repeats=30):
    raise NotImplementedError("torch.utils.benchmark times one statement, and does not compare")
