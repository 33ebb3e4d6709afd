import importlib.util
import logging
import os
import pickle
import random
import socket
import sys
import textwrap
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from vibfx import data as data_module
from vibfx.batches import BatchOrder, SeededBatches, hold_out, shift_and_mirror
from vibfx.data import Normalization, TensorLoader, load_data
from vibfx.errors import DataError, InputError

needs_digits = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def all_of(loader):
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


def samples_of(data):
    """Every sample of the three sets as bytes."""
    return [x.numpy().tobytes() for part in parts_of(data) for x in all_of(part)[0]]


def parts_of(data):
    return data.train, data.validation, data.test


def refusal(spec, **options):
    with pytest.raises(DataError) as caught:
        load_data(str(spec), **options)
    return str(caught.value)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- what is no data set


@pytest.mark.parametrize("spec", ["imagenet", "mnist", "mnist:", "no/such/folder", "digits:x:y"])
def test_anything_else_is_refused_with_the_list_of_forms(spec):
    message = refusal(spec)
    assert f"{spec!r} is no data set and no folder" in message
    for form in ("digits", "mnist:DIR", "fashion-mnist:DIR", "cifar10:DIR", "FILE.npz"):
        assert form in message
    assert "package.module:function" in message


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(InputError, match="the batch size is 0"):
        load_data("digits", batch_size=0)


@needs_digits
@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        ([0.5], None, "do not go together"),
        (None, [0.5], "do not go together"),
        ([0.5], [0.5, 0.5], "do not go together"),
        ([0.5], [0.0], "std is [0.0]"),
        ([0.5, 0.5], [1.0, 1.0], "given for 2 channels, the samples have 1"),
    ],
)
def test_mean_and_std_that_cannot_be_used_are_refused(mean, std, sentence):
    assert sentence in refusal("digits", mean=mean, std=std)


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


def write_cifar10(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        batch = {"data": pixels, "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [f"thing {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


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


def test_cifar10_is_read_from_torchvisions_layout(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    # The checksums are those of the real files.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_data(f"cifar10:{tmp_path}")
    assert data.classes[3] == "thing 3"
    assert data.preprocessing is not None
    assert [len(all_of(part)[0]) for part in parts_of(data)] == [90, 10, 20]
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    pixels = torch.from_numpy(pickle.loads(file.read_bytes())["data"]).view(20, 3, 32, 32) / 255
    mean = torch.tensor(data.preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(data.preprocessing.std).view(3, 1, 1)
    torch.testing.assert_close(all_of(data.test)[0], (pixels - mean) / std)


@pytest.mark.parametrize("kind", ["mnist", "fashion-mnist", "cifar10"])
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


# --- FILE.npz


def arrays(*, train=40, test=10, shape=(8, 8, 3), classes=4, **replaced):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % classes,
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % classes,
        **replaced,
    }


@pytest.fixture
def npz(tmp_path):
    def write(**content):
        file = tmp_path / "set.npz"
        np.savez(file, **{name: array for name, array in content.items() if array is not None})
        return file

    return write


@pytest.mark.parametrize(
    ("shape", "to_nchw"),
    [
        ((8, 6), lambda x: x[:, None]),
        ((8, 6, 3), lambda x: x.transpose(0, 3, 1, 2)),
        ((8, 6, 1), lambda x: x.transpose(0, 3, 1, 2)),
        ((3, 8, 6), lambda x: x),
        ((3, 8, 3), lambda x: x.transpose(0, 3, 1, 2)),
    ],
)
def test_bytes_become_images_between_0_and_1(npz, shape, to_nchw):
    content = arrays(shape=shape)
    data = load_data(str(npz(**content)))
    x, y = all_of(data.test)
    torch.testing.assert_close(x, torch.from_numpy(to_nchw(content["x_test"]) / 255).float())
    assert y.tolist() == content["y_test"].tolist()
    assert data.classes == ("0", "1", "2", "3")
    assert data.preprocessing is None
    assert [len(all_of(part)[0]) for part in parts_of(data)] == [36, 4, 10]


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 8, 3), (3, 8, 3)), ((8, 8, 5), (5, 8, 8)), ((5, 8, 8), (5, 8, 8))]
)
def test_the_shape_the_model_takes_tells_the_layouts_apart(npz, shape, expected):
    x, _ = next(iter(load_data(str(npz(**arrays(shape=shape))), input_shape=expected).test))
    assert tuple(x.shape[1:]) == expected


