"""Which files of a tree, and of what a request names, a sandboxed submission may read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grading.course.trees import Tree

if TYPE_CHECKING:
    from grading.data.request import Request


def around(paths: Iterable[Path], hidden: Iterable[Path]) -> Iterator[Path]:
    """The paths without the hidden ones: a folder that holds one is replaced by its other entries."""
    hidden = tuple(hidden)
    for path in paths:
        if path in hidden:
            continue
        if any(each.is_relative_to(path) for each in hidden):
            yield from around(sorted(path.iterdir()), hidden)
        else:
            yield path


def files_of(tree: Tree, hidden: Iterable[Path]) -> list[Path]:
    """A tree's folders without their history, and without hidden folders that lie in them."""
    outside = [*hidden, *(root / ".git" for root in tree.roots)]
    return list(around(tree.roots, [each for each in outside if each.exists() and each not in tree.roots]))


def named_in(request: Request) -> list[Path]:
    """The temporary files and folders whose paths a test hands to the submission."""
    temporary = tempfile.gettempdir() + os.sep
    words = [value for value in (*request.args, *request.kwargs.values()) if isinstance(value, str)]
    return sorted(Path(word) for word in words if word.startswith(temporary) and os.path.exists(word))
