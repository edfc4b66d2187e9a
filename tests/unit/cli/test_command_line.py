"""The command itself: version, help, and what happens without the extra it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import orchestrator
from orchestrator import cli
from orchestrator.cli import _app
from orchestrator.cli._app import app


def test_the_version_is_the_packages():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"orchestrator {orchestrator.__version__}\n"


@pytest.mark.parametrize("command", ["ask", "demo", "providers"])
def test_help_names_the_commands_and_each_has_its_own(command):
    assert command in CliRunner().invoke(app, ["--help"]).stdout
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "typer" else object())
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "needs typer:" in said
    assert "pip install 'resilient-orchestrator[cli]'" in said


def test_main_runs_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["orchestrator", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("orchestrator ")


def test_python_m_is_the_same_command_and_loads_neither_http_nor_rich_before_it_must():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['orchestrator', '--version']\n"
        "try: runpy.run_module('orchestrator', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, {'httpx', 'rich.console', 'rich.live'} & set(sys.modules))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [f"orchestrator {orchestrator.__version__}", "0 set()"]


@pytest.mark.parametrize("there", [True, False])
def test_a_command_runs_on_uvloop_where_there_is_one(monkeypatch, there):
    made = []

    def new_event_loop():
        made.append(asyncio.new_event_loop())
        return made[-1]

    async def running():
        return asyncio.get_running_loop()

    monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=new_event_loop) if there else None)
    loop = _app._run(running())
    assert (loop in made) is there
    assert loop.is_closed()
