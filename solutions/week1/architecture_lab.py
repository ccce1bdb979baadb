"""The architecture lab: what Transformer, Mamba, RWKV and Jamba cost, measured rather than quoted.

A *row* is a dictionary with one measurement: {"context": tokens in the prompt, "prefill_s": seconds, "s_per_token":
seconds, "peak_bytes": bytes}; `compare` adds "model", its name.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from scipy import stats
from torch import Tensor, nn

from ._drawing import Panel, draw
from ._memory import Ledger

Row = dict[str, Any]


class Model(Protocol):
    """What can be measured. It may also have `synchronize()`, which waits until all queued work is done."""

    def prefill(self, length: int) -> object:
        """Start a new sequence, forgetting the old one, and read a prompt of length tokens."""
        ...

    def decode(self) -> object:
        """Generate one more token."""
        ...


class SizedModel(Model, Protocol):
    """A model that knows its size."""

    num_parameters: int


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_generation(model: Model, context_lengths: Iterable[int], new_tokens: int = 16) -> list[Row]:
    """Measure the prefill of a prompt and the generation of new_tokens tokens after it, at each context length.

    A run is one `prefill(length)` and then new_tokens calls of `decode()`, never more. Before anything is timed at a
    length, there is one full run at that length. Then at least five runs are timed. Nothing that observes memory (a
    dispatch mode, a profiler, tracemalloc, a sampling thread) is active during them.

    Before each reading of the clock the model's `synchronize()` is called, if it has one, and so is the accelerator's
    if there is one: queued work is neither left out nor counted in the wrong place.

    Args:
        model: see `Model`. Before the call it holds its weights and no sequence.
        context_lengths: in any order, each ≥ 1.
        new_tokens: ≥ 1.

    Returns:
        One row for each length, in the order given:
        context: the length.
        prefill_s: seconds for the prefill alone, a robust average over the runs.
        s_per_token: seconds for one `decode()`, without the prefill, a robust average over the runs. An average is
            robust (as the median is) if neither one interrupted run nor one unusually fast run moves it.
        peak_bytes: the most memory that tensors held at any moment of a run, int, minus what was held when
            measure_generation was called. So weights do not count, but a cache that the model keeps does, at every
            length, even if it was allocated at an earlier one. What is freed immediately counts too; the sequence of a
            run at another length, which prefill forgets, does not. Tested on the CPU with tensors of 50 MB and more,
            to ± 16 MB.
    """
    ledger = Ledger()
    rows = []
    for length in context_lengths:
        with ledger:  # this run also warms up
            _timed_run(model, length, new_tokens)
        runs = [_timed_run(model, length, new_tokens) for _ in range(_RUNS)]
        prefill_s, decode_s = (statistics.median(times) for times in zip(*runs, strict=True))
        rows.append(
            {
                "context": length,
                "prefill_s": prefill_s,
                "s_per_token": decode_s / new_tokens,
                "peak_bytes": ledger.peak_bytes,
            }
        )
    return rows


def compare(models: Mapping[str, Model], context_lengths: Iterable[int], new_tokens: int = 16) -> list[Row]:
    """Measure several models at the same lengths, with the same number of new tokens.

    Args:
        models: by name.
        context_lengths, new_tokens: as for `measure_generation`. context_lengths may be an iterator.

    Returns:
        The rows of `measure_generation` with "model": name added: all of the first model's, then the second's, in the
        dictionary's order.
    """
    lengths = list(context_lengths)
    return [
        {"model": name, **row}
        for name, model in models.items()
        for row in measure_generation(model, lengths, new_tokens)
    ]


_RUNS = 5  # timed ones, at each length


def _timed_run(model: Model, length: int, new_tokens: int) -> tuple[float, float]:
    """Seconds for the prefill, and for all decodes together."""
    start = _now(model)
    model.prefill(length)
    middle = _now(model)
    for _ in range(new_tokens):
        model.decode()
    end = _now(model)
    return middle - start, end - middle


def _now(model: Model) -> float:
    """The clock, read once no work is left in a queue."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    if hasattr(model, "synchronize"):
        model.synchronize()
    return time.perf_counter()


# --- fitting --------------------------------------------------------------------------------------------------------


