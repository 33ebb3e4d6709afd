"""Networks built by name, without weights and without a network."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torchvision
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files.architectures import build


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object) -> None:
        raise AssertionError("a network is asked for something")

    monkeypatch.setattr(socket.socket, "connect", no_network)


def refusal(arch: str) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        build(arch)
    assert caught.value.hint
    return caught.value


def test_a_network_of_torchvision() -> None:
    network = build("torchvision:resnet18(num_classes=3, zero_init_residual=True)")
    assert type(network) is torchvision.models.ResNet
    assert network.fc.out_features == 3
    assert not network.training


def test_a_detector_fetches_no_backbone() -> None:
    build("torchvision:ssdlite320_mobilenet_v3_large(num_classes=3)")


def test_a_network_of_timm() -> None:
    pytest.importorskip("timm")
    network: Any = build("timm:resnet18.a1_in1k(num_classes=3)")
    assert network.fc.out_features == 3


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_a_test.py").write_text(
        "from torch import nn\n\ndef make(width=(2, 3)):\n    return nn.Linear(*width)\n\n"
        "def number():\n    return 7\n"
    )
    network = build("nets_of_a_test:make(width=[4, 5])")
    assert isinstance(network, nn.Linear)
    assert network.in_features == 4
    assert refusal("nets_of_a_test:number").what.endswith("an object of type int, not a module.")
    assert "has no function other" in refusal("nets_of_a_test:other").what
    assert "TypeError" in refusal("nets_of_a_test:make(depth=3)").what
    sys.modules.pop("nets_of_a_test")


@pytest.mark.parametrize(
    ("arch", "part"),
    [
        ("resnet18", "'resnet18' is no architecture"),
        ("torchvision:resnet18(num_classes=3", "is no architecture"),
        ("torchvision:resnet18(3)", "cannot be read: ValueError: only arguments by name"),
        ("torchvision:resnet18(**{'num_classes': 3})", "only arguments by name"),
        ("torchvision:resnet18(num_classes=exit())", "cannot be read: ValueError"),
        ("torchvision:resnet18(num_classes=3)(x=2)", "only arguments by name"),
        (
            "torchvision:resnet18(num_classes=3, num_classes=4)",
            "ValueError: only arguments by name",
        ),
        ("torchvision:resnet18(classes=3)", "cannot be built: TypeError"),
        ("torchvision:resnet18(weights='DEFAULT')", "so it takes no weights"),
        ("torchvision:resnet81", "torchvision has no network resnet81"),
        ("no_such_module:make", "the module cannot be imported"),
    ],
)
def test_what_cannot_be_built(arch: str, part: str) -> None:
    assert part in refusal(arch).what


def test_close_names_are_offered() -> None:
    assert "resnet18" in str(refusal("torchvision:resnet81").hint)


def test_timm_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal("timm:resnet18").what == "timm is not installed."
