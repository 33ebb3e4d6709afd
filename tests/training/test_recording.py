"""The original's outputs looked up: the same training, with the original run once."""

import pytest
import torch
from networks import traced
from small_graphs import Calls
from torch import nn

from vibfx import fine_tune
from vibfx.data import TensorLoader
from vibfx.training import meter
from vibfx.training.engine import Hardware
from vibfx.training.objectives import Distillation, Supervised

COUNT, BATCH, EPOCHS = 33, 8, 3  # the last batch of an epoch has one sample, and is left out


class Behind:
    """A loader's batches, from something that tells nothing of them."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)

    def set_epoch(self, epoch):
        self.loader.set_epoch(epoch)


def network(seed, *, outputs=4):
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()
    return traced(nn.Sequential(*layers, nn.Linear(6 * 36, outputs)), (1, 8, 8))


def loader(labels=True, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, 1, 8, 8, generator=generator)
    y = torch.randint(4, (COUNT,), generator=generator) if labels else None
    return TensorLoader(x, y, batch_size=BATCH, shuffle=True, **options)


def asked(graph):
    """How many examples the graph is run for from now on, call by call."""
    calls = []
    graph.register_forward_hook(lambda module, args, outputs: calls.append(len(args[0])))
    return calls


def both(make, objective, **hardware):
    """One network trained with what is recorded, one without; and what the original was asked."""
    calls = []
    for wrapped in (False, True):
        original, module = network(1), network(2)
        calls.append(asked(original))
        data = Behind(make()) if wrapped else make()
        on = Hardware("cpu", "float32", **hardware)
        fine_tune(module, data, objective=objective(original), epochs=EPOCHS, lr=0.01, hardware=on)
        yield module.state_dict()
    assert sum(calls[0]) == COUNT
    assert sum(calls[1]) == (COUNT - 1) * EPOCHS


def assert_same(one, other):
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5), name


@pytest.mark.parametrize("labels", [True, False])
def test_training_is_the_same_with_the_original_run_once(labels):
    assert_same(*both(lambda: loader(labels), Distillation))


def test_a_loss_that_is_mixed_in_has_the_samples_own_labels():
    assert_same(*both(loader, lambda graph: Distillation(graph, Supervised(), 0.5)))


def test_a_batch_in_pieces_is_looked_up_in_pieces():
    assert_same(*both(loader, Distillation, micro_batch=3))


def test_right_answers_are_counted_on_the_samples_own_labels(monkeypatch):
    monkeypatch.setattr(meter, "_REPORT_EVERY", 0.0)
    seen = []
    for data in (loader(), Behind(loader())):
        found = []
        fine_tune(
            network(2),
            data,
            objective=Distillation(network(1)),
            epochs=2,
            hardware=Hardware("cpu", "float32"),
            on_progress=lambda progress, found=found: found.append(progress.accuracy),
        )
        seen.append(found)
    assert seen[0] == pytest.approx(seen[1])
    assert 0.0 < max(seen[0]) <= 1.0


def test_outputs_of_any_structure_are_recorded():
    def two(seed):
        torch.manual_seed(seed)
        return traced(
            Calls(
                lambda net, x: {"a": net.a(x), "rest": (net.b(x), x)},
                a=nn.Conv2d(1, 1, 3),
                b=nn.Conv2d(1, 1, 8),
            ),
            (1, 8, 8),
        )

    trained, calls = [], []
    for wrapped in (False, True):
        original, module = two(1), two(2)
        calls.append(asked(original))
        x = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))[:, :1]
        data = TensorLoader(x, torch.zeros(COUNT, 8, 8, 8), batch_size=BATCH, shuffle=True)
        data = Behind(data) if wrapped else data
        fine_tune(module, data, objective=Distillation(original), epochs=2)
        trained.append(module.state_dict())
    assert sum(calls[0]) == COUNT
    assert_same(*trained)


@pytest.mark.parametrize(
    ("options", "outputs", "epochs"),
    [({"augment": True}, 4, 3), ({}, 80, 3), ({}, 4, 1)],
    ids=["augmented", "larger-than-the-samples", "one-epoch"],
)
def test_the_original_is_asked_step_by_step_where_nothing_is_gained(options, outputs, epochs):
    original, module = network(1, outputs=outputs), network(2, outputs=outputs)
    calls = asked(original)
    data = loader(labels=False, **options)
    fine_tune(module, data, objective=Distillation(original), epochs=epochs)
    assert sum(calls[-epochs * len(data) :]) == (COUNT - 1) * epochs
    assert len(calls) >= epochs * len(data)