@pytest.mark.parametrize("shape", [(1, 4, 4), (5,)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_are_taken_as_they_are(npz, shape, dtype):
    rng = np.random.default_rng(0)
    x_train, x_test = (rng.normal(0, 50, (count, *shape)).astype(dtype) for count in (40, 10))
    data = load_data(str(npz(**arrays(x_train=x_train, x_test=x_test))))
    x, _ = all_of(data.test)
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(x_test.astype(np.float32)))
    seen = torch.cat([all_of(data.train)[0], all_of(data.validation)[0]])
    assert sorted(seen.flatten(1).tolist()) == sorted(
        x_train.astype(np.float32).reshape(40, -1).tolist()
    )


def test_label_names_become_the_classes(npz):
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    assert load_data(str(npz(**arrays(label_names=names)))).classes == tuple(names)


def test_a_given_normalization_is_applied_to_each_channel(npz):
    file = npz(**arrays())
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    x, _ = all_of(load_data(str(file), mean=mean, std=std).test)
    plain, _ = all_of(load_data(str(file)).test)
    for channel in range(3):
        expected = (plain[:, channel] - mean[channel]) / std[channel]
        torch.testing.assert_close(x[:, channel], expected)


def with_nan():
    x = np.zeros((40, 5), np.float32)
    x[7, 3] = np.nan
    return x


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({"y_train": None, "x_test": None}, "the file lacks y_train, x_test"),
        ({"x_train": np.zeros((40, 5), np.int64)}, "x_train is int64 of shape (40, 5)"),
        ({"x_train": np.zeros((40, 5), np.uint8)}, "x_train is uint8 of shape (40, 5)"),
        ({"x_train": np.zeros((40, 5, 5, 5), np.uint8)}, "x_train is uint8 of shape (40, 5, 5, 5)"),
        ({"x_train": np.zeros((40, 5, 5), np.float32)}, "x_train is float32 of shape (40, 5, 5)"),
        ({"x_train": np.float32(1)}, "x_train is float32 of shape ()"),
        ({"x_train": with_nan()}, "x_train holds NaN or infinite values"),
        ({"x_train": np.full((40, 5), 1e300)}, "x_train holds NaN or infinite values"),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8)}, "x_train is empty"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8)}, "x_test is empty"),
        ({"y_train": np.zeros(39, np.int64)}, "x_train has 40 samples, y_train 39 labels"),
        ({"y_test": np.zeros(11, np.int64)}, "x_test has 10 samples, y_test 11 labels"),
        ({"y_train": np.zeros(40)}, "y_train is float64 of shape (40,)"),
        ({"y_train": np.zeros((40, 4), np.int64)}, "y_train is int64 of shape (40, 4)"),
        ({"y_train": np.full(40, 3)}, "the training set has one class: 3"),
        ({"y_train": np.arange(40) % 4 + 1}, "the training labels start at 1"),
        ({"y_train": np.arange(40) % 4 - 1}, "the training labels start at -1"),
        ({"y_test": np.arange(10) % 5}, "the test labels include 4, the training set has"),
        ({"y_test": np.arange(10) % 4 - 1}, "the test labels include -1"),
        ({"label_names": np.array(["ant", "bee"])}, "label_names is <U3 of shape (2,)"),
        ({"label_names": np.arange(4)}, "label_names is int64 of shape (4,)"),
        ({"x_test": np.zeros((10, 4, 4, 3), np.uint8)}, "x_test uint8 of shape (10, 3, 4, 4)"),
        ({"x_test": np.zeros((10, 3, 8, 8), np.float32)}, "x_test float32 of shape (10, 3, 8, 8)"),
    ],
)
def test_arrays_unfit_for_training_are_refused(npz, replaced, sentence):
    file = npz(**arrays(**replaced))
    message = refusal(file)
    assert sentence in message
    assert str(file) in message
    assert len(message.splitlines()) == 3  # what, where, and what to do about it


