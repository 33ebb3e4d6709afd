"""The command line in this process."""

import sys

import pytest

from vibfx import cli


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Runs ``vibfx`` with arguments: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vibfx", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
