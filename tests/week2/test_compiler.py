"""Graded tests of week2/compiler: the four stages in their order, then code without graph breaks, then the clock.

A scenario returns what can be compared: numbers, counts, and whether a word occurs, not PyTorch's own text.
Functions for Dynamo to capture claim to come from a scenario.py that does not exist: Dynamo reads the source file of
what it compiles, and with --isolate this file may not be read.
"""

from __future__ import annotations

import contextlib
import math
import operator
import statistics
import time
from unittest.mock import patch

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grading import expect
from tests.oracles import compiler as oracle

# --- capture --------------------------------------------------------------------------------------------------------


def captured_whole(module, x):
    """What capture finds in a function without a break, and what its graph computes."""

    def whole(x):
        return (torch.sin(x) + 1) * x.sum(0)

    whole.__code__ = whole.__code__.replace(co_filename="scenario.py")
    captured = module.capture(whole, x)
    (output,) = captured.graphs[0](x)
    kinds = [isinstance(graph, torch.fx.GraphModule) for graph in captured.graphs]
    return {"graphs": kinds, "breaks": len(captured.breaks), "output": output}


@pytest.mark.points(graphs=1, output=1)
@pytest.mark.handout("dynamo")
def test_a_function_without_a_break_is_one_graph(submission, draw, part):
    """A function without a break is captured as one graph module that computes the same."""
    x = draw.normal(3, 5)
    got = submission.run(captured_whole, x)
    with part("graphs"):
        graphs, breaks = got.output["graphs"], got.output["breaks"]
        expect.that(graphs == [True], f"{len(graphs)} graphs were captured instead of 1, or not as an fx.GraphModule")
        expect.that(breaks == 0, f"{breaks} breaks are listed for a function that has none")
    with part("output"):
        expect(got).close_to(lambda x: {"graphs": [True], "breaks": 0, "output": (x.sin() + 1) * x.sum(0)})


def captured_pieces(module, x):
    """How many graphs and breaks are captured in a function with three breaks, and what the entries say."""

    def pieces(x):
        y = x.sin()
        print("between two graphs")
        scale = y.sum().item()
        y = y.cos() * scale
        if y.sum() > -1e9:
            y = y.exp()
        return y.tanh()

    pieces.__code__ = pieces.__code__.replace(co_filename="scenario.py")
    first = pieces.__code__.co_firstlineno
    captured = module.capture(pieces, x)
    texts = [str(entry) for entry in captured.breaks]
    return {
        "graphs": len(captured.graphs),
        "breaks": len(texts),
        "why": [word in text for word, text in zip(("print", "item"), texts, strict=False)],
        "where": [str(first + line) in text for line, text in zip((2, 3, 5), texts, strict=False)],
    }


@pytest.mark.points(graphs=1, breaks=1, why=1, where=1)
@pytest.mark.handout("breaks")
def test_every_break_says_why_and_where(submission, draw, part):
    """print, .item() and an if on a tensor split a function into four graphs; each break says why and where."""
    got = submission.run(captured_pieces, draw.normal(3, 5)).output
    with part("graphs"):
        expect.that(got["graphs"] == 4, f"{got['graphs']} graphs were captured instead of 4")
    with part("breaks"):
        expect.that(got["breaks"] == 3, f"{got['breaks']} breaks are listed instead of 3")
    with part("why"):
        expect.that(
            got["why"] == [True, True], "the first entry does not mention print, or the second does not mention item"
        )
    with part("where"):
        expect.that(got["where"] == [True] * 3, "the str of an entry lacks the number of the line that broke the graph")


def captured_guards(module, signal):
    """Which names the guards mention."""
    offset = 7

    def guarded(signal, power):
        return signal**power + offset

    guarded.__code__ = guarded.__code__.replace(co_filename="scenario.py")
    texts = [str(guard) for guard in module.capture(guarded, signal, 3).guards]
    return {name: any(name in text for text in texts) for name in ("signal", "power", "offset")}


@pytest.mark.points(1)
@pytest.mark.handout("guards")
def test_guards_name_what_the_graph_depends_on(submission, draw):
    """There are guards on the tensor, the number and the closure variable that a graph depends on."""
    got = submission.run(captured_guards, draw.normal(3)).output
    missing = ", ".join(name for name, found in got.items() if not found)
    expect.that(not missing, f"no guard mentions {missing}")


def captured_again(module, shapes):
    """How many inputs each graph of a function has that is captured for one shape after another."""

    def again(x):
        return x * 2

    again.__code__ = again.__code__.replace(co_filename="scenario.py")
    torch.compile(again, backend="eager")(torch.ones(3))
    inputs = []
    for shape in shapes:
        for graph in module.capture(again, torch.ones(shape)).graphs:
            inputs.append(sum(node.op == "placeholder" for node in graph.graph.nodes))
    return inputs


@pytest.mark.points(1)
@pytest.mark.handout("dynamo")
def test_every_capture_starts_anew(submission):
    """Earlier compilations and captures have no effect: no code is reused, and no size becomes a variable."""
    got = submission.run(captured_again, [[3], [3], [4], [5]]).output
    expect.that(len(got) == 4, f"4 calls of capture returned {len(got)} graphs in all")
    expect.that(
        got == [1] * 4,
        f"{sum(number > 1 for number in got)} graphs take a size as well as the tensor: Dynamo remembers other sizes",
    )


