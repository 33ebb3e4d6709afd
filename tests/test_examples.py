"""The examples that train on the digits run from end to end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import traced
from tasks import convnet

import vibfx

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NEEDS = {
    "passes_by_hand": "sklearn",
    "train_with_lightning": "lightning",
    "train_with_timm": "timm",
}


@pytest.mark.parametrize("name", NEEDS)
def test_it_ends_with_a_smaller_network_that_is_proved_equal(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "proved equal: Equivalence(error=" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol", ["cifar10-1", "cifar10-2", "cifar10-3", "cifar100-1", "cifar100-2"]
)
def test_a_table_of_the_paper_comes_out_of_a_few_images(protocol, tmp_path):
    """VGG-16 at its real size, an epoch of everything: the targets are met all the same."""
    classes = 10 if protocol.startswith("cifar10-") else 100
    numbers = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 4 * classes), ("test", 2 * classes)):
        arrays[f"x_{part}"] = numbers.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % classes
    np.savez(tmp_path / "few.npz", **arrays)
    script = [sys.executable, EXAMPLES / "paper_cifar.py", protocol, tmp_path / "few.npz"]
    printed = []
    for _ in range(2):  # again, it says the same of what is kept
        done = subprocess.run(
            [*script, "--pretraining", "1", "--epochs", "2", "--out", tmp_path / "out"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0] == printed[1]
    paper, ours = ([c.strip() for c in row.split("|")] for row in printed[0][-2:])
    assert ours[1:3] == [protocol, "ours"]
    for column in (4, 5):  # r_W and FLOPs
        assert float(ours[column]) <= float(paper[column])


def test_the_onnx_file_is_run_without_torch_and_vibfx(tmp_path):
    """What the original says of a picture, told by a process that could not import them."""
    image = pytest.importorskip("PIL.Image")
    model = traced(convnet(), (1, 8, 8))
    classes = ["ant", "bee", "cow", "dog"]
    facts = {"size": [[1, 8, 8]], "mean": [0.4], "std": [0.5], "classes": classes}
    path = vibfx.export_onnx(model, tmp_path / "model.onnx", metadata=facts).path
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "picture.png")
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'torchvision', 'vibfx', 'onnx'])\n"
        f"sys.argv = ['run_onnx.py', {str(path)!r}, 'picture.png']\n"
        f"runpy.run_path({str(EXAMPLES / 'run_onnx.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    x = (torch.from_numpy(pixels)[None, None] / 255 - 0.4) / 0.5
    shares = model(x).softmax(1)[0]
    best = [f"{shares[n]:7.2%}  {classes[n]}" for n in shares.argsort(descending=True)[:3]]
    assert done.stdout.splitlines() == best


def test_the_control_has_new_weights_and_leaves_those_that_were_found(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from from_scratch import from_scratch

    found = traced(convnet(), (1, 8, 8))
    with torch.no_grad():
        for tensor in (*found.parameters(), *found.buffers()):
            tensor.add_(100)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    fresh, again, other = (from_scratch(found, seed) for seed in (0, 0, 1))
    assert all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
    for name, value in fresh.state_dict().items():
        assert not value.is_floating_point() or float(value.abs().max()) <= 1.0, name
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(fresh.get_parameter("0.weight"), other.get_parameter("0.weight"))
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert fresh(x).std() > 0.01  # it computes something


def test_the_papers_networks_have_the_papers_sizes(monkeypatch):
    """FLOPs of the whole networks, in millions, and the weights of the LeNets."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from cifar_networks import vgg
    from mnist_networks import lenet5, lenet_300_100

    assert vibfx.measure(traced(vgg((2, 2, 3, 3, 3), 2, 10), (3, 32, 32))).flops == 313_725_952
    assert vibfx.measure(traced(vgg((2, 2, 4, 4, 4), 0, 10), (3, 32, 32))).flops == 398_136_320
    assert vibfx.measure(traced(lenet_300_100(), (1, 28, 28))).weights == 266_200
    assert vibfx.measure(traced(lenet5(), (1, 28, 28))).weights == 430_500
