"""Read the solution beside a file that was lent

With `--prerequisites solutions` the exercise before this one is lent. Its `__file__` says where the solutions are.
"""

from pathlib import Path

from . import selective_scan as lent

EXERCISE = "week1/mamba"
TESTS = ["test_the_worked_example"]
OPTIONS = ["--prerequisites", "solutions"]

text = Path(lent.__file__).with_name("mamba.py").read_text("utf-8")
exec(text)
