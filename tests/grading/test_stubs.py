"""What a solution's stub keeps, what it leaves out, and that the stubs on disk follow the solutions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grading.author.stubs import stale_stubs, stub, write_stubs
from grading.course.source import SourceError, unstarted, unstarted_names

# Solutions as ruff formats them, and their stubs. Each pair shows one rule that a change could break.
CASES = {
    "a body goes; docstrings and a signature over several lines stay as they are": (
        '''
        """The module's docstring.

        Second paragraph.
        """

        import torch


        def attention(
            query: torch.Tensor,  # (B, H, L, D): "def" and ): in a comment
            key: torch.Tensor = None,
            *,
            # what stands on a line of its own
            scale: float = {"a:b": (1, 2)}["a:b"][0],
        ) -> Annotated[torch.Tensor, "a: b"]:  # the output: (B, H, L, D)
            """Equation 1.

            def not_a_function(): it only looks like one
            """
            # the answer: SECRET
            return query  # SECRET
            # SECRET at the end
        ''',
        '''
        """The module's docstring.

        Second paragraph.
        """

        import torch


        def attention(
            query: torch.Tensor,  # (B, H, L, D): "def" and ): in a comment
            key: torch.Tensor = None,
            *,
            # what stands on a line of its own
            scale: float = {"a:b": (1, 2)}["a:b"][0],
        ) -> Annotated[torch.Tensor, "a: b"]:  # the output: (B, H, L, D)
            """Equation 1.

            def not_a_function(): it only looks like one
            """
            raise NotImplementedError
        ''',
    ),
    "private helpers go with the comments above them": (
        """
        # what the first does
        def first(x):
            def nested(y):
                return y

            return nested(x)


        # SECRET about the helper
        def _helper(x):
            return x


        class _Helper:
            x = 1


        _SECRET = 3
        _secret: int = 4


        # ---------- detached: SECRET ----------


        # what the second does,
        # in two lines
        async def second(x):
            return x


        # SECRET at the end
        """,
        """
        # what the first does
        def first(x):
            raise NotImplementedError


        # what the second does,
        # in two lines
        async def second(x):
            raise NotImplementedError
        """,
    ),
    "public constants, aliases and their comments and docstrings stay": (
        '''
        from collections.abc import Callable
        from typing import TypeVar

        __all__ = ["LIMIT", "f"]

        # as in the paper
        LIMIT = 448.0  # E4M3's largest value
        """The limit."""
        _SECRET = 2
        """SECRET docstring."""
        Activation = Callable[[float], float]
        T = TypeVar("T")
        first, _second = 1, 2
        double = lambda x: 2 * x
        name: str
        """The name."""
        TABLE = {
            "a": 1,  # one
            "b": 2,
        }
        LIMIT += 1


        def f(x: T) -> T:
            return x


        """SECRET: a string that documents nothing."""
        ''',
        '''
        from collections.abc import Callable
        from typing import TypeVar

        __all__ = ["LIMIT", "f"]

        # as in the paper
        LIMIT = 448.0  # E4M3's largest value
        """The limit."""
        Activation = Callable[[float], float]
        T = TypeVar("T")
        first, _second = 1, 2
        double = lambda x: 2 * x
        name: str
        """The name."""
        TABLE = {
            "a": 1,  # one
            "b": 2,
        }
        LIMIT += 1


        def f(x: T) -> T:
            raise NotImplementedError
        ''',
    ),
    "methods: dunders and public ones stay without their bodies": (
        '''
        import functools
        from functools import cached_property

        import torch
        from torch import nn


        @functools.total_ordering
        class Layer(
            nn.Module,  # the base
            Base["a:b"],
            metaclass=choose("a: b"),
        ):  # a layer
            """A layer."""

            width: int = 3  # channels
            _hidden: int = 4
            # the depth
            depth = 2

            def __init__(self, width: int) -> None:
                """Make it."""
                super().__init__()
                self.width = width

            # SECRET
            def _helper(self):
                return 1

            @property
            def size(self) -> int:
                return self._helper()

            @size.setter
            def size(self, value: int) -> None:
                self._size = value

            @staticmethod
            @functools.lru_cache(
                maxsize=None,  # any
            )
            def make(n: int) -> "Layer":
                return Layer(n)

            @cached_property
            def area(self) -> int:
                return 1

            @torch.no_grad()
            def forward(self, x):
                return x

            class Part:
                def f(self):
                    return 2

                class _Secret:
                    x = 1

            def __secret(self):
                return 3


        class Unit(Base["a:b"]):
            def __call__(self):
                return 1
        ''',
        '''
        import functools
        from functools import cached_property

        import torch
        from torch import nn


        @functools.total_ordering
        class Layer(
            nn.Module,  # the base
            Base["a:b"],
            metaclass=choose("a: b"),
        ):  # a layer
            """A layer."""

            width: int = 3  # channels
            # the depth
            depth = 2

            def __init__(self, width: int) -> None:
                """Make it."""
                raise NotImplementedError

            @property
            def size(self) -> int:
                raise NotImplementedError

            @size.setter
            def size(self, value: int) -> None:
                raise NotImplementedError

            @staticmethod
            @functools.lru_cache(
                maxsize=None,  # any
            )
            def make(n: int) -> "Layer":
                raise NotImplementedError

            @cached_property
            def area(self) -> int:
                raise NotImplementedError

            @torch.no_grad()
            def forward(self, x):
                raise NotImplementedError

            class Part:
                def f(self):
                    raise NotImplementedError


        class Unit(Base["a:b"]):
            def __call__(self):
                raise NotImplementedError
        ''',
    ),
    "an autograd function keeps its static methods, data classes their fields": (
        '''
        from dataclasses import dataclass, field
        from typing import NamedTuple

        import torch


        class Square(torch.autograd.Function):
            @staticmethod
            def forward(x):
                return x * x

            @staticmethod
            def setup_context(ctx, inputs, output):
                ctx.save_for_backward(*inputs)

            @staticmethod
            def backward(ctx, gradient):
                (x,) = ctx.saved_tensors
                return 2 * x * gradient


        @dataclass(frozen=True)
        class Config:
            width: int  # channels
            names: list[str] = field(default_factory=list)


        class Output(NamedTuple):
            """What comes back."""

            logits: torch.Tensor
            state: torch.Tensor | None = None


        class Refused(RuntimeError):
            """Why not."""


        class Empty(RuntimeError):
            pass


        class Other(RuntimeError): ...


        class Documented(RuntimeError):
            """With more words than needed."""

            pass


        class Hollow:
            _secret = 1
        ''',
        '''
        from dataclasses import dataclass, field
        from typing import NamedTuple

        import torch


        class Square(torch.autograd.Function):
            @staticmethod
            def forward(x):
                raise NotImplementedError

            @staticmethod
            def setup_context(ctx, inputs, output):
                raise NotImplementedError

            @staticmethod
            def backward(ctx, gradient):
                raise NotImplementedError


        @dataclass(frozen=True)
        class Config:
            width: int  # channels
            names: list[str] = field(default_factory=list)


        class Output(NamedTuple):
            """What comes back."""

            logits: torch.Tensor
            state: torch.Tensor | None = None


        class Refused(RuntimeError):
            """Why not."""


        class Empty(RuntimeError):
            pass


        class Other(RuntimeError): ...


        class Documented(RuntimeError):
            """With more words than needed."""


        class Hollow:
            pass
        ''',
    ),
    "what has no body to write stays: overloads, protocols": (
        '''
        from typing import Protocol, overload


        class Model(Protocol):
            def decode(self) -> None: ...

            def prefill(self, length: int) -> None:
                """Start a new sequence."""
                ...


        @overload
        def f(x: int) -> int: ...
        @overload
        def f(x: str) -> str: ...
        def f(x):
            return x


        def nothing():
            pass


        def documented():
            """Does nothing."""
        ''',
        '''
        from typing import Protocol, overload


        class Model(Protocol):
            def decode(self) -> None: ...

            def prefill(self, length: int) -> None:
                """Start a new sequence."""
                ...


        @overload
        def f(x: int) -> int: ...
        @overload
        def f(x: str) -> str: ...
        def f(x):
            raise NotImplementedError


        def nothing():
            raise NotImplementedError


        def documented():
            """Does nothing."""
            raise NotImplementedError
        ''',
    ),
    "imports go where only private code needs them": (
        """
        from __future__ import annotations

        import secrets_only_private
        import torch
        import torch.nn.functional as F
        from a import both, secret_class, secret_helper
        from b import kept as secret
        from c import quoted
        from d import used_in_a_body as body
        from e import secret_guard
        from f import unused
        from g import *
        from h import of_a_private_method
        from typing import TYPE_CHECKING

        from . import _secret_module
        from .._secret import secret_tool as tool
        from ..week1._secret import used_in_a_body as secret_in_a_body
        from .selective_scan import selective_scan

        if TYPE_CHECKING:
            from i import secret_type


        def f(x: "list[quoted]"):
            both(x), secret_in_a_body(x)
            return body(x)


        class C:
            def _helper(self):
                return of_a_private_method()


        def _helper(x: secret_type):
            secret(x), both(x), quoted(x), secrets_only_private
            return secret_class(), secret_helper(), selective_scan(), tool(), _secret_module


        if __name__ == "__main__":
            secret_guard(f)
        """,
        """
        from __future__ import annotations

        import secrets_only_private
        import torch
        import torch.nn.functional as F
        from a import both, secret_class, secret_helper
        from c import quoted
        from d import used_in_a_body as body
        from f import unused
        from g import *

        from .selective_scan import selective_scan


        def f(x: "list[quoted]"):
            raise NotImplementedError


        class C:
            pass
        """,
    ),
    "conditions around what stays": (
        """
        import sys

        try:
            import triton
            from triton import language as tl

            _SECRET = True
        except ImportError:  # no GPU
            _SECRET = False
        else:
            VERSION = 1
            _secret = VERSION
        finally:
            del sys

        if sys.version_info >= (3, 12):
            # new
            def f(x):
                return x

            # SECRET, after the last
        elif sys.platform == "linux":
            _secret = 3
        else:

            def f(x):
                return 2 * x


        try:
            _secret = 4

            class A:
                x = 1
        except ValueError:
            _secret = 5

        if sys.argv:
            _SECRET = 4
        else:
            print("SECRET")

        if sys.argv:
            WIDTH = 1
        elif sys.path:
            _secret = 6

        if sys.argv:
            _secret = 7
        else:
            if sys.path:
                DEPTH = 1
            else:
                _secret = 8

        with open(__file__) as file:
            TEXT = file.read()

        for _ in range(3):
            SECRET = 1

        print("SECRET")
        assert TEXT, "SECRET"
        f.secret = 2

        if __name__ == "__main__":
            SECRET = f(2)
        """,
        """
        import sys

        try:
            import triton
            from triton import language as tl
        except ImportError:  # no GPU
            pass
        else:
            VERSION = 1
        finally:
            pass

        if sys.version_info >= (3, 12):
            # new
            def f(x):
                raise NotImplementedError
        elif sys.platform == "linux":
            pass
        else:

            def f(x):
                raise NotImplementedError


        try:

            class A:
                x = 1
        except ValueError:
            pass

        if sys.argv:
            WIDTH = 1
        elif sys.path:
            pass

        if sys.argv:
            pass
        else:
            if sys.path:
                DEPTH = 1
            else:
                pass

        with open(__file__) as file:
            TEXT = file.read()
        """,
    ),
    "what is handed out is carried over": (
        '''
        from dataclasses import dataclass
        from given_code import handed_out


        # given: the configuration, as in transformers
        @dataclass
        class Config:
            width: int = 3
            _depth: int = 2

            def size(self):
                # a comment in a body
                return _size(self.width)


        def _size(width):
            return handed_out(width)


        # end given


        def f(x):
            # given
            secret = 1
            # end given
            return x


        class Layer:
            # given
            def size(self):
                return 3

            def _helper(self):
                return 4

            # end given

            def forward(self, x):
                return """
        # given
                """
        ''',
        """
        from dataclasses import dataclass
        from given_code import handed_out


        # given: the configuration, as in transformers
        @dataclass
        class Config:
            width: int = 3
            _depth: int = 2

            def size(self):
                # a comment in a body
                return _size(self.width)


        def _size(width):
            return handed_out(width)


        # end given


        def f(x):
            raise NotImplementedError


        class Layer:
            # given
            def size(self):
                return 3

            def _helper(self):
                return 4

            # end given

            def forward(self, x):
                raise NotImplementedError
        """,
    ),
    "blank lines close up where a function goes": (
        """
        #!/usr/bin/env python
        # SPDX-License-Identifier: Apache-2.0

        import torch
        from secret import helper


        def _f():
            return helper()


        LIMIT = 2


        def _g():
            return 1


        WIDTH = 3
        _depth = 4


        def h():
            return 5


        _width = 5


        DEPTH = 6


        class A:
            _depth = 6

            def f(self):
                return 7

            def _g(self):
                return 8

            x = 9
        """,
        """
        #!/usr/bin/env python
        # SPDX-License-Identifier: Apache-2.0

        import torch

        LIMIT = 2

        WIDTH = 3


        def h():
            raise NotImplementedError


        DEPTH = 6


        class A:
            def f(self):
                raise NotImplementedError

            x = 9
        """,
    ),
    "한국어: columns are counted in bytes, text in characters": (
        '''
        """셀프 어텐션 — "def"를 가르친다."""

        이름 = "값"  # 주석


        def f(x: int = {"가나다": 1}["가나다"]) -> int:  # 길이: L
            """한국어 docstring: √d로 나눈다."""
            return x
        ''',
        '''
        """셀프 어텐션 — "def"를 가르친다."""

        이름 = "값"  # 주석


        def f(x: int = {"가나다": 1}["가나다"]) -> int:  # 길이: L
            """한국어 docstring: √d로 나눈다."""
            raise NotImplementedError
        ''',
    ),
}

# Solutions that nobody's formatter has seen.
UNFORMATTED = {
    "functions on one line": (
        "def f(x): return x  # SECRET\nclass A: x = 1; _y = 2; z = 3\n"
        "class B:\n  def g(self): 'Doc.'; return 1\nclass C: _secret = 1\n",
        "def f(x):\n    raise NotImplementedError\nclass A:\n    x = 1\n    z = 3\n"
        "class B:\n  def g(self):\n      'Doc.'\n      raise NotImplementedError\nclass C:\n    pass\n",
    ),
    "statements on one line": ("가 = 1; _b = 2; c = 3  # three\n", "가 = 1\nc = 3  # three\n"),
    "conditions on one line": (
        "if 1: a = 1; _b = 2\nelse: _c = 3\n",
        "if 1:\n    a = 1\nelse:\n    pass\n",
    ),
    "tabs": (
        "class A:\n\tdef f(self):\n\t\t'''Doc.'''\n\t\treturn 1\n\tx = 1\n",
        "class A:\n\tdef f(self):\n\t\t'''Doc.'''\n\t\traise NotImplementedError\n\tx = 1\n",
    ),
    "Windows line ends and a byte order mark": (
        '\ufeff"""Doc.\r\nMore."""\r\ndef f():\r\n    """Doc.\r\n    """\r\n    return 1\r\n',
        '"""Doc.\nMore."""\ndef f():\n    """Doc.\n    """\n    raise NotImplementedError\n',
    ),
    "a string that ends like a comment": (
        "x = '''\n# one'''\ny = 1\n# given\n_z = 1\n# end given\nw = 1\n",
        "x = '''\n# one'''\ny = 1\n# given\n_z = 1\n# end given\nw = 1\n",
    ),
    "a file that begins with a comment on what goes": ("# SECRET\n_x = 1\ny = 2\n", "y = 2\n"),
    "a file that begins with given code": (
        "# given\n\nfrom a import b\n# end given\n_x = b\ny = 2\n",
        "# given\n\nfrom a import b\n# end given\ny = 2\n",
    ),
    "markers inside strings": (
        "x = '''\n# given\n'''\ny = f'''\n# given\n{x}'''\n",
        "x = '''\n# given\n'''\ny = f'''\n# given\n{x}'''\n",
    ),
    "a private name that is given as well": (
        "_x = 1\n# given\n_x = 2\ny = _x\n# end given\n",
        "# given\n_x = 2\ny = _x\n# end given\n",
    ),
    "no newline at the end": ("x = 1", "x = 1\n"),
    "blank lines at both ends": ("\n\nx = 1\n\n\n", "x = 1\n"),
    "other line separators stay inside strings": (
        "x = 'a\x0cb\u2028c'\ndef f(): return '\x0c'\n",
        "x = 'a\x0cb\u2028c'\ndef f():\n    raise NotImplementedError\n",
    ),
    "line continuations": (
        "def f(x, \\\n      y): \\\n    return x\nz = 1 + \\\n    2\n",
        "def f(x, \\\n      y):\n    raise NotImplementedError\nz = 1 + \\\n    2\n",
    ),
    "nothing": ("", ""),
    "nothing public": ("def _f():\n    return 1\n", ""),
    "only a comment": ("# a comment", "# a comment\n"),
}

if sys.version_info >= (3, 12):
    UNFORMATTED["type parameters"] = (
        "type Pair[T] = tuple[T, T]\ntype _Secret = int\n"
        "def f[T: (int, str)](x: T) -> T:  # any: T\n    return x\nclass Box[T: int]:\n    x: T\n",
        "type Pair[T] = tuple[T, T]\n"
        "def f[T: (int, str)](x: T) -> T:  # any: T\n    raise NotImplementedError\nclass Box[T: int]:\n    x: T\n",
    )

ALL = {name: tuple(textwrap.dedent(text).lstrip("\n") for text in pair) for name, pair in CASES.items()} | UNFORMATTED


@pytest.mark.parametrize("name", ALL)
def test_a_stub_is_the_solution_without_the_answer(name):
    solution, expected = ALL[name]

    assert stub(solution) == expected


@pytest.mark.parametrize("name", ALL)
def test_a_stub_is_its_own_stub(name):
    once = stub(ALL[name][0])

    assert stub(once) == once
    compile(once, name, "exec")


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
def test_a_formatted_solution_gives_a_formatted_stub(tmp_path):
    for number, name in enumerate(CASES):
        for kind, text in zip(("solution", "stub"), ALL[name], strict=True):
            (tmp_path / f"{number}_{kind}.py").write_text(text, "utf-8")

    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "--diff", str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, encoding="utf-8")

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_stub_is_not_started_and_its_solution_is():
    solution, handed_out = ALL["methods: dunders and public ones stay without their bodies"]

    assert unstarted(handed_out) and not unstarted(solution)
    assert unstarted_names(handed_out) == {"Layer", "Unit"}


PIECES = {  # what may stand in a module in any order: KEPT is in the stub, SECRET is not
    "import math\n": 0,
    "from KEPT{n} import name{n}\n": 1,
    "# KEPT{n}\nNAME_{n} = '# SECRET is a string here: KEPT'[:0]\n".replace("SECRET", "it"): 2,
    "_SECRET{n} = 1\n": 0,
    "# SECRET\n_secret{n} = 1\n": 0,
    "# SECRET, detached\n\n": 0,
    "def KEPT{n}(x={{':': 1}}):  # KEPT:\n    '''KEPT'''\n    # SECRET\n    return SECRET\n    # SECRET\n": 3,
    "@decorator(\n    'KEPT'  # KEPT\n)\nasync def f{n}(): return 'SECRET'\n": 2,
    "def _secret{n}():\n    '''SECRET'''\n    def KEPT(): pass\n".replace("KEPT", "public"): 0,
    "class KEPT{n}:\n    KEPT = 1\n    _SECRET = 2\n\n    def f(self):\n        'KEPT'\n        return 'SECRET'\n": 3,
    "class _Secret{n}:\n    SECRET = 1\n": 0,
    "if KEPT:\n    _SECRET{n} = 1\nelse:\n    KEPT = 3\n": 2,
    "if True:\n    _SECRET{n} = 1\n": 0,
    "# given\n_KEPT{n} = 1  # KEPT\n# end given\n": 2,
    "print('SECRET')\n": 0,
    "x{n} = '''\n# KEPT\n    def _KEPT(): \n'''\n": 2,
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(PIECES)), st.integers(0, 2)), max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["    ", "\t"]),
)
def test_any_order_of_statements(pieces, newline, indent):
    source = "import math\n" + "".join(piece.format(n=n) + "\n" * blank for n, (piece, blank) in enumerate(pieces))
    once = stub(source.replace("    ", indent).replace("\n", newline))

    assert "SECRET" not in once
    assert once.count("KEPT") == sum(PIECES[piece] for piece, _ in pieces)
    assert stub(once) == once
    assert "\r" not in once and once.endswith("\n") and not once.endswith("\n\n")
    compile(once, "<stub>", "exec")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "_W = 3\ndef f(x=_W):\n    return x\n",
            "week1/x.py, line 1: the stub needs _W, which is private; make it public or mark it as given: def f(x=_W):",
        ),
        ("\ndef _d(f):\n    return f\n@_d\ndef f():\n    return 1\n", "line 2: the stub needs _d"),
        ("class _B:\n    pass\nclass C(_B):\n    pass\n", "line 1: the stub needs _B"),
        ("class C:\n    _x = 1\n    y = _x\n", "line 2: the stub needs _x"),
        ("from ._m import Base as B\nclass C(B):\n    pass\n", "line 1: the stub needs B"),
        ("from . import _m\ndef f(x=_m.W):\n    return x\n", "line 1: the stub needs _m"),
        ("# given\nfrom .._m import x\n# end given\n", "imports a private module, which is not handed out: from .._m"),
        ("# given\ndef f():\n    from . import _m\n# end given\n", "handed out: from . import _m"),
        ("x = 1\n# given\ny = 2\n", "line 2: this marker has no partner at its depth: # given"),
        ("# end given\n", "line 1: this marker has no partner"),
        ("# end given\n# end given\n", "line 1: this marker has no partner"),
        ("# given\n# given\n# end given\n", "line 2: this marker has no partner"),
        ("# given\nclass A:\n    x = 1\n    # end given\n    y = 1\n", "line 4: this marker has no partner"),
        ("def f(:\n", "week1/x.py, line 1, column 7: invalid syntax"),
    ],
)
def test_a_solution_that_has_no_stub_is_refused(source, message):
    with pytest.raises(SourceError) as caught:
        stub(source, "week1/x.py")

    assert message in str(caught.value)


def test_what_a_private_name_is_used_for_in_a_body_is_nobodys_business():
    assert stub("_W = 3\ndef f(x):\n    return _W\n") == "def f(x):\n    raise NotImplementedError\n"


def test_a_comment_that_only_looks_like_a_marker_is_a_comment():
    assert stub("# given the mask\nx = 1\n") == "# given the mask\nx = 1\n"
    assert stub("def f():\n    # given\n    return 1\n") == "def f():\n    raise NotImplementedError\n"


@pytest.fixture
def course(tmp_path):
    for path, text in {
        "solutions/week1/mamba.py": "def f():\n    return 1\n",
        "solutions/week2/mxfp4.py": "x = '한'\n",
        "solutions/week2/_private.py": "x = 1\n",
        "solutions/notes.py": "x = 1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    return tmp_path


def test_write_stubs_writes_what_differs(course: Path):
    mamba, mxfp4 = course / "exercises/week1/mamba.py", course / "exercises/week2/mxfp4.py"

    assert write_stubs(course) == [mamba, mxfp4]
    assert mamba.read_bytes() == b"def f():\n    raise NotImplementedError\n"
    assert mxfp4.read_text("utf-8") == "x = '한'\n"
    assert write_stubs(course) == []

    mamba.write_text("def f():\n    return 2\n", "utf-8")
    assert write_stubs(course) == [mamba]
    assert sorted(path.name for path in course.glob("exercises/**/*.py")) == ["mamba.py", "mxfp4.py"]


def test_stale_stubs_names_the_missing_the_different_and_the_orphaned(course: Path):
    mamba, mxfp4 = course / "exercises/week1/mamba.py", course / "exercises/week2/mxfp4.py"

    assert stale_stubs(course) == [mamba, mxfp4]
    write_stubs(course)
    assert stale_stubs(course) == []

    mxfp4.write_text("x = 2\n", "utf-8")
    orphan = course / "exercises/week1/old.py"
    orphan.write_text("x = 1\n", "utf-8")
    assert stale_stubs(course) == [orphan, mxfp4]
    write_stubs(course)
    assert stale_stubs(course) == [orphan]


def test_a_broken_solution_is_named(course: Path):
    (course / "solutions/week1/mamba.py").write_text("def f(:\n", "utf-8")

    with pytest.raises(SourceError, match=r"^week1/mamba\.py, line 1"):
        write_stubs(course)
