"""Reads a hand-in for what honest work has no use for, so that a person looks at it.

What a submission computes is judged from outside. Some facts are told by code that shares its process with the
submission, though: what was counted, what a framework was asked, whether inputs are unchanged. Whoever wants to forge
them has to do something that an answer to the exercise does not need, and that can be read. A finding is no verdict: it
names a line. What the course's own solution of an exercise does is never a finding in that exercise.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grading.course.layout import Course
from grading.course.source import SourceError, parse
from grading.course.trees import Tree, find_tree, needed

# Modules that reach around the code that is graded, with all that is below them.
_MODULES = {
    "reaches into the interpreter": (
        "ctypes _ctypes cffi gc imp importlib runpy marshal code codeop dis bdb pdb sys.monitoring"
    ),
    "starts other programs": "subprocess pty multiprocessing concurrent.futures.process",
    "reaches the network or other processes": "socket socketserver http.server signal resource mmap fcntl psutil",
    "acts at the end of the process": "atexit faulthandler",
    "replaces what others rely on": "unittest mock pytest_mock builtins forbiddenfruit",
    "looks at the grader": "grading tests solutions oracles pytest _pytest hypothesis pytest_benchmark whetstone",
    "watches what is computed": (
        "torch.utils._python_dispatch torch.overrides torch.utils.flop_counter torch.profiler torch.autograd.profiler "
        "torch.utils.hooks torch.autograd.graph"
    ),
    "builds code or loads it": "torch.utils.cpp_extension torch.hub pickle dill base64 zlib lzma bz2 codecs binascii",
}
# In an exercise without a framework, which computes numbers from its arguments and nothing else.
_OUTSIDE = {
    "reads the clock": "time timeit datetime",
    "reads or writes files": "os pathlib glob shutil tempfile sqlite3 linecache fileinput",
    "works beside its call": "threading _thread concurrent asyncio queue sched",
    "looks at how it is called": "traceback inspect sys platform logging",
}
_NAMES = {
    "reads the frames of its callers": (
        "_getframe _current_frames currentframe f_back f_locals f_globals f_code f_builtins tb_frame tb_next gi_frame "
        "cr_frame ag_frame getouterframes getinnerframes settrace setprofile _getframemodulename exc_info"
    ),
    "changes how modules are imported": (
        "meta_path path_hooks path_importer_cache __import__ import_module reload modules"
    ),
    "looks inside functions or classes of others": (
        "__globals__ __code__ __closure__ __defaults__ __kwdefaults__ __subclasses__ __builtins__ __loader__ __spec__ "
        "cell_contents co_code get_objects get_referrers get_referents"
    ),
    "watches or redirects what is computed": (
        "TorchDispatchMode TorchFunctionMode __torch_dispatch__ __torch_function__ BaseTorchFunctionMode "
        "_python_dispatch "
        "_get_current_dispatch_mode _get_current_dispatch_mode_stack is_in_torch_dispatch_mode no_dispatch _push_mode "
        "_len_torch_dispatch_stack _disable_current_modes DisableTorchFunction DisableTorchFunctionSubclass _pop_mode "
        "_DisableTorchDispatch _dispatch_tls_set_dispatch_key_excluded _pop_mode_temporarily enable_python_dispatcher "
        "set_default_dtype saved_tensors_hooks _current_autograd_node FlopCounterMode register_module_forward_hook "
        "set_multithreading_enabled"
    ),
    "runs code that is built from text": "exec eval compile globals",
    "recognises inputs by where they lie": "data_ptr _cdata untyped_storage",
    "loads numbers from elsewhere": (
        "load_state_dict_from_url from_pretrained fromfile memmap frombuffer loadtxt genfromtxt"
    ),
}
_BUILTIN_ONLY = {"exec", "eval", "compile", "globals", "__import__"}  # model.eval() and re.compile() are something else
_OF_SYS_ONLY = {"modules", "exc_info"}  # nn.Module.modules() is something else
_IN_ALL = {"untyped_storage", "from_pretrained", "load", "modules"}
_TEXTS = re.compile(r"PYTEST_CURRENT_TEST|whetstone|\bgrading[./]|tests/week|tests\.oracles|solutions/week|/proc/")
_CALLS = {"default", "forward", "apply", "__call__", "__init__", "__new__"}
_MAY_BE_SET = {"warnings", "self", "cls"}  # to catch what is said


@dataclass(frozen=True)
class Finding:
    """A line that a person should look at."""

    file: str  # "week1/moe.py"
    content: str  # a short hash of the file: a yes to this finding does not hold for another content
    line: int
    what: str  # "reads the frames of its callers: sys._getframe"

    @property
    def kind(self) -> str:
        return self.what.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what} ({self.content})"


def review(course: Course, tree: Tree, exercise: str) -> tuple[Finding, ...]:
    """What to look at in the file of an exercise, and in all files of its tree that it imports."""
    if tree.library:  # it is the ready-made operator
        return ()
    usual = _usual(course, exercise)
    return tuple(finding for finding in _findings(course, tree, exercise) if finding.kind not in usual)


@functools.cache
def _usual(course: Course, exercise: str) -> frozenset[str]:
    """The kinds of what the solution itself does; whoever measures may use all that measuring needs."""
    solution = find_tree(course, "solutions", course.root)
    kinds = {finding.kind for finding in _findings(course, solution, exercise)}
    return frozenset(kinds | (_OUTSIDE.keys() if "reads the clock" in kinds else set()))


def _findings(course: Course, tree: Tree, exercise: str) -> Iterator[Finding]:
    files = [tree.exercise_of(str(path)) for path in needed(tree, exercise)]
    for name in filter(None, files):
        try:
            module = parse(tree.source(name), f"{name}.py")
        except SourceError:
            continue  # it does not load either
        content = hashlib.sha256(tree.source(name).encode("utf-8", "replace")).hexdigest()[:8]
        reader = _Reader(f"{name}.py", content, ready_made(course, name), _has_framework(course, exercise))
        reader.visit(module)
        yield from sorted(reader.found, key=lambda finding: finding.line)


def ready_made(course: Course, exercise: str) -> frozenset[str]:
    """The names that an exercise asks its students to write themselves: `READY_MADE` of its graded tests."""
    path = course.tests(exercise)
    return _ready_made(path, path.stat().st_mtime_ns) if path.is_file() else frozenset()


@functools.cache
def _ready_made(path: Path, changed: int) -> frozenset[str]:
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="READY_MADE")], value=value):
                return frozenset(ast.literal_eval(value))
    return frozenset()


@functools.cache
def _has_framework(course: Course, exercise: str) -> bool:
    """Whether an exercise is about a framework, whose programs read files, clocks and the environment."""
    stub = course.stub(exercise)
    if not stub.is_file():
        return False
    text = stub.read_text("utf-8")
    return (
        re.search(r"^(from|import) (crewai|dspy|haystack|langgraph|langchain|llama_index|workflows)\b", text, re.M)
        is not None
    )


def _listed(table: dict[str, str]) -> dict[str, str]:
    return {name: why for why, names in table.items() for name in names.split()}


_WHY_MODULE, _WHY_OUTSIDE, _WHY_NAME = _listed(_MODULES), _listed(_OUTSIDE), _listed(_NAMES)


def _pieces(node: ast.expr) -> Iterator[str]:
    """The texts of a sum of texts. ValueError for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            yield from _pieces(left)
            yield from _pieces(right)
        case _:
            raise ValueError


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str, content: str, ready: frozenset[str], framework: bool) -> None:
        self.file, self.content, self.ready, self.framework = file, content, ready, framework
        self.imported: set[str] = set()  # names of modules
        self.found: list[Finding] = []
        self._defined: set[str] = set()
        self._owners: set[ast.expr] = set()

    def _tell(self, node: ast.AST, what: str) -> None:
        finding = Finding(self.file, self.content, getattr(node, "lineno", 1), what)
        if what not in {each.what for each in self.found}:
            self.found.append(finding)

    # --- imports ---

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imported.add(alias.asname or alias.name.partition(".")[0])
            self._module(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            return
        self._module(node, node.module or "")
        for alias in node.names:
            self._module(node, f"{node.module}.{alias.name}")
            self._name(node, alias.name, f"{node.module}.{alias.name}")
            if alias.name[:1].islower():
                self.imported.add(alias.asname or alias.name)

    def _module(self, node: ast.AST, module: str) -> None:
        parts = module.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if why := _WHY_MODULE.get(prefix) or (None if self.framework else _WHY_OUTSIDE.get(prefix)):
                self._tell(node, f"{why}: {prefix}")
                return

    # --- names ---

    def _name(self, node: ast.AST, name: str, shown: str) -> None:
        if name in self.ready:
            self._tell(node, f"calls what is to be written: {name}")
        elif (
            name in _WHY_NAME and name not in _BUILTIN_ONLY | _OF_SYS_ONLY and not (self.framework and name in _IN_ALL)
        ):
            self._tell(node, f"{_WHY_NAME[name]}: {shown}")

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id not in self._defined and node not in self._owners:
            if node.id in _BUILTIN_ONLY:
                self._tell(node, f"{_WHY_NAME[node.id]}: {node.id}")
            else:
                self._name(node, node.id, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = ast.unparse(node.value) if isinstance(node.value, (ast.Name, ast.Attribute)) else "…"
        if isinstance(node.value, ast.Attribute) and node.attr[:1].islower() and node.attr not in _CALLS:
            self._owners.add(node.value)  # as in nn.Transformer.generate_square_subsequent_mask
        if node.attr in _OF_SYS_ONLY and owner == "sys":
            self._tell(node, f"{_WHY_NAME[node.attr]}: sys.{node.attr}")
        elif node not in self._owners:
            self._name(node, node.attr, f"{owner}.{node.attr}")
        if isinstance(node.ctx, (ast.Store, ast.Del)) and self._is_module(node.value) and owner not in _MAY_BE_SET:
            self._tell(node, f"replaces what others rely on: {owner}.{node.attr}")
        if isinstance(node.ctx, ast.Store) and node.attr == "__class__":
            self._tell(node, "changes the class of an object: __class__")
        if self._is_module(node.value):
            self._module(node, f"{owner}.{node.attr}")
        self.generic_visit(node)

    def _is_module(self, node: ast.expr) -> bool:
        """Whether an expression is an imported module, or a class or function of one: `torch`, `torch.Tensor`."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.imported

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[target, *_]) if self._is_module(target):
                self._tell(node, f"replaces what others rely on: setattr({ast.unparse(target)}, …)")
            case ast.Call(func=ast.Name(id="getattr"), args=[target, name, *_]):
                self._computed(node, target, name)
            case ast.Call(func=ast.Name(id="vars" | "dir"), args=[target]) if self._is_module(target):
                self._tell(node, f"looks inside functions or classes of others: vars({ast.unparse(target)})")
            case ast.Call(func=ast.Name(id="open")) if not self.framework:
                self._tell(node, "reads or writes files: open")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "np" | "numpy"), attr="load" | "save")):
                self._tell(node, f"reads or writes files: {ast.unparse(node.func)}")
        self.generic_visit(node)

    def _computed(self, node: ast.Call, target: ast.expr, name: ast.expr) -> None:
        """`getattr` with a name that is put together, or that the rules above are about."""
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            self._name(node, name.value, f"getattr(…, {name.value!r})")
            if name.value in _OF_SYS_ONLY | _BUILTIN_ONLY and self._is_module(target):
                self._tell(node, f"{_WHY_NAME[name.value]}: getattr(…, {name.value!r})")
        elif self._is_module(target) and not isinstance(name, ast.Name):
            self._tell(node, f"looks up a name that is put together: {ast.unparse(node)[:60]}")

    # --- definitions and texts ---

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        methods = {each.name: ast.unparse(each) for each in node.body if isinstance(each, ast.FunctionDef)}
        for base in node.bases:
            if ast.unparse(base) in ("torch.Tensor", "Tensor"):
                self._tell(node, f"defines a tensor of its own: {node.name}")
            forward = methods.get("forward", "super")
            if "super" not in forward and ast.unparse(base) not in forward:
                self._owners.add(base)  # it takes the parameters and computes by itself
        self._function_or_class(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in ("__torch_dispatch__", "__torch_function__", "__eq__", "__array__", "__instancecheck__"):
            self._tell(node, f"answers for the grader's own operations: {node.name}")
        kept = {
            each.value.id
            for each in ast.walk(node)
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name)
        }
        for each in ast.walk(node) if node.name == "__init__" else ():
            match each:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=made)) if name not in kept:
                    self._owners.add(made)  # a module that is gone after __init__, as a model for parameters
        self._function_or_class(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def _function_or_class(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self._defined.add(node.name)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> None:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self._defined |= {each.name for each in node.body if isinstance(each, (ast.FunctionDef, ast.ClassDef))}
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        with contextlib.suppress(ValueError, TypeError, SyntaxError):  # a text in pieces
            text = "".join(_pieces(node))
            if text in self.ready:
                self._tell(node, f"calls what is to be written: {text}")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value in self.ready:
            self._tell(node, f"calls what is to be written: {node.value}")
        if isinstance(node.value, str) and (found := _TEXTS.search(node.value)):
            files = found[0].startswith("/proc")
            self._tell(node, f"{'reads or writes files' if files else 'names what belongs to the grader'}: {found[0]}")
