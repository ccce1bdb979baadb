"""A closure per tensor, which passes gradients to its operands; the youngest tensor comes first."""

import heapq
import itertools

import numpy as np
import torch

_births = itertools.count()


class Tensor:
    def __init__(self, data, requires_grad=False):
        if not torch.is_tensor(data):
            data = torch.as_tensor(np.asarray(data, dtype=np.float32))
        self.data = data.detach().clone()
        self.requires_grad = bool(requires_grad)
        self.grad = None
        self.birth = next(_births)
        self.inputs, self.spread = (), None

    def __repr__(self):
        return f"Tensor({self.data}, requires_grad={self.requires_grad})"

    shape = property(lambda self: tuple(self.data.shape))

    @staticmethod
    def _born(data, inputs, spread):
        """`spread(gradient, give)` calls give(input, its gradient) for each input."""
        child = Tensor.__new__(Tensor)
        child.data, child.grad, child.birth = data, None, next(_births)
        child.requires_grad = any(each.requires_grad for each in inputs)
        child.inputs, child.spread = (inputs, spread) if child.requires_grad else ((), None)
        return child

    def __add__(self, other):
        if not isinstance(other, Tensor):
            return Tensor._born(self.data + other, (self,), lambda g, give: give(self, g))

        def spread(g, give):
            give(self, g)
            give(other, g)

        return Tensor._born(self.data + other.data, (self, other), spread)

    def __mul__(self, other):
        if not isinstance(other, Tensor):
            return Tensor._born(self.data * other, (self,), lambda g, give: give(self, g * other))

        def spread(g, give):
            give(self, g * other.data)
            give(other, g * self.data)

        return Tensor._born(self.data * other.data, (self, other), spread)

    __radd__ = __add__
    __rmul__ = __mul__

    def __matmul__(self, other):
        def spread(g, give):
            a, b = self.data, other.data
            if a.ndim == 1 and b.ndim == 1:
                give(self, g * b)
                give(other, g * a)
            elif a.ndim == 1:
                give(self, torch.einsum("...m,...km->...k", g, b))
                give(other, torch.einsum("k,...m->...km", a, g))
            elif b.ndim == 1:
                give(self, torch.einsum("...n,k->...nk", g, b))
                give(other, torch.einsum("...nk,...n->...k", a, g))
            else:
                give(self, torch.einsum("...nm,...km->...nk", g, b))
                give(other, torch.einsum("...nk,...nm->...km", a, g))

        return Tensor._born(torch.matmul(self.data, other.data), (self, other), spread)

    def exp(self):
        return Tensor._born(self.data.exp(), (self,), lambda g, give: give(self, g * self.data.exp()))

    def log(self):
        return Tensor._born(self.data.log(), (self,), lambda g, give: give(self, g * self.data.reciprocal()))

    def relu(self):
        zero = torch.zeros_like(self.data)
        open_ = self.data > 0
        out = torch.where(open_, self.data, zero)
        return Tensor._born(out, (self,), lambda g, give: give(self, torch.where(open_, g, zero)))

    def tanh(self):
        return Tensor._born(self.data.tanh(), (self,), lambda g, give: give(self, g - g * self.data.tanh() ** 2))

    def sum(self, dim=None, keepdim=False):
        dims = tuple(range(self.data.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        dims = tuple(sorted(d % self.data.ndim for d in dims))
        out = self.data.sum(dims, keepdim=keepdim) if dims else self.data.clone()

        def spread(g, give):
            if not keepdim:
                for d in dims:
                    g = g.unsqueeze(d)
            give(self, g + torch.zeros_like(self.data))

        return Tensor._born(out, (self,), spread)

    def backward(self, gradient=None):
        if not self.requires_grad:
            raise ValueError("this tensor requires no gradient")
        if gradient is None:
            if self.data.numel() != 1:
                raise ValueError(f"a gradient is needed for shape {self.shape}")
            gradient = torch.ones_like(self.data)
        if tuple(gradient.shape) != self.shape:
            raise ValueError(f"gradient {tuple(gradient.shape)} for a tensor {self.shape}")
        arrived, waiting = {}, []

        def give(tensor, g):
            if not tensor.requires_grad:
                return
            g = g.sum_to_size(tensor.shape)
            if tensor.birth in arrived:
                arrived[tensor.birth] += g
            else:
                arrived[tensor.birth] = g.clone(memory_format=torch.contiguous_format)
                heapq.heappush(waiting, (-tensor.birth, tensor))

        give(self, gradient)
        while waiting:
            _, tensor = heapq.heappop(waiting)
            g = arrived.pop(tensor.birth)
            if tensor.spread is None:
                tensor.grad = g if tensor.grad is None else tensor.grad.add_(g)
            else:
                tensor.spread(g, give)

    def zero_grad(self):
        self.grad = None


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(gate, up):
        if gate.shape != up.shape:
            raise ValueError(f"{tuple(gate.shape)} is not {tuple(up.shape)}")
        return torch.nn.functional.silu(gate) * up

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        gate, up = ctx.saved_tensors
        s = 1 / (1 + torch.exp(-gate.clamp(min=-80.0 if gate.dtype != torch.float16 else -11.0)))
        silu = gate * s
        want_gate, want_up = ctx.needs_input_grad
        return g * up * (s + silu - silu * s) if want_gate else None, g * silu if want_up else None


def sgd_train(parameters, loss_fn, steps, lr):
    history = []
    while len(history) < steps:
        list(map(Tensor.zero_grad, parameters))
        loss = loss_fn()
        loss.backward()
        for each in parameters:
            if each.grad is not None:
                each.data.sub_(each.grad, alpha=lr)
        history.append(float(loss.data))
    return history
