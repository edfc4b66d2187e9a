"""The small changes that ``benchmarks/mutation.py`` makes to a source file, one at a time, on its syntax tree.

Left alone: docstrings, annotations (overloads and the types of casts too), texts for people (a blank in them, or part
of an f-string), ``__slots__`` and ``__all__``, imports, decorators.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

ORDER = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)}
SAMENESS = {ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
            ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
COMPARISONS = ORDER | SAMENESS
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
              ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr}
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
OPERATORS = ast.operator | ast.cmpop | ast.boolop | ast.unaryop | ast.expr_context
BLOCKS = {"body", "orelse", "finalbody", "handlers"}


@dataclass
class Mutant:
    """One change: where it is, what its statement becomes, the whole file with it, its lines, and those of which a test
    must execute one to notice it: of the function around it (none: any line of the file).
    """

    inside: str
    line: int
    source: str
    becomes: str
    code: CodeType
    lines: frozenset[int]
    scope: frozenset[int]

    @property
    def key(self) -> tuple[str, str]:
        return self.inside, self.becomes


def mutants(text: str, filename: str) -> Iterator[Mutant]:
    """Every mutant of a source file, in the order of its lines."""
    tree = ast.parse(text)
    plain = compile(tree, filename, "exec", dont_inherit=True)
    rows = text.splitlines()
    for place in places(tree):
        for new in replacements(place.node, place):
            ast.fix_missing_locations(ast.copy_location(new, place.node))
            place.put(new)
            code = compile(tree, filename, "exec", dont_inherit=True)
            becomes = f"[removed] {place.header}" if isinstance(new, ast.Pass) else header(place.statement, new)
            place.put(place.node)
            if code != plain:
                line = place.statement.lineno
                yield Mutant(place.inside, line, rows[line - 1].strip(), becomes, code, place.lines, place.scope)


@dataclass
class Place:
    """A node that may be replaced, and all that is needed to do so."""

    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    statement: ast.stmt
    inside: str
    lines: frozenset[int]
    scope: frozenset[int]
    condition: bool
    text: bool  # a string here is not for people only

    @property
    def header(self) -> str:
        return header(self.statement, self.statement)

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def header(statement: ast.stmt, new: ast.AST) -> str:
    """A statement in one line, without its block."""
    shown = new if isinstance(new, ast.stmt | ast.ExceptHandler) else statement
    if isinstance(shown, ast.ExceptHandler):
        return f"except {ast.unparse(shown.type) if shown.type else ''}: raise"
    shown = copy.copy(shown)
    for block in BLOCKS & set(shown._fields):
        setattr(shown, block, [ast.Pass()] if block == "body" else [])
    if isinstance(shown, ast.Try):
        return "try"
    return " ".join(ast.unparse(shown).removesuffix("pass").strip().removesuffix(":").split())


def places(tree: ast.Module) -> Iterator[Place]:
    yield from walk(tree, None, "", frozenset(), frozenset())


def walk(
    parent: ast.AST, statement: ast.stmt | None, inside: str, lines: frozenset[int], scope: frozenset[int]
) -> Iterator[Place]:
    for field, value in ast.iter_fields(parent):
        if field in {"annotation", "returns", "decorator_list", "type_comment"}:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or skipped(node) or is_cast_type(parent, field, index):
                continue
            at, name, own, around = statement, inside, lines, scope
            if isinstance(node, ast.stmt):
                at, own = node, frozenset(range(node.lineno, last_line(node) + 1))
            if isinstance(node, ast.ExceptHandler):
                own = frozenset(range(node.lineno, node.end_lineno + 1))
            if isinstance(node, FUNCTIONS | ast.ClassDef):
                name = f"{inside}.{node.name}" if inside else node.name
            if isinstance(node, FUNCTIONS):  # its defaults are executed at import, and felt in the body
                around = frozenset(range(node.body[0].lineno, node.end_lineno + 1))
            if at is not None:
                condition = field in {"test", "ifs"} or isinstance(parent, ast.BoolOp)
                text = not isinstance(parent, ast.JoinedStr)
                yield Place(node, parent, field, index, at, name, own, around, condition, text)
            yield from walk(node, at, name, own, around)


def is_cast_type(parent: ast.AST, field: str, index: int | None) -> bool:
    """The first argument of ``cast``: an annotation."""
    return isinstance(parent, ast.Call) and ast.unparse(parent.func) == "cast" and (field, index) == ("args", 0)


def is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def last_line(node: ast.stmt) -> int:
    body = getattr(node, "body", None)
    if isinstance(node, FUNCTIONS | ast.ClassDef) and body:
        return node.end_lineno
    return max(node.lineno, body[0].lineno - 1) if body else node.end_lineno


def skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | OPERATORS):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, FUNCTIONS) and any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        target, value = node.targets[0].id, node.value
        made_of = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        return target.startswith("__") or made_of in {"TypeVar", "ParamSpec"}
    return False


def replacements(node: ast.AST, place: Place) -> Iterator[ast.AST]:
    """What this node may become."""
    if place.condition:
        yield from negated(node)
    if isinstance(node, ast.stmt):
        yield from statements(node)
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield ast.Compare(node.left, [*node.ops[:index], other(), *node.ops[index + 1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp):
        if not (place.condition and is_not(node)):
            yield node.operand
    elif isinstance(node, ast.Constant):
        yield from constants(node, place)
    elif isinstance(node, ast.Call):
        yield from calls(node)
    elif isinstance(node, ast.ExceptHandler) and not isinstance(node.body[0], ast.Raise):
        yield ast.ExceptHandler(node.type, node.name, [ast.Raise()])


def negated(node: ast.AST) -> Iterator[ast.AST]:
    if is_not(node):
        yield node.operand
    elif not isinstance(node, ast.Compare | ast.BoolOp | ast.Constant):
        yield ast.UnaryOp(ast.Not(), node)


def statements(node: ast.stmt) -> Iterator[ast.AST]:
    """Remove it, where that is not a certain NameError; or go the other way."""
    if isinstance(node, ast.Expr | ast.Raise | ast.Delete | ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets):
            yield ast.Pass()
    elif isinstance(node, ast.Return):
        if node.value is None:
            yield ast.Pass()
        elif not (isinstance(node.value, ast.Constant) and node.value.value in {None, False}):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)


def constants(node: ast.Constant, place: Place) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)
        yield ast.Constant(value / 2 if value else -1.0)
    elif isinstance(value, str) and value and " " not in value and place.text:
        yield ast.Constant(value + "X")


def calls(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Name) and node.func.id in OPPOSITES:
        yield ast.Call(ast.Name(OPPOSITES[node.func.id], ast.Load()), node.args, node.keywords)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield ast.Call(node.func, node.args, [*node.keywords[:index], *node.keywords[index + 1:]])
