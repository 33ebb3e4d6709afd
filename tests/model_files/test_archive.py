"""What an archive must be like before torch gets to see it."""

import zipfile
from pathlib import Path

import pytest
import torch
from model_file_helpers import MINIMUM, lenet, records_of, refused, saved

from vibfx.errors import ModelFileError
from vibfx.model_files.archive import Archive


def rewritten(path: Path, records: list[tuple[str, bytes]], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:  # type: ignore[call-overload]
        for name, content in records:
            file.writestr(name, content)
    return path


def records(path: Path) -> list[tuple[str, bytes]]:
    return [(f"archive/{name}", content) for name, content in records_of(path).items()]


def test_an_archive_tells_its_sizes_and_contents(tmp_path: Path) -> None:
    path = saved({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with path.open("rb") as file:
        archive = Archive.of(file)
        archive.check()
        assert archive.sizes["data/0"] == 12
        assert archive.read("byteorder") == MINIMUM["byteorder"]
        with archive.checksums():
            pass
        with pytest.raises(ModelFileError, match="it has no record data/1"):
            archive.read("data/1")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.pkl"])
def test_two_records_of_one_name(name: str, tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    what = refused(rewritten(path, [*records(path), (name, b"\x80\x02N.")])).what
    assert "two records have one name" in what


def test_records_elsewhere_are_seen_by_both_readers_or_refused(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    assert "zip archive" in refused(rewritten(path, [*records(path), ("other/x", b"1")])).what


def test_a_compressed_archive(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    what = refused(rewritten(path, records(path), compression=zipfile.ZIP_DEFLATED)).what
    assert "records are larger than the file" in what or "is compressed or encrypted" in what


def test_two_tables_of_contents(tmp_path: Path) -> None:
    # An archive behind an archive: which one is read is up to the reader.
    first = rewritten(tmp_path / "first.pt", [("archive/data.pkl", b"\x80\x02N.")]).read_bytes()
    path = saved(lenet(), tmp_path / "model.pt")
    path.write_bytes(first + path.read_bytes())
    refused(path)


def test_a_checksum_speaks_before_any_other_error(tmp_path: Path) -> None:
    path = saved({"weight": torch.ones(3)}, tmp_path / "model.pt")
    path.write_bytes(path.read_bytes().replace(b"_rebuild_tensor", b"_rebuild_zebras"))
    assert "does not match its checksum" in refused(path).what


def test_more_numbers_than_a_record_has(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    changed = [(n, x[:-4] if n.endswith("data/0") else x) for n, x in records(path)]
    what = refused(rewritten(path, changed)).what
    assert "asks for 400 bytes that its record data/0 does not have" in what
