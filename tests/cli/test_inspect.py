"""``vibfx inspect`` as a user runs it: what is printed and written, and the exit codes."""

import json
import subprocess
import sys
from functools import partial
from xml.etree import ElementTree as ET

import pytest
import torch
from inspections import alone, lenet_inspection
from networks import lenet
from torch import nn


class Two(nn.Module):
    """Two inputs of different shapes; saved by the name of this module."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x, y):
        return self.head(torch.relu(self.a(x) + self.b(y)))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to run in, with models of several kinds."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(lenet(), "lenet.pt")
    torch.save(alone(), "alone.pt")
    torch.save(lenet().state_dict(), "weights.pt")
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "normed.pt")
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
    torch.save(words, "words.pt")
    (tmp_path / "notes.pt").write_text("not a model")
    return tmp_path


@pytest.fixture
def run(monkeypatch, run_main):
    """Runs the command, its lines 140 wide."""
    monkeypatch.setenv("COLUMNS", "140")
    return partial(run_main, "inspect")


LENET = ("lenet.pt", "--input", "1x28x28")
ALONE = ("alone.pt", "--input", "1x8x8")


def test_tables(here, run):
    code, out, err = run(*LENET)
    assert (code, err) == (0, "")
    for part in ("lenet.pt: channels that go together", "98.60 %", "the model's output", "431,080"):
        assert part in out


def test_json_is_all_that_is_on_stdout(here, run):
    code, out, err = run(*LENET, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(lenet_inspection().to_dict()))
    assert run(*LENET, "--json")[1] == out


def test_pictures_are_written(here, run):
    code, out, _ = run(*LENET, "--dot", "net.dot", "--svg", "net.svg")
    assert code == 0
    assert "Written: net.dot\nWritten: net.svg\n" in out
    dot = (here / "net.dot").read_text()
    assert dot.count("{") == dot.count("}") == 1
    assert all(f'"group {name}"' in dot for name in "025")
    assert ET.parse(here / "net.svg").getroot().tag.endswith("svg")


def test_norms_are_rewritten_or_stay(run, here):
    units = {}
    for norms in ("exact", "freeze"):
        code, out, _ = run("normed.pt", "--input", "3", "--json", "--norms", norms)
        units[norms] = (code, sum(group["units"] for group in json.loads(out)["groups"]))
    assert units == {"exact": (0, 4), "freeze": (3, 0)}


def test_features_of_the_input_are_a_group_of_their_own(run, here):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2)), "mlp.pt")
    code, out, _ = run("mlp.pt", "--input", "1x4x4", "--gate-inputs", "--json", "--svg", "net.svg")
    groups = {group["name"]: group for group in json.loads(out)["groups"]}
    assert code == 0
    assert groups.keys() == {"1", "inputs.input_1"}
    inputs = groups["inputs.input_1"]
    assert (inputs["units"], inputs["makes"], inputs["reads"]) == (16, ["inputs.input_1"], ["1"])
    assert "inputs.input_1" in (here / "net.svg").read_text()
    code, _, err = run(*LENET, "--gate-inputs")
    assert code == 3
    assert "error: no feature of the model's input can be removed" in err


def test_json_and_a_picture_together_leave_json_alone(here, run):
    _, out, _ = run(*LENET, "--json", "--svg", "net.svg")
    assert json.loads(out)["totals"]["groups"] == 3
    assert (here / "net.svg").is_file()


def test_nothing_removable_is_exit_code_3_with_the_reasons(here, run):
    code, out, err = run(*ALONE)
    assert (code, out) == (3, "")
    for part in ("1.weight dim 0, 1.bias dim 0", "the model's output", "reads features that"):
        assert part in err
    assert err.count("error: nothing can be removed from this network") == 1
    assert "Traceback" not in err


def test_nothing_removable_as_json(here, run):
    code, out, err = run(*ALONE, "--json", "--dot", "net.dot")
    found = json.loads(out)
    assert code == 3
    assert found["groups"] == []
    assert {row["reason"] for row in found["frozen"]} >= {"the model's output"}
    assert err.startswith("error: nothing can be removed")
    assert (here / "net.dot").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["lenet.pt"], ["does not say what shape of input", "such as --input 3x224x224"]),
        (["no.pt", "--input", "3"], ["The model file does not exist.", "at no.pt"]),
        (["notes.pt", "--input", "3"], ["The file is not a model that torch.save wrote."]),
        (["weights.pt", "--input", "3"], ["The file holds weights without the model."]),
        (["lenet.pt", "--input", "1by28"], ["--input '1by28' is no shape"]),
        (["words.pt", "--input", "3:long"], ["--input '3:long' names no type", ":float, :int, :b"]),
        (["words.pt", "--input", ":int"], ["does not run on an input of shape ()"]),
        (["words.pt", "--input", "x:int"], ["--input 'x' is no shape"]),
        (["lenet.pt", "--input", "3x8x8"], ["does not run on an input of shape 3x8x8"]),
        ([*LENET, "--dot", "no/net.dot"], ["the picture cannot be written: ", "at no/net.dot"]),
        ([*LENET, "--svg", "."], ["the picture cannot be written: "]),
    ],
)
def test_what_cannot_be_used_is_one_message_and_exit_code_2(here, run, arguments, parts):
    before = sorted(here.iterdir())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    for part in parts:
        assert part in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


def test_inputs_of_whole_numbers(here, run):
    code, out, _ = run("words.pt", "--input", "3:int", "--json")
    assert code == 0
    assert [group["units"] for group in json.loads(out)["groups"]] == [4, 5]
    code, _, err = run("words.pt", "--input", "3")
    assert code == 2
    assert "does not run on an input of shape 3" in err


def test_two_inputs_and_a_trusted_class(here, run):
    torch.save(Two(), "two.pt")
    prefix = Two.__module__
    code, _, err = run("two.pt", "--input", "3", "--input", "5")
    assert code == 2
    assert "--trust" in err
    code, out, err = run("two.pt", "--input", "3", "--input", "5", "--trust", prefix, "--json")
    assert (code, err) == (0, "")
    (group,) = json.loads(out)["groups"]
    assert (group["makes"], group["reads"]) == (["a", "b"], ["head"])


def test_weights_and_what_they_are_of(here, run):
    code, out, _ = run("weights.pt", "--input", "1x28x28", "--arch", "networks:lenet", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(run(*LENET, "--json")[1])
    code, _, err = run("torchvision:resnet18", "--input", "3x224x224")
    assert code == 2
    assert "torchvision:resnet18@DEFAULT" in err


def test_a_program_says_itself_what_it_takes(here, run):
    program = torch.export.export(lenet().eval(), (torch.randn(2, 1, 28, 28),))
    torch.export.save(program, "lenet.pt2")
    code, out, _ = run("lenet.pt2", "--json")
    assert code == 0
    groups = [json.loads(out)["groups"], json.loads(run(*LENET, "--json")[1])["groups"]]
    units = [sorted(group["units"] for group in found) for found in groups]
    assert units[0] == units[1]


def test_as_a_program_of_its_own(here):
    ended = subprocess.run(
        [sys.executable, "-m", "vibfx", "inspect", *ALONE, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["groups"] == []


def test_help_lists_every_option(run):
    code, out, _ = run("--help")
    assert code == 0
    for option in (
        "--input",
        "--json",
        "--dot",
        "--svg",
        "--all",
        "--norms",
        "--gate-inputs",
        "--trust",
        "--arch",
    ):
        assert option in out
    assert "exit code is 3" in " ".join(out.split())
