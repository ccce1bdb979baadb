"""Shared by the graded tests of Triton kernels: inputs surrounded by NaN, and scenarios that watch a submission run.

A scenario runs in the submission's process, where it is sent with the functions and classes of this file that it uses.
Triton is imported inside functions only: the tests have to be collected where it is not installed.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

INTERPRETED = pytest.mark.process(environment={"TRITON_INTERPRET": "1"})
COMPILED = pytest.mark.process(environment={"TRITON_INTERPRET": None, "TRITON_CACHE_DIR": "{folder}"})
GUARD = 8192  # NaNs before and after each guarded input


@pytest.fixture(autouse=True)
def compiled_on_a_gpu(request, pytestconfig):
    """Under --device cuda kernels are compiled, except in tests that say how they run."""
    if pytestconfig.getoption("--device") != "cpu":
        request.node.add_marker(pytest.mark.process(environment={"TRITON_INTERPRET": None}))


def guarded(x):
    """A contiguous copy of x with NaN on both sides: a kernel that uses what it reads beyond x gets NaN."""
    buffer = torch.full((x.numel() + 2 * GUARD,), math.nan, dtype=x.dtype, device=x.device)
    buffer[GUARD : GUARD + x.numel()] = x.flatten()
    return buffer[GUARD : GUARD + x.numel()].view(x.shape)


# --- running a submission: what all scenarios share -----------------------------------------------------------------


def as_leaves(arguments):
    """The arguments, each ready to receive a gradient; None stays None."""
    return {name: x if x is None else x.detach().requires_grad_() for name, x in arguments.items()}


def results_of(module, name, leaves, options):
    """The results of a call, as a tuple."""
    results = getattr(module, name)(**leaves, **options)
    return results if isinstance(results, tuple) else (results,)


def gradients_of(results, leaves, above):
    return torch.autograd.grad(results, [x for x in leaves.values() if x is not None], above)


@contextlib.contextmanager
def unwritten_memory_is_nan():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # makes torch.empty fill its tensors with NaN
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def wrap(owner, name, wrapper):
    """Have `wrapper(original, self, ...)` called instead of a method of `owner`; the answer undoes this."""
    original = getattr(owner, name)

    def replacement(self, *args, **kwargs):
        return wrapper(original, self, *args, **kwargs)

    setattr(owner, name, replacement)
    return lambda: setattr(owner, name, original)


# --- scenarios that compare results ---------------------------------------------------------------------------------


def on_memory_full_of_nan(module, name, arguments, options, above=None):
    """Results, and gradients if `above` is given, where memory that nothing has been written to reads as NaN."""
    with unwritten_memory_is_nan():
        leaves = as_leaves(arguments)
        results = results_of(module, name, leaves, options)
        gradients = () if above is None else gradients_of(results, leaves, above)
        return [x.detach().clone() for x in (*results, *gradients)]


def deviations(module, name, arguments, options, above, times):
    """The largest difference of any repetition from the first, relative to the largest number of that tensor."""
    leaves, first, worst = as_leaves(arguments), None, 0.0
    for _ in range(times):
        out = getattr(module, name)(**leaves, **options)
        repetition = [out.detach(), *gradients_of(out, leaves, above)]
        first = first or repetition
        differences = [(x - y).abs().max() / y.abs().max() for x, y in zip(repetition, first, strict=True)]
        worst = max(worst, *map(float, differences))
    return worst


# --- which memory a kernel may use ----------------------------------------------------------------------------------


def tensors_in(values):
    """The tensors among a kernel's arguments, also those in tuples and behind tensor descriptors."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from tensors_in(value)
        elif hasattr(value, "base"):  # a tensor descriptor
            yield from tensors_in([value.base])