def test_two_samples_are_too_few_to_hold_one_out(npz):
    assert "there are only 2 training samples" in refusal(npz(**arrays(train=2, classes=2)))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    message = refusal(tmp_path / "gone.npz")
    assert "there is no such file" in message
    assert "gone.npz" in message


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    file = tmp_path / "set.npz"
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert "the file is no .npz archive" in refusal(file)


def test_a_damaged_archive_is_refused(npz):
    file = npz(**arrays())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert "the file cannot be read" in refusal(file)


def test_pickled_objects_are_not_loaded(npz, tmp_path):
    trap = tmp_path / "sprung"
    file = npz(**arrays(y_test=np.array([Trap(trap)], dtype=object)))
    assert "the file cannot be read" in refusal(file)
    assert not trap.exists()


class Trap:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


# --- a folder of images


def write_images(folder, *, train=6, test=3, classes=("ant", "bee", "cat")):
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", test)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def test_a_folder_gives_three_sets_in_the_shape_asked_for(tmp_path):
    write_images(tmp_path)
    before = listing(tmp_path)
    data = load_data(str(tmp_path), batch_size=5, input_shape=(3, 16, 24))
    shapes = [tuple(all_of(part)[0].shape) for part in parts_of(data)]
    assert shapes == [(17, 3, 16, 24), (1, 3, 16, 24), (9, 3, 16, 24)]
    assert data.classes == ("ant", "bee", "cat")
    assert data.preprocessing == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for part in parts_of(data):
        x, y = next(iter(part))
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
    assert all_of(data.test)[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert listing(tmp_path) == before


def test_images_are_224_pixels_wide_unless_told_otherwise(tmp_path):
    x, _ = next(iter(load_data(str(write_images(tmp_path, test=1))).test))
    assert x.shape == (3, 3, 224, 224)


def test_an_evaluated_image_is_resized_cut_out_and_normalized(tmp_path):
    write_images(tmp_path)
    data = load_data(str(tmp_path), input_shape=(3, 28, 28))
    image = Image.open(tmp_path / "val" / "ant" / "0.png")
    # The shorter side becomes 28 * 256 / 224 = 32 pixels.
    pixels = np.asarray(image.resize((40, 32), Image.Resampling.BILINEAR))[2:30, 6:34] / 255
    normal = (pixels - data.preprocessing.mean) / data.preprocessing.std
    x, _ = next(iter(data.test))
    torch.testing.assert_close(x[0], torch.from_numpy(normal.transpose(2, 0, 1)).float())


def test_a_model_for_gray_images_gets_gray_images(tmp_path):
    data = load_data(str(write_images(tmp_path)), input_shape=(1, 16, 16), mean=[0], std=[1])
    for part in parts_of(data):
        x, _ = all_of(part)
        assert x.shape[1:] == (1, 16, 16)
        assert x.min() >= 0
        assert x.max() <= 1
    assert data.preprocessing == Normalization((0.0,), (1.0,))
    assert load_data(str(tmp_path), input_shape=(1, 16, 16)).preprocessing.mean == (0.449,)


def test_the_images_of_train_are_split_without_loss_or_overlap(tmp_path):
    write_images(tmp_path, train=20)
    data = load_data(str(tmp_path), input_shape=(3, 16, 16))
    kept = data.train.dataset.samples.indices
    held_out = data.validation.dataset.indices
    assert sorted(kept + held_out) == list(range(60))
    assert len(held_out) == 6
    assert all_of(data.validation)[1].bincount().tolist() == [2, 2, 2]


def test_held_out_images_are_not_augmented_and_training_images_are(tmp_path):
    data = load_data(str(write_images(tmp_path, train=20)), input_shape=(3, 16, 16))
    for part in (data.validation, data.test):
        assert torch.equal(all_of(part)[0], all_of(part)[0])
    first, second = ({x.numpy().tobytes() for x in all_of(data.train)[0]} for _ in range(2))
    assert not first & second


def test_a_class_missing_from_val_does_not_move_the_others(tmp_path):
    write_images(tmp_path, test=1)
    (tmp_path / "val" / "ant" / "0.png").unlink()
    (tmp_path / "val" / "ant").rmdir()
    data = load_data(str(tmp_path), input_shape=(3, 16, 16))
    assert all_of(data.test)[1].tolist() == [1, 2]


def test_the_batches_of_a_folder_do_not_depend_on_the_worker_processes(tmp_path, monkeypatch):
    write_images(tmp_path)
    options = {"batch_size": 4, "input_shape": (3, 16, 16), "seed": 3}
    alone = [all_of(loader) for loader in [load_data(str(tmp_path), **options).train] * 2]
    monkeypatch.setattr(data_module, "_WORTH_WORKERS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    loader = load_data(str(tmp_path), **options).train
    assert loader.num_workers == 2
    for x, y in alone:
        other_x, other_y = all_of(loader)
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_drawing_images_leaves_the_global_generator_alone_between_samples(tmp_path):
    data = load_data(str(write_images(tmp_path)), input_shape=(3, 16, 16))
    batches = iter(data.train)
    torch.manual_seed(0)
    next(batches)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)


def test_a_folder_without_its_subfolders_is_refused(tmp_path):
    assert "there is no folder train/" in refusal(tmp_path)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    assert "Found no valid file for the classes ant" in refusal(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "ant" / "0.png")
    assert "there is no folder val/" in refusal(tmp_path)
    (tmp_path / "val").mkdir()
    assert "Couldn't find any class folder" in refusal(tmp_path)


def test_a_folder_with_one_class_is_refused(tmp_path):
    assert "has one class" in refusal(write_images(tmp_path, classes=("ant",)))


def test_a_class_that_only_val_has_is_refused(tmp_path):
    write_images(tmp_path)
    (tmp_path / "val" / "dog").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "dog" / "0.png")
    assert "val/ has classes that train/ has not: dog" in refusal(tmp_path)


