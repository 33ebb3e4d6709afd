import os

import numpy as np
import pytest
import torch
from data_helpers import all_of, listing, parts_of, refusal
from PIL import Image

from vibfx.data import Normalization, load_data


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
    monkeypatch.setattr("vibfx.data.folder._WORTH_WORKERS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
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


def test_images_without_labels(tmp_path):
    write_images(tmp_path, train=10, test=0)
    (tmp_path / "train").rename(tmp_path / "holidays")
    (tmp_path / "holidays" / "notes.txt").write_text("no image")
    data = load_data(str(tmp_path), batch_size=8, input_shape=(3, 16, 16))
    assert (data.labels, data.classes) == ("none", ())
    sets = [torch.cat(list(part)) for part in parts_of(data)]
    assert [len(x) for x in sets] == [24, 3, 3]
    assert all(x.shape[1:] == (3, 16, 16) and x.dtype == torch.float32 for x in sets)
    plain = {x.numpy().tobytes() for part in sets[1:] for x in part}
    assert len(plain) == 6  # validation and test have none in common
    assert not torch.equal(torch.cat(list(data.train)), sets[0])  # augmented anew
    assert torch.equal(torch.cat(list(data.test)), sets[2])


def test_training_images_are_augmented_unless_told_not_to(tmp_path):
    data = load_data(str(write_images(tmp_path)), input_shape=(3, 16, 16), augment=False)
    first, second = ({x.numpy().tobytes() for x in all_of(data.train)[0]} for _ in range(2))
    assert first == second