def captured_module(module, x):
    """A capture of an nn.Module, and the gradient mode and Dynamo state that it leaves behind."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
    captured = module.capture(model, x)
    runs = []

    def count(graph_module, inputs):
        runs.append(graph_module)
        return graph_module.forward

    torch.compile(model, backend=count)(x)
    torch.compiler.reset()
    return [len(captured.graphs), len(captured.breaks), len(runs), model(x).requires_grad]


@pytest.mark.points(1)
@pytest.mark.handout("dynamo")
def test_a_module_is_captured_too(submission, draw):
    """An nn.Module is captured like a function, and can be compiled afterwards."""
    got = submission.run(captured_module, draw.normal(3, 5)).output
    expect.that(
        got == [1, 0, 1, True],
        f"{got[0]} graphs and {got[1]} breaks instead of 1 and 0, or the model cannot be compiled afterwards",
    )


# --- forward and backward -------------------------------------------------------------------------------------------


def passes(module, x, weight, scale, *above, trace_with=None):
    """Results and gradients from the graphs of oracle.tanh_product, traced with these or with other numbers."""

    def tanh_product(x, weight, scale):
        hidden = torch.tanh(x @ weight) * scale
        return {"rest": [hidden.exp(), (weight * weight).sum()], "a sum": hidden.sum(1)}

    args = x.requires_grad_(), weight.requires_grad_(), scale
    others = args if trace_with is None else trace_with
    traced = [other.requires_grad_(arg.requires_grad) for other, arg in zip(others, args, strict=True)]
    forward, backward = module.forward_and_backward_graphs(tanh_product, *traced)
    with torch.no_grad():
        outputs = forward(*args)
        results, needed = outputs[:3], outputs[3:]
        once = backward(*needed, *above)
        twice = backward(*needed, *(2 * each for each in above))
    return {"results": list(results), "gradients": [*once[:2], *twice[:2]], "third": once[2]}


def right_passes(x, weight, scale, *above, trace_with=None):
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
        by_row, exponential, norm = oracle.tanh_product(*leaves, scale)
        results = [exponential, norm, by_row]  # in pytree order: dictionaries keep the order of their keys
        once = torch.autograd.grad(results, leaves, above)
    return {"results": results, "gradients": [*once, *(2 * each for each in once)], "third": None}


def above_of(draw):
    return draw.normal(3, 5), draw.normal(), draw.normal(3)


@pytest.mark.points(2)
@pytest.mark.handout("joint")
def test_forward_hands_over_what_backward_needs(submission, draw):
    """forward returns the flat results and what backward needs; backward returns the gradients, or None."""
    got = submission.run(passes, draw.normal(3, 4), draw.normal(4, 5), draw.normal(5), *above_of(draw))
    expect(got).close_to(right_passes)


@pytest.mark.points(1)
@pytest.mark.handout("joint")
def test_the_graphs_hold_for_other_numbers(submission, draw):
    """Graphs that were traced with some numbers are right for others."""
    others = [draw.normal(3, 4), draw.normal(4, 5), draw.normal(5)]
    args = draw.normal(3, 4), draw.normal(4, 5), draw.normal(5), *above_of(draw)
    got = submission.run(passes, *args, trace_with=others)
    expect(got).close_to(right_passes, *args)


def classifier(module, hidden, weight, labels, above):
    """Loss and gradients of a linear classifier with integer labels and a frozen hidden state."""

    def loss(hidden, weight, labels):
        return F.cross_entropy(F.linear(hidden, weight), labels)

    forward, backward = module.forward_and_backward_graphs(loss, hidden, weight.requires_grad_(), labels)
    with torch.no_grad():
        output, *needed = forward(hidden, weight, labels)
        gradients = backward(*needed, above)
    return {"loss": output, "gradients": [gradients[1]], "none": [gradients[0], gradients[2]], "count": len(gradients)}


def right_classifier(hidden, weight, labels, above):
    with torch.enable_grad():
        leaf = weight.detach().requires_grad_()
        loss = -torch.log_softmax(hidden @ leaf.mT, -1).gather(1, labels[:, None]).mean()
        (gradient,) = torch.autograd.grad(loss, leaf, above)
    return {"loss": loss, "gradients": [gradient], "none": [None, None], "count": 3}


@pytest.mark.points(1)
@pytest.mark.handout("joint")
def test_arguments_without_a_gradient_get_none(submission, draw):
    """A single result is enough; integers and arguments that require no gradient get None."""
    args = draw.normal(6, 5), draw.normal(4, 5), draw.integers(0, 4, 6), draw.normal()
    got = submission.run(classifier, *args)
    count = got.output["count"]
    expect.that(count == 3, f"backward returns {count} gradients for 3 arguments")
    expect(got).close_to(right_classifier)


def traces(module, x, weight):
    """What the graphs call, and whether the arguments are unchanged."""
    args = x.requires_grad_(), weight.requires_grad_(), torch.ones(())
    x.grad = torch.full_like(x, 7.0)
    kept = x.detach().clone()
    graphs = module.forward_and_backward_graphs(lambda x, w, s: F.silu(F.layer_norm(x @ w, [5])) * s, *args)
    foreign = []
    for graph in graphs:
        for node in graph.graph.nodes:
            aten = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
            if node.op.startswith("call") and not aten and node.target is not operator.getitem:
                foreign.append(str(node.target))
    return {
        "modules": [isinstance(graph, fx.GraphModule) for graph in graphs],
        "foreign": sorted(set(foreign)),
        "grad": bool((x.grad == 7).all()) and weight.grad is None,
        "flags": [arg.requires_grad and arg.is_leaf for arg in args],
        "unchanged": bool((x == kept).all()),
    }


@pytest.mark.points(graphs=1, arguments=1)
@pytest.mark.handout("joint")
def test_the_graphs_are_of_aten_operators(submission, draw, part):
    """Both graph modules call only aten operators; tracing leaves the arguments and their .grad alone."""
    got = submission.run(traces, draw.normal(3, 4), draw.normal(4, 5)).output
    with part("graphs"):
        expect.that(got["modules"] == [True, True], "forward and backward are not both an fx.GraphModule")
        expect.that(not got["foreign"], f"the graphs call {', '.join(got['foreign'])}: not aten operators")
    with part("arguments"):
        expect.that(got["grad"], "an argument's .grad has changed")
        expect.that(got["flags"] == [True, True, False], "an argument's requires_grad has changed")
        expect.that(got["unchanged"], "an argument's numbers have changed")


# --- lowering -------------------------------------------------------------------------------------------------------


def attention_layer(x, weight, bias):
    hidden = F.scaled_dot_product_attention(x, x, x, is_causal=True)
    projected = F.dropout(F.linear(hidden, weight, bias), 0.5, training=False)
    return {"hidden": hidden, "gated": [F.silu(projected)]}


def normalized_mlp(x, weight, bias):
    return F.log_softmax(F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), weight, bias)), -1)


def in_place(x, weight, bias):
    hidden = F.relu(F.linear(x, weight, bias), inplace=True)
    hidden += 1
    return hidden.mul_(2).sum(-1)


def calls_beyond_the_core(graph_module):
    """What a graph calls that is not core ATen."""
    foreign = []
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            core = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.core in node.target.tags
            foreign += [] if core else [str(node.target)]
        elif node.op == "call_method" or (node.op == "call_module" and node.target != "_guards_fn"):
            foreign.append(f"{node.op} {node.target}")
    return sorted(set(foreign))


def lowered(module, case, *tensors, lower_with):
    """What a graph that is lowered with some numbers makes of others; its calls that are not core ATen.

    Also whether the given graph is unchanged.
    """
    function = {"attention": attention_layer, "mlp": normalized_mlp, "in-place": in_place}[case]
    graph_module = fx.symbolic_trace(function)
    code = graph_module.code
    made = module.lower(graph_module, *lower_with)
    return {
        "foreign": calls_beyond_the_core(made),
        "untouched": graph_module.code == code,
        "output": made(*tensors),
    }


def right_lowered(case, x, weight, bias):
    if case == "attention":
        hidden, gated = oracle.attention_block(x, weight, bias)
        output = {"hidden": hidden, "gated": [gated]}
    elif case == "mlp":
        output = oracle.normalized_mlp(x, weight, bias)
    else:
        output = (2 * (torch.clamp(x @ weight.mT + bias, min=0) + 1)).sum(-1)
    return {"foreign": [], "untouched": True, "output": output}


@pytest.mark.points(operators=1, results=1)
@pytest.mark.parametrize("case", ["mlp", "attention", "in-place"])
@pytest.mark.handout("core-aten")
def test_every_operator_is_in_the_core_set(submission, draw, part, case):
    """A lowered graph calls only core ATen operators; for any numbers its results and their structure are the same."""
    example, args = ([draw.normal(2, 6, 8), draw.normal(5, 8), draw.normal(5)] for _ in range(2))
    got = submission.run(lowered, case, *args, lower_with=example)
    with part("operators"):
        foreign = ", ".join(got.output["foreign"])
        expect.that(not foreign, f"the lowered graph calls {foreign}: not core ATen")
    with part("results"):
        expect(got).close_to(right_lowered, case, *args)


def lowered_model(module, x, weight, bias, scale):
    """A model with parameters, lowered from a symbolic trace and from Dynamo's graph."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 5)
            self.norm = nn.LayerNorm(5, eps=1e-5)

        def forward(self, x):
            return F.gelu(self.linear(F.layer_norm(x, [8]))) * self.norm.weight.exp()

    Model.forward.__code__ = Model.forward.__code__.replace(co_filename="scenario.py")
    model = Model()
    with torch.no_grad():
        model.linear.weight.copy_(weight)
        model.linear.bias.copy_(bias)
        model.norm.weight.copy_(scale)
    graph_module = fx.symbolic_trace(model)
    made = module.lower(graph_module, x)
    graphs = []

    def record(captured, inputs):
        graphs.append((captured, inputs))
        return captured.forward

    torch.compiler.reset()
    torch.compile(model, backend=record)(x)
    torch.compiler.reset()
    ((captured, inputs),) = graphs
    return {
        "same code": graph_module.code == fx.symbolic_trace(model).code,
        "parameters": sorted(tuple(parameter.shape) for parameter in made.parameters()),
        "outputs": [made(x), module.lower(captured, *inputs)(*inputs)[0]],
    }