@pytest.mark.parametrize("shape", [(64,), (2, 16, 16)])
def test_images_are_not_brought_to_a_shape_that_is_none_of_an_image(tmp_path, shape):
    message = refusal(write_images(tmp_path), input_shape=shape)
    assert f"images cannot be brought to the shape {shape}" in message


# --- package.module:function


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder, under a name that was never imported."""
    monkeypatch.chdir(tmp_path)
    names = []

    def write(returned):
        name = f"loaders_{len(names)}_{random.getrandbits(64)}"
        names.append(name)
        source = f"""
            import torch
            from torch.utils.data import DataLoader, IterableDataset, TensorDataset

            def batches(count=3, x=(4, 5), y=(0, 1, 2, 3), dtype=torch.float32):
                return [(torch.zeros(x, dtype=dtype), torch.tensor(y)) for _ in range(count)]

            class Endless(IterableDataset):
                def __iter__(self):
                    yield torch.zeros(5), 0

            class Named(TensorDataset):
                classes = ["ant", "bee", "cat", "dog", "eel"]

            def load():
                return {returned}
        """
        Path(f"{name}.py").write_text(textwrap.dedent(source))
        return f"{name}:load"

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_three_loaders_are_taken_in_order(module):
    data = load_data(module("batches(5), batches(3), batches(2)"))
    assert [len(part) for part in parts_of(data)] == [5, 3, 2]
    assert data.classes == ("0", "1", "2", "3")
    assert data.preprocessing is None


def test_a_mapping_of_loaders_is_taken_by_its_keys(module):
    spec = module("{'test': batches(2), 'train': batches(5), 'validation': batches(3)}")
    assert [len(part) for part in parts_of(load_data(spec))] == [5, 3, 2]


@pytest.mark.parametrize(
    "returned", ["(batches(5), batches(2))", "{'train': batches(5), 'test': batches(2)}"]
)
def test_of_two_loaders_the_second_serves_twice_and_a_warning_says_so(module, returned, caplog):
    spec = module(returned)
    with caplog.at_level(logging.WARNING, logger="vibfx.data"):
        data = load_data(spec)
    assert data.validation is data.test
    assert [len(part) for part in parts_of(data)] == [5, 2, 2]
    assert f"{spec} returned two loaders" in caplog.text


def test_three_loaders_are_no_reason_to_warn(module, caplog):
    load_data(module("batches(), batches(), batches()"))
    assert caplog.text == ""


def test_the_data_sets_class_names_are_used(module):
    named = "DataLoader(Named(torch.zeros(4, 5), torch.arange(4)), batch_size=4)"
    data = load_data(module(f"{named}, batches(), batches()"))
    assert data.classes == ("ant", "bee", "cat", "dog", "eel")
    message = refusal(module(f"{named}, batches(), batches(y=(0, 1, 2, 5))"))
    assert "the test labels include 5, the training set has the classes 0 to 4" in message


def test_training_batches_that_start_with_one_class_are_no_training_set_of_one_class(module):
    spec = module("batches(2, y=(0, 0, 0, 0)) + batches(1), batches(), batches()")
    assert len(load_data(spec).train) == 3


def test_the_current_folder_is_importable_only_while_the_function_is_called(module):
    before = list(sys.path)
    load_data(module("batches(), batches(), batches()"))
    assert sys.path == before
    with pytest.raises(DataError):
        load_data("no_such_module:load")
    assert sys.path == before


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("7", "the function returned an object of type int instead of loaders"),
        ("(batches(),)", "the function returned 1 values instead of loaders"),
        ("{'train': 1, 'val': 2}", "a mapping with the keys train, val instead of loaders"),
        ("{'train': 1, 'test': 2, 'val': 3}", "a mapping with the keys train, test, val"),
        ("1, 2, 3", "the training loader (int) cannot be iterated every epoch"),
        (
            "iter(batches()), batches(), batches()",
            "the training loader (list_iterator) cannot be iterated",
        ),
        ("DataLoader(Endless()), 2, 3", "the training loader does not say how many batches"),
        ("batches(), [], batches()", "the validation loader is empty"),
        ("batches(), batches(), [7]", "the test batches are not pairs of tensors"),
        ("batches(x=(4, 5), dtype=torch.uint8), 2, 3", "inputs uint8 of shape (4, 5)"),
        ("batches(x=(4,)), 2, 3", "inputs float32 of shape (4,)"),
        ("batches(y=(0, 1)), 2, 3", "labels int64 of shape (2,)"),
        ("batches(y=(0., 1., 2., 3.)), 2, 3", "labels float32 of shape (4,)"),
        ("batches(x=(0, 5), y=()), 2, 3", "the first training batch is empty"),
        ("batches(y=(1, 1, 1, 1)), batches(), batches()", "the training set has one class: 1"),
        ("batches(y=(-1, 0, 1, 2)), batches(), batches()", "the training labels include -1"),
    ],
)
def test_what_cannot_serve_as_loaders_is_refused(module, returned, sentence):
    spec = module(returned)
    message = refusal(spec)
    assert sentence in message
    assert spec in message


def test_batches_of_another_shape_than_the_model_takes_are_refused(module):
    spec = module("batches(), batches(), batches(x=(4, 6))")
    assert "the shape (6,), the model takes (5,)" in refusal(spec, input_shape=(5,))


def test_a_function_normalizes_for_itself(module):
    spec = module("batches(), batches(), batches()")
    assert "mean and std do not apply" in refusal(spec, mean=[0.5], std=[0.5])


def test_a_module_or_function_that_is_not_there_is_refused(module):
    message = refusal("no_such_module:load")
    assert "the module cannot be imported: No module named 'no_such_module'" in message
    assert "mnist:DIR" in message  # a misspelt name looks like a module
    name = module("7").removesuffix(":load")
    assert f"{name} has no function save" in refusal(f"{name}:save")


# --- the loader for data in memory


def numbered(count, *shape, dtype=torch.uint8):
    """Samples whose every value is the sample's number."""
    numbers = torch.arange(count)
    x = numbers.to(dtype).view(-1, *(1 for _ in shape)).expand(count, *shape).contiguous()
    return x, numbers


