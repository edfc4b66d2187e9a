"""A record behaves as the standard library's dataclass of the same fields."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, astuple, dataclass, field, fields, replace

import pytest

from orchestrator import Attempt, Completion, Message, ProviderSnapshot, Quota, TextDelta, ToolCall, Usage
from orchestrator.core.events import ProviderPaused
from orchestrator.core.record import record


def declare(decorator, **options):
    @decorator(slots=True, **options)
    class Point:
        """A point."""

        x: float
        y: float = 0.0
        secret: str | None = field(default="s", repr=False)

    return Point


@pytest.fixture(params=[False, True], ids=["open", "frozen"])
def frozen(request):
    return request.param


@pytest.fixture
def both(frozen):
    return declare(record, frozen=frozen), declare(dataclass, frozen=frozen)


def test_what_can_be_seen_is_the_same(both):
    ours, theirs = both
    for told in (
        lambda cls: repr(cls(1)), lambda cls: str(inspect.signature(cls)), lambda cls: cls.__doc__,
        lambda cls: cls.__slots__, lambda cls: cls.__match_args__, lambda cls: asdict(cls(1, secret="t")),
        lambda cls: astuple(cls(1, 2)), lambda cls: [f.name for f in fields(cls)],
        lambda cls: repr(replace(cls(1), y=3)), lambda cls: cls.__init__.__annotations__,
        lambda cls: cls.__init__.__qualname__, lambda cls: cls.__init__.__module__,
        lambda cls: cls.__dataclass_params__.frozen,
    ):
        assert told(ours) == told(theirs)


def test_equal_are_those_of_one_class_with_equal_fields(both):
    ours, theirs = both
    assert ours(1, 2) == ours(1, 2) != ours(1, 3)
    assert ours(1) != theirs(1)
    assert ours(1) != (1, 0.0, "s")
    nan = float("nan")
    assert ours(nan) == ours(nan)


def test_a_field_without_a_default_must_be_given_and_an_unknown_one_is_refused(both):
    for cls in both:
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
            cls()
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            cls(1, z=2)


def test_a_frozen_one_can_be_hashed_and_not_changed():
    for cls in (declare(record, frozen=True), declare(dataclass, frozen=True)):
        point = cls(1, 2)
        assert hash(point) == hash(cls(1, 2))
        with pytest.raises(FrozenInstanceError):
            point.x = 2
        with pytest.raises(FrozenInstanceError):
            del point.x
        assert point == cls(1, 2)


def test_an_open_one_can_be_changed_and_not_hashed():
    for cls in (declare(record), declare(dataclass)):
        point = cls(1)
        point.x = 2
        assert point == cls(2)
        with pytest.raises(TypeError, match="unhashable"):
            hash(point)
        with pytest.raises(AttributeError):
            point.z = 1


@pytest.mark.parametrize("made", [
    Message("user", "Hi", (ToolCall("1", "f", "{}"),)), ProviderPaused(1.0, "a", 2.0), TextDelta("x"),
    Completion("text", usage=Usage(1, 2), attempts=(Attempt("a", None, 1, 0.0),)), Quota(3, 4, 5.0),
], ids=lambda made: type(made).__name__)
def test_copies_and_pickles_are_equal(made):
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == replace(made) == made


def test_a_dataclass_may_be_derived_from_a_frozen_one():
    @dataclass(frozen=True, slots=True)
    class Tagged(Quota):
        tag: str = ""

    tagged = Tagged(1, tag="t")
    assert (tagged.remaining, tagged.tag) == (1, "t")
    assert tagged == replace(Tagged(2, tag="t"), remaining=1)
    with pytest.raises(FrozenInstanceError):
        tagged.remaining = 2


def test_its_fields_can_be_matched():
    match ProviderPaused(1.0, "a", 2.0):
        case ProviderPaused(at, "a", delay=2.0):
            assert at == 1.0
        case _:
            pytest.fail("did not match")


def test_the_snapshot_shows_all_its_fields():
    names = [f.name for f in fields(ProviderSnapshot)]
    shown = repr(ProviderSnapshot(*range(len(names))))
    assert shown == f"ProviderSnapshot({', '.join(f'{name}={number}' for number, name in enumerate(names))})"


def test_a_default_factory_is_refused():
    with pytest.raises(TypeError, match="Holder: a record has no default factories; use dataclass"):
        @record(slots=True)
        class Holder:
            items: list[int] = field(default_factory=list)
