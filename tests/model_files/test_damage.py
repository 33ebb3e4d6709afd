"""Files that are damaged at random, of every format: refused, or read as far as can be told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ("module", "state-dict", "unchecked", "legacy", "safetensors", "program")
TESTS = Path(__file__).parents[1]


def outcomes(count: int, *formats: str) -> dict[str, dict[str, int]]:
    """What came of so many damaged files a format; a crash is an error with its traceback."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", TESTS / "model_file_fuzz.py", str(count), *formats],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return {row.pop("format"): row for row in rows}


def check(found: dict[str, dict[str, int]], count: int) -> None:
    for row in found.values():
        assert sum(row.values()) == count
        assert row["refused"] > 0.3 * count
        assert row["read"] > 0


def test_some_damaged_files_of_every_format() -> None:
    found = outcomes(60)
    assert tuple(found) == FORMATS
    check(found, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name: str) -> None:
    check(outcomes(2000, name), 2000)
