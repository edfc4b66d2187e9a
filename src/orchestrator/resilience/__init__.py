"""Guards of a call: breaker, limits, deadline, retry; each usable alone, none knows another provider.

``resilience.breaker`` is loaded when the first one is made, and aiobreaker with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.lazy import lazy

if TYPE_CHECKING:
    from orchestrator.resilience import breaker
else:
    __getattr__, __dir__ = lazy(__name__, {"breaker": "orchestrator.resilience.breaker"})

__all__ = ["breaker"]
