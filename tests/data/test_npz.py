from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import all_of, arrays, parts_of, refusal

from vibfx.data import load_data


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
        ({"x_train": np.zeros(40, np.float32)}, "x_train is float32 of shape (40,)"),
        ({"x_train": np.float32(1)}, "x_train is float32 of shape ()"),
        ({"x_train": with_nan()}, "x_train holds NaN or infinite values"),
        ({"x_train": np.full((40, 5), 1e300)}, "x_train holds NaN or infinite values"),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8)}, "x_train is empty"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8)}, "x_test is empty"),
        ({"y_train": np.zeros(39, np.int64)}, "x_train has 40 samples, y_train 39 labels"),
        ({"y_test": np.zeros(11, np.int64)}, "x_test has 10 samples, y_test 11 labels"),
        ({"y_train": np.zeros(40)}, "y_train is float32 of shape (40,), y_test int64"),
        ({"y_train": np.zeros(40, bool)}, "y_train is bool of shape (40,)"),
        ({"y_train": np.full(40, np.nan)}, "y_train holds NaN or infinite values"),
        ({"y_train": None}, "the file lacks y_train"),
        ({"y_train": None, "y_test": None, "x_train": None}, "the file lacks x_train"),
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


def test_at_most_5000_samples_are_held_out(npz):
    x, y = np.zeros((60_000, 2), np.float32), np.arange(60_000) % 10
    data = load_data(str(npz(x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])), batch_size=5000)
    assert [len(all_of(part)[1]) for part in parts_of(data)] == [55_000, 5_000, 10]


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


def test_labels_may_be_values(npz):
    values = np.random.default_rng(0).normal(size=(50, 2))
    data = load_data(str(npz(**arrays(y_train=values[:40], y_test=values[40:]))))
    assert (data.labels, data.classes) == ("values", ())
    _, y = all_of(data.test)
    torch.testing.assert_close(y, torch.from_numpy(values[40:]).float())
    assert len(all_of(data.train)[1]) + len(all_of(data.validation)[1]) == 40


@pytest.mark.parametrize("test", [True, False])
def test_there_may_be_no_labels(npz, test):
    given = arrays(y_train=None, y_test=None)
    data = load_data(str(npz(**given if test else {"x_train": given["x_train"]})), batch_size=8)
    assert (data.labels, data.classes) == ("none", ())
    parts = [torch.cat(list(part)) for part in (data.train, data.validation, data.test)]
    assert [len(x) for x in parts] == ([36, 4, 10] if test else [32, 4, 4])
    seen = {x.numpy().tobytes() for part in parts[1:] for x in part}
    assert len(seen) == len(parts[1]) + len(parts[2])  # none in both
