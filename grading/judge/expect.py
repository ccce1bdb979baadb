"""`expect`: how a graded test says what a submission's answer must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grading.ask.got import Got
from grading.explain.explanation import Explanation
from grading.explain.outcome import Unmet
from grading.explain.show import show_value

Oracle = Callable[..., Any]


class Expect:
    """`expect(got)` begins an expectation of an answer; `expect.that` states one in words."""

    def __call__(self, got: Got) -> Expectation:
        if not isinstance(got, Got):
            raise TypeError(
                f"expect takes what submission.call, .make(…).call or .run returned, not {type(got).__name__}"
            )
        return Expectation(got)

    def that(self, condition: object, otherwise: str, *, expected: str = "", got: str = "") -> None:
        """Fail with the sentence `otherwise`, unless the condition holds."""
        if not condition:
            raise Unmet(Explanation(otherwise, expected=expected, got=got or otherwise))


expect = Expect()


class Expectation:
    def __init__(self, got: Got) -> None:
        self.got = got

    def close_to(
        self, oracle: Oracle, *args: Any, factor: float | None = None, alias: bool = False, writes: Sequence[Any] = (),
        dims: Sequence[str] | None = None, dtypes: Sequence[Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """The answer is what rounding can explain of `oracle(*args, **kwargs)`, gradients included where asked for.

        Args:
            oracle: a differentiable function of plain tensors in any dtype; run in float64 for the reference.
            args, kwargs: its arguments, made of the request's own tensors; the request's arguments where left out.
            factor: of the closeness rule, for an exercise that has a reason for another one.
            alias: whether the output may share memory with an input.
            writes: the inputs that the submission is meant to change.
            dims: names of the output's dimensions, `oracle.dims` where left out.
            dtypes: of the output's tensors in order; where left out, floating ones have the first input's.
        """

        from grading.judge.answer import judge_answer

        self.got.require_answer()
        if not args and not kwargs:
            args, kwargs = self.got.request.args, self.got.request.kwargs
        judge_answer(
            self.got, oracle, args, kwargs, factor=factor, alias=alias, writes=writes, dims=dims, dtypes=dtypes
        )

    def equal_to(self, value: Any, *, alias: bool = False, writes: Sequence[Any] = ()) -> None:
        """The answer is exactly this plain data; tensors agree in shape, dtype and every number."""
        from grading.judge.structure import check_promises, check_structure, differing

        output = self.got.output
        check_structure(self.got, output, value, same_dtype=True)
        check_promises(self.got, alias=alias, writes=writes)
        if where := differing(output, value):
            self._fail("wrong answer", expected=show_value(value), got=show_value(output), location=where)

    def shaped(self, *shape: int, dtype: Any = None) -> None:
        """The answer is one plain tensor of this shape (and dtype)."""
        import torch

        from grading.judge.structure import check_structure

        example = torch.empty(shape, dtype=dtype or getattr(self.got.output, "dtype", None), device="meta")
        check_structure(self.got, self.got.output, example, same_dtype=dtype is not None)

    def raises(self, *kinds: type[BaseException], mentioning: Sequence[str] = ()) -> None:
        """The call is refused with one of these exceptions, and its message names what was wrong."""
        names = " or ".join(kind.__name__ for kind in kinds)
        trouble = self.got.trouble
        if trouble is None:
            self._fail(f"no {names} was raised", expected=names, got=show_value(self.got.result.output))
        elif trouble.kind != "raised":
            self.got.require_answer()
        elif not {kind.__name__ for kind in kinds} & set(trouble.bases):
            self._fail(f"{trouble.type} was raised", expected=names, got=trouble.message, traceback=trouble.traceback)
        elif missing := [word for word in mentioning if str(word) not in trouble.message]:
            self._fail(
                f"the message does not mention {', '.join(map(str, missing))}",
                expected=f"{names} with a message that mentions {', '.join(map(str, mentioning))}",
                got=trouble.message,
            )

    def counts(self, what: str, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """What was counted lies between two bounds: `counts("flops", at_most=…)`, with `count=True` in the call."""
        found = self.got.counts[what]
        words = what.replace("_", " ")
        if at_most is not None and found > at_most:
            self._fail(
                f"{words}: {found:,}, more than {at_most:,.0f}",
                expected=f"at most {at_most:,.0f} {words}",
                got=f"{found:,}",
            )
        if at_least is not None and found < at_least:
            self._fail(
                f"{words}: {found:,}, less than {at_least:,.0f}",
                expected=f"at least {at_least:,.0f} {words}",
                got=f"{found:,}",
            )

    def _fail(self, reason: str, **parts: Any) -> None:
        raise Unmet(self.got.explain(reason, **parts))