def epoch_of(loader):
    return [y.tolist() for _, y in loader]


def test_a_loader_can_stand_in_for_a_data_loader():
    x, y = numbered(10, 3)
    theirs = DataLoader(TensorDataset(x / 255, y), batch_size=4)
    ours = TensorLoader(x, y, batch_size=4)
    assert len(ours) == len(theirs) == 3
    for (x_ours, y_ours), (x_theirs, y_theirs) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x_ours, x_theirs)
        assert torch.equal(y_ours, y_theirs)


def test_the_same_seed_gives_the_same_epochs_and_each_epoch_another_order():
    one, other = (
        TensorLoader(*numbered(100, 3, 8, 8), batch_size=16, augment=True, shuffle=True, seed=5)
        for _ in range(2)
    )
    epochs = [list(one) for _ in range(2)]
    for batches in epochs:
        for (x, y), (other_x, other_y) in zip(batches, other, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)
    assert [y.tolist() for _, y in epochs[0]] != [y.tolist() for _, y in epochs[1]]


def test_an_epoch_that_was_broken_off_does_not_change_the_next():
    one, other = (TensorLoader(*numbered(100, 3), batch_size=16, shuffle=True) for _ in range(2))
    next(iter(one))
    list(other)
    assert epoch_of(one) == epoch_of(other)


