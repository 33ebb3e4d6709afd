"""``vibfx compress`` as a user runs it: exit codes, messages, and what is written."""

import importlib
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tasks import convnet, one_thread  # noqa: F401
from torch import nn

from vibfx.errors import ExportError, InputError, NothingRemovableError, ParityError, VibfxError
from vibfx.output_folder import FILES

# The package offers the function under the module's name.
command = importlib.import_module("vibfx.cli.compress")

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, with models and data of several kinds."""
    monkeypatch.chdir(tmp_path)
    torch.save(convnet(classes=10), "net.pt")
    torch.save(convnet().state_dict(), "weights.pt")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "linear.pt")
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), "colour.pt")
    (tmp_path / "notes.pt").write_text("not a model")
    (tmp_path / "file").write_text("in the way")
    x, y = np.zeros((10, 1, 8, 8), np.float32), np.zeros(10, np.int64)
    np.savez("one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path


def listing(folder):
    return sorted(path.name for path in folder.rglob("*"))


def exit_code(name):
    """A script can tell a network of which nothing can go from a wrong call."""
    return 3 if name == "nothing removable" else 2


# What is asked for, and parts of the one message that comes back. `--out out` is added.
REFUSED = {
    "missing file": (["no.pt", "--data", "digits"], ["The model file does not exist.", "at no.pt"]),
    "text file": (
        ["notes.pt", "--data", "digits"],
        ["The file is not a model that torch.save wrote.", "at notes.pt"],
    ),
    "state dict": (
        ["weights.pt", "--data", "digits"],
        ["The file holds weights without the model.", "--arch torchvision:resnet18"],
    ),
    "unknown data": (
        ["net.pt", "--data", "imagenet"],
        ["'imagenet' is no data set and no folder", "FILE.npz"],
    ),
    "one class": (
        ["net.pt", "--data", "one.npz"],
        ["the training set has one class: 0", "at one.npz"],
    ),
    "other input": (
        ["colour.pt", "--data", "digits"],
        ["the model does not run on an input of shape 1x8x8"],
    ),
    "input option": (
        ["net.pt", "--data", "digits", "--input", "3x8x8"],
        ["the samples have the shape (1, 8, 8), the model takes (3, 8, 8)"],
    ),
    "nothing removable": (
        ["linear.pt", "--data", "digits"],
        ["nothing can be removed from this network", "A network needs at least one hidden layer"],
    ),
    "unreachable": (
        ["net.pt", "--data", "digits", "--target", "flops=0.0001"],
        ["the target flops=0.0001 cannot be reached", "The smallest reachable is flops=0.0"],
    ),
    "no target": (
        ["net.pt", "--data", "digits", "--target", "small"],
        ["'small' is not a target", "flops=SHARE"],
    ),
    "no device": (
        ["net.pt", "--data", "digits", "--device", "toaster"],
        ["there is no device 'toaster' here"],
    ),
    "bad shape": (
        ["net.pt", "--data", "digits", "--input", "8by8"],
        ["--input '8by8' is no shape", "3x224x224"],
    ),
    "odd digits": (["net.pt", "--data", "digits", "--input", "²x3"], ["--input '²x3' is no shape"]),
    "bad mean": (
        ["net.pt", "--data", "digits", "--mean", "half", "--std", "1"],
        ["--mean 'half' is no list of numbers", "--mean 0.5,0.5,0.5"],
    ),
    "zero rate": (["net.pt", "--data", "digits", "--lr", "0"], ["--lr and --gamma are numbers"]),
    "no rate": (["net.pt", "--data", "digits", "--lr", "nan"], ["--lr and --gamma are numbers"]),
    "endless gamma": (
        ["net.pt", "--data", "digits", "--gamma", "inf"],
        ["--lr and --gamma are numbers"],
    ),
}


@needs_digits
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_one_message_and_nothing_written(name, here, run_main):
    arguments, parts = REFUSED[name]
    before = listing(here)
    code, out, err = run_main("compress", *arguments, "--out", "out/deep")
    assert code == exit_code(name)
    for part in parts:
        assert part in err
    assert err.strip().startswith("error: ")
    assert err.count("error:") == 1
    assert "Traceback" not in out + err
    assert listing(here) == before


@pytest.mark.parametrize("out", ["file", "file/out"])
@needs_digits
def test_a_folder_that_cannot_be_written_is_refused(here, out, run_main):
    before = listing(here)
    code, _, err = run_main("compress", "net.pt", "--data", "digits", "--out", out)
    assert code == 2
    assert "error: the output folder cannot be written: " in err
    assert f"at {out}" in err
    assert listing(here) == before


@needs_digits
@pytest.mark.parametrize("name", ["missing file", "nothing removable"])
def test_as_a_program_of_its_own(name, here):
    arguments, parts = REFUSED[name]
    before = listing(here)
    ended = subprocess.run(
        [sys.executable, "-m", "vibfx", "compress", *arguments, "--out", "out"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == exit_code(name)
    for part in parts:
        assert part in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert listing(here) == before


def test_options_that_are_missing_or_unknown_are_usage_errors(here, run_main):
    for arguments, part in (
        (["--data", "digits"], "Missing argument"),
        (["net.pt", "--data", "digits", "--distill", "2"], "--distill"),
        (["net.pt", "--data", "digits", "--weights", "size"], "--weights"),
        (["net.pt", "--data", "digits", "--out", "out", "--size", "3"], "--size"),
        (["net.pt", "--data", "digits", "--out", "out", "--epochs", "0"], "--epochs"),
        (["net.pt", "--data", "digits", "--out", "out", "--batch-size", "1"], "--batch-size"),
    ):
        code, _, err = run_main("compress", *arguments)
        assert code == 2
        assert part in err


def test_help_lists_every_option(run_main):
    code, out, _ = run_main("compress", "--help")
    assert code == 0
    for option in ("--data", "--out", "--target", "--epochs", "--seed", "--device", "--batch-size"):
        assert option in out
    for option in (
        "--lr",
        "--gamma",
        "--input",
        "--mean",
        "--std",
        "--download",
        "--trust",
        "--arch",
    ):
        assert option in out
    for option in ("--arch", "--gate-inputs", "--max-drop", "--loss", "--distill", "--weights"):
        assert option in out
    assert "[default: flops=0.5" in out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("in"), 2),
        (NothingRemovableError("no"), 3),
        (ExportError("out"), 1),
        (ParityError("off"), 1),
        (VibfxError("x"), 1),
    ],
)
def test_the_exit_code_is_the_errors(monkeypatch, error, code, run_main):
    def fail(path, trust, arch):
        raise error

    monkeypatch.setattr(command, "load_model", fail)
    found = run_main("compress", "net.pt", "--data", "x", "--out", "out")
    assert found == (code, "", f"error: {error.what}\n")


def test_brackets_in_a_message_are_shown_as_they_are(monkeypatch, run_main):
    def fail(path, trust, arch):
        raise InputError("no [red]", where="a[/b].pt", hint="try [c]")

    monkeypatch.setattr(command, "load_model", fail)
    found = run_main("compress", "net.pt", "--data", "x", "--out", "out")
    assert found == (2, "", "error: no [red]\n  at a[/b].pt\n  try [c]\n")


def test_ctrl_c_is_one_line_and_its_usual_exit_code(monkeypatch, run_main):
    def interrupt(path, trust, arch):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_model", interrupt)
    found = run_main("compress", "net.pt", "--data", "x", "--out", "out")
    assert found == (130, "", "interrupted; nothing was written\n")


# --- all of it


def test_a_model_file_and_nothing_else(here, run_main):
    """Its input is worked out, inputs are made, and the result is checked and written."""
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)), "small.pt")
    code, out, _ = run_main("compress", "small.pt", "--epochs", "5")
    assert code == 0
    text = " ".join(out.split())
    assert "no data: making 1,024 inputs of 20 (its first layer takes 20 features)" in text
    assert "No data was given, and no batch norm remembers any, so the inputs were noise." in text
    assert "get the original's answer" in text
    report = json.loads((here / "small-small" / "report.json").read_text())
    assert 0.4 < report["shares"]["flops"] <= 0.5
    code, _, err = run_main("compress", "colour.pt", "--epochs", "5")
    assert code == 2
    assert "Pass the shape of one example, such as --input 3x224x224." in " ".join(err.split())


def test_weights_and_what_they_are_of(here, run_main):
    (here / "nets_of_a_test.py").write_text(
        "from torch import nn\n\ndef make(width):\n"
        "    return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 3))\n"
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    torch.save({"state_dict": nn.DataParallel(network).state_dict()}, "weights.pth")
    arguments = ["compress", "weights.pth", "--epochs", "5", "--arch"]
    assert run_main(*arguments, "nets_of_a_test:make(width=16)")[0] == 0
    assert (
        json.loads((here / "weights-small" / "report.json").read_text())["model"] == "weights.pth"
    )
    code, _, err = run_main(*arguments, "nets_of_a_test:make(width=8)")
    assert code == 2
    assert "3 of another shape: 0.weight (16x20, not 8x20)" in " ".join(err.split())
    sys.modules.pop("nets_of_a_test")


def test_a_result_is_compressed_again(here, run_main):
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)), "small.pt")
    options = ["--epochs", "5", "--out"]
    assert run_main("compress", "small.pt", *options, "a")[0] == 0
    code, out, _ = run_main("compress", "a/model.pt2", *options, "b")
    assert code == 0
    assert "inputs of 20 (it was exported with that)" in " ".join(out.split())
    first, second = (json.loads((here / x / "report.json").read_text())["layers"] for x in "ab")
    assert [x["width_before"] for x in second] == [x["width_after"] for x in first]


@needs_digits
def test_a_compression_from_file_to_files(here, run_main):
    arguments = "compress net.pt --data digits --out out --target flops=0.5 --epochs 3 --lr 0.003"
    code, out, err = run_main(*arguments.split())
    assert (code, err) == (0, "")
    assert listing(here / "out") == sorted(["log.jsonl", *FILES])
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    assert manifest["command"] == f"vibfx {arguments}"
    report = json.loads((here / "out" / "report.json").read_text())
    assert report["model"] == "net.pt"
    assert report["shares"]["flops"] <= 0.5
    assert "net.pt on digits, target flops=0.5" in out
    assert f"{100 * report['shares']['flops']:.2f} %" in out
    assert "✓ exporting and checking" in out
    assert "Written to out: " + ", ".join(FILES) in out
