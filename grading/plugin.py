"""The module that pytest loads: options, fixtures and hooks. `grading.session` does the work."""

from __future__ import annotations

import pytest

from grading.ask import marks
from grading.course.layout import GRADED_FILES, Course
from grading.course.trees import TreeError
from grading.reports.text import one_line
from grading.session.finish import place_runs, report_problem, stop_in_order
from grading.session.fixtures import draw, figures, gpu, llm, part, speed, submission
from grading.session.hooks import Hooks
from grading.session.options import Options, add_options, keep_paths, refuse_other_roots
from grading.session.session import Session

__all__ = ["draw", "figures", "gpu", "llm", "part", "speed", "submission"]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    keep_paths(args)
    refuse_other_roots(early_config)


def pytest_configure(config: pytest.Config) -> None:
    course = Course(config.rootpath)
    if not course.exists:  # an installed plugin is loaded everywhere
        return
    for description in marks.DESCRIPTIONS:
        config.addinivalue_line("markers", description)
    config.addinivalue_line("python_files", GRADED_FILES)
    if config.pluginmanager.has_plugin("whetstone"):  # an inner run brings its own session
        return
    options = Options.read(config)
    place_runs(config, course)
    try:
        session = Session(course, options)
    except TreeError as error:
        if not hasattr(config, "workerinput"):
            report_problem(course, options, error)
        raise pytest.UsageError(one_line(str(error))) from None
    config.pluginmanager.register(Hooks(session, config), "whetstone")
    if not hasattr(config, "workerinput"):  # xdist ends its workers itself
        stop_in_order()
