"""`expect`: how a graded test states what the answer must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grading.ask.got import Got
from grading.explain.explanation import Explanation
from grading.explain.outcome import Unmet
from grading.explain.show import show_value
from grading.judge.mention import mentions, spell

Oracle = Callable[..., Any]


class Expect:
    """`expect(got)` starts an expectation about an answer; `expect.that` states one in words."""

    def __call__(self, got: Got) -> Expectation:
        if not isinstance(got, Got):
            raise TypeError(
                f"expect needs the result of submission.call, .make(…).call or .run, not {type(got).__name__}"
            )
        return Expectation(got)

    def that(self, condition: object, otherwise: str, *, expected: str = "", got: str = "") -> None:
        """Fail with the sentence `otherwise` unless the condition holds."""
        if not condition:
            raise Unmet(Explanation(otherwise, wrong=otherwise, expected=expected, got=got))

    def refused(self, raised: str, *kinds: type[Exception], mentioning: Sequence[str] = ()) -> None:
        """A scenario's call raised one of these exceptions, and the message mentions what is wrong.

        `raised`: the exception as the scenario noted it, "ValueError: its message"; empty if there was none.
        """
        kind, _, message = raised.partition(": ")
        names = " or ".join(each.__name__ for each in kinds)
        if not raised:
            self.that(False, f"no {names} was raised", expected=_promised(names, mentioning), got="no exception")
        elif kind not in [each.__name__ for each in kinds]:
            self.that(False, f"{kind} was raised instead of {names}", expected=_promised(names, mentioning), got=raised)
        elif missing := [each for each in mentioning if not mentions(message, each)]:
            self.that(False, _unmentioned(missing), expected=_promised(names, mentioning), got=raised)


def _promised(names: str, mentioning: Sequence[Any]) -> str:
    return f"{names} with a message that mentions {_quoted(mentioning)}" if mentioning else names


def _quoted(words: Sequence[Any]) -> str:
    return ", ".join(f"'{spell(word)}'" for word in words)


def _unmentioned(missing: Sequence[Any]) -> str:
    return f"the message does not mention {_quoted(missing)}"


expect = Expect()


class Expectation:
    def __init__(self, got: Got) -> None:
        self.got = got

    def close_to(
        self, oracle: Oracle, *args: Any, factor: float | None = None, alias: bool = False, writes: Sequence[Any] = (),
        dims: Sequence[str] | None = None, dtypes: Sequence[Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """The answer, with its gradients if requested, differs from `oracle(*args, **kwargs)` by rounding only.

        Args:
            oracle: a differentiable function of plain tensors in any dtype; run in float64 for the reference.
            args, kwargs: its arguments, made of the request's own tensors (default: the request's arguments).
            factor: replaces the factor of the closeness rule, if the exercise has a reason.
            alias: whether the output may share memory with an input.
            writes: the inputs that the submission may change.
            dims: names of the output's dimensions (default: `oracle.dims`).
            dtypes: of the output's tensors in order (default: the first input's dtype for floating-point ones).
        """
        from grading.judge.answer import judge_answer

        self.got.require_answer()
        if not args and not kwargs:
            args, kwargs = self.got.request.args, self.got.request.kwargs
        judge_answer(
            self.got, oracle, args, kwargs, factor=factor, alias=alias, writes=writes, dims=dims, dtypes=dtypes
        )

    def equal_to(self, value: Any, *, alias: bool = False, writes: Sequence[Any] = ()) -> None:
        """The answer equals this plain data exactly; tensors agree in shape, dtype and every number."""
        from grading.judge.structure import check_promises, check_structure, differing

        output = self.got.output
        check_structure(self.got, output, value, same_dtype=True)
        check_promises(self.got, alias=alias, writes=writes)
        if location := differing(output, value):
            self._fail("wrong answer", expected=show_value(value), got=show_value(output), location=location)

    def shaped(self, *shape: int, dtype: Any = None) -> None:
        """The answer is one plain tensor of this shape (and dtype)."""
        import torch

        from grading.judge.structure import check_structure

        example = torch.empty(shape, dtype=dtype or getattr(self.got.output, "dtype", None), device="meta")
        check_structure(self.got, self.got.output, example, same_dtype=dtype is not None)

    def raises(self, *kinds: type[BaseException], mentioning: Sequence[Any] = (), unlike: Got | None = None) -> None:
        """The call raises one of these exceptions, and the message mentions what is wrong.

        Args:
            mentioning: names, numbers, shapes (as tuples) and dtypes, each in any usual notation.
            unlike: an ordinary call, which must return: what refuses everything has checked nothing.
        """
        if unlike is not None:
            _require_acceptance(unlike)
        names = " or ".join(kind.__name__ for kind in kinds)
        trouble = self.got.trouble
        if trouble is None:
            self._fail(f"no {names} was raised", expected=names, got=show_value(self.got.result.output))
        elif trouble.kind != "raised":
            self.got.require_answer()
        elif not {kind.__name__ for kind in kinds} & set(trouble.bases):
            self._fail(
                f"{trouble.type} was raised instead of {names}",
                expected=names,
                got=trouble.message,
                traceback=trouble.traceback,
            )
        elif missing := [each for each in mentioning if not mentions(trouble.message, each)]:
            self._fail(
                _unmentioned(missing),
                wrong=_unmentioned(missing),
                expected=_promised(names, mentioning),
                got=trouble.message,
            )

    def counts(self, what: str, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """A count is within bounds: `counts("flops", at_most=…)`, for a call with `count=True`."""
        found = self.got.counts[what]
        words = what.replace("_", " ")
        if at_most is not None and found > at_most:
            self._fail(
                f"{words}: {found:,} (at most {at_most:,.0f} allowed)",
                expected=f"at most {at_most:,.0f} {words}",
                got=f"{found:,}",
            )
        if at_least is not None and found < at_least:
            self._fail(
                f"{words}: {found:,} (at least {at_least:,.0f} required)",
                expected=f"at least {at_least:,.0f} {words}",
                got=f"{found:,}",
            )

    def _fail(self, reason: str, **parts: Any) -> None:
        raise Unmet(self.got.explain(reason, **parts))


def _require_acceptance(ordinary: Got) -> None:
    trouble = ordinary.trouble
    if trouble is not None and trouble.kind == "raised":
        reason = f"what should be accepted raises {trouble.type} too: {trouble.message}"
        raise Unmet(ordinary.explain(reason, got=trouble.message, traceback=trouble.traceback))
    ordinary.require_answer()
