"""Names of a module that are loaded when they are first asked for, so that an import costs what is used of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["lazy"]


def lazy(module: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` (PEP 562) of ``module``, for the names that ``homes`` says the module of.

    A name whose home is the submodule of that name is the submodule itself. After its first use a name is an attribute
    as any other. Type checkers need the same names imported under ``if TYPE_CHECKING``.
    """

    def get(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found = import_module(home)
        value: object = found if home == f"{module}.{name}" else getattr(found, name)
        setattr(sys.modules[module], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *homes})

    return get, names
