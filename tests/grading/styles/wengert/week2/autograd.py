"""A Wengert list: every result is recorded by name and operands, and backward reads the list from the end.

The list holds its entries weakly, so that an entry goes with the last tensor that needs it. What an operation's
derivative is stands in a table, not in closures.
"""

import itertools
import weakref

import torch

_LIST = weakref.WeakValueDictionary()  # number of the entry -> tensor, in the order of computation
_numbers = itertools.count()


class Tensor:
    def __init__(self, data, requires_grad=False):
        self.data = data if isinstance(data, torch.Tensor) else torch.tensor(data).float()
        self.requires_grad, self.grad = requires_grad, None
        self.operation, self.operands, self.extra = "leaf", (), None
        self.number = next(_numbers)
        _LIST[self.number] = self

    @property
    def shape(self):
        return self.data.shape

    def _write(self, operation, data, *operands, extra=None):
        entry = Tensor(data, any(each.requires_grad for each in operands))
        if entry.requires_grad:
            entry.operation, entry.operands, entry.extra = operation, operands, extra
        return entry

    def _tensor(self, other):
        return other if isinstance(other, Tensor) else Tensor(torch.full_like(self.data, other))

    def __add__(self, other):
        other = self._tensor(other)
        return self._write("add", torch.add(self.data, other.data), self, other)

    def __radd__(self, other):
        return self._tensor(other) + self

    def __mul__(self, other):
        other = self._tensor(other)
        return self._write("mul", torch.mul(self.data, other.data), self, other)

    def __rmul__(self, other):
        return self._tensor(other) * self

    def __matmul__(self, other):
        return self._write("matmul", torch.matmul(self.data, other.data), self, other)

    def exp(self):
        return self._write("exp", torch.exp(self.data), self)

    def log(self):
        return self._write("log", torch.log(self.data), self)

    def relu(self):
        return self._write("relu", torch.clamp(self.data, min=0), self)

    def tanh(self):
        return self._write("tanh", torch.tanh(self.data), self)

    def sum(self, dim=None, keepdim=False):
        if dim is None:
            dim = tuple(range(self.data.ndim))
        mask = [False] * self.data.ndim
        for each in [dim] if isinstance(dim, int) else dim:
            mask[each] = True
        kept = [1 if gone else size for gone, size in zip(mask, self.data.shape, strict=True)]
        out = self.data
        for axis in range(self.data.ndim - 1, -1, -1):
            if mask[axis]:
                out = out.sum(axis)
        if not any(mask):
            out = out.clone()
        return self._write("sum", out.reshape(kept) if keepdim else out, self, extra=kept)

    def backward(self, gradient=None):
        if not self.requires_grad:
            raise ValueError("nothing here requires a gradient")
        if gradient is None and self.data.numel() == 1:
            gradient = self.data.new_ones(self.data.shape)
        if gradient is None or gradient.shape != self.data.shape:
            found = None if gradient is None else tuple(gradient.shape)
            raise ValueError(f"expected a gradient of shape {tuple(self.data.shape)}, not {found}")
        adjoints = {self.number: gradient}
        for number in sorted(_LIST.keys(), reverse=True):
            if number not in adjoints:
                continue
            entry, adjoint = _LIST[number], adjoints.pop(number)
            if entry.operation == "leaf":
                entry.grad = adjoint + (0 if entry.grad is None else entry.grad)
                continue
            for operand, part in zip(entry.operands, _DERIVATIVES[entry.operation](adjoint, entry), strict=True):
                if operand.requires_grad:
                    part = _shrink(part, operand.data.shape)
                    adjoints[operand.number] = adjoints.get(operand.number, 0) + part

    def zero_grad(self):
        self.grad = None


def _shrink(part, shape):
    while part.ndim > len(shape):
        part = part.sum(0)
    for axis, size in enumerate(shape):
        if part.shape[axis] != size:
            part = part.sum(axis, keepdim=True)
    return part


def _of_matmul(g, entry):
    a, b = (each.data for each in entry.operands)
    if b.ndim == 1:
        of_a, of_b = _of_matrices(g[..., None] if a.ndim > 1 else g[None, None], _row(a), b[:, None])
        return of_a.reshape(of_a.shape[-1:]) if a.ndim == 1 else of_a, of_b[..., 0]
    if a.ndim == 1:
        of_a, of_b = _of_matrices(g[..., None, :], _row(a), b)
        return of_a[..., 0, :], of_b
    return _of_matrices(g, a, b)


def _row(a):
    return a[None] if a.ndim == 1 else a


def _of_matrices(g, a, b):
    return torch.matmul(g, b.transpose(-1, -2)), torch.matmul(a.transpose(-1, -2), g)


_DERIVATIVES = {
    "add": lambda g, e: (g, g),
    "mul": lambda g, e: (g * e.operands[1].data, g * e.operands[0].data),
    "matmul": _of_matmul,
    "exp": lambda g, e: (g * e.data,),
    "log": lambda g, e: (g / e.operands[0].data,),
    "relu": lambda g, e: (torch.where(e.data > 0, g, 0.0),),
    "tanh": lambda g, e: (g * (1 - e.data) * (1 + e.data),),
    "sum": lambda g, e: (g.reshape(e.extra).expand_as(e.operands[0].data),),
}


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        if gate.size() != up.size():
            raise ValueError(f"gate is {list(gate.size())}, up is {list(up.size())}")
        ctx.save_for_backward(gate, up)
        wide = torch.promote_types(gate.dtype, torch.float32)
        return (gate.to(wide) * torch.sigmoid(gate.to(wide)) * up.to(wide)).to(gate.dtype)

    @staticmethod
    def backward(ctx, above):
        gate, up = ctx.saved_tensors
        wide = torch.promote_types(gate.dtype, torch.float32)
        x, y, g = gate.to(wide), up.to(wide), above.to(wide)
        half = torch.tanh(x / 2) / 2  # sigmoid(x) = 1/2 + half
        grads = [None, None]
        if ctx.needs_input_grad[0]:
            grads[0] = (g * y * (0.5 + half + x * (0.25 - half * half))).to(gate.dtype)
        if ctx.needs_input_grad[1]:
            grads[1] = (g * x * (0.5 + half)).to(up.dtype)
        return tuple(grads)


def sgd_train(parameters, loss_fn, steps, lr):
    def step():
        for parameter in parameters:
            parameter.grad = None
        loss = loss_fn()
        loss.backward(torch.ones_like(loss.data))
        for parameter in parameters:
            if parameter.grad is not None:
                torch.sub(parameter.data, lr * parameter.grad, out=parameter.data)
        return loss.data.sum().item()

    return [step() for _ in range(steps)]