def right_model(x, weight, bias, scale):
    normal = F.layer_norm(x, [8])
    projected = normal @ weight.mT + bias
    output = projected * 0.5 * (1 + torch.erf(projected / 2**0.5)) * scale.exp()
    return {"same code": True, "parameters": [[]] * 4, "outputs": [output, output]}


@pytest.mark.points(results=1, parameters=1, argument=1)
@pytest.mark.handout("core-aten")
def test_parameters_stay_parameters(submission, draw, part):
    """A lowered model keeps its parameters; Dynamo's graphs can be lowered; the argument is unchanged."""
    got = submission.run(lowered_model, draw.normal(3, 8), draw.normal(5, 8), draw.normal(5), draw.normal(5))
    with part("results"):
        outputs = got.output["outputs"]
        right = right_model(*(each.double() for each in got.request.args))["outputs"][0]
        apart = max(float((output - right).abs().max() / right.abs().max()) for output in outputs)
        expect.that(apart < 1e-4, f"the lowered model is off by {apart:.1g} of its largest result")
    with part("parameters"):
        shapes = got.output["parameters"]
        needed = [(5,), (5,), (5, 8)]
        missing = [shape for shape in needed if shape not in shapes]
        expect.that(not missing, f"the lowered model has only {shapes} of its parameters {needed}")
    with part("argument"):
        expect.that(got.output["same code"], "the code of the given graph module has changed")


# --- fusion ---------------------------------------------------------------------------------------------------------


def two_layer_modules(weight_1, bias_1, weight_2, bias_2):
    """The modules that the spellings below refer to."""
    linear_1, linear_2 = nn.Linear(4, 6), nn.Linear(6, 3)
    with torch.no_grad():
        for layer, weight, bias in ((linear_1, weight_1, bias_1), (linear_2, weight_2, bias_2)):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return nn.ModuleDict(
        {"linear_1": linear_1, "linear_2": linear_2, "relu": nn.ReLU(), "relu_": nn.ReLU(inplace=True)}
    )


def linear_function(graph, x, number, *names, linear=F.linear):
    """A call of F.linear in the graph, with some of its arguments by name."""
    weight, bias = graph.get_attr(f"linear_{number}.weight"), graph.get_attr(f"linear_{number}.bias")
    arguments = {"input": x, "weight": weight, "bias": bias}
    by_name = {name: arguments.pop(name) for name in names}
    return graph.call_function(linear, tuple(arguments.values()), by_name)


