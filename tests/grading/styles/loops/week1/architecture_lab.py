"""Every call timed separately, memory sampled by a thread, models that read token by token, plots drawn by hand."""

import math
import threading
import time

import torch
from torch import nn


def fit_scaling_exponent(lengths, costs):
    n, m = len(lengths), len(costs)
    if n != m:
        raise ValueError(f"{n} lengths but {m} costs")
    if n < 3:
        raise ValueError(f"{n} points are too few")
    for value in (*lengths, *costs):
        if value <= 0:
            raise ValueError(f"{value} has no logarithm")
    sx = sy = sxx = sxy = syy = 0.0
    first_x, first_y = math.log(lengths[0]), math.log(costs[0])
    for length, cost in zip(lengths, costs, strict=True):
        x, y = math.log(length) - first_x, math.log(cost) - first_y
        sx, sy, sxx, sxy, syy = sx + x, sy + y, sxx + x * x, sxy + x * y, syy + y * y
    sxx, sxy, syy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
    if sxx < 1e-12:
        raise ValueError(f"all lengths are {lengths[0]}")
    slope = sxy / sxx
    margin = _student(n - 2) * math.sqrt(max(syy - slope * sxy, 0.0) / (n - 2) / sxx)
    return slope, (slope - margin, slope + margin)


def _student(freedom):
    """Simpson's rule on the density cos(angle) ** (freedom - 1), t = sqrt(freedom) tan(angle); then Newton's steps."""

    def area(angle, pieces=2000):
        step, total = angle / pieces, 0.0
        for i in range(pieces + 1):
            total += (1 if i in (0, pieces) else 4 if i % 2 else 2) * math.cos(i * step) ** (freedom - 1)
        return total * step / 3

    whole, angle = area(math.pi / 2), 0.5
    for _ in range(60):
        angle -= (area(angle) - 0.95 * whole) / max(math.cos(angle) ** (freedom - 1), 1e-9)
        angle = min(max(angle, 0.0), math.pi / 2 - 1e-9)
    return math.sqrt(freedom) * math.tan(angle)


def compare(models, context_lengths, new_tokens=16):
    lengths, rows = [*context_lengths], []
    for name, model in models.items():
        for row in measure_generation(model, lengths, new_tokens):
            row["model"] = name
            rows.append(row)
    return rows


def _resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def _peak(work):
    done, seen = threading.Event(), [_resident()]

    def watch():
        while not done.wait(0.002):
            seen.append(_resident())

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(seen)


def measure_generation(model, context_lengths, new_tokens=16):
    before, rows = _resident(), []

    def wait():
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        if hasattr(model, "synchronize"):
            model.synchronize()

    def seconds(call, *args):
        wait()
        start = time.monotonic()
        call(*args)
        wait()
        return time.monotonic() - start

    def run(length):
        return seconds(model.prefill, length), [seconds(model.decode) for _ in range(new_tokens)]

    for length in context_lengths:
        run(length)
        prefills, tokens = [], []
        for _ in range(5):
            prefill, decodes = run(length)
            prefills.append(prefill)
            tokens += decodes
        rows.append(
            {
                "peak_bytes": _peak(lambda length=length: run(length)) - before,
                "s_per_token": sorted(tokens)[len(tokens) // 2],
                "prefill_s": sorted(prefills)[2],
                "context": length,
            }
        )
    return rows


def plot(rows, path):
    """An SVG file is text, and Pillow draws the same lines and names for a PNG file."""
    lines, names = [], []
    for panel, column in enumerate(("prefill_s", "s_per_token", "peak_bytes")):
        contexts, costs = ([math.log(max(row[key], 1e-9)) for row in rows] for key in ("context", column))
        for name in dict.fromkeys(row["model"] for row in rows):
            points = []
            for x, y, row in zip(contexts, costs, rows, strict=True):
                if row["model"] == name:
                    right = (x - min(contexts)) / ((max(contexts) - min(contexts)) or 1)
                    up = (y - min(costs)) / ((max(costs) - min(costs)) or 1)
                    points.append((300 * panel + 20 + 250 * right, 280 - 250 * up))
            lines.append(points)
            names.append((*points[-1], name))
    if str(path).endswith(".png"):
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (900, 300), "white")
        for points in lines:
            ImageDraw.Draw(image).line(points, "navy", 3)
        for x, y, name in names:
            ImageDraw.Draw(image).text((x, y), name, "black")
        image.save(path, "png")
        return
    with open(path, "w") as file:
        file.write('<svg xmlns="http://www.w3.org/2000/svg" width="900" height="300">\n')
        for points in lines:
            where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            file.write(f'<polyline fill="none" stroke="navy" points="{where}"/>\n')
        for x, y, name in names:
            file.write(f'<text x="{x:.1f}" y="{y:.1f}">{name}</text>\n')
        file.write("</svg>\n")


