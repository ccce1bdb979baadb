"""The reviews of this folder as a data set like those of Hugging Face."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Table:
    """Columns of equal length: the part of `datasets.Dataset` that an evaluation needs."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = dict(columns)

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str | int | slice) -> Any:
        """A column by its name, a row by its number, or some rows as a dictionary of columns."""
        return self._columns[key] if isinstance(key, str) else {name: each[key] for name, each in self._columns.items()}

    def select(self, numbers: Iterable[int]) -> Table:
        """These rows, in this order."""
        numbers = list(numbers)
        return Table({name: [each[number] for number in numbers] for name, each in self._columns.items()})


def read(split: str, folder: Path = HERE) -> Table:
    """The reviews of "train" or "test": "text", "label" (0 negative, 1 positive) and "language" ("en", "ko")."""
    with (folder / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return Table(
        {
            "text": [row["text"] for row in rows],
            "label": [int(row["label"]) for row in rows],
            "language": [row["language"] for row in rows],
        }
    )
