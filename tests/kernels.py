"""What graded tests of Triton kernels share: inputs amid NaN, and scenarios that watch a submission at work.

A scenario is sent to the submission's process by its source: it calls nothing of this file.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

INTERPRETED = pytest.mark.process(environment={"TRITON_INTERPRET": "1"})
COMPILED = pytest.mark.process(environment={"TRITON_INTERPRET": None, "TRITON_CACHE_DIR": "{folder}"})
GUARD = 8192  # numbers before and after each guarded input that are NaN


@pytest.fixture(autouse=True)
def compiled_on_a_gpu(request, pytestconfig):
    """With --device cuda the kernels are compiled, but for the tests that say themselves how they run."""
    if pytestconfig.getoption("--device") != "cpu":
        request.node.add_marker(pytest.mark.process(environment={"TRITON_INTERPRET": None}))


def guarded(x):
    """x, contiguous, amid NaN: who reads beyond it and uses what is there gets NaN."""
    buffer = torch.full((x.numel() + 2 * GUARD,), math.nan, dtype=x.dtype, device=x.device)
    buffer[GUARD : GUARD + x.numel()] = x.flatten()
    return buffer[GUARD : GUARD + x.numel()].view(x.shape)


def watch(module, name, arguments, options, above=None, spoil=()):
    """What Triton does for a call, or for its gradients where `above` is given; compiled, only launches are seen.

    `products` are FLOPs of tl.dot, `smallest` the smallest of its dimensions, `precisions` what it multiplies float32
    in. What `spoil` names, "stores", "exponentials" or "products", is made NaN in a call of its own: `unchanged` is how
    many of the `numbers` of the result are then what they were, and so do not come from it.
    """
    from triton.runtime import interpreter
    from triton.runtime.jit import KernelInterface

    seen = {"launches": 0, "exponentials": 0, "products": 0, "smallest": 10**6, "precisions": ""}
    seen |= {"strays": "", "unchanged": {}}
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor

    def tensors(values):
        for value in values:
            if isinstance(value, torch.Tensor):
                yield value
            elif isinstance(value, tuple):
                yield from tensors(value)
            elif hasattr(value, "base"):  # a tensor descriptor
                yield from tensors([value.base])

    def prepare():
        """Changes that last, for calls that are not watched too."""
        interpreter.prepared, memory, generic_reduce = True, [], interpreter.ReduceOps.generic_reduce
        call, load = executor.__call__, builder.create_masked_load
        store, atomic = builder.create_masked_store, builder.create_atomic_rmw

        # A mask is of bool on a GPU, also where `tile > 0` has a part in it, which the interpreter makes an int of.

        def load_with_bool(self, pointers, mask, *rest, **kwargs):
            mask = interpreter.TensorHandle(np.asarray(mask.data, bool), interpreter.tl.int1)
            return load(self, pointers, mask, *rest, **kwargs)

        # A store outside all tensors is left out: it would destroy whatever lies there, and this process with it.

        def guarded_call(self, *args, **kwargs):
            memory[:] = [x.untyped_storage() for x in tensors((*args, *kwargs.values()))]
            return call(self, *args, **kwargs)

        def guarded(pointers, mask):
            addresses, wanted = np.broadcast_arrays(pointers.data, np.asarray(mask.data, bool))
            inside = np.zeros(addresses.shape, bool)
            for storage in memory:
                inside |= (addresses >= storage.data_ptr()) & (addresses < storage.data_ptr() + storage.nbytes())
            return interpreter.TensorHandle(wanted & inside, interpreter.tl.int1)

        def guarded_store(self, pointers, value, mask, *rest, **kwargs):
            return store(self, pointers, value, guarded(pointers, mask), *rest, **kwargs)

        def guarded_atomic(self, operation, pointers, value, mask, *rest, **kwargs):
            return atomic(self, operation, pointers, value, guarded(pointers, mask), *rest, **kwargs)

        # The interpreter's own scans and sums go number by number, and take a hundred times as long.

        def prefixes(self, inputs):
            """The first slice, what the first two are combined to, the first three, and so on."""
            slices = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
            results = []
            for numbers in zip(*slices, strict=True):
                step = [self.to_tensor(x, like.dtype) for x, like in zip(numbers, inputs, strict=True)]
                both = self.combine_fn.fn(*results[-1], *step) if results else tuple(step)
                results.append(both if isinstance(both, tuple) else (both,))
            return [[x.handle.data.reshape(slices[0][0].shape) for x in result] for result in results]

        def quick_scan(self, inputs):
            results = zip(*prefixes(self, inputs), strict=True)
            return [self.to_tensor(np.stack(x, self.axis), y.dtype) for x, y in zip(results, inputs, strict=True)]

        def quick_reduce(self, inputs):
            if self.axis is None:
                return generic_reduce(self, inputs)
            results = prefixes(self, inputs)[-1]
            results = [np.expand_dims(x, self.axis) for x in results] if self.keep_dims else results
            return [self.to_tensor(x, y.dtype) for x, y in zip(results, inputs, strict=True)]

        executor.__call__, builder.create_masked_load = guarded_call, load_with_bool
        builder.create_masked_store, builder.create_atomic_rmw = guarded_store, guarded_atomic
        interpreter.ScanOps.generic_scan, interpreter.ReduceOps.generic_reduce = quick_scan, quick_reduce

    if not hasattr(interpreter, "prepared"):
        prepare()
    originals = [
        (owner, name, getattr(owner, name))
        for owner, name in (
            (KernelInterface, "__getitem__"),
            (executor, "__call__"),
            (builder, "create_exp"),
            (builder, "create_exp2"),
            (builder, "create_dot"),
            (builder, "create_masked_load"),
            (builder, "create_masked_store"),
            (builder, "create_atomic_rmw"),
        )
    ]
    getitem, call, exp, exp2, dot, load, store, atomic = (original for _, _, original in originals)
    inputs = [x for x in (*arguments.values(), *(above or ())) if x is not None]
    spoiling = set()
    memory = []  # of the launch under way: where a storage begins and ends, the size of its numbers, which may be used

    def usable(tensor):
        storage = tensor.untyped_storage()
        mine = [x for x in inputs if x.untyped_storage().data_ptr() == storage.data_ptr()]
        used = torch.full((storage.nbytes() // tensor.element_size(),), not mine)
        for x in mine:
            used.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
        return storage.data_ptr(), storage.nbytes(), tensor.element_size(), used.numpy()

    def within(what, pointers, mask):
        """The mask without what lies outside the tensors of the launch, which is noted."""
        addresses, wanted = np.broadcast_arrays(pointers.data, np.asarray(mask.data, bool))
        inside = np.zeros(addresses.shape, bool)
        for start, size, item, used in memory:
            here = (addresses >= start) & (addresses < start + size)
            inside[here] |= used[((addresses[here] - start) // item).astype(np.int64)]
        if not seen["strays"] and (wanted & ~inside).any():
            seen["strays"] = (
                f"{what} {int((wanted & ~inside).sum())} numbers outside the tensors that the kernel was given"
            )
        return interpreter.TensorHandle(wanted & inside, interpreter.tl.int1)

    def spoilt(what, value):
        """What there is in the place of a value."""
        if what in spoiling and value.data.dtype.kind == "f":
            return interpreter.TensorHandle(np.full_like(value.data, math.nan), value.dtype)
        return value

    def watched_getitem(self, grid):
        seen["launches"] += 1
        return getitem(self, grid)

    def watched_call(self, *args, **kwargs):
        memory[:] = [usable(tensor) for tensor in tensors((*args, *kwargs.values())) if tensor.numel()]
        return call(self, *args, **kwargs)

    def watched_exp(self, x):
        seen["exponentials"] += x.data.size
        return spoilt("exponentials", exp(self, x))

    def watched_exp2(self, x):
        seen["exponentials"] += x.data.size
        return spoilt("exponentials", exp2(self, x))

    def watched_dot(self, a, b, d, precision, *rest):
        *_, m, inner = a.data.shape
        seen["products"] += 2 * a.data.size * b.data.shape[-1]
        seen["smallest"] = min(seen["smallest"], m, inner, b.data.shape[-1])
        if a.data.dtype == np.float32 and precision.name not in seen["precisions"].split():
            seen["precisions"] = f"{seen['precisions']} {precision.name}".strip()
        return spoilt("products", dot(self, a, b, d, precision, *rest))

    def watched_load(self, pointers, mask, *rest, **kwargs):
        return load(self, pointers, within("reads", pointers, mask), *rest, **kwargs)

    def watched_store(self, pointers, value, mask, *rest, **kwargs):
        return store(self, pointers, spoilt("stores", value), within("writes", pointers, mask), *rest, **kwargs)

    def watched_atomic(self, operation, pointers, value, mask, *rest, **kwargs):
        value = spoilt("stores", value)
        return atomic(self, operation, pointers, value, within("adds to", pointers, mask), *rest, **kwargs)

    watched = (
        watched_getitem, watched_call, watched_exp, watched_exp2, watched_dot,
        watched_load, watched_store, watched_atomic,
    )  # fmt: skip

    def put(replacements):
        for (owner, attribute, _), replacement in zip(originals, replacements, strict=True):
            setattr(owner, attribute, replacement)

    def compute():
        """The result, or the gradients, with what computes them watched."""
        leaves = {key: x if x is None else x.detach().requires_grad_() for key, x in arguments.items()}
        try:
            if above is None:
                put(watched)
            results = getattr(module, name)(**leaves, **options)
            results = results if isinstance(results, tuple) else (results,)
            if above is not None:
                put(watched)
                results = torch.autograd.grad(results, [x for x in leaves.values() if x is not None], above)
        finally:
            put(original for _, _, original in originals)
        return [x.detach().clone() for x in results]

    right = compute()
    found = seen | {"numbers": sum(x.numel() for x in right)}
    for what in spoil:
        spoiling.add(what)
        found["unchanged"][what] = sum(int((x == y).sum()) for x, y in zip(compute(), right, strict=True))
        spoiling.remove(what)
    return found


def on_memory_full_of_nan(module, name, arguments, options, above=None):
    """Results, and gradients where `above` is given, where memory that nobody has written to reads as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with this torch.empty fills its tensors with NaN
    try:
        leaves = {key: x if x is None else x.requires_grad_() for key, x in arguments.items()}
        results = getattr(module, name)(**leaves, **options)
        results = results if isinstance(results, tuple) else (results,)
        gradients = () if above is None else torch.autograd.grad(results, list(leaves.values()), above)
        return [x.detach().clone() for x in (*results, *gradients)]
    finally:
        torch.use_deterministic_algorithms(before)


