import importlib.util
import sys

if missing := [name for name in ("torch", "pytest_benchmark", "pytest_timeout") if not importlib.util.find_spec(name)]:
    print(
        f"{sys.executable} has no {missing[0]}: this is not the course's environment. Run `make setup` once, then "
        "`source .venv/bin/activate`, or call .venv/bin/python -m pytest.",
        file=sys.stderr,
    )
    raise SystemExit(4)  # not an exception, of which pytest would show the traceback

pytest_plugins = ["grading.plugin"]