class Region:
    """The memory behind a tensor: all of it, or if inputs of the call are stored there, only those inputs' numbers.

    An input can be a view of a larger storage, the rest of which is not the kernel's to read. Nothing here is computed
    by PyTorch, whose operations may be counted meanwhile.
    """

    def __init__(self, tensor, inputs=()):
        storage = tensor.untyped_storage()
        self.start, self.bytes, self.bytes_per_number = storage.data_ptr(), storage.nbytes(), tensor.element_size()
        views = [x for x in inputs if x.untyped_storage().data_ptr() == self.start]
        self.usable = np.full(self.bytes // self.bytes_per_number, not views)
        for x in views:
            np.ndarray(x.shape, bool, self.usable, x.storage_offset(), x.stride())[...] = True

    def contains(self, addresses):
        here = (addresses >= self.start) & (addresses < self.start + self.bytes)
        contained = np.zeros(addresses.shape, bool)
        contained[here] = self.usable[((addresses[here] - self.start) // self.bytes_per_number).astype(np.int64)]
        return contained


def split_by_region(regions, pointers, mask):
    """Of the numbers that a load or store touches: (inside the regions, outside them), as arrays of bool."""
    addresses, touched = np.broadcast_arrays(pointers.data, np.asarray(mask.data, bool))
    inside = np.zeros(addresses.shape, bool)
    for region in regions:
        inside |= region.contains(addresses)
    return touched & inside, touched & ~inside


def as_mask(array):
    """A mask for the interpreter's loads and stores."""
    from triton.runtime import interpreter

    return interpreter.TensorHandle(np.asarray(array, bool), interpreter.tl.int1)


# --- what is changed in the interpreter for good --------------------------------------------------------------------


def prepare_interpreter():
    """Once in a process: make the interpreter's masks those of a GPU, its stores harmless, and its scans quick."""
    from triton.runtime import interpreter

    if hasattr(interpreter, "prepared"):
        return
    interpreter.prepared = True
    builder, guard = interpreter.InterpreterBuilder, StoreGuard()
    wrap(builder, "create_masked_load", load_with_mask_of_bool)
    wrap(interpreter.GridExecutor, "__call__", guard.launch)
    wrap(builder, "create_masked_store", guard.store)
    wrap(builder, "create_atomic_rmw", guard.atomic)
    wrap(interpreter.ScanOps, "generic_scan", scan_by_slices)
    wrap(interpreter.ReduceOps, "generic_reduce", reduce_by_slices)


def load_with_mask_of_bool(load, builder, pointers, mask, *rest, **kwargs):
    """On a GPU every mask is of bool; the interpreter makes an int of one that `tile > 0` is part of."""
    return load(builder, pointers, as_mask(mask.data), *rest, **kwargs)


class StoreGuard:
    """Leaves out stores outside all tensors of a launch: they would destroy other memory, and this process with it."""

    def __init__(self):
        self.regions = []  # of the launch under way

    def launch(self, call, executor, *args, **kwargs):
        self.regions = [Region(tensor) for tensor in tensors_in((*args, *kwargs.values()))]
        return call(executor, *args, **kwargs)

    def store(self, store, builder, pointers, value, mask, *rest, **kwargs):
        return store(builder, pointers, value, self.inside(pointers, mask), *rest, **kwargs)

    def atomic(self, atomic, builder, operation, pointers, value, mask, *rest, **kwargs):
        return atomic(builder, operation, pointers, value, self.inside(pointers, mask), *rest, **kwargs)

    def inside(self, pointers, mask):
        return as_mask(split_by_region(self.regions, pointers, mask)[0])


# The interpreter's own scans and reductions go number by number, which takes a hundred times as long as whole slices.


def prefixes(operation, inputs):
    """Slices along the axis, combined: the first one, the first two, the first three, and so on."""
    slices = [np.moveaxis(x.handle.data, operation.axis, 0) for x in inputs]
    results = []
    for step in zip(*slices, strict=True):
        step = [operation.to_tensor(x, like.dtype) for x, like in zip(step, inputs, strict=True)]
        combined = operation.combine_fn.fn(*results[-1], *step) if results else tuple(step)
        results.append(combined if isinstance(combined, tuple) else (combined,))
    return [[x.handle.data.reshape(slices[0][0].shape) for x in result] for result in results]


def scan_by_slices(generic_scan, operation, inputs):
    results = [np.stack(steps, operation.axis) for steps in zip(*prefixes(operation, inputs), strict=True)]
    return [operation.to_tensor(x, like.dtype) for x, like in zip(results, inputs, strict=True)]


def reduce_by_slices(generic_reduce, operation, inputs):
    if operation.axis is None:
        return generic_reduce(operation, inputs)
    results = prefixes(operation, inputs)[-1]
    if operation.keep_dims:
        results = [np.expand_dims(x, operation.axis) for x in results]
    return [operation.to_tensor(x, like.dtype) for x, like in zip(results, inputs, strict=True)]


# --- watching the interpreter ---------------------------------------------------------------------------------------


def watch(module, name, arguments, options, above=None, spoil=()):
    """What Triton does during a call, or if `above` is given, while the call's gradients are computed.

    For each kind of value in `spoil` ("stores", "exponentials", "products") the call is repeated with all such values
    turned to NaN: `unchanged` says how many numbers of the result, `numbers` in all, stay the same and therefore do
    not depend on them. The other counts are those of `Watcher.seen`; for compiled kernels only `launches` is counted.
    """
    prepare_interpreter()
    inputs = [x for x in (*arguments.values(), *(above or ())) if x is not None]
    undisturbed = Watcher(inputs)
    right = run_watched(undisturbed, module, name, arguments, options, above)
    unchanged = {}
    for kind in spoil:
        spoiled = run_watched(Watcher(inputs, kind), module, name, arguments, options, above)
        unchanged[kind] = sum(int((x == y).sum()) for x, y in zip(spoiled, right, strict=True))
    return undisturbed.seen | {"numbers": sum(x.numel() for x in right), "unchanged": unchanged}


def run_watched(watcher, module, name, arguments, options, above):
    """The results of a call, or its gradients, with only their own computation watched."""
    leaves = as_leaves(arguments)
    if above is None:
        with watcher.at_work():
            results = results_of(module, name, leaves, options)
    else:
        outputs = results_of(module, name, leaves, options)
        with watcher.at_work():
            results = gradients_of(outputs, leaves, above)
    return [x.detach().clone() for x in results]


class Watcher:
    """Sees what kernels compute and touch, keeps them inside their memory, and can turn one kind of value to NaN."""

    def __init__(self, inputs, spoiled=None):
        self.inputs, self.spoiled = inputs, spoiled
        self.regions = []  # of the launch under way
        self.seen = {
            "launches": 0,
            "exponentials": 0,  # numbers
            "products": 0,  # FLOPs of tl.dot
            "smallest": 10**6,  # dimension of a tl.dot
            "precisions": "",  # in which tl.dot multiplies float32
            "strays": "",  # the first access outside the launch's tensors
        }

    @contextlib.contextmanager
    def at_work(self):
        from triton.runtime import interpreter
        from triton.runtime.jit import KernelInterface

        builder = interpreter.InterpreterBuilder
        undo = [
            wrap(KernelInterface, "__getitem__", self.choose_grid),
            wrap(interpreter.GridExecutor, "__call__", self.launch),
            wrap(builder, "create_exp", self.exponential),
            wrap(builder, "create_exp2", self.exponential),
            wrap(builder, "create_dot", self.dot),
            wrap(builder, "create_masked_load", self.load),
            wrap(builder, "create_masked_store", self.store),
            wrap(builder, "create_atomic_rmw", self.atomic),
        ]
        try:
            yield
        finally:
            for each in undo:
                each()

    def choose_grid(self, getitem, kernel, grid):
        """Counts `kernel[grid]`, with which every launch begins, compiled or interpreted."""
        self.seen["launches"] += 1
        return getitem(kernel, grid)

    def launch(self, call, executor, *args, **kwargs):
        tensors = tensors_in((*args, *kwargs.values()))
        self.regions = [Region(tensor, self.inputs) for tensor in tensors if tensor.numel()]
        return call(executor, *args, **kwargs)

    def exponential(self, exp, builder, x):
        self.seen["exponentials"] += x.data.size
        return self.spoil("exponentials", exp(builder, x))

    def dot(self, dot, builder, a, b, d, precision, *rest):
        *_, m, inner = a.data.shape
        n = b.data.shape[-1]
        self.seen["products"] += 2 * a.data.size * n
        self.seen["smallest"] = min(self.seen["smallest"], m, inner, n)
        if a.data.dtype == np.float32 and precision.name not in self.seen["precisions"].split():
            self.seen["precisions"] = f"{self.seen['precisions']} {precision.name}".strip()
        return self.spoil("products", dot(builder, a, b, d, precision, *rest))

    def load(self, load, builder, pointers, mask, *rest, **kwargs):
        return load(builder, pointers, self.within("reads", pointers, mask), *rest, **kwargs)

    def store(self, store, builder, pointers, value, mask, *rest, **kwargs):
        mask = self.within("writes", pointers, mask)
        return store(builder, pointers, self.spoil("stores", value), mask, *rest, **kwargs)

    def atomic(self, atomic, builder, operation, pointers, value, mask, *rest, **kwargs):
        mask = self.within("adds to", pointers, mask)
        return atomic(builder, operation, pointers, self.spoil("stores", value), mask, *rest, **kwargs)

    def within(self, verb, pointers, mask):
        """The mask without what is outside the launch's tensors, which is noted."""
        inside, outside = split_by_region(self.regions, pointers, mask)
        if not self.seen["strays"] and outside.any():
            self.seen["strays"] = f"{verb} {int(outside.sum())} numbers outside the tensors it was given"
        return as_mask(inside)

    def spoil(self, kind, value):
        """The value, or NaN in its place if its kind is to be spoiled."""
        from triton.runtime import interpreter

        if kind == self.spoiled and value.data.dtype.kind == "f":
            return interpreter.TensorHandle(np.full_like(value.data, math.nan), value.dtype)
        return value


# --- compiling for a GPU that need not be there ---------------------------------------------------------------------


def compile_for_hopper(module, name, arguments, options):
    """Compile what a call and its gradients launch, for a GPU of compute capability 9.0.

    No kernel runs, and memory starts as NaN: `numbers`, how many numbers of the results are finite and not 0, shows
    what is computed elsewhere. By pass: how many `launches` there are, whether one calls tl.dot (`products`), whether
    with tensor-core instructions. `shared` is the largest use of shared memory in bytes, `elsewhere` the FLOPs of
    PyTorch's matrix products.
    """
    leaves = as_leaves(arguments)
    with compiling_only() as kernels, unwritten_memory_is_nan(), FlopCounterMode(display=False) as elsewhere:
        results = results_of(module, name, leaves, options)
        forward = len(kernels)
        gradients_of(results, leaves, results)
    passes = {"forward": kernels[:forward], "backward": kernels[forward:]}
    return {
        "numbers": sum(int((x.isfinite() & (x != 0)).sum()) for x in results),
        "launches": {each: len(launched) for each, launched in passes.items()},
        "products": {each: any("tt.dot" in x.asm["ttir"] for x in launched) for each, launched in passes.items()},
        "tensor cores": {each: any("mma" in x.asm["ptx"] for x in launched) for each, launched in passes.items()},
        "shared": max((kernel.metadata.shared for kernel in kernels), default=0),
        "elsewhere": elsewhere.get_total_flops(),
    }


@contextlib.contextmanager
def compiling_only():
    """Kernels are compiled for an H100 instead of being launched; yields the list of those compiled so far."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    kernels = []

    def compile_only(run, function, *args, grid, warmup, **kwargs):
        kernels.append(run(function, *args, grid=grid, warmup=True, **kwargs))
        return kernels[-1]

    driver.set_active(Hopper())
    undo = wrap(JITFunction, "run", compile_only)
    try:
        yield kernels
    finally:
        undo()


class Hopper:
    """As much of a Triton driver as compiling for an H100 takes."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        return lambda launch, **_: (launch(), [1.0, 1.0, 1.0])[1]
