"""The command ``orchestrator``; what it needs beyond the library is the extra ``cli``, and is imported on use."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec

__all__ = ["main"]

_NEEDS = ("typer", "rich", "h11")


def main() -> None:
    """Run the command line; without the extra, say how to get it and exit with 1."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"The command line needs {' and '.join(missing)}: not installed here. "
            "Run: pip install 'resilient-orchestrator[cli]'\n"
        )
        raise SystemExit(1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding has not
    from orchestrator.cli._app import app

    app()
