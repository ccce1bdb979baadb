"""Graded tests of week2/autograd: the operations one by one, the graph, backward, then SwiGLU and gradient descent.

Programs specify what a Tensor must do: lines of Python that both the submission's Tensor and torch.autograd run.
"""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grading import expect
from tests.oracles import autograd as oracle


class RefuseTorchsEngine(TorchDispatchMode):
    """Watches every torch operation; an error at the end if torch's own engine took part in one."""

    engine = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        recorded = any(isinstance(each, torch.Tensor) and each.requires_grad for each in args)
        self.engine |= recorded or torch._C._current_autograd_node() is not None
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.engine:  # even if the program ends with an expected error
            raise RuntimeError("torch's own engine computes the gradients, not your Tensor")


def run_program(module, program, leaves, others=None):
    """Run lines of Python in which the leaves are Tensors that require a gradient, and `others` torch tensors.

    Returns the value of the last line and every leaf's gradient.
    """

    def plain(value):
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return value.data if isinstance(value, module.Tensor) else value

    tensors = {name: module.Tensor(data, requires_grad=True) for name, data in leaves.items()}
    names = {**vars(module), "torch": torch, **tensors, **(others or {})}
    *lines, last = program.strip().splitlines()
    with RefuseTorchsEngine():
        exec("\n".join(lines), names)
        answer = plain(eval(last, names))
    return {"answer": answer, **{f"{name}.grad": tensor.grad for name, tensor in tensors.items()}}


def check(submission, program, leaves, others=None):
    """The program has the same results with the submission's Tensor as with torch's."""
    expect(submission.run(run_program, program, leaves, others)).close_to(oracle.run_program)


def check_expression(submission, draw, expression, **leaves):
    """An expression and all of its gradients are right, for a random gradient from above."""
    result = oracle.run_program(expression, leaves)["answer"]
    others = {"above": draw.normal(*result.shape, dtype=result.dtype)}
    check(submission, f"z = {expression}\nz.backward(above)\nz", leaves, others)


# --- Tensor: its operations one by one ------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("example")
def test_the_worked_example(submission):
    """The handout's worked example: y = 3x² + 5x + 1 at x = 2 has derivative 17."""
    program = "y = 3 * x * x + 5 * x + 1\ny.backward()\ny"
    check(submission, program, {"x": torch.tensor(2.0)})


@pytest.mark.points(1)
@pytest.mark.handout("tensor")
def test_a_new_tensor_holds_its_data_and_no_gradient(submission, draw):
    """A new Tensor has the given data, shape and requires_grad, and grad is None."""
    x = draw.normal(2, 3)
    program = "c = Tensor(x.data)\nx.data, list(x.shape), x.requires_grad, c.requires_grad, c.grad"
    got = submission.run(run_program, program, {"x": x})
    expect(got).equal_to({"answer": [x, [2, 3], True, False, None], "x.grad": None}, alias=True)


@pytest.mark.points(1)
@pytest.mark.handout("tensor")
def test_numbers_and_lists_become_float32(submission):
    """A number or a nested list of numbers, whole numbers included, becomes a float32 tensor."""
    program = "a, b, c = Tensor(2), Tensor([1, 2.5]), Tensor([[1, 2]], requires_grad=True)\n(a * b + c).data, c.data"
    got = submission.run(run_program, program, {})
    expect(got).equal_to({"answer": [torch.tensor([[3.0, 7.0]]), torch.tensor([[1.0, 2.0]])]})


@pytest.mark.points(1)
@pytest.mark.parametrize("operator", ["+", "*"])
@pytest.mark.handout("rules")
def test_operators_between_tensors(submission, draw, operator):
    """x + y and x * y are elementwise, and each operand gets its gradient."""
    check_expression(submission, draw, f"x {operator} y", x=draw.normal(2, 3), y=draw.normal(2, 3))


@pytest.mark.points(1)
@pytest.mark.parametrize("operator", ["+", "*"])
@pytest.mark.handout("broadcasting")
def test_broadcasting_is_undone_by_a_sum(submission, draw, operator):
    """An operand that was broadcast gets the sum of its copies' gradients, in its own shape."""
    for left, right in (((4, 3), (3,)), ((4, 1), (4, 3)), ((2, 1, 3), (4, 1)), ((), (2, 3)), ((1, 1), (5,))):
        check_expression(submission, draw, f"x {operator} y", x=draw.normal(*left), y=draw.normal(*right))