def test_neighbouring_seeds_share_no_epochs():
    orders = []
    for seed in (-1, 0, 1, 2, 2**40):
        loader = TensorLoader(*numbered(100, 3), batch_size=100, shuffle=True, seed=seed)
        orders += [tuple(epoch_of(loader)[0]) for _ in range(4)]
    assert len(set(orders)) == len(orders)


def test_the_global_generator_is_neither_used_nor_changed():
    torch.manual_seed(0)
    loader = TensorLoader(*numbered(50, 3, 8, 8), batch_size=8, augment=True, shuffle=True)
    first = epoch_of(loader)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    loader = TensorLoader(*numbered(50, 3, 8, 8), batch_size=8, augment=True, shuffle=True)
    assert epoch_of(loader) == first


@pytest.mark.parametrize(
    ("count", "batch_size", "shuffle", "sizes"),
    [
        (10, 4, True, [4, 4, 2]),
        (9, 4, True, [4, 4]),  # batch norm cannot train on one sample
        (9, 4, False, [4, 4, 1]),
        (8, 4, True, [4, 4]),
        (3, 1, True, [1, 1, 1]),
        (3, 8, True, [3]),
    ],
)
def test_only_a_training_batch_of_one_sample_is_left_out(count, batch_size, shuffle, sizes):
    loader = TensorLoader(*numbered(count, 3), batch_size=batch_size, shuffle=shuffle)
    assert [len(y) for _, y in loader] == sizes
    assert len(loader) == len(sizes)
    if shuffle:
        keys = SeededBatches(count, batch_size=batch_size, seed=0)
        assert [len(batch) for batch in keys] == sizes
        assert len(keys) == len(sizes)


