"""The error tree: what each class says, and that docs/errors.md says the same."""

from __future__ import annotations

import asyncio
import builtins
import copy
import pickle
import re
import textwrap
from pathlib import Path

import pytest

import orchestrator
import orchestrator.errors
from orchestrator.core import errors
from orchestrator.core.errors import (
    AllProvidersFailedError,
    AuthenticationError,
    CapacityError,
    CircuitOpenError,
    ConnectionFailedError,
    ContentFilteredError,
    InvalidRequestError,
    NoProvidersError,
    OrchestratorError,
    ProviderError,
    RateLimitError,
    RouterClosedError,
    ServerError,
    StreamInterruptedError,
    TimeoutError,
    Verdict,
)
from orchestrator.core.types import Attempt, Usage

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"
CLASSES = [getattr(errors, name) for name in errors.__all__ if issubclass(getattr(errors, name), OrchestratorError)]
LEAVES = [cls for cls in CLASSES if cls is not AllProvidersFailedError]
FIELDS = {
    "provider": "giga", "model": "g-1", "status_code": 418, "code": "teapot", "request_id": "r-1", "retry_after": 2.5,
}


# The page


def row_of(cls):
    return (cls.fault.value, cls.retry.value, "yes" if cls.failover else "no", cls.verdict.value)


def test_the_table_of_the_page_is_what_the_classes_say():
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (\w+) \| (\w+) \| (yes|no) \| (\w+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name: tuple(cells) for name, *cells in rows} == {cls.__name__: row_of(cls) for cls in CLASSES}
    assert len(rows) == len(CLASSES)


def test_the_tree_of_the_page_is_the_one_in_the_module():
    tree = textwrap.dedent(errors.__doc__.partition("::\n\n")[2].partition("\n\nA class says")[0])
    assert tree in PAGE.read_text()


def test_the_drawn_tree_is_the_real_one():
    drawn = errors.__doc__.partition("::\n\n")[2].partition("\n\nA class says")[0].splitlines()
    above: list[type] = []
    seen = []
    for line in drawn:
        name = re.search(r"\w+Error", line)[0]
        depth = (line.index(name) - 4) // 4
        cls = getattr(errors, name)
        assert depth == 0 or issubclass(cls, above[depth - 1])
        assert depth == 0 or above[depth - 1] in cls.__bases__
        del above[depth:]
        above.append(cls)
        seen.append(cls)
    assert set(seen) == set(CLASSES)


def test_the_page_explains_every_word_of_its_table():
    text = PAGE.read_text()
    for word in {cell for cls in CLASSES for cell in row_of(cls)} - {"yes", "no"}:
        assert f"`{word}`" in text


# The names


def test_every_class_of_the_module_is_exported_under_its_public_name():
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and v.__module__ == errors.__name__}
    assert set(errors.__all__) == defined
    assert orchestrator.errors.__all__ == errors.__all__
    for name in errors.__all__:
        assert getattr(orchestrator.errors, name) is getattr(errors, name)


def test_every_error_is_at_the_top_of_the_package_too():
    for cls in CLASSES:
        assert getattr(orchestrator, cls.__name__) is cls


def test_the_builtin_names_are_honoured():
    assert issubclass(TimeoutError, builtins.TimeoutError)
    assert issubclass(TimeoutError, asyncio.TimeoutError)
    assert issubclass(ConnectionFailedError, builtins.ConnectionError)
    assert issubclass(NoProvidersError, LookupError)
    assert issubclass(RouterClosedError, RuntimeError)
    assert issubclass(AllProvidersFailedError, ExceptionGroup)


# One error


def example(cls):
    if cls is AllProvidersFailedError:
        return cls("2 attempts failed", [ServerError("down", **FIELDS), RateLimitError("busy")], retry_after=2.5)
    return cls("the text", **FIELDS)


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_error_carries_its_fields(cls):
    record = Attempt("giga", "g-1", 1, 0.0)
    error = cls("the text", **FIELDS, attempts=[record])
    assert {name: getattr(error, name) for name in FIELDS} == FIELDS
    assert error.attempts == (record,)
    assert error.message == "the text"
    assert str(error) == "giga: the text (HTTP 418, teapot, retry after 2.5 s, request r-1)"


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_error_needs_nothing(cls):
    error = cls()
    assert [getattr(error, name) for name in FIELDS] == [None] * len(FIELDS)
    assert error.attempts == ()
    assert str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ServerError(), "ServerError"),
        (ServerError("down"), "down"),
        (ServerError(status_code=503), "ServerError (HTTP 503)"),
        (ServerError("down", provider="a"), "a: down"),
        (RateLimitError("busy", retry_after=0.0), "busy (retry after 0 s)"),
        (TimeoutError(), "attempt timeout"),
        (TimeoutError(phase="idle"), "idle timeout"),
        (TimeoutError("too late", phase="idle"), "too late"),
        (StreamInterruptedError(), "stream interrupted"),
    ],
)
def test_the_text_says_what_is_known(error, text):
    assert str(error) == text


