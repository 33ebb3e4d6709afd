import os
import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from data_helpers import all_of, arrays, listing, needs_digits, parts_of, refusal, samples_of

from vibfx.data import Normalization, load_data

# --- digits


@needs_digits
def test_digits_are_split_three_ways_without_loss_or_overlap():
    from sklearn.datasets import load_digits

    data = load_data("digits", batch_size=50)
    counts = [len(all_of(part)[0]) for part in parts_of(data)]
    assert counts == [1258, 180, 359]
    original = load_digits().images.astype(np.float32) / 16
    assert sorted(samples_of(data)) == sorted(image.tobytes() for image in original)
    assert data.name == "digits"
    assert data.classes == tuple("0123456789")
    assert data.preprocessing is None


@needs_digits
def test_every_split_of_the_digits_has_the_classes_in_proportion():
    data = load_data("digits")
    everything = torch.cat([all_of(part)[1] for part in parts_of(data)])
    overall = everything.bincount() / len(everything)
    for part in parts_of(data):
        labels = all_of(part)[1]
        assert (labels.bincount() / len(labels) - overall).abs().max() < 0.01


@needs_digits
def test_a_digit_keeps_its_label():
    from sklearn.datasets import load_digits

    digits = load_digits()
    label_of = {
        image.astype(np.float32).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    for x, y in load_data("digits").train:
        assert [label_of[(image * 16).numpy().tobytes()] for image in x] == y.tolist()


@needs_digits
def test_the_seed_changes_the_order_but_not_the_split():
    one, other = load_data("digits", seed=1), load_data("digits", seed=2)
    assert not torch.equal(all_of(one.train)[0], all_of(other.train)[0])
    for part in ("train", "validation", "test"):
        x, other_x = all_of(getattr(one, part))[0], all_of(getattr(other, part))[0]
        assert {image.numpy().tobytes() for image in x} == {
            image.numpy().tobytes() for image in other_x
        }


def test_without_scikit_learn_the_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'vibfx[demo]'" in refusal("digits")


@needs_digits
def test_given_mean_and_std_are_applied_and_recorded():
    plain = load_data("digits")
    data = load_data("digits", mean=[0.25], std=[0.5])
    assert data.preprocessing == Normalization((0.25,), (0.5,))
    torch.testing.assert_close(all_of(data.test)[0], (all_of(plain.test)[0] - 0.25) / 0.5)


@needs_digits
def test_samples_of_another_shape_than_the_model_takes_are_refused():
    message = refusal("digits", input_shape=(3, 32, 32))
    assert "the samples have the shape (1, 8, 8), the model takes (3, 32, 32)" in message
    assert load_data("digits", input_shape=(1, 8, 8)).name == "digits"


# --- torchvision's sets


def write_idx(file, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.write_bytes(header + array.tobytes())


def write_mnist(raw, *, train=100, test=20):
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


CIFAR = {
    "cifar10": (
        "cifar-10-batches-py",
        [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
        ("batches.meta", "label_names", "labels"),
        10,
    ),
    "cifar100": (
        "cifar-100-python",
        ["train", "test"],
        ("meta", "fine_label_names", "fine_labels"),
        100,
    ),
}


def write_cifar(kind, folder):
    """A hundred training images and twenty to test, or two hundred and forty."""
    name, files, (meta, names, labels), classes = CIFAR[kind]
    folder = folder / name
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file in files:
        count = 20 if classes == 10 else 200 if file == "train" else 40
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        batch = {"data": pixels, labels: [i % classes for i in range(count)]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / meta).write_bytes(pickle.dumps({names: [f"thing {i}" for i in range(classes)]}))
    return folder / files[-1]


@pytest.mark.parametrize(
    ("kind", "name", "normalization"),
    [
        ("mnist", "MNIST", Normalization((0.1307,), (0.3081,))),
        ("fashion-mnist", "FashionMNIST", Normalization((0.2860,), (0.3530,))),
    ],
)
def test_mnist_and_fashion_mnist_are_read_from_torchvisions_layout(
    tmp_path, kind, name, normalization
):
    write_mnist(tmp_path / name / "raw")
    before = listing(tmp_path)
    data = load_data(f"{kind}:{tmp_path}", batch_size=64)
    assert data.preprocessing == normalization
    assert len(data.classes) == 10
    assert [len(all_of(part)[0]) for part in parts_of(data)] == [90, 10, 20]
    raw = np.fromfile(tmp_path / name / "raw" / "t10k-images-idx3-ubyte", np.uint8)[16:]
    x, y = next(iter(data.test))
    pixels = torch.from_numpy(raw.reshape(20, 1, 28, 28) / 255).float()
    torch.testing.assert_close(x, (pixels - normalization.mean[0]) / normalization.std[0])
    assert y.tolist() == [i % 10 for i in range(20)]
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "counts"), [("cifar10", [90, 10, 20]), ("cifar100", [180, 20, 40])]
)
def test_cifar_is_read_from_torchvisions_layout(tmp_path, monkeypatch, kind, counts):
    file = write_cifar(kind, tmp_path)
    # The checksums are those of the real files.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_data(f"{kind}:{tmp_path}")
    assert data.classes[3] == "thing 3"
    assert len(data.classes) == CIFAR[kind][3]
    assert data.preprocessing is not None
    assert [len(all_of(part)[0]) for part in parts_of(data)] == counts
    pixels = torch.from_numpy(pickle.loads(file.read_bytes())["data"]).view(-1, 3, 32, 32) / 255
    mean = torch.tensor(data.preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(data.preprocessing.std).view(3, 1, 1)
    torch.testing.assert_close(all_of(data.test)[0], (pixels - mean) / std)


def test_colour_images_are_augmented_unless_told_not_to(tmp_path, monkeypatch):
    write_cifar("cifar10", tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    plain, augmented = (
        load_data(f"cifar10:{tmp_path}", augment=augment).train for augment in (False, True)
    )
    seen = [{x.numpy().tobytes() for x in all_of(loader)[0]} for loader in (plain, plain)]
    assert seen[0] == seen[1]
    assert seen[0] != {x.numpy().tobytes() for x in all_of(augmented)[0]}


@pytest.mark.parametrize("kind", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_set_that_is_not_there_is_refused_and_not_downloaded(tmp_path, kind):
    message = refusal(f"{kind}:{tmp_path}")
    assert f"is not in {tmp_path}" in message
    assert "pass --download" in message
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x03\0\0\0\x64", b"not images at all", b"\1" * 99]
)
def test_damaged_files_are_refused(tmp_path, content):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw)
    (raw / "train-images-idx3-ubyte").write_bytes(content)
    assert "or its files are damaged" in refusal(f"mnist:{tmp_path}")


def test_download_fetches_what_is_not_there(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "download", fetch_once)
    data = load_data(f"mnist:{tmp_path}", download=True)
    assert len(all_of(data.test)[0]) == 20


def fetch_once(dataset):
    if not Path(dataset.raw_folder).exists():
        write_mnist(Path(dataset.raw_folder))


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def fail(dataset):
        raise URLError("no route\nto host")

    monkeypatch.setattr(MNIST, "download", fail)
    message = refusal(f"mnist:{tmp_path}", download=True)
    assert "MNIST could not be downloaded or read" in message
    assert "no route to host" in message


def test_the_real_mnist_is_split_55000_5000_10000():
    folder = os.environ.get("VIBFX_DATA")
    if not folder:
        pytest.skip("VIBFX_DATA names no folder with MNIST in it")
    data = load_data(f"mnist:{folder}", batch_size=1000)
    (x, y), (x_validation, y_validation), (x_test, _) = map(all_of, parts_of(data))
    assert (len(x), len(x_validation), len(x_test)) == (55_000, 5_000, 10_000)
    # The published mean and standard deviation are those of the 60,000 training images.
    pixels = torch.cat([x, x_validation])
    assert pixels.mean().abs() < 1e-3
    assert abs(pixels.std() - 1) < 1e-3
    assert (y.bincount() / 55_000 - y_validation.bincount() / 5_000).abs().max() < 1e-3


# --- augmentation


def test_colour_images_are_augmented_in_training_only(npz):
    content = arrays()
    data = load_data(str(npz(**content)))
    originals = {
        torch.from_numpy(x.transpose(2, 0, 1) / 255).float().numpy().tobytes()
        for x in content["x_train"]
    }
    assert {x.numpy().tobytes() for x in all_of(data.validation)[0]} < originals
    assert not {x.numpy().tobytes() for x in all_of(data.train)[0]} <= originals
    first, second = (all_of(data.train)[0].sort(0).values for _ in range(2))
    assert not torch.equal(first, second)


def test_gray_images_are_augmented_where_that_is_asked_for(npz):
    content = arrays(shape=(8, 8))
    data = load_data(str(npz(**content)))
    originals = {torch.from_numpy(x / 255).float().numpy().tobytes() for x in content["x_train"]}
    assert {x.numpy().tobytes() for x in all_of(data.train)[0]} < originals
    data = load_data(str(npz(**content)), augment=True)
    assert not {x.numpy().tobytes() for x in all_of(data.train)[0]} <= originals
    assert {x.numpy().tobytes() for x in all_of(data.validation)[0]} < originals