def test_every_sample_comes_once_an_epoch_with_its_label():
    x, y = numbered(100, 1, 2, 2)
    loader = TensorLoader(x, y, batch_size=16, shuffle=True)
    seen_x, seen_y = all_of(loader)
    assert seen_y.tolist() != y.tolist()
    assert sorted(seen_y.tolist()) == y.tolist()
    assert torch.equal((seen_x[:, 0, 0, 0] * 255).round().long(), seen_y)


def test_the_samples_stay_what_they_were():
    x, y = torch.full((10, 3), 7.0), torch.arange(10)
    loader = TensorLoader(x, y, batch_size=4, normalization=Normalization((1.0,) * 3, (2.0,) * 3))
    for _ in range(2):
        assert torch.equal(all_of(loader)[0], torch.full((10, 3), 3.0))
    assert torch.equal(x, torch.full((10, 3), 7.0))


def test_the_epoch_can_be_set():
    loader = BatchOrder(50, batch_size=8, shuffle=True, seed=0)
    epochs = [torch.cat(loader.next_epoch()[0]) for _ in range(3)]
    loader.epoch = 1
    assert torch.equal(torch.cat(loader.next_epoch()[0]), epochs[1])


# --- augmentation


def every_variant(image, shift):
    """All the crops of a zero-padded image, plain and mirrored."""
    _, height, width = image.shape
    padded = torch.zeros(3, height + 2 * shift, width + 2 * shift, dtype=image.dtype)
    padded[:, shift : shift + height, shift : shift + width] = image
    crops = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * shift + 1)
        for left in range(2 * shift + 1)
    ]
    return [crop.numpy().tobytes() for crop in crops] + [
        crop.flip(-1).numpy().tobytes() for crop in crops
    ]


@pytest.mark.parametrize(("size", "shift"), [(32, 4), (16, 2), (4, 1)])
def test_an_augmented_image_is_its_original_moved_and_perhaps_mirrored(size, shift):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (3, size, size), generator=generator).to(torch.uint8)
    augmented = shift_and_mirror(image.expand(2000, -1, -1, -1), generator)
    assert augmented.shape == (2000, 3, size, size)
    assert augmented.dtype == torch.uint8
    variants = every_variant(image, shift)
    seen = {one.numpy().tobytes() for one in augmented}
    assert seen == set(variants)  # nothing else, and every move in both directions is made


def test_each_image_of_a_batch_is_moved_for_itself():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (64, 3, 8, 8), generator=generator).to(torch.uint8)
    augmented = shift_and_mirror(images, generator)
    places = [
        every_variant(image, 1).index(one.numpy().tobytes())
        for image, one in zip(images, augmented, strict=True)
    ]
    assert len(set(places)) == 18


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


def test_gray_images_are_not_augmented(npz):
    content = arrays(shape=(8, 8))
    data = load_data(str(npz(**content)))
    originals = {torch.from_numpy(x / 255).float().numpy().tobytes() for x in content["x_train"]}
    assert {x.numpy().tobytes() for x in all_of(data.train)[0]} < originals


# --- holding out


@pytest.mark.parametrize("count", [1, 7, 100, 999])
def test_samples_are_held_out_in_proportion_without_loss_or_overlap(count):
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    kept, held_out = hold_out(labels, count)
    assert len(held_out) == count
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(1000))
    shares = labels[held_out].bincount(minlength=3) - torch.tensor([0.6, 0.3, 0.1]) * count
    assert shares.abs().max() <= 1


def test_held_out_samples_are_drawn_at_random_but_always_the_same():
    labels = torch.zeros(1000, dtype=torch.int64)
    _, held_out = hold_out(labels, 100)
    assert torch.equal(hold_out(labels, 100)[1], held_out)
    gaps = held_out.diff()
    assert gaps.min() < 5
    assert gaps.max() > 15


def test_at_most_5000_samples_are_held_out(npz):
    x, y = np.zeros((60_000, 2), np.float32), np.arange(60_000) % 10
    data = load_data(str(npz(x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])), batch_size=5000)
    assert [len(all_of(part)[1]) for part in parts_of(data)] == [55_000, 5_000, 10]
