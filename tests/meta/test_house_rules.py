"""The rules of the house, as tests. An exception is named with its reason, and the lists only shrink."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "orchestrator"
FILES = sorted(SRC.rglob("*.py"))

LONG_FUNCTIONS: dict[str, str] = {}
BROAD_EXCEPTS = {
    "pipeline._attempt": "the boundary: whatever a provider raises becomes one of our errors",
    "pipeline._open": "closes the stream on the way out, and raises again",
    "stream.LiveStream.__anext__": "the boundary, for the pieces after the first",
    "stream.LiveStream._close": "nobody is left who could handle a failing close",
    "candidate.Candidate.close": "nobody is left who could handle a failing close",
    "dispatch.Dispatcher._in_order": "a strategy of the user's that raises must not cost the answer",
    "resilience.circuit.quietly": "calls what others wrote: a listener or a storage that raises changes nothing",
    "router.Router.complete": "ends the request's record, and raises again",
    "router.Router._events": "ends the request's record, and raises again",
    "router.Router._emit": "a listener that raises changes nothing",
    "strategies.compose.Shadow._compare": "a strategy on trial, and a listener of the user's, must not cost the answer",
    "sync.Router._run": "cancels what nobody waits for any more, and raises again",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{node.name}", node
            yield from functions(node, f"{prefix}.{node.name}")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}.{node.name}")
        else:
            yield from functions(node, prefix)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_file_is_longer_than_400_lines():
    assert [f"{p.name}: {n}" for p in FILES if (n := len(p.read_text().splitlines())) > 400] == []


def test_no_function_body_is_longer_than_40_lines():
    long = {name for module, tree in modules() for name, f in functions(tree, module) if body_lines(f) > 40}
    assert long == set(LONG_FUNCTIONS)


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id if isinstance(kind, ast.Name) else kind for kind in kinds}
    return not names.isdisjoint({None, "Exception", "BaseException"})


def test_exceptions_are_caught_broadly_only_where_the_list_says_why():
    broad = set()
    for module, tree in modules():
        for name, function in functions(tree, module):
            inner = {id(n) for _, f in functions(function, "") for n in ast.walk(f)}
            handlers = [n for n in ast.walk(function) if isinstance(n, ast.ExceptHandler) and id(n) not in inner]
            if any(is_broad(handler) for handler in handlers):
                broad.add(name)
    assert broad == set(BROAD_EXCEPTS)


def test_only_the_clock_module_knows_time_and_chance():
    forbidden = {"time", "random", "secrets"}
    offenders = []
    for module, tree in modules():
        if module == "core.clock":
            continue
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if forbidden & set(names) or called.endswith(("datetime.now", "datetime.utcnow", "date.today", "uuid4")):
                offenders.append(f"{module}:{node.lineno}")
    assert offenders == []


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__main__.py"], ids=lambda p: str(p.relative_to(SRC)))
def test_every_module_lists_its_exports_sorted_and_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says in a line or two what it is for"
    name = ".".join(("orchestrator", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
    body = [n for n in tree.body if not isinstance(n, ast.Expr)]
    if not body:
        return  # an empty package
    exported = importlib.import_module(name).__all__
    constants = [n for n in exported if n.isupper()]
    classes = [n for n in exported if n not in constants and n[:1].isupper()]
    rest = [n for n in exported if n not in constants and n not in classes]
    assert list(exported) == sorted(constants) + sorted(classes) + sorted(rest)
    for attribute in exported:
        assert hasattr(importlib.import_module(name), attribute)


def test_imports_go_down_only():
    found = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=SRC.parents[1], capture_output=True, text=True, check=False,
    )
    assert found.returncode == 0, found.stdout


def test_the_public_names_resolve():
    import orchestrator
    import orchestrator.providers

    for package in (orchestrator, orchestrator.providers):
        for name in package.__all__:
            assert getattr(package, name) is not None