# Models of one block repeated, from which a token goes to the next one; the state of a layer is a dictionary.


def _matrix(outputs, inputs):
    return nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(inputs))


class _Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v, self.o = (_matrix(width, width) for _ in range(4))

    def forward(self, x, state):
        keys, values = state.setdefault("keys", []), state.setdefault("values", [])
        keys.append(self.k @ x)
        values.append(self.v @ x)
        scores = torch.stack(keys) @ (self.q @ x) / math.sqrt(len(x))
        return self.o @ (scores.softmax(0) @ torch.stack(values))


class _Mamba(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.into, self.out = _matrix(4 * width, width), _matrix(width, 2 * width)
        self.conv, self.select = _matrix(2 * width, 4), _matrix(33, 2 * width)
        self.log_a, self.d = nn.Parameter(torch.zeros(2 * width, 16)), nn.Parameter(torch.ones(2 * width))

    def forward(self, x, state):
        u, z = (self.into @ x).chunk(2)
        past = [*state.get("past", [torch.zeros_like(u)] * 3), u]
        state["past"] = past[1:]
        u = nn.functional.silu(sum(weight * each for weight, each in zip(self.conv.unbind(1), past, strict=True)))
        dt, b, c = (self.select @ u).split([1, 16, 16])
        dt = nn.functional.softplus(dt)
        h = state.get("h", torch.zeros_like(self.log_a)) * torch.exp(-dt * self.log_a.exp())
        state["h"] = h + (dt * u)[:, None] * b
        return self.out @ ((state["h"] @ c + self.d * u) * nn.functional.silu(z))


class _TimeMix(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.r, self.k, self.v, self.o = (_matrix(width, width) for _ in range(4))
        self.decay, self.bonus, self.mu = (nn.Parameter(torch.rand(width)) for _ in range(3))

    def forward(self, x, state):
        mixed = self.mu * x + (1 - self.mu) * state.get("x", torch.zeros_like(x))
        state["x"] = x
        k, v = (self.k @ mixed).clamp(max=20), self.v @ mixed
        top, bottom = state.get("sums", (torch.zeros_like(x), torch.zeros_like(x)))
        now = (k + self.bonus).exp()
        wkv = (top + now * v) / (bottom + now)
        fade = torch.exp(-self.decay.exp())
        state["sums"] = fade * top + k.exp() * v, fade * bottom + k.exp()
        return self.o @ (torch.sigmoid(self.r @ mixed) * wkv)


class _Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = _matrix(3 * width, width), _matrix(width, 3 * width)

    def forward(self, x, state):
        return self.down @ torch.relu(self.up @ x).square()


class _Experts(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.router, self.experts = _matrix(4, width), nn.ModuleList(_Mlp(width) for _ in range(4))

    def forward(self, x, state):
        weights, chosen = (self.router @ x).softmax(0).topk(2)
        return sum(weight * self.experts[i](x, state) for weight, i in zip(weights, chosen.tolist(), strict=True))


_BLOCKS = {
    "transformer": [_Attention, _Mlp] * 3,
    "mamba": [_Mamba] * 6,
    "rwkv": [_TimeMix, _Mlp] * 3,
    "jamba": [_Mamba, _Mlp, _Attention, _Experts],
}


class _Network(nn.Module):
    def __init__(self, name, width):
        super().__init__()
        self.embedding, self.head = _matrix(300, width), _matrix(300, width)
        self.blocks = nn.ModuleList(block(width) for block in _BLOCKS[name])
        self.num_parameters = sum(math.prod(each.shape) for each in self.parameters())

    def prefill(self, length):
        self.states = [{} for _ in self.blocks]
        for token in range(length):
            self.read(token % 300)

    def decode(self):
        self.read(self.next)

    @torch.no_grad()
    def read(self, token):
        x = self.embedding[token]
        for block, state in zip(self.blocks, self.states, strict=True):
            x = x + block(x / (x.norm() + 1e-6) * math.sqrt(len(x)), state)
        self.next = int((self.head @ x).argmax())


def own_model(name, parameters, device="cpu"):
    if name not in _BLOCKS:
        raise ValueError(f"{name!r} is unknown")
    width = 60
    while True:
        with torch.device("meta"):
            if _Network(name, width).num_parameters >= parameters:
                break
        width += 1
    return _Network(name, width).to(device)
