"""``record``: a dataclass with slots that is made four times as fast.

The standard library compiles up to six functions for each dataclass: with thirty classes, an eighth of all that
``import orchestrator`` did. Here only ``__init__`` is compiled; all classes share the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields

    def record(*, slots: bool, frozen: bool = False) -> Callable[[type], type]:
        """As ``dataclass(slots=True, frozen=...)``, but for methods of the class's own and default factories."""

        def make(cls: type) -> type:
            made = dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            made.__init__ = _init(made, fields(made), frozen=frozen)
            made.__repr__ = _repr
            made.__eq__ = _eq
            made.__hash__ = None
            if frozen:
                made.__dataclass_params__.frozen = True  # for who derives a dataclass from it
                made.__hash__ = _hash
                made.__setattr__ = made.__delattr__ = _refuse
                made.__getstate__, made.__setstate__ = _values, _set_values  # copy and pickle would assign
            return made

        return make

    def _init(cls: type, known: tuple[Field, ...], *, frozen: bool) -> Callable[..., None]:
        if any(field.default_factory is not MISSING for field in known):
            raise TypeError(f"{cls.__name__}: a record has no default factories; use dataclass")
        names = [field.name for field in known]
        line = "put(self, {0!r}, {0})" if frozen else "self.{0} = {0}"
        body = "; ".join(line.format(name) for name in names)
        scope = {"put": object.__setattr__}
        exec(f"def __init__(self, {', '.join(names)}): {body}", scope)  # noqa: S102  # names of fields, nothing else
        init = scope["__init__"]
        init.__defaults__ = tuple(field.default for field in known if field.default is not MISSING)
        init.__annotations__ = {field.name: field.type for field in known} | {"return": None}
        init.__module__, init.__qualname__ = cls.__module__, f"{cls.__qualname__}.__init__"
        return init

    def _values(self: object) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def _set_values(self: object, values: tuple[object, ...]) -> None:
        for name, value in zip(self.__match_args__, values, strict=True):
            object.__setattr__(self, name, value)

    def _repr(self: object) -> str:
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
        return f"{type(self).__qualname__}({shown})"

    def _eq(self: object, other: object) -> bool:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self: object) -> int:
        return hash(_values(self))

    def _refuse(self: object, name: str, *_value: object) -> None:
        raise FrozenInstanceError(f"{type(self).__name__} is frozen: its {name} cannot be changed")
