"""The vocabulary of the library: types, errors, events, settings, clock. Does no I/O and knows no other layer.

``core.config`` is loaded when it is first used, and pydantic with it, which takes longer than all the rest. So a module
that needs its classes for more than annotations writes ``core.config.RetryPolicy``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.lazy import lazy

if TYPE_CHECKING:
    from orchestrator.core import config
else:
    __getattr__, __dir__ = lazy(__name__, {"config": "orchestrator.core.config"})

__all__ = ["config"]
