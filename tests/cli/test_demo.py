"""``vibfx demo``: what it trains, what it hands to ``compress``, what it shows."""

import importlib
import importlib.util
import inspect
import shlex

import pytest
import torch
from tasks import one_thread  # noqa: F401
from torch import nn

from vibfx.data import load_data
from vibfx.errors import OutputError
from vibfx.model_files import load_model
from vibfx.training.evaluation import evaluate

# The package offers the function under the module's name.
demo = importlib.import_module("vibfx.cli.demo")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture
def handed(monkeypatch):
    """What the demo hands to ``compress``."""
    caught = []
    signature = inspect.signature(demo.compress)

    def compress(*args, **options):
        caught.append(signature.bind(*args, **options).arguments)

    monkeypatch.setattr(demo, "compress", compress)
    return caught


def test_it_trains_a_network_that_compress_can_read(handed, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_EPOCHS", 1)
    demo.demo(out=tmp_path / "new" / "demo", seed=1)
    (arguments,) = handed
    file = tmp_path / "new" / "demo" / "digits.pt"
    assert arguments["model"] == str(file)
    model = load_model(file)
    assert not model.training
    assert evaluate(model, load_data("digits").test).accuracy > 0.5
    demo.demo(out=tmp_path / "again", seed=1)
    again = load_model(tmp_path / "again" / "digits.pt").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_command_it_shows_is_the_one_it_runs(handed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_trained", lambda seed: nn.Linear(1, 1))
    out = tmp_path / "demo[/x]"
    demo.demo(out=out, seed=5)
    (arguments,) = handed
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$")]
    words = shlex.split(line.removeprefix("$ "))
    assert words[:3] == ["vibfx", "compress", str(out / "digits.pt")]
    shown = dict(zip(words[3::2], words[4::2], strict=True))
    run = {f"--{name.replace('_', '-')}": str(value) for name, value in arguments.items()}
    del run["--model"]
    assert shown == run
    assert shown["--seed"] == "5"
    assert shown["--out"] == str(out)


def test_a_folder_that_cannot_be_written_is_refused_before_training(handed, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(demo, "_trained", trained.append)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="the output folder cannot be written") as caught:
        demo.demo(out=tmp_path / "file" / "out")
    assert caught.value.where == str(tmp_path / "file" / "out")
    assert trained == handed == []