@pytest.mark.points(1)
@pytest.mark.handout("rules")
def test_numbers_on_either_side(submission, draw):
    """A number may be on either side of + and *."""
    for expression in ("x + 1.5", "x * 3", "2 + x", "-0.5 * x"):
        check_expression(submission, draw, expression, x=draw.normal(2, 3))
        check_expression(submission, draw, expression, x=draw.normal(2, 3, dtype="float64"))


@pytest.mark.points(1)
@pytest.mark.parametrize("function", ["exp", "log", "relu", "tanh"])
@pytest.mark.handout("rules")
def test_functions_of_each_number(submission, draw, function):
    """exp, log, relu and tanh, with their derivatives."""
    x = draw.uniform(3, 5, low=0.1, high=3.0) if function == "log" else draw.normal(3, 5)
    check_expression(submission, draw, f"x.{function}()", x=x)


@pytest.mark.points(1)
@pytest.mark.handout("rules")
def test_the_derivative_of_relu_at_zero_is_zero(submission, draw):
    """relu passes no gradient at 0, as in PyTorch."""
    x = torch.tensor([-1.0, 0.0, 2.0, 0.0, -3.0, 1.0]).reshape(2, 3)
    check_expression(submission, draw, "x.relu()", x=x)


@pytest.mark.points(1)
@pytest.mark.handout("rules")
def test_functions_at_the_ends_of_their_ranges(submission, draw):
    """Far out tanh is ±1 and exp is 0 or inf; log is -inf at 0 and NaN below."""
    check_expression(submission, draw, "x.tanh()", x=torch.tensor([-1000.0, -20.0, 0.0, 20.0, 1000.0]))
    check(submission, "x.exp()", {"x": torch.tensor([-1000.0, 0.0, 1000.0])})
    check(submission, "x.log()", {"x": torch.tensor([-2.0, 0.0, 1.0])})


@pytest.mark.points(1)
@pytest.mark.handout("sum")
def test_sums_of_all_numbers(submission, draw):
    """sum() adds up all numbers; with keepdim the dimensions stay, with size 1."""
    for arguments in ("", "None, True", "keepdim=False"):
        check_expression(submission, draw, f"x.sum({arguments})", x=draw.normal(2, 3, 4))
    check_expression(submission, draw, "x.sum()", x=draw.normal())


@pytest.mark.points(1)
@pytest.mark.handout("sum")
def test_sums_along_dimensions(submission, draw):
    """sum(dim) adds up along one dimension or several, which may stay, with size 1."""
    for arguments in ("dim=1", "0, True", "-1", "-3", "dim=(0, -1)", "(2, 1), keepdim=True", "(1,)"):
        check_expression(submission, draw, f"x.sum({arguments})", x=draw.normal(3, 3, 3))
        check_expression(submission, draw, f"x.sum({arguments})", x=draw.normal(2, 3, 4))


@pytest.mark.points(1)
@pytest.mark.handout("matmul")
def test_matrix_products(submission, draw):
    """x @ y multiplies matrices; the gradients are products with the transposes."""
    check_expression(submission, draw, "x @ y", x=draw.normal(3, 3), y=draw.normal(3, 3))
    check_expression(submission, draw, "x @ y", x=draw.normal(2, 3), y=draw.normal(3, 4))


