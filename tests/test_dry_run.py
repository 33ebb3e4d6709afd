import torch
from torch import nn

from vibfx.dry_run import DryRun, Result


class Counting(nn.Module):
    """Writes to a buffer and to an attribute whenever it runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.linear, self.last = nn.Linear(3, 2), None

    def forward(self, x):
        self.calls += 1
        self.last = x
        return {"scores": self.linear(x)}


def test_the_result_of_one_example_and_the_last_map():
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 6, 1))
    run = DryRun.of(nn.Sequential(convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert run((1, 32, 32)) == Result((6,), 8)
    assert run((1, 28, 28)) == Result((6,), 7)
    assert run((1, 4, 4)) == Result((6,), 2)


def test_one_pixel_and_what_is_pooled_to_a_given_size_are_no_map():
    squeezed = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten())
    assert DryRun.of(squeezed)((3, 32, 32)) == Result((147,), 0)
    single = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    assert DryRun.of(single)((3, 8, 8)) == Result((4,), 0)


def test_patches_are_no_map():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(self.patches(x).flatten(2).mT).mean(1)

    assert DryRun.of(Patches())((3, 32, 32)) == Result((8,), 0)


def test_what_the_model_does_not_take_is_none():
    run = DryRun.of(nn.Linear(3, 2))
    assert run((3,)) == Result((2,), 0)
    assert run((4,)) is None
    assert DryRun.of(nn.Flatten(0))((3,)) is None  # not one result an example


def test_the_model_itself_does_not_run():
    model = Counting()
    assert DryRun.of(model)((3,)) == Result((2,), 0)
    assert (float(model.calls), model.last) == (0.0, None)
