"""The command line, called in this process."""

import sys
from pathlib import Path

import pytest

from frugan import cli


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process, in an empty folder; gives (exit status, what was printed)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))

    def calling(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["frugan", *words])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return calling
