"""Which weights are found in a file, and that they fit a network as a whole or not at all."""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from model_file_helpers import Reduced, lenet, refused, saved
from safetensors.torch import save_file
from torch import Tensor, nn

from vibfx.model_files import load_model

ARCH = "networks_of_a_test:make"


@pytest.fixture(autouse=True)
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in the current folder that builds LeNets, each with weights of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks_of_a_test.py").write_text(
        "from model_file_helpers import lenet\n\ndef make(classes=10):\n    return lenet(classes)\n"
    )
    yield
    sys.modules.pop("networks_of_a_test", None)


def holds(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[k], weights[k]) for k in own)


def prefixed(prefix: str) -> Any:
    weights = lenet().state_dict()
    renamed = OrderedDict((prefix + name, value) for name, value in weights.items())
    names = {(prefix + name).rstrip(".") for name in weights._metadata}
    renamed._metadata = {"": {"version": 1}, **{name: {"version": 1} for name in names}}  # type: ignore[attr-defined]
    return renamed


# --- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [None, "state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "legacy"])
def test_weights_in_a_checkpoint(entry: str | None, is_new: bool, tmp_path: Path) -> None:
    weights = lenet().train().state_dict()
    value = weights if entry is None else {"epoch": 3, entry: weights, "best": 0.5}
    torch.save(value, tmp_path / "model.th", _use_new_zipfile_serialization=is_new)
    loaded = load_model(tmp_path / "model.th", arch=ARCH)
    assert holds(loaded, weights)
    assert not loaded.training


def test_weights_in_safetensors(tmp_path: Path) -> None:
    weights = lenet().state_dict()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert holds(load_model(tmp_path / "model.safetensors", arch=ARCH), weights)
    # By what it is, too, whatever it is called.
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    assert holds(load_model(tmp_path / "model.bin", arch=ARCH), weights)


def test_averaged_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    plain, averaged = lenet().state_dict(), lenet().state_dict()
    path = saved({"model_ema": averaged}, tmp_path / "model.pt")
    assert holds(load_model(path, arch=ARCH), averaged)
    path = saved({"model_ema": averaged, "model": plain}, tmp_path / "model.pt")
    assert holds(load_model(path, arch=ARCH), plain)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_what_wrappers_put_before_the_names_is_taken_off(prefix: str, tmp_path: Path) -> None:
    weights = prefixed(prefix)
    loaded = load_model(saved(weights, tmp_path / "model.pt"), arch=ARCH)
    assert holds(loaded, {name.removeprefix(prefix): x for name, x in weights.items()})


def test_a_network_whose_names_begin_like_that(tmp_path: Path) -> None:
    (tmp_path / "networks_of_a_test.py").write_text(
        "from torch import nn\n\ndef make():\n"
        "    return nn.ModuleDict({'module': nn.Linear(2, 2)})\n"
    )
    weights = nn.ModuleDict({"module": nn.Linear(2, 2)}).state_dict()
    assert holds(load_model(saved(weights, tmp_path / "model.pt"), arch=ARCH), weights)


def test_versions_of_layers_are_handed_on(tmp_path: Path) -> None:
    # MNASNet reads them, and refuses weights without.
    model = torchvision.models.mnasnet0_5(weights=None, num_classes=3)
    arch = "torchvision:mnasnet0_5(num_classes=3)"
    wrapped = nn.DataParallel(model).state_dict()
    loaded = load_model(saved(wrapped, tmp_path / "model.pt"), arch=arch)
    assert holds(loaded, model.state_dict())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert holds(load_model(tmp_path / "model.safetensors", arch=arch), model.state_dict())


def test_counts_that_older_batch_norms_did_not_have(tmp_path: Path) -> None:
    weights = {k: x for k, x in lenet().state_dict().items() if "num_batches" not in k}
    loaded = load_model(saved(weights, tmp_path / "model.pt"), arch=ARCH)
    assert holds(loaded, {**weights, "1.num_batches_tracked": torch.tensor(0)} | weights)


def test_half_precision_becomes_the_networks_own(tmp_path: Path) -> None:
    weights = lenet().half().state_dict()
    loaded: Any = load_model(saved(weights, tmp_path / "model.pt"), arch=ARCH)
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight.half(), weights["0.weight"])


# --- what does not fit --------------------------------------------------------------------------


def test_what_is_missing_left_over_or_misshaped_is_listed(tmp_path: Path) -> None:
    weights = lenet().state_dict()
    del weights["0.bias"], weights["1.weight"]
    weights |= {f"extra.{number}": torch.ones(1) for number in range(1500)}
    error = refused(saved(weights, tmp_path / "model.pt"), arch=ARCH)
    assert error.what == (
        "The weights do not fit networks_of_a_test:make; 2 missing: 0.bias, 1.weight; "
        "1,500 not of it: extra.0, extra.1, extra.2 ...."
    )
    error = refused(saved(lenet().state_dict(), tmp_path / "model.pt"), arch=f"{ARCH}(classes=3)")
    assert "2 of another shape: 5.weight (10x576, not 3x576), 5.bias (10, not 3)" in error.what
    assert error.hint is not None
    assert "--arch" in error.hint


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    weights = lenet().state_dict()
    weights["0.weight"] = weights["0.weight"].to(torch.int8)
    what = refused(saved(weights, tmp_path / "model.pt"), arch=ARCH).what
    assert what.endswith("0.weight holds torch.int8, not torch.float32.")


def test_a_network_that_does_not_take_them(tmp_path: Path) -> None:
    (tmp_path / "networks_of_a_test.py").write_text(
        "from torch import nn\n\nclass Own(nn.Linear):\n    def load_state_dict(self, *a, **k):\n"
        "        raise KeyError('own')\n\ndef make():\n    return Own(2, 2)\n"
    )
    path = saved(nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    assert (
        "cannot be loaded into networks_of_a_test:make: KeyError" in refused(path, arch=ARCH).what
    )


@pytest.mark.parametrize(
    "value",
    [
        {"weight": torch.ones(1), "epoch": 3},
        {1: torch.ones(1)},
        {"generator": {"w": torch.ones(1)}},
    ],
    ids=["mixed", "numbered", "unknown entry"],
)
def test_what_is_no_state_dict(value: object, tmp_path: Path) -> None:
    what = refused(saved(value, tmp_path / "model.pt"), arch=ARCH).what
    assert what == "The file holds an object of type dict, not a module."


def test_a_whole_module_takes_no_arch(tmp_path: Path) -> None:
    error = refused(saved(lenet(), tmp_path / "model.pt"), arch=ARCH)
    assert error.what.startswith("The file holds a whole model, and --arch is for")


def test_attributes_of_the_mapping_stand_in_for_nothing(tmp_path: Path) -> None:
    weights = lenet().state_dict()
    names = ("items", "keys", "_metadata", "__class__")
    attributes = {name: {"": {"version": "2"}} for name in names}
    value = Reduced(OrderedDict, (list(weights.items()),), attributes)
    assert holds(load_model(saved(value, tmp_path / "model.pt"), arch=ARCH), dict(weights))
