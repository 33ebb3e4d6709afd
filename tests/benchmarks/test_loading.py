"""What reading costs is measured on files of every format that hold the same network."""

from pathlib import Path

import loading
import pytest
import torch


def test_every_format_is_read_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "WIDTH", 8)
    files = loading.write(tmp_path, 2)
    x = torch.ones(2, 8)
    readers, screens = loading.readers(files, 2), loading.Stopwatch({loading: ["screened"]})
    assert readers.keys() == files.keys()
    expected = readers["module.pt"]()(x)
    for name, bare in readers.items():
        assert torch.equal(bare()(x), expected)
        assert torch.equal(loading.screened(files[name], 2)(x), expected)
        alone, ours, within = loading.compare(bare, files[name], 2, rounds=1, screens=screens)
        assert min(alone, within) > 0.0
        assert within <= ours