def two_layer_graph(case):
    """The graph of relu(linear(relu(linear(x)))), in one of several spellings."""
    graph = fx.Graph()
    hidden = graph.placeholder("x")
    if case == "functions":
        hidden = graph.call_function(F.relu, (linear_function(graph, hidden, 1),), {"inplace": False})
        hidden = graph.call_function(torch.relu, (linear_function(graph, hidden, 2, linear=torch._C._nn.linear),))
    elif case == "methods":
        hidden = graph.call_method("relu", (linear_function(graph, hidden, 1, "bias"),))
        hidden = graph.call_method("relu", (graph.call_module("linear_2", (hidden,)),))
    elif case == "modules":
        hidden = graph.call_module("relu", (graph.call_module("linear_1", (hidden,)),))
        hidden = graph.call_module("relu", (graph.call_module("linear_2", (hidden,)),))
    elif case == "in-place functions":
        hidden = graph.call_function(F.relu, (linear_function(graph, hidden, 1),), {"inplace": True})
        hidden = graph.call_function(torch.relu_, (graph.call_module("linear_2", (hidden,)),))
    elif case == "in-place methods":
        hidden = graph.call_method("relu_", (linear_function(graph, hidden, 1),))
        hidden = graph.call_module("relu_", (graph.call_module("linear_2", (hidden,)),))
    else:
        linear = linear_function(graph, hidden, 1, "input", "weight", "bias")
        hidden = graph.call_function(F.relu, (), {"input": linear})
        hidden = graph.call_module("relu", (), {"input": graph.call_module("linear_2", (), {"input": hidden})})
    graph.output(hidden)
    return graph


def fused(module, case, x, weight_1, bias_1, weight_2, bias_2, above):
    """What fuse makes of one spelling of two layers, and its results and gradients."""
    root = two_layer_modules(weight_1, bias_1, weight_2, bias_2)
    graph_module = fx.GraphModule(root, two_layer_graph(case))
    before = graph_module(x)
    number = module.fuse(graph_module)
    calls = sum(node.op.startswith("call") for node in graph_module.graph.nodes)
    after = graph_module(x.requires_grad_())
    linear_1, linear_2 = root["linear_1"], root["linear_2"]
    leaves = [x, linear_1.weight, linear_1.bias, linear_2.weight, linear_2.bias]
    gradients = torch.autograd.grad(after, leaves, above)
    exact = bool(torch.equal(before, after))
    return {"fused": number, "calls": calls, "exact": exact, "output": after, "gradients": list(gradients)}


def right_fused(case, *tensors):
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in tensors[:-1]]
        output = oracle.two_layers(*leaves)
        gradients = torch.autograd.grad(output, leaves, tensors[-1])
    return {"fused": 2, "calls": 2, "exact": True, "output": output, "gradients": list(gradients)}


def layers(draw):
    return draw.normal(5, 4), draw.normal(6, 4), draw.normal(6), draw.normal(3, 6), draw.normal(3)


@pytest.mark.points(1)
@pytest.mark.parametrize(
    "case", ["functions", "methods", "modules", "by name", "in-place functions", "in-place methods"]
)
@pytest.mark.handout("fusion")
def test_every_spelling_is_fused(submission, draw, case):
    """A linear and a relu become one node, however they are written; results and gradients stay the same."""
    got = submission.run(fused, case, *layers(draw), draw.normal(5, 3))
    found, calls = got.output["fused"], got.output["calls"]
    expect.that(found == 2, f"fuse returned {found} for 2 pairs")
    expect.that(calls == 2, f"the graph has {calls} calls after fuse instead of 2")
    expect(got).close_to(right_fused)


@pytest.mark.points(1)
@pytest.mark.handout("fusion")
def test_the_numbers_are_the_same_to_the_last_bit(submission, draw):
    """Fusing changes no bit of the result."""
    for case in ("functions", "modules"):
        got = submission.run(fused, case, *layers(draw), draw.normal(5, 3))
        expect.that(got.output["exact"], "the fused graph's result differs from the original graph's")


