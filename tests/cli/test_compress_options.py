"""What ``vibfx compress`` makes of its options; nothing is trained."""

import importlib
import importlib.util
import shlex
import sys

import pytest
from reports import REPORT
from tasks import convnet, one_thread  # noqa: F401
from torch import nn

from vibfx.compression import Compression
from vibfx.training import Hardware

# The package offers the function under the module's name.
command = importlib.import_module("vibfx.cli.compress")


@pytest.fixture
def handed(monkeypatch):
    """What the command hands on; nothing is trained."""
    caught = {}

    def load_model(path, **options):
        caught["model"] = {"path": str(path), **options}
        return nn.Identity()

    def load_data(spec, **options):
        caught["data"] = {"spec": spec, **options}
        return "the data"

    def run(network, data, **options):
        caught["run"] = {key: value for key, value in options.items() if key[:3] != "on_"}
        return Compression(network, None, REPORT)

    monkeypatch.setattr(command, "load_model", load_model)
    monkeypatch.setattr(command, "load_data", load_data)
    monkeypatch.setattr(command, "run", run)
    return caught


def test_defaults(handed, run_main):
    code, out, err = run_main("compress", "dir/net.pt", "--data", "digits", "--out", "o")
    assert (code, err) == (0, "")
    assert "Written to o: model.onnx" in out
    assert handed["model"] == {"path": "dir/net.pt", "trust": (), "arch": None}
    assert handed["data"] == {
        "spec": "digits",
        "batch_size": 128,
        "seed": 0,
        "download": False,
        "augment": None,
        "input_shape": None,
        "mean": None,
        "std": None,
    }
    handed["run"]["out"] = str(handed["run"]["out"])
    assert handed["run"] == {
        "input_shape": None,
        "target": None,
        "max_drop": None,
        "out": "o",
        "loss": None,
        "distill": None,
        "gamma": None,
        "weights": None,
        "settle": None,
        "round_to": None,
        "epochs": None,
        "lr": 1e-3,
        "hardware": Hardware(),
        "seed": 0,
        "norms": "exact",
        "gate_inputs": False,
        "precisions": [],
        "resume": False,
        "tensorboard": False,
        "name": "net.pt",
        "command": "vibfx compress dir/net.pt --data digits --out o",
    }


def test_every_option_arrives(handed, run_main):
    options = [
        "--target",
        "params=0.2",
        "--epochs",
        "7",
        "--seed",
        "3",
        "--device",
        "cpu",
        "--batch-size",
        "16",
        "--lr",
        "0.01",
        "--max-drop",
        "0.25",
        "--loss",
        "mse",
        "--distill",
        "0.75",
        "--gamma",
        "0.5",
        "--weights",
        "uniform",
        "--no-settle",
        "--round-to",
        "4",
        "--norms",
        "freeze",
        "--gate-inputs",
        "--int8",
        "--fp16",
        "--resume",
        "--precision",
        "bfloat16",
        "--channels-last",
        "--no-compile",
        "--micro-batch",
        "8",
        "--recompute",
        "--tensorboard",
        "--input",
        "3x32x16",
        "--mean",
        "0.1,0.2,0.3",
        "--std",
        "1,2,3",
        "--no-augment",
        "--download",
        "--trust",
        "mypkg",
        "--trust",
        "other.nets",
        "--arch",
        "timm:resnet18(num_classes=3)",
    ]
    arguments = ["compress", "net.pt", "--data", "d", "--out", "o", *options]
    assert run_main(*arguments)[0] == 0
    assert handed["model"] == {
        "path": "net.pt",
        "trust": ["mypkg", "other.nets"],
        "arch": "timm:resnet18(num_classes=3)",
    }
    assert handed["data"] == {
        "spec": "d",
        "batch_size": 16,
        "seed": 3,
        "download": True,
        "augment": False,
        "input_shape": (3, 32, 16),
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 2.0, 3.0),
    }
    del handed["run"]["out"]
    assert handed["run"].pop("command") == shlex.join(["vibfx", *arguments])
    assert handed["run"] == {
        "input_shape": (3, 32, 16),
        "target": "params=0.2",
        "max_drop": 0.25,
        "loss": "mse",
        "distill": 0.75,
        "gamma": 0.5,
        "weights": "uniform",
        "settle": False,
        "round_to": 4,
        "epochs": 7,
        "lr": 0.01,
        "hardware": Hardware(
            "cpu", "bfloat16", channels_last=True, compiled=False, micro_batch=8, recompute=True
        ),
        "seed": 3,
        "norms": "freeze",
        "gate_inputs": True,
        "precisions": ["int8", "fp16"],
        "resume": True,
        "tensorboard": True,
        "name": "net.pt",
    }


def test_a_gamma_alone_leaves_out_the_target(handed, run_main):
    arguments = ["compress", "net.pt", "--data", "d", "--out", "o", "--gamma", "0.01"]
    assert run_main(*arguments)[0] == 0
    assert handed["run"]["target"] is None
    assert handed["run"]["gamma"] == 0.01


def test_a_loss_of_ones_own_is_found_by_its_name(handed, monkeypatch, tmp_path, run_main):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses_of_a_test.py").write_text("def own(outputs, labels):\n    return 7\n")
    arguments = ["compress", "net.pt", "--data", "d", "--loss"]
    assert run_main(*arguments, "losses_of_a_test:own")[0] == 0
    assert handed["run"]["loss"](None, None) == 7
    code, _, err = run_main(*arguments, "losses_of_a_test:other")
    assert code == 2
    assert "losses_of_a_test has no function other" in err
    sys.modules.pop("losses_of_a_test")


def test_the_model_alone_is_enough(handed, monkeypatch, run_main):
    monkeypatch.delitem(handed, "data", raising=False)
    code, out, _ = run_main("compress", "dir/net.pt")
    assert code == 0
    assert "Written to net-small: model.onnx" in out
    assert "data" not in handed
    assert str(handed["run"]["out"]) == "net-small"


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("torchvision:resnet18@IMAGENET1K_V1", "resnet18-small"),
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k-small"),
        ("deep/net.v2.safetensors", "net.v2-small"),
    ],
)
def test_the_folder_is_called_after_the_model(model, folder, handed, run_main):
    assert run_main("compress", model)[0] == 0
    assert str(handed["run"]["out"]) == folder
    assert handed["run"]["name"] == (model if ":" in model else "net.v2.safetensors")