def test_some_errors_know_more():
    assert TimeoutError(phase="first_token").phase == "first_token"
    assert TimeoutError().phase == "attempt"
    broken = StreamInterruptedError(partial="Once upon", usage=Usage(3, 2), provider="a")
    assert (broken.partial, broken.usage, broken.provider) == ("Once upon", Usage(3, 2), "a")
    assert StreamInterruptedError().partial == ""
    assert StreamInterruptedError().usage is None
    assert ContentFilteredError().partial == ""


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_unknown_field_is_refused(cls):
    with pytest.raises(TypeError, match="colour"):
        cls("x", colour="red")


def test_one_error_may_be_judged_otherwise_than_its_class():
    hurried = TimeoutError()
    hurried.verdict = Verdict.NEUTRAL
    assert hurried.verdict is Verdict.NEUTRAL
    assert TimeoutError().verdict is Verdict.FAILURE


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("twin", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_an_error_survives_copying_and_pickling(cls, twin):
    error = example(cls)
    same = twin(error)
    assert type(same) is cls
    assert str(same) == str(error)
    assert same.message == error.message
    assert {name: getattr(same, name) for name in FIELDS} == {name: getattr(error, name) for name in FIELDS}


def test_what_only_some_errors_know_survives_pickling():
    late, broken = TimeoutError("late", phase="idle"), StreamInterruptedError(partial="Once", usage=Usage(1, 2))
    late.verdict = Verdict.NEUTRAL
    late, broken = pickle.loads(pickle.dumps((late, broken)))
    assert (late.phase, late.verdict) == ("idle", Verdict.NEUTRAL)
    assert (broken.partial, broken.usage) == ("Once", Usage(1, 2))


def test_an_error_whose_attempts_hold_itself_survives_pickling():
    error = ServerError("down", provider="a")
    record = Attempt("a", None, 1, 0.0, error=error)
    error.attempts = (record,)
    group = AllProvidersFailedError("failed", [error, RateLimitError("busy")], attempts=[record])
    same = pickle.loads(pickle.dumps(group))
    assert same.attempts[0].error is same.exceptions[0]
    assert same.exceptions[0].attempts[0].error is same.exceptions[0]


KEY = "sk-abcdefghijklmnop0123456789"


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_what_caused_an_error_is_not_part_of_its_text(cls):
    """A key in a foreign exception (a URL, a header) stays in ``__cause__``."""
    with pytest.raises(cls) as caught:
        raise cls("refused", **FIELDS) from ValueError(f"Authorization: Bearer {KEY}")
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_partial_answer_is_not_part_of_the_text():
    assert "secret" not in str(StreamInterruptedError(partial="a secret answer"))
    assert "secret" not in repr(StreamInterruptedError(partial="a secret answer"))


# The group


@pytest.fixture
def group():
    members = [ServerError("down", provider="a"), AuthenticationError("key", provider="b"), RateLimitError("busy")]
    records = [Attempt("a", None, 1, 0.0, error=members[0])]
    return AllProvidersFailedError("3 attempts failed", members, retry_after=7.0, attempts=records)


def test_a_group_tells_all(group):
    assert [type(error) for error in group.exceptions] == [ServerError, AuthenticationError, RateLimitError]
    assert group.retry_after == 7.0
    assert group.attempts[0].provider == "a"
    assert group.message == "3 attempts failed"
    assert str(group) == (
        "3 attempts failed: ServerError a: down; AuthenticationError b: key; RateLimitError busy"
    )


def test_a_group_can_be_caught_whole(group):
    with pytest.raises(OrchestratorError):
        raise group


def test_a_group_can_be_taken_apart(group):
    caught = []
    try:
        raise group
    except* RateLimitError as limited:
        caught.append(limited)
    except* ProviderError as rest:
        caught.append(rest)
    assert [[type(error) for error in part.exceptions] for part in caught] == [
        [RateLimitError], [ServerError, AuthenticationError]
    ]
    for part in caught:
        assert isinstance(part, AllProvidersFailedError)
        assert part.retry_after == 7.0
        assert part.attempts == group.attempts


def test_a_group_can_be_split(group):
    hit, rest = group.split(AuthenticationError)
    assert [type(error) for error in hit.exceptions] == [AuthenticationError]
    assert len(rest.exceptions) == 2
    assert group.subgroup(CircuitOpenError) is None


def test_a_group_may_hold_errors_of_any_kind_of_ours():
    mixed = AllProvidersFailedError("2 attempts failed", [CircuitOpenError("open"), CapacityError("full")])
    assert mixed.provider is None
    assert mixed.status_code is None


def test_a_group_of_nothing_is_refused():
    with pytest.raises(ValueError, match="non-empty"):
        AllProvidersFailedError("0 attempts failed", [])


# What the reactions rest on


def test_only_the_caller_is_blamed_for_the_callers_fault():
    for cls in CLASSES:
        if cls.fault is errors.Fault.CALLER:
            assert issubclass(cls, InvalidRequestError)
            assert cls.verdict is Verdict.NEUTRAL
            assert cls.retry is errors.Retry.NO


def test_whoever_is_to_blame_is_told_to_the_breaker():
    for cls in CLASSES:
        if cls.fault is errors.Fault.PROVIDER:
            assert cls.verdict is (Verdict.OVERLOADED if cls is errors.OverloadedError else Verdict.FAILURE)
