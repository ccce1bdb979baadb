"""How fast the solutions' kernels are on this GPU, compared with those of the installed libraries.

`python -m benchmarks.gpu` measures attention (bfloat16, head dimensions 64 and 128, 1k to 16k tokens, causal and not)
and the selective scan (2048 channels, 16 states, 2k to 16k tokens), forward and backward, in under ten minutes, and
writes two tables to benchmarks/MACHINE/kernels.md, with the reason for each missing measurement. Each output is
compared with the first column's before it is timed.
"""

from __future__ import annotations

import itertools
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from grading.judge.hardware import machine_kind

ROOT = Path(__file__).parents[1]
TOKENS = 16384  # in a batch, which has TOKENS / length sequences
WIDTH = 2048  # heads · head dimension, and channels of the scan
STATES = 16
AGREE = 2e-2  # relative distance up to which two bfloat16 results count as equal

Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """One measurement: milliseconds, or why there is none."""

    forward: float | str
    backward: float | str


def attention_kernels() -> dict[str, Callable[[], Kernel]]:
    """Kernels for attention of (B, S, H, D) tensors, `kernel(q, k, v, causal)`; each is imported when called for."""

    def solution() -> Kernel:
        attend = import_module("solutions.week2.flash_attention_triton").flash_attention
        return lambda q, k, v, causal: attend(q, k, v, causal=causal)

    def sdpa(backend: SDPBackend) -> Kernel:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
            with sdpa_kernel(backend):
                q, k, v = (x.transpose(1, 2) for x in (q, k, v))
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

        return attend

    def package(module: str) -> Kernel:
        attend = import_module(module).flash_attn_func

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
            out = attend(q, k, v, causal=causal)
            return out[0] if isinstance(out, tuple) else out

        return call

    return {
        "PyTorch FlashAttention-2": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
        "PyTorch cuDNN": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
        "solution (Triton)": solution,
        "flash-attn 2": lambda: package("flash_attn"),
        "flash-attn 3": lambda: package("flash_attn_interface"),
        "flash-attn 4": lambda: package("flash_attn.cute"),
    }


def scan_kernels() -> dict[str, Callable[[], Kernel]]:
    """Kernels for the scan with softplus, `kernel(u, delta, A, B, C)`; each is imported when called for."""

    def of(module: str, name: str, compiled: bool = False) -> Kernel:
        function = getattr(import_module(module), name)
        if compiled:
            function = torch.compile(function)
        return lambda *arguments: function(*arguments, delta_softplus=True)

    return {
        "solution (Triton)": lambda: of("solutions.week2.selective_scan_triton", "selective_scan"),
        "mamba-ssm": lambda: of("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
        "chunked scan, compiled": lambda: of("solutions.week1.selective_scan", "selective_scan_chunked", compiled=True),
    }


def measure(kernel: Callable[[], Kernel], inputs: Sequence[Any], expected: torch.Tensor | None) -> tuple[Cell, Any]:
    """The cell of one kernel, and its result, or None if it has no valid one."""
    from triton.testing import do_bench

    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    try:
        function = kernel()
        out = function(*inputs)
    except Exception as error:  # a library that cannot run here may raise anything
        reason = f"unmeasured: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
        return Cell(reason, reason), None
    if expected is not None:
        distance = (out.float() - expected.float()).norm() / expected.float().norm()
        if not distance < AGREE:
            reason = f"wrong: {distance:.2g} from the first kernel"
            return Cell(reason, reason), None
    above = torch.randn_like(out)
    with torch.no_grad():
        forward = do_bench(lambda: function(*inputs), return_mode="median")
    try:
        backward: float | str = do_bench(
            lambda: torch.autograd.grad(out, tensors, above, retain_graph=True), return_mode="median"
        )
    except Exception as error:
        backward = f"unmeasured: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
    return Cell(forward, backward), out.detach()


def attention_table() -> list[str]:
    kernels = attention_kernels()
    rows: list[str] = []
    reasons: dict[str, str] = {}
    for width, causal, length in itertools.product((64, 128), (False, True), (1024, 2048, 4096, 8192, 16384)):
        shape = TOKENS // length, length, WIDTH // width, width
        inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        flops = 4 * TOKENS * length * WIDTH / (2 if causal else 1)
        cells, expected = {}, None
        for name, kernel in kernels.items():
            cells[name], out = measure(kernel, [*inputs, causal], expected)
            expected = out if expected is None else expected
        speeds = [
            show_speed(value, work)
            for cell in cells.values()
            for value, work in ((cell.forward, flops), (cell.backward, 2.5 * flops))
        ]
        reasons |= {name: cell.forward for name, cell in cells.items() if isinstance(cell.forward, str)}
        rows.append(f"| {width} | {'yes' if causal else 'no'} | {length} | {' | '.join(speeds)} |")
    head = "| D | causal | S |" + "".join(f" {name}, forward | backward |" for name in kernels)
    return [head, "|---|---|---|" + "---:|" * (2 * len(kernels)), *rows, "", *explained(reasons)]


def scan_table() -> list[str]:
    kernels = scan_kernels()
    rows: list[str] = []
    reasons: dict[str, str] = {}
    for length in (2048, 4096, 8192, 16384):
        u, delta = torch.randn(2, 1, WIDTH, length, device="cuda", dtype=torch.bfloat16).unbind()
        B, C = torch.randn(2, 1, STATES, length, device="cuda", dtype=torch.bfloat16).unbind()
        A = -torch.rand(WIDTH, STATES, device="cuda")
        inputs = [x.detach().requires_grad_() for x in (u, delta, A, B, C)]
        cells, expected = {}, None
        for name, kernel in kernels.items():
            cells[name], out = measure(kernel, inputs, expected)
            expected = out if expected is None else expected
        times = [show_time(value) for cell in cells.values() for value in (cell.forward, cell.backward)]
        reasons |= {name: cell.forward for name, cell in cells.items() if isinstance(cell.forward, str)}
        rows.append(f"| {length} | {' | '.join(times)} |")
    head = "| L |" + "".join(f" {name}, forward | backward |" for name in kernels)
    return [head, "|---|" + "---:|" * (2 * len(kernels)), *rows, "", *explained(reasons)]


def show_speed(milliseconds: float | str, flops: float) -> str:
    return "–" if isinstance(milliseconds, str) else f"{flops / milliseconds / 1e9:.0f}"


def show_time(milliseconds: float | str) -> str:
    return "–" if isinstance(milliseconds, str) else f"{milliseconds:.3f}"


def explained(reasons: dict[str, str]) -> list[str]:
    return [f"- {name}: {reason}" for name, reason in reasons.items()]


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("torch", "triton", "flash-attn", "flash-attn-4", "mamba-ssm"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join([*found, f"CUDA {torch.version.cuda}"])


def main() -> int:
    if not torch.cuda.is_available():
        print("There is no GPU: nothing was measured.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    lines = [
        f"# The kernels on {torch.cuda.get_device_name()}",
        "",
        f"`python -m benchmarks.gpu`; {versions()}.",
        "",
        "## Attention, TFLOP/s",
        "",
        f"bfloat16, {TOKENS} tokens in a batch, {WIDTH} / D heads. Backward counts 2.5 times forward.",
        "",
        *attention_table(),
        "",
        "## Selective scan, ms",
        "",
        f"bfloat16, one sequence of {WIDTH} channels with {STATES} states each.",
        "",
        *scan_table(),
    ]
    path = ROOT / "benchmarks" / machine_kind() / "kernels.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