def kept_apart(module, case, x, weight, bias):
    """Graphs in which something else uses the linear's result, or something else comes before the relu."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.relu = nn.Linear(4, 6), nn.ReLU()
            with torch.no_grad():
                self.linear.weight.copy_(weight)
                self.linear.bias.copy_(bias)

        def forward(self, x):
            y = self.linear(x)
            match case:
                case "used again":
                    return self.relu(y), y
                case "written in place":
                    y.relu_()
                    return [y]
                case "module called twice":
                    return self.relu(self.linear(x)), y
                case "something between":
                    return self.relu(y - 1) + self.relu(x).sum(), F.relu6(y)
                case "argument changed":
                    x.zero_()
                    return [self.relu(y)]

    graph_module = fx.symbolic_trace(Model())
    number = module.fuse(graph_module)
    return {"fused": number, "outputs": list(graph_module(x.clone()))}


def right_apart(case, x, weight, bias):
    y = x @ weight.mT + bias
    relu = torch.clamp(y, min=0)
    outputs = {
        "used again": [relu, y],
        "written in place": [relu],
        "module called twice": [relu, y],
        "something between": [torch.clamp(y - 1, min=0) + torch.clamp(x, min=0).sum(), torch.clamp(y, 0, 6)],
        "argument changed": [relu],
    }
    return {"fused": FUSED[case], "outputs": outputs[case]}


FUSED = {
    "used again": 0,
    "written in place": 0,
    "module called twice": 1,
    "something between": 0,
    "argument changed": 1,
}


@pytest.mark.points(1)
@pytest.mark.parametrize(
    "case", ["used again", "written in place", "module called twice", "something between", "argument changed"]
)
@pytest.mark.handout("exact")
def test_only_what_nobody_else_needs_is_fused(submission, draw, case):
    """A linear whose result has another user is left alone; a fused node reads its arguments in time."""
    got = submission.run(kept_apart, case, draw.normal(5, 4), draw.normal(6, 4), draw.normal(6))
    found = got.output["fused"]
    expect.that(found == FUSED[case], f"fuse returned {found}, but {FUSED[case]} pairs can be fused")
    expect(got).close_to(right_apart)


def shapes(module, x, weight, bias):
    """A fused pair for inputs of 1, 2 and 3 dimensions, with and without a bias, and with NaN in the input."""
    outputs = []
    for with_bias in (True, False):
        layer = nn.Linear(4, 6, bias=with_bias).to(x.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if with_bias:
                layer.bias.copy_(bias)
        model = fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
        functional = fx.symbolic_trace(lambda x, weight: F.relu(F.linear(x, weight)))
        fused = module.fuse(model), module.fuse(functional)
        for each in (x[0, 0], x[0], x):
            outputs += [model(each), functional(each, weight)]
        spoiled = x[0].clone()
        spoiled[1, 2] = math.nan
        outputs.append(model(spoiled))
    return {"fused": list(fused), "outputs": outputs}


def right_shapes(x, weight, bias):
    outputs = []
    for added in (bias, 0.0):
        for each in (x[0, 0], x[0], x):
            outputs += [torch.clamp(each @ weight.mT + added, min=0), torch.clamp(each @ weight.mT, min=0)]
        row = torch.arange(x.size(1), device=x.device)[:, None] == 1
        outputs.append(torch.where(row, math.nan, torch.clamp(x[0] @ weight.mT + added, min=0)))
    return {"fused": [1, 1], "outputs": outputs}


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.handout("exact")
def test_any_shape_with_or_without_a_bias(submission, draw, dtype):
    """Inputs may have 1, 2 or 3 dimensions, the bias may be missing, and NaN stays NaN."""
    args = draw.normal(2, 3, 4, dtype=dtype), draw.normal(6, 4, dtype=dtype), draw.normal(6, dtype=dtype)
    expect(submission.run(shapes, *args)).close_to(right_shapes)


class Allocated(TorchDispatchMode):
    """Notes the memory of every tensor of at least this many bytes that an operation returns."""

    def __init__(self, size):
        super().__init__()
        self.size, self.made = size, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.size:
                self.made.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # kept, so that none is reused
        return output


def tensors_made_by(function, tensors, size):
    """How many tensors of at least this many bytes the function makes."""
    given = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    with torch.no_grad(), Allocated(size) as allocated:
        function(*tensors)
    return len(allocated.made.keys() - given)


def two_layers(x, weight_1, bias_1, weight_2, bias_2):
    return F.relu(F.linear(F.relu(F.linear(x, weight_1, bias_1)), weight_2, bias_2))


def allocations(module, entry, *tensors):
    """How many tensors of a result's size two layers make: before fusion, and after it."""
    x, _, bias_1, _, bias_2 = tensors
    size = min(x.size(0) * bias_1.numel(), x.size(0) * bias_2.numel()) * x.element_size()
    graph_module = fx.symbolic_trace(two_layers)
    before = tensors_made_by(graph_module, tensors, size)
    code = graph_module.code
    if entry == "fuse":
        module.fuse(graph_module)
        return [before, tensors_made_by(graph_module, tensors, size), graph_module.code != code]
    return [before, tensors_made_by(module.backend(graph_module, list(tensors)), tensors, size), None]


@pytest.mark.points(2)
@pytest.mark.parametrize("entry", ["fuse", "backend"])
@pytest.mark.handout("fusion")
def test_the_fusion_is_real_and_used(submission, draw, entry):
    """The fused module, and the backend's function, make one tensor per linear and relu, not two."""
    args = draw.normal(64, 4), draw.normal(6, 4), draw.normal(6), draw.normal(3, 6), draw.normal(3)
    _, after, recompiled = submission.run(allocations, entry, *args).output
    expect.that(recompiled is not False, "the module still runs its old code: it was not recompiled")
    expect.that(after <= 2, f"two linears with their relus make {after} tensors of a result's size; fused, they make 2")


def updated(module, x, weight_1, bias_1, weight_2, bias_2, factor):
    """A model is compiled with the backend, run, changed as an optimizer would do, and run again on other inputs."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU())
    model.load_state_dict({"0.weight": weight_1, "0.bias": bias_1, "2.weight": weight_2, "2.bias": bias_2})
    traced = module.backend(fx.symbolic_trace(model), [torch.ones_like(x)])
    torch.compiler.reset()
    compiled = torch.compile(model, backend=module.backend)
    outputs = [compiled(x), traced(x)]
    gradients = torch.autograd.grad(outputs[0].square().sum(), list(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
        model[2].weight.data = model[2].weight.data + 1
    outputs += [compiled(2 * x), traced(2 * x)]
    torch.compiler.reset()
    return {"outputs": outputs, "gradients": list(gradients)}


def right_updated(x, weight_1, bias_1, weight_2, bias_2, factor):
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in (weight_1, bias_1, weight_2, bias_2)]
        first = oracle.two_layers(x, *leaves)
        gradients = torch.autograd.grad(first.square().sum(), leaves)
    changed = [each * factor for each in (weight_1, bias_1, weight_2, bias_2)]
    changed[2] = changed[2] + 1
    second = oracle.two_layers(2 * x, *changed)
    return {"outputs": [first, first, second, second], "gradients": list(gradients)}


@pytest.mark.points(2)
@pytest.mark.handout("exact")
def test_a_compiled_model_can_be_trained(submission, draw):
    """A model compiled with the backend has the model's results and gradients, and follows its parameters."""
    expect(submission.run(updated, *layers(draw), draw.uniform(low=0.5, high=0.9))).close_to(right_updated)


# --- code without graph breaks --------------------------------------------------------------------------------------


DEFAULT_SWITCHES = {
    "capture_scalar_outputs": False,
    "capture_dynamic_output_shape_ops": False,
    "suppress_errors": False,
}


def arguments_for(arguments, number):
    """The arguments for one of the inputs: a list holds one for each, a mask for example."""
    return [arguments[0][number]] if arguments and isinstance(arguments[0], list) else arguments


def gradient_of(result, x, above):
    """The gradient of x; zeros if the result does not depend on it."""
    loss = (result * (1 if above is None else above)).sum()
    if not loss.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(loss, x, materialize_grads=True, allow_unused=True)[0]