def compile_for_hopper(module, name, arguments, options):
    """Compile what a call and its gradients launch, for a GPU of compute capability 9.0 that need not be there.

    No kernel runs: `numbers` is how many numbers other than 0 there are in the results nevertheless. For each pass
    there is how many kernels it launches, whether one calls tl.dot, whether with tensor-core instructions, and how many
    FLOPs PyTorch's products of matrices take.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Hopper:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device=0):
            return 0

        def get_active_torch_device(self):
            return torch.device("cpu")

        def get_benchmarker(self):
            return lambda launch, **_: (launch(), [1.0, 1.0, 1.0])[1]

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        made.append((kernel.metadata.shared, "tt.dot" in kernel.asm["ttir"], "mma" in kernel.asm["ptx"]))
        return kernel

    made, run = [], JITFunction.run
    driver.set_active(Hopper())
    JITFunction.run = compile_only
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with this torch.empty fills its tensors with NaN
    try:
        leaves = {key: x if x is None else x.requires_grad_() for key, x in arguments.items()}
        with FlopCounterMode(display=False) as elsewhere:
            results = getattr(module, name)(**leaves, **options)
            results = results if isinstance(results, tuple) else (results,)
            forward = len(made)
            torch.autograd.grad(results, [x for x in leaves.values() if x is not None], results)
    finally:
        JITFunction.run = run
        torch.use_deterministic_algorithms(before)
    passes = {"forward": made[:forward], "backward": made[forward:]}
    return {
        "numbers": sum(int((x.isfinite() & (x != 0)).sum()) for x in results),
        "launches": {each: len(kernels) for each, kernels in passes.items()},
        "products": {each: any(products for _, products, _ in kernels) for each, kernels in passes.items()},
        "tensor cores": {each: any(cores for _, _, cores in kernels) for each, kernels in passes.items()},
        "shared": max((shared for shared, _, _ in made), default=0),
        "elsewhere": elsewhere.get_total_flops(),
    }


def deviations(module, name, arguments, options, above, times):
    """By how much repetitions of a call and its gradients differ from the first, as a share of the largest number."""
    leaves, first, worst = {key: x.requires_grad_() for key, x in arguments.items()}, None, 0.0
    for _ in range(times):
        out = getattr(module, name)(**leaves, **options)
        results = [out.detach(), *torch.autograd.grad(out, list(leaves.values()), above)]
        first = first or results
        worst = max(worst, *(float((a - b).abs().max() / b.abs().max()) for a, b in zip(results, first, strict=True)))
    return worst