def fit_scaling_exponent(lengths: Sequence[float], costs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The b of cost = a · lengthᵇ, fitted by least squares of log cost on log length.

    With x = log length, y = log cost and n points:

        b = Σ (x − x̄)(y − ȳ) / Σ (x − x̄)²
        s_b = √( Σ residual² / (n − 2) / Σ (x − x̄)² )      residual = y − ȳ − b (x − x̄)
        interval = b ± t · s_b, t the 97.5% quantile of Student's t distribution with n − 2 degrees of freedom

    Args:
        lengths: n ≥ 3 positive numbers in any order; some may be equal, but not all.
        costs: n positive numbers, in the same order as lengths, in any unit.

    Returns:
        (b, (low, high)), floats: the exponent and its 95% confidence interval, to 6 digits or better.

    Raises:
        ValueError: lengths and costs differ in number (the message gives both numbers), or there are fewer than 3 (it
            says how many); a length or a cost is not positive, or all lengths are equal (it names the value).
    """
    n = len(lengths)
    if n != len(costs):
        raise ValueError(f"lengths and costs must be equal in number, not {n} and {len(costs)}")
    if n < 3:
        raise ValueError(f"an interval needs at least 3 lengths, not {n}")
    for name, values in (("lengths", lengths), ("costs", costs)):
        for value in values:
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
    if min(lengths) == max(lengths):
        raise ValueError(f"lengths must not all be equal, here {lengths[0]}")
    x = _centred([math.log(length) for length in lengths])
    y = _centred([math.log(cost) for cost in costs])
    spread = sum(each**2 for each in x)
    b = sum(each_x * each_y for each_x, each_y in zip(x, y, strict=True)) / spread
    residuals = [each_y - b * each_x for each_x, each_y in zip(x, y, strict=True)]
    error = math.sqrt(sum(residual**2 for residual in residuals) / (n - 2) / spread)
    margin = float(stats.t.ppf(0.975, n - 2)) * error
    return b, (b - margin, b + margin)


def _centred(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [value - mean for value in values]


# --- showing --------------------------------------------------------------------------------------------------------


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Draw what `compare` measured, cost against context length.

    Nothing else is left behind: no other file, no open pyplot figure, no changed setting of matplotlib.

    Args:
        rows: from `compare`, of one model or more.
        path: the file to write, this one and no other; replaced if it exists. The suffix .svg or .png decides the
            format. The picture shows the costs and the names of all models; in an SVG file the names can be found as
            text, at least in comments.
    """
    names = list(dict.fromkeys(row["model"] for row in rows))
    titles = {"prefill_s": "prefill (s)", "s_per_token": "one more token (s)", "peak_bytes": "peak memory (bytes)"}
    panels = [
        Panel(title, {name: [(row["context"], row[column]) for row in rows if row["model"] == name] for name in names})
        for column, title in titles.items()
    ]
    draw(panels, path, xlabel="context (tokens)")


# --- the week's own models ------------------------------------------------------------------------------------------


def own_model(name: str, parameters: int, device: str | torch.device = "cpu") -> SizedModel:
    """A model of one of this week's four architectures, of the requested size, with random weights.

    Only the exercise that the model is built from (`decoder_llm`, `mamba`, `rwkv` or `jamba`) is imported, and only
    when that model is requested: the others need not be done.

    Args:
        name: "transformer", "mamba", "rwkv" or "jamba".
        parameters: how many parameters, ≥ 1 500 000. Each model has this many to within 2.5%, so that all four are
            within 5% of each other. For Jamba all experts count. Every parameter is used: none is padding.
        device: where it computes.

    Returns:
        A model for `measure_generation` that also has `num_parameters`, the exact number. A decode reads one token,
        not the whole sequence again. Nothing is kept for a backward pass.

    Raises:
        ValueError: there is no architecture of this name; the message gives the name.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"name must be one of {', '.join(_ARCHITECTURES)}, not {name!r}")
    build, read = _ARCHITECTURES[name]
    return _LanguageModel(build(_width(build, parameters)).to(device).eval(), read)


_Read = Callable[[Any, Tensor, Any], tuple[Tensor, Any]]


class _LanguageModel:
    """A module behind `prefill` and `decode`. read(module, ids, state) -> (logits, state) continues from a state."""

    def __init__(self, module: nn.Module, read: _Read) -> None:
        self.module, self.read = module, read
        self.num_parameters = _count(module)

    def prefill(self, length: int) -> None:
        self.state = None  # frees the old sequence's memory before the new one needs any
        self._continue(torch.randint(_VOCABULARY, (1, length), device=next(self.module.parameters()).device))

    def decode(self) -> None:
        self._continue(self.token)

    def _continue(self, ids: Tensor) -> None:
        with torch.no_grad():
            logits, self.state = self.read(self.module, ids, self.state)  # (1, length, V)
        self.token = logits[:, -1:].argmax(dim=-1)  # (1, 1)


# Each model has eight layers. The width, an even number, sets the number of parameters.
_VOCABULARY = 256
_SIZES = {"vocab_size": _VOCABULARY, "num_hidden_layers": 8}


def _transformer(width: int) -> nn.Module:
    from transformers import LlamaConfig

    from .decoder_llm import DecoderLM

    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
    return DecoderLM(LlamaConfig(hidden_size=width, intermediate_size=3 * width, **heads, **_SIZES))


def _read_transformer(module: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    from .decoder_llm import KVCache

    cache = cache or KVCache()
    return module(ids, past_key_values=cache), cache


def _mamba(width: int) -> nn.Module:
    from transformers import MambaConfig

    from .mamba import MambaLM

    return MambaLM(MambaConfig(hidden_size=width, **_SIZES))


def _read_mamba(module: Any, ids: Tensor, states: Any) -> tuple[Tensor, Any]:
    if states is not None:
        return module.step(ids, states)
    states = module.allocate_inference_cache(*ids.shape)
    return module(ids, states), states


def _rwkv(width: int) -> nn.Module:
    from transformers import RwkvConfig

    from .rwkv import RwkvLM

    return RwkvLM(RwkvConfig(hidden_size=width, attention_hidden_size=width, intermediate_size=4 * width, **_SIZES))


def _read_rwkv(module: Any, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
    return module(ids, state=state, use_cache=True)


def _jamba(width: int) -> nn.Module:
    from transformers import JambaConfig

    from .jamba import JambaLM

    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "use_mamba_kernels": False}
    return JambaLM(JambaConfig(hidden_size=width, intermediate_size=2 * width, **heads, **experts, **_SIZES))


def _read_jamba(module: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    return module(ids, cache=cache, use_cache=True)


_ARCHITECTURES: dict[str, tuple[Callable[[int], nn.Module], _Read]] = {
    "transformer": (_transformer, _read_transformer),
    "mamba": (_mamba, _read_mamba),
    "rwkv": (_rwkv, _read_rwkv),
    "jamba": (_jamba, _read_jamba),
}


def _width(build: Callable[[int], nn.Module], parameters: int) -> int:
    """The even width whose number of parameters comes closest: bisection, on models without memory."""

    def size(width: int) -> int:
        with torch.device("meta"):
            return _count(build(width))

    low, high = 8, 16
    while size(high) < parameters:
        low, high = high, 2 * high
    while high - low > 2:
        middle = (low + high) // 4 * 2
        low, high = (middle, high) if size(middle) < parameters else (low, middle)
    return min((low, high), key=lambda width: abs(size(width) - parameters))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# given: the real comparison, about ten minutes; from the course's root, python -m exercises.week1.architecture_lab
def main(folder: str = "report") -> None:
    """Compare the four own models, of two million parameters each, on the CPU, and on the accelerator if there is one.

    Prints tables, and writes them to architectures-DEVICE.md in the folder, with a figure, architectures-DEVICE.png.
    """
    torch.set_num_threads(1)  # tensors this small gain little from more, and lose much on a busy machine
    Path(folder).mkdir(parents=True, exist_ok=True)
    devices = ["cpu"]
    if torch.accelerator.is_available():
        devices.append(str(torch.accelerator.current_accelerator()))
    for device in devices:
        models = {name: own_model(name, 2_000_000, device) for name in ("transformer", "mamba", "rwkv", "jamba")}
        rows = compare(models, [128, 256, 512, 1024, 2048, 4096, 8192])
        tables = "\n".join([costs_table(rows), exponents_table(rows, 128), exponents_table(rows, 1024)])
        print(tables)
        Path(folder, f"architectures-{device}.md").write_text(tables, "utf-8")
        plot(rows, Path(folder, f"architectures-{device}.png"))


def costs_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each row."""
    lines = ["| model | context | prefill (s) | one more token (ms) | peak memory (MB) |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        costs = f"{row['prefill_s']:.3f} | {1e3 * row['s_per_token']:.2f} | {row['peak_bytes'] / 1e6:.1f}"
        lines.append(f"| {row['model']} | {row['context']} | {costs} |")
    return "\n".join(lines) + "\n"


def exponents_table(rows: Sequence[Row], from_length: int) -> str:
    """A Markdown table with a line for each model, fitted to its rows from this length on: exponent (95% interval)."""
    lines = [f"| exponent from {from_length} tokens | prefill | one more token | peak memory |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name and row["context"] >= from_length]
        cells = []
        for column in ("prefill_s", "s_per_token", "peak_bytes"):
            b, (low, high) = fit_scaling_exponent([row["context"] for row in mine], [row[column] for row in mine])
            cells.append(f"{b:.2f} ({low:.2f} … {high:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
# end given
