"""Delegates as much as possible: SciPy fits, transformers has the models, the kernel records the peak memory."""

import bisect
import timeit
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy import stats


def fit_scaling_exponent(lengths, costs):
    n = len(lengths)
    if n < 3 or n != len(costs) or min(*lengths, *costs) <= 0 or len(set(lengths)) == 1:
        raise ValueError(f"cannot fit {n} lengths {lengths} to {len(costs)} costs {costs}")
    line = stats.linregress(np.log(lengths), np.log(costs))
    margin = stats.t.isf(0.025, n - 2) * np.nan_to_num(line.stderr)  # not a number where all costs are equal
    return line.slope, (line.slope - margin, line.slope + margin)


def compare(models, context_lengths, new_tokens=16):
    lengths = tuple(context_lengths)
    return [row | {"model": name} for name in models for row in measure_generation(models[name], lengths, new_tokens)]


def measure_generation(model, context_lengths, new_tokens=16):
    """Memory is that of the process, as Linux counts it: the peak can be set back to what is resident now."""

    def resident(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

    def wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        getattr(model, "synchronize", lambda: None)()

    def read(length):
        model.prefill(length)
        wait()

    def write():
        for _ in range(new_tokens):
            model.decode()
        wait()

    def times(length):
        wait()
        return timeit.timeit(lambda: read(length), number=1), timeit.timeit(write, number=1) / new_tokens

    held, rows = resident("VmRSS"), []
    for length in context_lengths:
        times(length)
        Path("/proc/self/clear_refs").write_text("5")
        times(length)
        peak = resident("VmHWM") - held
        prefill, token = np.median([times(length) for _ in range(6)], axis=0)
        rows.append({"context": length, "prefill_s": float(prefill), "s_per_token": float(token), "peak_bytes": peak})
    return rows


def plot(rows, path):
    figure = Figure(figsize=(6, 12))
    canvas = FigureCanvasSVG(figure) if str(path).endswith(".svg") else FigureCanvasAgg(figure)
    for number, column in enumerate(("prefill_s", "s_per_token", "peak_bytes"), start=1):
        axes = figure.add_subplot(3, 1, number)
        for name in {row["model"]: None for row in rows}:
            mine = [row for row in rows if row["model"] == name]
            axes.scatter([row["context"] for row in mine], [row[column] for row in mine], label=name)
        axes.set_ylabel(column)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=4)
    canvas.print_figure(path)


def own_model(name, parameters, device="cpu"):
    import transformers

    small = {"vocab_size": 320, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    jamba = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2}
    configs = {
        "transformer": lambda w: transformers.LlamaConfig(
            hidden_size=w, intermediate_size=2 * w, head_dim=32, **heads, **small
        ),
        "mamba": lambda w: transformers.MambaConfig(hidden_size=w, **small),
        "rwkv": lambda w: transformers.RwkvConfig(hidden_size=w, **small),
        "jamba": lambda w: transformers.JambaConfig(hidden_size=w, intermediate_size=3 * w, **heads, **jamba, **small),
    }
    if name not in configs:
        raise ValueError(f"no architecture is called {name}")

    kinds = {"experts_implementation": "eager"} if name == "jamba" else {}  # grouped ones want multiples of 16

    def build(width, where):
        with torch.device(where):
            return transformers.AutoModelForCausalLM.from_config(configs[name](width), **kinds).eval()

    def count(width):
        return build(width, "meta").num_parameters()

    widths = range(40, 2000, 2)
    i = bisect.bisect(widths, parameters, key=count)
    network = build(min(widths[i - 1], widths[i], key=lambda width: abs(count(width) - parameters)), device)
    return _Generator(network, network.num_parameters())


class _Generator:
    def __init__(self, network, num_parameters):
        self.network, self.num_parameters = network, num_parameters

    def prefill(self, length):
        self.memory = {}
        self._read(torch.ones(1, length, dtype=torch.long, device=self.network.device))

    def decode(self):
        self._read(self.best)

    @torch.inference_mode()
    def _read(self, ids):
        answer = self.network(ids, use_cache=True, **self.memory)
        names = ("past_key_values", "cache_params", "state")
        self.memory = {name: answer[name] for name in names if answer.get(name) is not None}
        self.best = answer.logits[:, -1].argmax(-1, keepdim=True)
