"""The list of a result's files and what it finds out."""

import json

import pytest

from vibfx.errors import ModelFileError
from vibfx.model_files.manifest import MANIFEST, check_manifest, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.bin").write_bytes(b"\x00\x01")
    write_manifest(tmp_path, ["a.json", "b.bin"], versions={"vibfx": "1"}, command="vibfx x")
    return tmp_path


def test_it_says_what_there_is(folder):
    found = json.loads((folder / MANIFEST).read_text())
    assert found["format"] == 1
    assert found["command"] == "vibfx x"
    assert found["versions"] == {"vibfx": "1"}
    assert found["files"]["b.bin"] == {
        "bytes": 2,
        "sha256": "b413f47d13ee2fe6c845b2ee141af81de858df4ec549a58b7970bb96645bc8d2",
    }
    check_manifest(folder, ["a.json", "b.bin"])


def test_a_changed_file_is_found_whoever_needs_it(folder):
    (folder / "b.bin").write_bytes(b"\x00\x02")
    with pytest.raises(ModelFileError, match="not the one that was written") as error:
        check_manifest(folder, ["a.json"])
    assert error.value.where.endswith("b.bin")


def test_what_nobody_needs_may_be_taken_away(folder):
    (folder / "b.bin").unlink()
    check_manifest(folder, ["a.json"])
    with pytest.raises(ModelFileError, match=r"lacks b\.bin"):
        check_manifest(folder, ["b.bin"])


def test_what_is_not_listed_is_not_there(folder):
    (folder / "c.txt").write_text("mine")
    check_manifest(folder, ["a.json"])
    with pytest.raises(ModelFileError, match=r"lacks c\.txt"):
        check_manifest(folder, ["c.txt"])


def test_without_a_list_it_is_no_result(tmp_path):
    with pytest.raises(ModelFileError, match="cannot be read") as error:
        check_manifest(tmp_path, [])
    assert "folder that vibfx wrote" in error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", '{"format": 1}', '{"format": 1, "files": []}', "[" * 100_000),
        *('{"format": 1, "files": {"../x": {}}}', '{"format": 1, "files": {"/etc/passwd": {}}}'),
    ],
)
def test_what_is_no_list_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ModelFileError, match="damaged"):
        check_manifest(folder, [])


def test_a_later_format_is_refused(folder):
    (folder / MANIFEST).write_text('{"format": 2, "files": {}}')
    with pytest.raises(ModelFileError, match="has format 2; this version of vibfx reads 1"):
        check_manifest(folder, [])