def hidden_from_dynamo(module, graphs):
    """Calls that Dynamo was told not to look into: the submission's own functions, custom operators, `.item()`."""
    own, hidden = module.__name__.partition(".")[0], set()
    for graph in (each for top in graphs for each in top.modules() if isinstance(each, fx.GraphModule)):
        for node in graph.graph.nodes:
            target, space = node.target, getattr(node.target, "namespace", None) or "aten"
            opaque = str(getattr(target, "__module__", "")).startswith(own) or "flat_apply" in str(target)
            if target in ("item", "tolist") or opaque or space not in ("aten", "prims", "higher_order"):
                hidden.add(str(target))
    return sorted(hidden)


def in_one_piece(module, name, xs, *arguments, above=None):
    """Results and gradients of a function compiled with fullgraph=True, for one input after the other.

    If Dynamo refuses, the reason alone.
    """
    graphs, results, gradients = [], [], []

    def record(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module.forward

    function = getattr(module, name)
    function(xs[0], *arguments_for(arguments, 0))  # does it exist and run at all?
    torch.compiler.reset()
    try:
        with torch._dynamo.config.patch(**DEFAULT_SWITCHES):  # whatever the submission's module has set
            compiled = torch.compile(function, backend=record, fullgraph=True)
            for number, x in enumerate(xs):
                output = compiled(x.requires_grad_(), *arguments_for(arguments, number))
                result, *rest = output if isinstance(output, tuple) else (output,)
                results += [result, *(torch.as_tensor(each).long() for each in rest)]
                gradients.append(gradient_of(result, x, above))
    except torch._dynamo.exc.TorchDynamoException as error:
        return {"refused": str(error).strip().splitlines()[0]}
    finally:
        torch.compiler.reset()
    return {"hidden": hidden_from_dynamo(module, graphs), "results": results, "gradients": gradients}


def right_in_one_piece(name, xs, *arguments, above=None):
    results, gradients = [], []
    for number, x in enumerate(xs):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = getattr(oracle, name)(leaf, *arguments_for(arguments, number))
            result, *rest = output if isinstance(output, tuple) else (output,)
            loss = (result * (1 if above is None else above)).sum()
            gradients.append(torch.autograd.grad(loss, leaf)[0])
        results += [result, *rest]
    return {"hidden": [], "results": results, "gradients": gradients}


def one_piece(got):
    """The output, if Dynamo captured the function in one piece."""
    reason = got.output.get("refused", "")
    expect.that(not reason, f"torch.compile(..., fullgraph=True) fails: {reason}")
    return got.output


def check_in_one_piece(got):
    one_piece(got)
    hidden = ", ".join(got.output["hidden"])
    expect.that(not hidden, f"the graph calls {hidden}, which is hidden from Dynamo")
    dtype = got.request.args[1][0].dtype
    integers = got.request.args[0] == "steps_until"
    inputs = len(got.request.args[1])
    results = [dtype, torch.int64] * inputs if integers else [dtype] * inputs
    expect(got).close_to(right_in_one_piece, dtypes=[*results, *[dtype] * inputs])


@pytest.mark.points(2)
@pytest.mark.handout("no-breaks")
def test_the_masked_mean_in_one_graph(submission, draw):
    """masked_mean is the mean where the mask is True: no graph break, one graph for all masks."""
    xs, masks = [draw.normal(4, 5) for _ in range(2)], [draw.mask(4, 5, keep=0.4) for _ in range(2)]
    check_in_one_piece(submission.run(in_one_piece, "masked_mean", xs, masks, above=draw.normal()))


@pytest.mark.points(1)
@pytest.mark.handout("no-breaks")
def test_the_mean_of_nothing_is_zero(submission, draw):
    """If the mask is nowhere True, the mean and its gradient are 0."""
    xs = [draw.normal(4, 5) for _ in range(3)]
    masks = [draw.mask(4, 5), torch.zeros(4, 5, dtype=torch.bool), draw.mask(4, 5)]
    check_in_one_piece(submission.run(in_one_piece, "masked_mean", xs, masks, above=draw.normal()))


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.handout("where")
def test_what_is_masked_may_be_anything(submission, draw, dtype):
    """NaN and inf where the mask is False affect neither the mean nor its gradient; the dtype stays."""
    masks = [draw.mask(6), draw.mask(6)]
    xs = [draw.normal(6, dtype=dtype).masked_fill(~masks[0], math.nan), draw.normal(6, dtype=dtype)]
    xs[1] = xs[1].masked_fill(~masks[1], math.inf)
    check_in_one_piece(submission.run(in_one_piece, "masked_mean", xs, masks, above=draw.normal(dtype=dtype)))


@pytest.mark.points(1)
@pytest.mark.parametrize("case", ["larger", "smaller"])
@pytest.mark.handout("no-breaks")
def test_a_norm_is_clipped_in_one_graph(submission, draw, case):
    """clip_by_norm scales x down if its norm, one for all of x, is too large, and leaves it otherwise."""
    xs = [draw.normal(3, 4) * scale for scale in ((3, 0.01) if case == "larger" else (0.01, 3))]
    check_in_one_piece(submission.run(in_one_piece, "clip_by_norm", xs, 1.5, above=draw.normal(3, 4)))


@pytest.mark.points(1)
@pytest.mark.handout("no-breaks")
def test_a_norm_is_one_number_for_any_shape(submission, draw):
    """x may have any number of dimensions, and float64 stays float64."""
    for shape in ((), (7,), (2, 3, 2)):
        xs = [draw.normal(*shape, dtype="float64") * scale for scale in (5, 0.01)]
        got = submission.run(in_one_piece, "clip_by_norm", xs, 0.3, above=draw.normal(*shape, dtype="float64"))
        check_in_one_piece(got)


@pytest.mark.points(results=1, gradients=1)
@pytest.mark.handout("where")
def test_clipping_zeros_gives_no_nan(submission, draw, part):
    """Zeros stay zeros, with a gradient free of NaN, even for max_norm = 0."""
    above = draw.normal(3, 4)
    for max_norm in (1.5, 0.0):
        got = one_piece(submission.run(in_one_piece, "clip_by_norm", [torch.zeros(3, 4)], max_norm, above=above))
        with part("results"):
            expect.that(bool((got["results"][0] == 0).all()), f"zeros clipped to {max_norm} are no longer zeros")
        with part("gradients"):
            gradient = got["gradients"][0]
            expect.that(
                torch.equal(gradient, above),
                f"the gradient at zero with max_norm={max_norm} is {gradient}, not {above}",
            )


@pytest.mark.points(1)
@pytest.mark.parametrize("max_steps", [6, 2])
@pytest.mark.handout("loops")
def test_doubling_in_one_graph(submission, draw, max_steps):
    """steps_until doubles x up to the limit or max_steps, counts the steps, and has gradient 2^steps."""
    xs = []
    for scale in (1.2, 2.7, 0.1):  # 4 steps to 10, 2 steps, more than 6
        x = draw.uniform(3, 4, low=-1.0, high=1.0)
        xs.append(x / x.abs().max() * scale)
    got = submission.run(in_one_piece, "steps_until", xs, 10.0, max_steps, above=draw.normal(3, 4))
    check_in_one_piece(got)


@pytest.mark.points(1)
@pytest.mark.handout("loops")
def test_doubling_many_times(submission, draw):
    """max_steps may be large, and x of any shape; another limit needs other steps, and float64 stays float64."""
    x = draw.uniform(2, 1, 3, low=-1.0, high=1.0, dtype="float64")
    xs = [x / x.abs().max() * scale for scale in (1.2e-6, 0.9)]  # 22 steps to 3, 2 steps
    above = draw.normal(2, 1, 3, dtype="float64")
    check_in_one_piece(submission.run(in_one_piece, "steps_until", xs, 3.0, 30, above=above))


@pytest.mark.points(1)
@pytest.mark.handout("loops")
def test_doubling_at_its_edges(submission, draw):
    """Equal to the limit is enough, NaN is never below it, negative values count, and there may be no step."""
    # PyTorch's own while_loop has a wrong gradient if no step runs (2.13), so gradients are not checked here.
    xs = [torch.tensor(pair) for pair in ([1.0, -5.0], [2.5, 0.5], [math.nan, 1.0], [0.0, 0.0], [-11.0, 1.0])]
    got = one_piece(submission.run(in_one_piece, "steps_until", xs, 10.0, 4, above=draw.normal(2)))
    steps = [int(each) for each in got["results"][1::2]]
    expect.that(
        steps == [1, 2, 0, 4, 0],
        f"steps for [1, -5], [2.5, 0.5], [nan, 1], [0, 0], [-11, 1] and limit 10: {steps}, not [1, 2, 0, 4, 0]",
    )
    got = one_piece(submission.run(in_one_piece, "steps_until", xs[:1], 10.0, 0, above=draw.normal(2)))
    same = torch.equal(got["results"][0], xs[0]) and int(got["results"][1]) == 0
    expect.that(same, f"with max_steps=0, x = {xs[0]} becomes {got['results'][0]} after {int(got['results'][1])} steps")


# --- the clock ------------------------------------------------------------------------------------------------------


class Clock:
    """Sets how long each call takes, and notes how long it really took.

    queued: calls only queue their work, and work() does it.
    """

    def __init__(self, repeats, outliers, queued):
        self.queued, self.jobs = queued, []
        self.scale = 10 if repeats == 1 else 1  # a single call cannot average out an interruption
        self.outliers = outliers
        self.seconds = {"eager": [], "compiled": []}
        self.modes = set()  # the autograd modes of the calls
        self.inside = []  # an entry while a compiled call runs

    def wait(self, kind):
        """The first call of each kind is slow; the others take the same time, except for an outlier in twelve."""
        number = len(self.seconds[kind])
        first = {"eager": 0.01, "compiled": 0.02}[kind] * self.scale
        typical = {"eager": 0.001, "compiled": 0.0005}[kind] * self.scale
        seconds = first if number == 0 else 30 * typical if self.outliers and number % 12 == 7 else typical
        if self.queued:
            self.jobs.append((kind, number, seconds))
        else:
            time.sleep(seconds)

    def work(self):
        """Do what is queued."""
        while self.jobs:
            kind, number, seconds = self.jobs.pop(0)
            started = time.perf_counter()
            time.sleep(seconds)
            self.seconds[kind][number] += time.perf_counter() - started


@contextlib.contextmanager
def accelerator(work):
    """A stand-in for an accelerator: whoever waits for it, by torch.accelerator or by torch.cuda, does this work."""

    def synchronize(device=None):
        work()

    with contextlib.ExitStack() as stack:
        for kind in (torch.accelerator, torch.cuda):
            stack.enter_context(patch.multiple(kind, is_available=lambda: True, synchronize=synchronize))
        yield


def timed_model(clock):
    """A model in training mode, with a part in eval mode, whose eager calls take the clock's times."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.frozen = nn.BatchNorm1d(3), nn.Dropout()

        def forward(self, x, y):
            started = time.perf_counter()
            clock.modes.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            if not clock.inside:
                clock.wait("eager")
            output = self.frozen(self.norm(x)) + y
            if not clock.inside:
                clock.seconds["eager"].append(time.perf_counter() - started)
            return output

    model = Model()
    model.frozen.eval()
    return model


def timed_compile(clock):
    """A stand-in for torch.compile whose calls take the clock's times, the first one as if it compiled."""

    class Compiled(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = (function,)  # in a tuple, so that it is not a submodule

        def forward(self, *args, **kwargs):
            started = time.perf_counter()
            clock.inside.append(True)
            clock.wait("compiled")
            output = self.function[0](*args, **kwargs)
            clock.inside.pop()
            clock.seconds["compiled"].append(time.perf_counter() - started)
            return output

    def compile_(model=None, **options):
        return Compiled(model) if model is not None else Compiled

    return compile_


def powers_of_two_off(seconds, expected):
    """How far a time is from the expected one, in powers of two, 4 at most; 0 if they agree."""
    return max(-4, min(4, round(math.log2(max(seconds, 1e-9) / expected))))


def compared(module, repeats, outliers, grad, queued=False):
    """What compare_modes reports of a model with known times, and how it leaves the model.

    queued: the model only queues its work for a stand-in for an accelerator.
    """
    clock = Clock(repeats, outliers, queued)
    model = timed_model(clock)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    inputs = (torch.arange(12.0).reshape(4, 3), torch.ones(3))
    options = {} if repeats is None else {"repeats": repeats}
    with (
        patch.object(torch, "compile", timed_compile(clock)),
        torch.set_grad_enabled(grad),
        accelerator(clock.work) if queued else contextlib.nullcontext(),
    ):
        found = module.compare_modes(model, inputs, **options)
    clock.work()  # what is still queued
    least, most = 1 + (repeats or 30), 10 + 4 * (repeats or 30)
    eager, compiled = clock.seconds["eager"], clock.seconds["compiled"]
    return {
        "keys": sorted(found),
        "eager": powers_of_two_off(found["eager_s"], statistics.median(eager[1:] or [1.0])),
        "compiled": powers_of_two_off(found["compiled_s"], statistics.median(compiled[1:] or [1.0])),
        "first": powers_of_two_off(found["first_call_s"], compiled[0] if compiled else 1.0),
        "speedup": math.isclose(found["speedup"], found["eager_s"] / found["compiled_s"], rel_tol=1e-6),
        "calls": [least <= len(each) <= most for each in (eager, compiled)],
        "one mode": len(clock.modes) == 1,
        "training": [each.training for each in model.modules()],
        "state": all(torch.equal(value, before[name]) for name, value in model.state_dict().items()),
        "attributes": sorted(set(vars(model)) ^ attributes),
    }


def timed(submission, *arguments, **options):
    """What `compared` finds. Other programs may disturb the clock, so there are three tries."""
    for _ in range(3):
        got = submission.run(compared, *arguments, **options).output
        if got["eager"] == got["compiled"] == got["first"] == 0:
            break
    return got


KEYS = ["compiled_s", "eager_s", "first_call_s", "speedup"]


@pytest.mark.points(keys=1, times=1, first_call=1, speedup=1)
@pytest.mark.handout("timing")
def test_eager_and_compiled_are_timed(submission, part):
    """Seconds of an eager call, a compiled call and the first, compiling call, and the speedup."""
    got = timed(submission, 12, False, True)
    with part("keys"):
        expect.that(got["keys"] == KEYS, f"the keys are {got['keys']}, not {KEYS}")
        expect.that(
            all(got["calls"]),
            "with repeats=12, each mode should be called from 13 to 58 times",
        )
    with part("times"):
        for name in ("eager", "compiled"):
            expect.that(got[name] == 0, f"{name}_s is {2.0 ** got[name]:.3g} times what a call took")
    with part("first_call"):
        expect.that(
            got["first"] == 0, f"first_call_s is {2.0 ** got['first']:.3g} times what the first compiled call took"
        )
    with part("speedup"):
        expect.that(got["speedup"], "speedup is not eager_s / compiled_s")


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_the_first_calls_do_not_count(submission):
    """Each mode is warmed up before it is timed: with one repeat, the time is that of a later call."""
    got = timed(submission, 1, False, True)
    for name in ("eager", "compiled"):
        expect.that(got[name] == 0, f"{name}_s is {2.0 ** got[name]:.3g} times what a call takes after the first")


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_each_mode_is_called_as_often_as_asked(submission):
    """There are repeats timed calls of each mode, 30 by default: from repeats + 1 to 4 · repeats + 10 calls in all."""
    for repeats in (1, 5, None):
        enough = submission.run(compared, repeats, False, True).output["calls"]
        wrong = [mode for mode, right in zip(("eager", "compiled"), enough, strict=True) if not right]
        expect.that(not wrong, f"too few or too many calls with repeats={repeats or 30}: {' and '.join(wrong)}")


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_a_call_ends_when_the_device_has_finished(submission):
    """Where there is an accelerator, it is synchronised before each reading of the clock."""
    got = timed(submission, 5, False, True, queued=True)
    for name, key in (("eager", "eager_s"), ("compiled", "compiled_s"), ("first", "first_call_s")):
        expect.that(got[name] == 0, f"{key} is {2.0 ** got[name]:.3g} times what the accelerator took")


def compilations(module, x, times):
    """How often Dynamo compiles in each of several comparisons of a model that has been compiled before."""
    model, counts = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), [0]

    def count(graph_module, inputs):
        counts[-1] += 1
        return graph_module.forward

    real = torch.compile
    real(model, backend=count)(x)
    with patch.object(torch, "compile", lambda model=None, **options: real(model, backend=count)):
        for _ in range(times):
            counts.append(0)
            module.compare_modes(model, (x,), 2)
    torch.compiler.reset()
    return counts[1:]


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_the_first_call_compiles(submission, draw):
    """The compiled model's first call compiles it, even if the same model was compiled or compared before."""
    got = submission.run(compilations, draw.normal(2, 4), 2).output
    expect.that(all(got), f"in two comparisons of a model that was compiled before, Dynamo compiled {got} times")


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_slow_calls_do_not_move_the_average(submission):
    """One call in twelve that takes thirty times as long does not move the average."""
    got = timed(submission, 24, True, True)
    for name in ("eager", "compiled"):
        expect.that(got[name] == 0, f"two slow calls in 24 make {name}_s {2.0 ** got[name]:.3g} times as long")


@pytest.mark.points(1)
@pytest.mark.handout("timing")
def test_both_modes_do_the_same_work(submission):
    """Eager and compiled calls run in the same autograd mode."""
    for grad in (True, False):
        got = submission.run(compared, 3, False, grad).output
        expect.that(got["one mode"], "some calls were made with gradients and some without: the work differs")


@pytest.mark.points(training=1, state=1)
@pytest.mark.handout("timing")
def test_the_model_comes_back_as_it_was(submission, part):
    """The model's training and eval modes and its buffers are unchanged, and it is not compiled."""
    got = submission.run(compared, 3, False, False).output
    with part("training"):
        expect.that(
            got["training"] == [True, True, False],
            f"its parts are left with training={got['training']}, not [True, True, False]",
        )
    with part("state"):
        expect.that(got["state"], "running the model has changed its buffers, a batch norm's running statistics")
        expect.that(not got["attributes"], f"the model has gained or lost {', '.join(got['attributes'])}")