@pytest.mark.points(1)
@pytest.mark.handout("matmul")
def test_products_of_batches_of_matrices(submission, draw):
    """Leading dimensions are a batch, and are broadcast."""
    for left, right in (((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((5, 1, 3, 4), (2, 4, 1))):
        check_expression(submission, draw, "x @ y", x=draw.normal(*left), y=draw.normal(*right))


@pytest.mark.points(1)
@pytest.mark.handout("matmul")
def test_products_with_vectors(submission, draw):
    """A vector is a row on the left and a column on the right; its dimension is dropped from the result."""
    for left, right in (((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 3)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3))):
        check_expression(submission, draw, "x @ y", x=draw.normal(*left), y=draw.normal(*right))


@pytest.mark.points(1)
@pytest.mark.handout("tensor")
def test_any_shape_memory_and_dtype(submission, draw):
    """Data may be empty, non-contiguous, float32 or float64; gradients have its shape and dtype."""
    expression = "(x * y + x).sum(0) @ w"
    for dtype in ("float32", "float64"):
        x, y = draw.normal(5, 4, dtype=dtype).T, draw.normal(8, 10, dtype=dtype)[::2, ::2]
        w = draw.normal(1, dtype=dtype).expand(5)
        check_expression(submission, draw, expression, x=x, y=y, w=w)
    check_expression(submission, draw, expression, x=draw.normal(0, 5), y=draw.normal(1, 5), w=draw.normal(5))


# --- the graph ------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("shared")
def test_one_tensor_on_both_sides(submission, draw):
    """A tensor that is both operands gets the gradients of both."""
    for expression in ("x + x", "x * x", "x @ x"):
        check_expression(submission, draw, expression, x=draw.normal(3, 3))


@pytest.mark.points(1)
@pytest.mark.handout("shared")
def test_gradients_meet_where_paths_meet(submission, draw):
    """A result that is used three times adds up three gradients and passes on their sum."""
    others = {"above": draw.normal(2, 3)}
    program = "u = x * y\nz = u * u + u.tanh() + x\nz.backward(above)\nz"
    check(submission, program, {"x": draw.normal(2, 3), "y": draw.normal(3)}, others)


@pytest.mark.points(2)
@pytest.mark.handout("order")
def test_a_tensor_waits_for_all_that_use_it(submission, draw):
    """Paths of different lengths: nothing is passed on before everything has arrived."""
    others = {"above": draw.normal(3)}
    program = "a = x * x\nb = a.tanh()\nc = b * y\nz = (a + c * b) * a + b\nz.backward(above)\nz"
    check(submission, program, {"x": draw.normal(3), "y": draw.normal(3)}, others)
    program = "a = x * x\nb = a.tanh()\nc = b * y\nz = b + a * (b * c + a)\nz.backward(above)\nz"
    check(submission, program, {"x": draw.normal(3), "y": draw.normal(3)}, others)


@pytest.mark.points(2)
@pytest.mark.limit(seconds=6)
@pytest.mark.handout("order")
def test_every_operation_is_differentiated_once(submission, draw):
    """A number that is doubled forty times is reached by 2⁴⁰ paths, in forty steps."""
    program = "u = x\nfor _ in range(40): u = u + u\nu.backward()\nu"
    check(submission, program, {"x": draw.normal(dtype="float64")})


@pytest.mark.points(2)
@pytest.mark.handout("deep")
def test_ten_thousand_operations_in_a_row(submission, draw):
    """A chain of ten thousand operations does not exhaust Python's stack."""
    program = "u = x\nfor _ in range(5000): u = u * y + x\nu.backward()\nu"
    got = submission.run(run_program, program, {"x": draw.normal(dtype="float64"), "y": torch.tensor(0.5).double()})
    expect(got).close_to(deep_chain)


def deep_chain(program, leaves):
    """u ← y u + x, 5000 times from u = x, and its derivatives, which have a closed form as y^5000 is 0."""
    x, y = leaves["x"], leaves["y"]
    return {"answer": x / (1 - y), "x.grad": 1 / (1 - y), "y.grad": x / (1 - y) ** 2}


@pytest.mark.points(1)
@pytest.mark.handout("tensor")
def test_constants_get_no_gradient(submission, draw):
    """A tensor that requires no gradient gets none; neither does a result of such tensors alone."""
    others = {"above": draw.normal(2, 3), "c": draw.normal(3)}
    program = "c = Tensor(c)\nz = (x * c + c).exp() * c\nz.backward(above)\nz, c.grad"
    check(submission, program, {"x": draw.normal(2, 3)}, others)
    tensors = "c * 2, (c + c).exp(), c @ c, c.sum(), x + c, c * x, c @ x, x * 2"
    program = f"c = Tensor(c)\n[each.requires_grad for each in ({tensors})]"
    got = submission.run(run_program, program, {"x": draw.normal(3)}, {"c": draw.normal(3)})
    expect(got).equal_to({"answer": [False] * 4 + [True] * 4, "x.grad": None})


@pytest.mark.points(1)
@pytest.mark.handout("memory")
def test_a_graph_that_nobody_holds_is_freed(submission, draw):
    """A graph is freed once the tensors computed with it are gone."""
    program = """
import gc
from torch.multiprocessing.reductions import StorageWeakRef
u = x.exp()
memory = StorageWeakRef(u.data.untyped_storage())
v = (u * x).sum()
v.backward()
del u, v
gc.collect()
memory.expired()"""
    got = submission.run(run_program, program, {"x": draw.normal(3)})
    expect.that(
        got.output["answer"] is True,
        "after u = x.exp(), v = (u * x).sum(), v.backward() and del u, v, u's data is still in memory: "
        "something outside the graph refers to it",
    )


# --- backward -------------------------------------------------------------------------------------------------------


@pytest.mark.points(1)
@pytest.mark.handout("backward")
def test_one_number_needs_no_gradient_from_above(submission, draw):
    """backward() of a tensor with one number starts from 1, whatever its shape."""
    x = draw.normal(2, 3)
    for expression in ("(x * x).sum()", "(x * x).sum(keepdim=True)", "(x * x).sum((0, 1)) * Tensor([[[2.0]]])"):
        check(submission, f"z = {expression}\nz.backward()\nz", {"x": x})


@pytest.mark.points(1)
@pytest.mark.handout("backward")
def test_more_numbers_need_one(submission, draw):
    """backward() of a tensor with more than one number raises ValueError."""
    got, ordinary = (
        submission.run(run_program, f"{result}.backward()\nx", {"x": draw.normal(2, 3)})
        for result in ("(x * x)", "(x * x).sum()")
    )
    expect(got).raises(ValueError, mentioning=[2, 3], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("backward")
def test_a_gradient_of_another_shape_is_refused(submission, draw):
    """A gradient of another shape than the tensor's raises ValueError, even if it could be broadcast."""
    ordinary, *refused = (
        submission.run(run_program, f"(x * x).backward(torch.ones({shape}))\nx", {"x": draw.normal(2, 3)})
        for shape in ((2, 3), (3, 2), (3,), ())
    )
    for got in refused:
        expect(got).raises(ValueError, mentioning=[2, 3], unlike=ordinary)


@pytest.mark.points(1)
@pytest.mark.handout("backward")
def test_backward_of_a_constant_is_refused(submission, draw):
    """backward of a tensor that requires no gradient raises ValueError."""
    leaves, others = {"x": draw.normal(3)}, {"c": draw.normal(3)}
    got, ordinary = (
        submission.run(run_program, f"({each} * 2).sum().backward()\nx", leaves, others) for each in ("Tensor(c)", "x")
    )
    expect(got).raises(ValueError, unlike=ordinary)


@pytest.mark.points(2)
@pytest.mark.handout("accumulation")
def test_a_second_backward_adds(submission, draw):
    """A second backward on the same graph adds exactly what the first one added."""
    others = {"above": draw.normal(2, 3), "other": draw.normal(2, 3)}
    program = "u = (x * y).tanh()\nz = u * u + x\nz.backward(above)\nz.backward(above)\nz.backward(other)\nz"
    check(submission, program, {"x": draw.normal(2, 3), "y": draw.normal(3)}, others)


@pytest.mark.points(1)
@pytest.mark.handout("accumulation")
def test_two_losses_share_a_graph(submission, draw):
    """The gradients of two losses that share a part, and of the part itself, add up."""
    program = "u = (x * y).exp()\nfirst = (u * u).sum()\nsecond = (u + x).sum()\n"
    program += "first.backward()\nsecond.backward()\nu.backward(above)\nfirst, second"
    check(submission, program, {"x": draw.normal(2, 3), "y": draw.normal(3)}, {"above": draw.normal(2, 3)})


@pytest.mark.points(1)
@pytest.mark.handout("accumulation")
def test_zero_grad_forgets(submission, draw):
    """zero_grad sets grad back to None, for this tensor only; the next backward starts afresh."""
    x, y = draw.normal(2, 3), draw.normal(3)
    check(submission, "z = (x * y).sum()\nz.backward()\nx.zero_grad()\nz", {"x": x, "y": y})
    check(submission, "z = (x * y).sum()\nz.backward()\nx.zero_grad()\nz.backward()\nz", {"x": x, "y": y})


@pytest.mark.points(1)
@pytest.mark.handout("memory")
def test_a_gradient_has_memory_of_its_own(submission, draw):
    """Writing to one tensor's grad changes neither another's nor the gradient that was passed in."""
    x, y, others = draw.normal(2, 3), draw.normal(2, 3), {"above": draw.normal(2, 3)}
    check(submission, "(x + y).backward(above)\nx.grad.mul_(3)\ny.grad.clone()", {"x": x, "y": y}, others)
    check(submission, "x.sum().backward()\nx.grad[0].mul_(3)\nx.grad.clone()", {"x": x})
    check(submission, "x.backward(above)\nx.backward(above)\nx.grad.clone()", {"x": x}, others)


@st.composite
def programs(draw):
    """A random graph of three leaves and a constant: its program, their shapes and the result's shape."""
    sizes = draw(st.lists(st.integers(1, 3), max_size=3))
    shapes, largest = {}, {}  # by name: the shape, and a bound on how large the numbers are
    for name in ("a", "b", "c", "k"):
        shape = [draw(st.sampled_from([1, size])) for size in sizes]
        shapes[name] = tuple(shape[draw(st.integers(0, len(shape))) :])
        largest[name] = 2.0
    lines, constants = ["k = Tensor(k)"], {"k"}
    for number in range(draw(st.integers(1, 8))):
        operation, name = draw(st.sampled_from(sorted(OPERATIONS))), f"t{number}"
        template, bound = OPERATIONS[operation]
        u = draw(st.sampled_from([*shapes]))
        fitting = [each for each in shapes if shape_of(template, u, each, shapes) is not None]
        if not fitting or (shapes[u] == () and operation.startswith("sum over")):
            continue
        v = draw(st.sampled_from(fitting))
        shapes[name] = shape_of(template, u, v, shapes)
        largest[name] = bound(largest[u], largest[v])
        expression = template.format(u=u, v=v)
        if largest[name] > 20:
            expression, largest[name] = f"({expression}).tanh()", 1.0
        if {u, v} <= constants or (u in constants and "{v}" not in template):
            constants.add(name)
        lines.append(f"{name} = {expression}")
    root = draw(st.sampled_from([*shapes]))
    lines.append(f"z = {root} * a.sum()" if root in constants else f"z = {root} + {root}")
    lines += ["z.backward(above)"] * draw(st.integers(1, 2))
    return "\n".join([*lines, "z"]), shapes["a"], shapes["b"], shapes["c"], shapes["k"], shapes[root]


# How each operation is written, and a bound on its result.
OPERATIONS = {
    "add": ("{u} + {v}", lambda u, v: u + v),
    "mul": ("{u} * {v}", lambda u, v: u * v),
    "matmul": ("{u} @ {v}", lambda u, v: 3 * u * v),
    "numbers": ("1 + {u} * -0.5", lambda u, v: 1 + u),
    "exp": ("{u}.tanh().exp()", lambda u, v: 3.0),
    "log": ("({u} * {u} + 1).log()", lambda u, v: u),
    "relu": ("{u}.relu()", lambda u, v: u),
    "tanh": ("{u}.tanh()", lambda u, v: 1.0),
    "sum": ("{u}.sum()", lambda u, v: 27 * u),
    "sum over first": ("{u}.sum(0)", lambda u, v: 3 * u),
    "sum over last": ("{u}.sum(-1, keepdim=True)", lambda u, v: 3 * u),
}


def shape_of(template, u, v, shapes):
    """The shape of an operation's result; None if the operands do not fit each other."""
    meta = {name: torch.empty(shapes[name], device="meta") for name in {u, v}}
    try:
        return tuple(eval(template.format(u=u, v=v), meta).shape)
    except RuntimeError:
        return None


@pytest.mark.points(2)
@pytest.mark.handout("graph")
@settings(max_examples=100)
@given(example=programs(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99))
def test_random_graphs(submission, draw, example, dtype, seed):
    """Random graphs with broadcasting, sharing and constants have torch.autograd's gradients."""
    program, *shapes, root = example
    draw.generator.manual_seed(draw.seed + seed)  # so that a repeated example is the same
    a, b, c, k = (draw.uniform(*shape, low=-2.0, high=2.0, dtype=dtype) for shape in shapes)
    check(submission, program, {"a": a, "b": b, "c": c}, {"k": k, "above": draw.normal(*root, dtype=dtype)})


# --- SwiGLU ---------------------------------------------------------------------------------------------------------


def swiglu(module, gate, up, above):
    gate, up = gate.requires_grad_(), up.requires_grad_()
    output = module.SwiGLU.apply(gate, up)
    of_gate, of_up = torch.autograd.grad(output, [gate, up], above, allow_unused=True)
    return {"output": output, "gradient of gate": of_gate, "gradient of up": of_up}


def swiglu_forward(module, gate, up):
    return module.SwiGLU.apply(gate, up)


def swiglu_output(gate, up):
    return oracle.swiglu(gate, up, gate)["output"]


@pytest.mark.points(output=1, gradients=1)
@pytest.mark.handout("swiglu")
def test_swiglu_is_silu_of_the_gate_times_up(submission, draw, part):
    """SwiGLU.apply(gate, up) is silu(gate) · up, and its backward returns both gradients."""
    gate, up = draw.normal(3, 5), draw.normal(3, 5)
    with part("output"):
        expect(submission.run(swiglu_forward, gate, up)).close_to(swiglu_output)
    with part("gradients"):
        expect(submission.run(swiglu, gate, up, draw.normal(3, 5))).close_to(oracle.swiglu)


@pytest.mark.points(1)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.handout("swiglu")
def test_swiglu_in_half_precision(submission, draw, dtype):
    """The result has the gate's dtype and only that dtype's rounding error."""
    gate, up, above = (draw.normal(3, 16, dtype=dtype) for _ in range(3))
    expect(submission.run(swiglu, gate, up, above)).close_to(oracle.swiglu)


@pytest.mark.points(1)
@pytest.mark.handout("swiglu")
def test_swiglu_of_large_gates(submission, draw):
    """Gates of ±1000 do not give NaN: far out silu is 0, or the gate itself."""
    gate = torch.tensor([-1000.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1000.0]).expand(2, 7).contiguous()
    expect(submission.run(swiglu, gate, draw.normal(2, 7), draw.normal(2, 7))).close_to(oracle.swiglu)


@pytest.mark.points(1)
@pytest.mark.handout("swiglu")
def test_swiglu_of_any_shape(submission, draw):
    """Any shape, empty ones included, and any memory layout, the incoming gradient's too."""
    for shape in ((), (1,), (0, 4), (2, 3, 4)):
        gate, up, above = draw.normal(*shape), draw.normal(*shape), draw.normal(*shape)
        expect(submission.run(swiglu, gate, up, above)).close_to(oracle.swiglu)
    gate, up, above = draw.normal(5, 4).T, draw.normal(8, 10)[::2, ::2], draw.normal(1, 1).expand(4, 5)
    expect(submission.run(swiglu, gate, up, above)).close_to(oracle.swiglu)


@pytest.mark.points(1)
@pytest.mark.handout("swiglu")
def test_swiglu_of_different_shapes_is_refused(submission, draw):
    """gate and up of different shapes raise ValueError, even if they could be broadcast."""
    got, ordinary = (submission.run(swiglu_forward, draw.normal(2, 6), draw.normal(rows, 6)) for rows in (1, 2))
    expect(got).raises(ValueError, mentioning=[2, 1, 6], unlike=ordinary)


def agrees_with_differences(module, check, gate, up):
    inputs = [gate.requires_grad_(), up.requires_grad_()]
    return getattr(torch.autograd, check)(module.SwiGLU.apply, inputs, raise_exception=False)


def second_gradients(module, gate, up, above, above_gate, above_up):
    inputs = [tensor.requires_grad_() for tensor in (gate, up, above)]
    first = torch.autograd.grad(module.SwiGLU.apply(gate, up), inputs[:2], above, create_graph=True)
    found = torch.autograd.grad(first, inputs, [above_gate, above_up], allow_unused=True)
    return dict(zip(("gate", "up", "above"), found, strict=True))


@pytest.mark.points(2)
@pytest.mark.handout("twice")
def test_swiglu_can_be_differentiated_twice(submission, draw):
    """The backward is itself differentiable; gradcheck and gradgradcheck pass."""
    expect(submission.run(second_gradients, *(draw.normal(3, 4) for _ in range(5)))).close_to(oracle.swiglu_second)
    gate, up = draw.normal(3, 4, dtype="float64"), draw.normal(3, 4, dtype="float64")
    for name in ("gradcheck", "gradgradcheck"):
        agrees = submission.run(agrees_with_differences, name, gate, up).output
        expect.that(agrees, f"torch.autograd.{name}(SwiGLU.apply, (gate, up)) finds wrong derivatives")


class Made(TorchDispatchMode):
    """Notes the memory of every tensor that an operation returns, and how many numbers it holds."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                memory = each.untyped_storage()
                self.sizes[StorageWeakRef(memory)] = memory.nbytes() // each.element_size()
        return result


def numbers_kept(module, gate, up):
    """How many numbers made by the forward pass are still in memory before the backward pass, besides the output's."""
    with Made() as made:
        output = module.SwiGLU.apply(gate.requires_grad_(), up.requires_grad_())
    gc.collect()
    known = {StorageWeakRef(each.untyped_storage()) for each in (gate, up, output)}
    return sum(size for memory, size in made.sizes.items() if memory not in known and not memory.expired())


@pytest.mark.points(1)
@pytest.mark.handout("saved")
def test_swiglu_keeps_its_inputs_and_nothing_else(submission, draw):
    """Nothing that the forward pass computed is kept for the backward pass."""
    kept = submission.run(numbers_kept, draw.normal(16, 32), draw.normal(16, 32)).output
    expect.that(
        kept == 0,
        f"with gate and up of 512 numbers each, {kept} more numbers are kept for the backward pass: gate and up are in "
        "memory anyway, and everything else can be recomputed from them",
    )


class Counter(TorchDispatchMode):
    """Counts the operations that run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def backward_operations(module, gate, up, above, wanted):
    """How many operations the backward runs for the gradients of the wanted inputs."""
    inputs = {"gate": gate, "up": up}
    output = module.SwiGLU.apply(gate.requires_grad_("gate" in wanted), up.requires_grad_("up" in wanted))
    with Counter() as counter:
        torch.autograd.grad(output, [inputs[name] for name in wanted], above)
    return counter.count


@pytest.mark.points(1)
@pytest.mark.handout("saved")
def test_swiglu_computes_what_is_needed(submission, draw):
    """If only one input needs a gradient, the other's is not computed."""
    tensors = [draw.normal(3, 4) for _ in range(3)]
    both = submission.run(backward_operations, *tensors, ["gate", "up"]).output
    for name, other in (("gate", "up"), ("up", "gate")):
        one = submission.run(backward_operations, *tensors, [name]).output
        expect.that(
            one < both,
            f"the backward runs {one} operations if only {name} needs a gradient, and {both} if both do: "
            f"{other}'s gradient is computed and thrown away",
        )


class RunningNodes(TorchDispatchMode):
    """Notes the nodes of torch's engine in which operations run, and whether they are recorded for a further one."""

    def __init__(self):
        super().__init__()
        self.names, self.records = set(), False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(torch._C._current_autograd_node().name())
        self.records |= torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def engines_inside(module, gate, up, above):
    """The nodes between the output and its inputs, and how torch's engine is used while the backward runs."""
    output = module.SwiGLU.apply(gate.requires_grad_(), up.requires_grad_())
    node = output.grad_fn
    with RunningNodes() as running:
        torch.autograd.grad(output, [gate, up], above)
    one_node = [type(each).__name__ for each, _ in node.next_functions] == ["AccumulateGrad"] * 2
    return {"one node": one_node, "written by hand": running.names == {node.name()} and not running.records}


@pytest.mark.points(1)
@pytest.mark.handout("saved")
def test_swiglu_is_one_node_written_by_hand(submission, draw):
    """SwiGLU is one node of PyTorch's graph, and no engine runs inside it."""
    got = submission.run(engines_inside, draw.normal(3, 4), draw.normal(3, 4), draw.normal(3, 4))
    expect.that(got.output["one node"], "there is more than one Function node between the output and gate and up")
    expect.that(
        got.output["written by hand"],
        "the backward lets torch's engine differentiate (a graph recorded inside it, autograd.grad, torch.func)",
    )


# --- sgd_train ------------------------------------------------------------------------------------------------------

LINE = """
w, b = Tensor(w.clone(), requires_grad=True), Tensor(b.clone(), requires_grad=True)
x, y = Tensor(x), Tensor(y)
def loss(): e = x @ w + b + y * -1; return (e * e).sum() * 0.1
"""  # fits a straight line to points


def points_on_a_line(draw):
    x, y = draw.normal(6, 2, dtype="float64"), draw.normal(6, dtype="float64")
    return {"x": x, "y": y, "w": draw.normal(2, dtype="float64"), "b": draw.normal(1, dtype="float64")}


@pytest.mark.points(losses=1, parameters=1)
@pytest.mark.handout("sgd")
def test_each_step_goes_down_the_gradient(submission, draw, part):
    """The losses are those before each step; each step subtracts lr times the gradient."""
    program = LINE + "losses = torch.tensor(sgd_train([w, b], loss, 4, 0.05), dtype=torch.float64)\n"
    others = points_on_a_line(draw)
    with part("losses"):
        check(submission, program + "losses", {}, others)
    with part("parameters"):
        check(submission, program + "losses, w, b", {}, others)


@pytest.mark.points(1)
@pytest.mark.handout("sgd")
def test_the_losses_are_floats(submission, draw):
    """The losses are Python floats, one per call of loss_fn; with no steps there are none."""
    others = points_on_a_line(draw)
    program = LINE + "calls = []\ndef counted(): calls.append(1); return loss()\n"
    program += "losses = sgd_train([w, b], counted, 3, 0.05)\n"
    program += "len(calls), [type(each).__name__ for each in losses], list(sgd_train([w, b], loss, 0, 0.05))"
    got = submission.run(run_program, program, {}, others)
    expect(got).equal_to({"answer": [3, ["float"] * 3, []]})


@pytest.mark.points(1)
@pytest.mark.handout("sgd")
def test_parameters_are_updated_in_place(submission, draw):
    """A parameter's data is updated in place, so earlier references to it see the steps."""
    program = LINE + "held = w.data\nlosses = sgd_train([w, b], loss, 2, 0.05)\nheld.clone()"
    check(submission, program, {}, points_on_a_line(draw))


@pytest.mark.points(1)
@pytest.mark.handout("sgd")
def test_old_gradients_do_not_count(submission, draw):
    """Gradients that the parameters already hold do not count in the first step."""
    program = LINE + "(w * 3).sum().backward()\nlosses = sgd_train([w, b], loss, 2, 0.05)\nw, b"
    check(submission, program, {}, points_on_a_line(draw))


@pytest.mark.points(1)
@pytest.mark.handout("sgd")
def test_a_parameter_without_a_gradient_stays(submission, draw):
    """A parameter that the loss does not depend on stays unchanged."""
    program = LINE + "idle = Tensor([1.0, 2.0], requires_grad=True)\nlosses = sgd_train([idle, w, b], loss, 2, 0.05)\n"
    got = submission.run(run_program, program + "idle.data", {}, points_on_a_line(draw))
    expect(got).equal_to({"answer": torch.tensor([1.0, 2.0])})


@pytest.mark.points(1)
@pytest.mark.handout("sgd")
def test_a_network_learns_as_with_torch(submission, draw):
    """A two-layer network trained for 30 steps has the same losses as with torch.optim.SGD."""
    others = {"x": draw.normal(8, 3), "y": draw.normal(8, 1), "v": draw.normal(3, 5), "a": draw.normal(5)}
    others |= {"w": draw.normal(5, 1), "b": draw.normal(1)}
    others = {name: tensor.double() for name, tensor in others.items()}
    program = """
x, y = Tensor(x), Tensor(y)
layers = [Tensor(each.clone(), requires_grad=True) for each in (v, a, w, b)]
def loss():
    v, a, w, b = layers
    e = (x @ v + a).tanh() @ w + b + -1 * y
    return (e * e).sum(keepdim=True) * 0.125
losses = sgd_train(layers, loss, 30, 0.05)
[torch.tensor(losses, dtype=torch.float64), *layers]"""
    check(submission, program, {}, others)
