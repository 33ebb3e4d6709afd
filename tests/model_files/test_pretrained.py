"""Networks by name; nothing is downloaded here."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from model_file_helpers import shell_attack
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files import is_name, load_model

WEIGHTS = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps what it has downloaded; what is there is not fetched again."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints" / Path(WEIGHTS.url).name


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def refusal(name: str, **options: Any) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        load_model(name, **options)
    assert caught.value.hint
    assert name.startswith(str(caught.value.where))
    return caught.value


def test_which_are_names() -> None:
    assert is_name("torchvision:resnet18@DEFAULT")
    assert is_name("timm:resnet18")
    assert not is_name("models/resnet18.pt")
    assert not is_name("mypkg:make")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT"])
def test_a_network_of_torchvision(weights: str, hub: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), hub, _use_new_zipfile_serialization=False)
    loaded: Any = load_model(f"torchvision:resnet18@{weights}")
    assert torch.equal(loaded.fc.weight, model.fc.weight)
    assert not loaded.training


def test_what_was_downloaded_runs_no_code(hub: Path) -> None:
    torch.save({"fc.weight": shell_attack(hub.parent)}, hub)
    assert "UnpicklingError" in refusal("torchvision:resnet18@DEFAULT").what
    assert not (hub.parent / "mark").exists()


def test_a_network_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return nn.Linear(2, 2).train()

    monkeypatch.setattr(timm, "create_model", create_model)
    assert not load_model("timm:resnet18.a1_in1k").training
    assert asked == [("resnet18.a1_in1k", {"pretrained": True})]


def test_an_untrained_network_of_torchvision() -> None:
    error = refusal("torchvision:resnet50")
    assert error.what == "It is the name of an untrained network."
    assert "torchvision:resnet50@IMAGENET1K_V2 or torchvision:resnet50@DEFAULT" in str(error.hint)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torchvision:resnet18@IMAGENET21K", "torchvision has no weights IMAGENET21K of resnet18"),
        ("torchvision:resnet81@DEFAULT", "torchvision has no network resnet81"),
        ("torchvision:mnasnet1_0@", "torchvision has no weights  of mnasnet1_0"),
        ("timm:resnet81", "timm has no network resnet81"),
        ("timm:hf_hub:someone/model", "timm has no network hf_hub:someone/model"),
        ("timm:efficientnet_b8", "timm has no weights of efficientnet_b8"),
    ],
)
def test_names_that_stand_for_nothing(name: str, part: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    assert part in refusal(name).what


def test_a_name_takes_no_arch() -> None:
    assert "this is no file" in refusal("timm:resnet18", arch="torchvision:resnet18").what


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["torchvision:resnet18@DEFAULT", "timm:resnet18.a1_in1k"])
def test_no_network(name: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
        pytest.importorskip("huggingface_hub")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.parent))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refusal(name)
    assert error.what.startswith("The weights cannot be downloaded: ")
    assert f"pass the file with --arch {name.partition('@')[0]}." in str(error.hint)
    assert not list(hub.parent.glob("*"))
