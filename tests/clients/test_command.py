"""The `maskline` command."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

from clients.__main__ import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert {"serve", "build", "train", "evaluate", "diff", "predict", "batch", "loadtest"} <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["--fast"]])
def test_what_is_no_command_is_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: maskline COMMAND" in capsys.readouterr().err


def test_arguments_and_status_pass_through(monkeypatch: pytest.MonkeyPatch):
    called: dict[str, Any] = {}

    def run(arguments: list[str]) -> int:
        called.update(arguments=arguments, program=sys.argv[0])
        return 3

    stand_in = types.ModuleType("export.train")
    vars(stand_in)["main"] = run
    monkeypatch.setitem(sys.modules, "export.train", stand_in)
    monkeypatch.setattr(sys, "argv", ["maskline"])
    assert main(["train", "--data", "shapes", "--help"]) == 3
    assert called == {"arguments": ["--data", "shapes", "--help"], "program": "maskline train"}


def _failing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def run(arguments: list[str]) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    stand_in = types.ModuleType("export.train")
    vars(stand_in)["main"] = run
    monkeypatch.setitem(sys.modules, "export.train", stand_in)
    monkeypatch.setattr(sys, "argv", ["maskline"])


def test_a_missing_extra_is_one_sentence_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _failing(monkeypatch, "torch.nn")
    assert main(["train"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "maskline train needs torch" in text
    assert "pip install -e '.[export,cpu]'" in text


def test_a_module_of_ours_that_is_missing_is_a_mistake_and_shown(monkeypatch: pytest.MonkeyPatch):
    _failing(monkeypatch, "export.trainer")
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


def _without(modules: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command where these modules are not installed."""
    code = f"""
import sys
for name in {modules}:
    sys.modules[name] = None
from clients.__main__ import main
sys.exit(main({arguments}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["predict", "batch", "diff", "loadtest", "samples"])
def test_each_command_of_the_client_explains_itself_without_its_libraries(name: str):
    result = _without(["httpx2", "aiohttp", "rich", "numpy", "PIL"], [name, "--help"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: maskline {name}")


@pytest.mark.parametrize("arguments", [["predict", __file__], ["loadtest", "http://127.0.0.1:1", __file__]])
def test_each_command_of_the_client_says_which_extra_is_missing(arguments: list[str]):
    result = _without(["httpx2", "aiohttp", "rich"], arguments)
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1, result.stderr
    assert "pip install -e '.[client]'" in result.stderr


def test_every_command_names_a_module_of_the_project():
    assert {command.module.split(".")[0] for command in COMMANDS.values()} == {"server", "clients", "export"}
