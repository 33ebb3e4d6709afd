import pytest
import torch
from data_helpers import all_of
from torch.utils.data import DataLoader, TensorDataset

from vibfx.data import Normalization, TensorLoader
from vibfx.data.batches import BatchOrder, SeededBatches, augmented, hold_out

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


def test_samples_on_a_device_make_the_same_batches():
    one, other = (
        TensorLoader(
            *numbered(40, 3, 8, 8),
            batch_size=16,
            normalization=Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
            augment=True,
            shuffle=True,
        )
        for _ in range(2)
    )
    assert one.nbytes == 40 * (3 * 8 * 8 + 8)
    one.to(torch.device("cpu"))
    for (x, y), (other_x, other_y) in zip(one, other, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


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
    padded = torch.zeros(len(image), height + 2 * shift, width + 2 * shift, dtype=image.dtype)
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
    moved = augmented(image.expand(2000, -1, -1, -1), generator)
    assert moved.shape == (2000, 3, size, size)
    assert moved.dtype == torch.uint8
    variants = every_variant(image, shift)
    seen = {one.numpy().tobytes() for one in moved}
    assert seen == set(variants)  # nothing else, and every move in both directions is made


def test_each_image_of_a_batch_is_moved_for_itself():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (64, 3, 8, 8), generator=generator).to(torch.uint8)
    moved = augmented(images, generator)
    places = [
        every_variant(image, 1).index(one.numpy().tobytes())
        for image, one in zip(images, moved, strict=True)
    ]
    assert len(set(places)) == 18


@pytest.mark.parametrize(("size", "shift"), [(28, 1), (56, 2), (8, 1)])
def test_a_gray_image_is_moved_by_less_and_never_mirrored(size, shift):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (1, size, size), generator=generator).to(torch.uint8)
    moved = augmented(image.expand(500, -1, -1, -1), generator)
    plain = every_variant(image, shift)[: (2 * shift + 1) ** 2]
    assert {one.numpy().tobytes() for one in moved} == set(plain)


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
