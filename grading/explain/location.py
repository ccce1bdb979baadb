"""Where in a tensor the wrong numbers are: in a sentence, and on a small map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_NEARLY = 0.9  # a region counts as wrong when this share of it is: a number may be right by accident
_LISTED = 4  # at most this many places or indices are listed; more are counted
_MAP_ROWS = 8


def describe_location(mask: Tensor, dims: Sequence[str] | None = None) -> str:
    """Where `mask` is True: `queries 3 to 6 (the last 4) in every head and batch`.

    Args:
        mask: bool, any shape: which numbers are wrong.
        dims: names of its last dimensions, `("batch", "head", "query", "channel")`.
    """
    mask = mask.cpu()
    wrong, total = int(mask.sum()), mask.numel()
    if not wrong or wrong == total:
        return "everywhere" if wrong else "nowhere"
    names, chosen = _names(mask, dims), _touched(mask)
    counted = f"{wrong} of {total} numbers"
    if wrong >= _NEARLY * total:
        return f"nearly everywhere: {counted}"
    block = math.prod(map(len, chosen))
    if wrong <= _LISTED and not (wrong == block and any(size > 1 for size in _whole_sizes(mask, chosen))):
        return f"{counted}, at {_listing([_place(index) for index in mask.nonzero().tolist()])}"
    if wrong >= _NEARLY * block:
        return _block(mask, names, chosen, full=wrong == block)
    return _triangle(mask, names, chosen) or _scattered(counted, mask, names, chosen)


def error_map(mask: Tensor, dims: Sequence[str] | None = None, width: int = 72) -> list[str]:
    """A map of `mask`: `·` right, `#` wrong, `+` partly wrong. At most 12 lines of `width` characters.

    Its rows and columns are the last two dimensions, with several indices per row or column where they are long. It
    aggregates the slices that have wrong numbers; if these are not all slices, lines below say which. A map that would
    be wrong everywhere is left out.
    """
    mask = mask.cpu()
    if not mask.any() or mask.all():
        return []
    names = _names(mask, dims)
    if mask.ndim == 1:
        mask, names = mask[None], ["", *names]
    slices = mask.reshape(-1, *mask.shape[-2:])
    affected = slices.flatten(1).any(1)
    share = slices[affected].double().mean(0)

    picture = [] if share.amin() == 1 else _picture(share, names, width)
    if not affected.all():
        picture += _strips(affected.reshape(mask.shape[:-2]), names[:-2], width)
    return [line[:width].rstrip() for line in picture]


def _names(mask: Tensor, dims: Sequence[str] | None) -> list[str]:
    given = list(dims or ())[-mask.ndim :] if mask.ndim else []
    return [f"dim {number}" for number in range(mask.ndim - len(given))] + given


def _touched(mask: Tensor) -> list[list[int]]:
    """For each dimension, the indices at which something is wrong."""
    return [sorted(set(indices.tolist())) for indices in mask.nonzero(as_tuple=True)]


# --- sentences ----------------------------------------------------------------------------------------------------

Chosen = Sequence[Sequence[int]]


def _whole_sizes(mask: Tensor, chosen: Chosen) -> list[int]:
    return [size for size, indices in zip(mask.shape, chosen, strict=True) if len(indices) == size]


def _block(mask: Tensor, names: list[str], chosen: Chosen, full: bool) -> str:
    """All combinations of the chosen indices, or nearly all: `only query 4 in every head of batch 1`."""
    inner = max(dim for dim, size in enumerate(mask.shape) if len(chosen[dim]) < size)
    context = _context(mask, names, chosen, inner)
    first = _indices(names[inner], chosen[inner], mask.shape[inner], notes=True)
    share = "nearly all of " if not full else "only " if len(chosen[inner]) == 1 else ""
    return share + first + (f" in {context}" if context else "")


def _context(mask: Tensor, names: list[str], chosen: Chosen, inner: int) -> str:
    """The dimensions before `inner`: `every query and head of batch 1`. Unnamed whole ones are not mentioned."""
    parts: list[str] = []
    for whole, group in itertools.groupby(range(inner - 1, -1, -1), lambda dim: len(chosen[dim]) == mask.shape[dim]):
        if not whole:
            parts += [_indices(names[dim], chosen[dim], mask.shape[dim]) for dim in group]
        elif said := [names[dim] for dim in group if mask.shape[dim] > 1 and not _unnamed(names[dim])]:
            parts.append(f"every {_listing(said)}")
    return " of ".join(parts)


def _triangle(mask: Tensor, names: list[str], chosen: Chosen) -> str:
    """The sentence for wrong numbers on one side of a diagonal of the last two dimensions; empty if they are not."""
    if mask.ndim < 2:
        return ""
    slices = mask.reshape(-1, *mask.shape[-2:])
    slices = slices[slices.flatten(1).any(1)]
    rows, columns = mask.shape[-2:]
    after = torch.arange(columns) - torch.arange(rows)[:, None]
    corners = {"the diagonal": after} | (
        {"the lower right diagonal": after - columns + rows} if rows != columns else {}
    )
    for diagonal, distance in corners.items():
        regions = {"above": distance > 0, "on or above": distance >= 0, "on": distance == 0}
        regions |= {"below": distance < 0, "on or below": distance <= 0}
        for side, region in regions.items():
            if not slices[:, ~region].any() and slices[:, region].double().mean() >= _NEARLY:
                context = _context(mask, names, chosen, mask.ndim - 2)
                location = f"{side} {diagonal} of {names[-2]} by {names[-1]}"
                return location + (f" in {context}" if context else "")
    return ""


def _scattered(counted: str, mask: Tensor, names: list[str], chosen: Chosen) -> str:
    """The range of the wrong numbers along each dimension, unless it is nearly all of it."""
    ranges = [range(indices[0], indices[-1] + 1) for indices in chosen]
    inside = [
        _indices(name, found, size)
        for name, found, size in zip(names, ranges, mask.shape, strict=True)
        if len(found) < _NEARLY * size
    ]
    return f"{counted}, scattered" + (f" over {' of '.join(reversed(inside))}" if inside else "")


def _indices(name: str, indices: Sequence[int], size: int, notes: bool = False) -> str:
    """Some indices along a dimension: `query 4`, `queries 3 to 6 (the last 4)`, `every 2nd channel`.

    With `notes`, a single index is marked if it is the last.
    """
    one, many, dim = ("index", "indices", f" along {name}") if _unnamed(name) else (name, _plural(name), "")
    count, first, last = len(indices), indices[0], indices[-1]
    if count == 1:
        return f"{one} {first}{dim}" + (" (the last)" if notes and first == size - 1 else "")
    steps = {b - a for a, b in itertools.pairwise(indices)}
    if steps == {1}:
        ends = "the last" if last == size - 1 else "the first"
        note = f" ({ends} {count})" if first == 0 or last == size - 1 else f" of {size}"
        return f"{many} {first} {'to' if count > 2 else 'and'} {last}{note}{dim}"
    if len(steps) == 1 and count > 2:
        step = steps.pop()
        stop = f" to {last}" if last + step < size else ""
        start = f" from {first}" if first or stop else ""
        return f"every {_ordinal(step)} {one}{dim}{start}{stop}"
    if count <= _LISTED:
        return f"{many} {_listing([str(index) for index in indices])}{dim}"
    return f"{count} of {size} {many}{dim} ({', '.join(map(str, indices[:3]))}, …)"


def _unnamed(name: str) -> bool:
    return name.startswith("dim ")


def _plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _listing(items: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part)


def _place(index: Sequence[int]) -> str:
    return str(index[0]) if len(index) == 1 else f"({', '.join(map(str, index))})"


# --- maps ---------------------------------------------------------------------------------------------------------


def _picture(share: Tensor, names: list[str], width: int) -> list[str]:
    """A title, then a line for each row or group of rows."""
    (rows, columns), (row_name, column_name) = share.shape, names[-2:]
    row_edges = _edges(rows, _MAP_ROWS)
    labels = [_span(a, b) if row_name else "" for a, b in itertools.pairwise(row_edges)]
    margin = max(map(len, [row_name, *labels]))
    column_edges = _edges(columns, max(width - margin - 2, 1))
    title = f"{row_name:>{margin}}  {column_name} {_span(0, columns)}"
    if column_edges[1] > 1:
        title += f", {column_edges[1]} per column"
    lines = [
        f"{label:>{margin}}  {_cells(share[top:bottom], column_edges)}"
        for label, (top, bottom) in zip(labels, itertools.pairwise(row_edges), strict=True)
    ]
    return [title, *lines]


def _edges(size: int, most: int) -> list[int]:
    """The edges of at most `most` bins, all of the same length except perhaps the last."""
    return [*range(0, size, math.ceil(size / most)), size]


def _span(start: int, stop: int) -> str:
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def _cells(share: Tensor, edges: list[int]) -> str:
    """One character for each bin of the last dimension of `share`, the share of wrong numbers."""
    bins = [share[..., left:right] for left, right in itertools.pairwise(edges)]
    return "".join("·" if not cell.any() else "#" if bool((cell == 1).all()) else "+" for cell in bins)


def _strips(affected: Tensor, names: list[str], width: int) -> list[str]:
    """Which slices are affected: in one line if they fit, otherwise in a line for each dimension."""
    rows = affected.double().reshape(-1, affected.shape[-1])
    label = ", ".join(names)
    if len(label) + 1 + rows.numel() + len(rows) <= width:
        edges = list(range(rows.shape[1] + 1))
        return [f"{label}  {' '.join(_cells(row, edges) for row in rows)}"]
    margin = max(map(len, names))
    strips = []
    for dim, name in list(enumerate(names))[-3:]:
        hit = affected.movedim(dim, 0).reshape(affected.shape[dim], -1).any(1).double()
        strips.append(f"{name:>{margin}}  {_cells(hit, _edges(len(hit), max(width - margin - 2, 1)))}")
    return strips
