import pytest
import torch
from small_graphs import Calls, Plain
from torch import nn

import vibfx
from vibfx.data.synthesis import synthesize
from vibfx.errors import InputError
from vibfx.graph import digest

CPU = torch.device("cpu")


def used_to(model, x):
    """The model as if it had been trained on ``x``: its batch norms have seen it, and know it."""
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                norm.momentum = None  # a plain average
        model.train()(x)
    return model.eval()


def stripes(scale=1.0):
    """Images that noise is unlike: far from zero, and one column like the next."""
    return scale * (3.0 + 2.0 * torch.randn(64, 1, 8, 1).expand(-1, -1, -1, 8))


def distance(model, x):
    """How far the statistics of ``x`` are off in front of the norm, in running deviations."""
    met = []
    handle = model.norm.register_forward_pre_hook(lambda _, args: met.append(args[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    variance, mean = torch.var_mean(met[0].transpose(0, 1).flatten(1), 1, correction=0)
    off = ((mean - model.norm.running_mean) / model.norm.running_var.sqrt()).abs()
    return float((off + (variance / model.norm.running_var).log().abs()).mean())


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_images_get_the_statistics_that_batch_norms_remember(scale):
    model = used_to(Plain(), stripes(scale))
    made = synthesize(
        vibfx.trace(model, torch.zeros(2, 1, 8, 8)), (1, 8, 8), count=40, seed=0, device=CPU
    )
    assert (made.shape, made.dtype, made.requires_grad) == ((40, 1, 8, 8), torch.float32, False)
    assert distance(model, made) < 0.2 * distance(model, torch.randn(40, 1, 8, 8))


def test_features_get_them_too():
    layers = {"linear": nn.Linear(6, 5), "norm": nn.BatchNorm1d(5), "head": nn.Linear(5, 2)}
    model = Calls(lambda m, x: m.head(torch.relu(m.norm(m.linear(x)))), **layers)
    used_to(model, 1.0 + 2.0 * torch.randn(64, 6))
    made = synthesize(vibfx.trace(model, torch.zeros(2, 6)), (6,), count=40, seed=0, device=CPU)
    assert made.shape == (40, 6)
    assert distance(model, made) < 0.2 * distance(model, torch.randn(40, 6))


def test_every_batch_is_another_and_a_seed_fixes_them_all(monkeypatch):
    monkeypatch.setattr("vibfx.data.synthesis._LARGEST_BATCH", 8)
    graph = vibfx.trace(used_to(Plain(), stripes()), torch.zeros(2, 1, 8, 8))

    def made(seed, count=20):
        return synthesize(graph, (1, 8, 8), count=count, seed=seed, device=CPU)

    first = made(0)
    assert len(first) == 20
    assert len(first.flatten(1).unique(dim=0)) == 20
    assert torch.equal(first, made(0))
    assert not torch.isclose(first, made(1)).all(dim=(1, 2, 3)).any()


def test_the_graph_stays_as_it_is():
    graph = vibfx.trace(used_to(Plain(), stripes()), torch.zeros(2, 1, 8, 8))
    for parameter in list(graph.parameters())[::2]:
        parameter.requires_grad_(False)
    before = digest(graph), graph.training, [p.requires_grad for p in graph.parameters()]
    synthesize(graph, (1, 8, 8), count=4, seed=0, device=CPU)
    assert before == (digest(graph), graph.training, [p.requires_grad for p in graph.parameters()])
    assert all(p.grad is None for p in graph.parameters())


def test_without_batch_norm_it_is_gaussian_noise():
    graph = vibfx.trace(nn.Sequential(nn.Linear(50, 3), nn.ReLU()), torch.zeros(2, 50))
    made = synthesize(graph, (50,), count=200, seed=0, device=CPU)
    assert made.shape == (200, 50)
    assert abs(float(made.mean())) < 0.05
    assert abs(float(made.std()) - 1.0) < 0.05
    assert abs(float(((made - made.mean()) ** 4).mean()) - 3.0) < 0.2


def test_a_norm_without_statistics_of_its_own_remembers_nothing():
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    graph = vibfx.trace(nn.Sequential(nn.Conv2d(1, 2, 3), norm), torch.zeros(2, 1, 8, 8))
    steps = []
    made = synthesize(
        graph, (1, 8, 8), count=4, seed=0, device=CPU, on_progress=lambda *s: steps.append(s)
    )
    assert (len(made), steps) == (4, [])


def test_noise_of_an_image_is_smooth_as_images_are():
    graph = vibfx.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(2, 1, 32, 32))
    made = synthesize(graph, (1, 32, 32), count=64, seed=0, device=CPU)
    neighbours = torch.corrcoef(torch.stack([made[..., 1:].flatten(), made[..., :-1].flatten()]))
    assert float(neighbours[0, 1]) > 0.5


def test_progress_counts_the_steps_of_all_batches(monkeypatch):
    monkeypatch.setattr("vibfx.data.synthesis._LARGEST_BATCH", 8)
    graph = vibfx.trace(used_to(Plain(), stripes()), torch.zeros(2, 1, 8, 8))
    steps = []
    synthesize(
        graph, (1, 8, 8), count=12, seed=0, device=CPU, on_progress=lambda *s: steps.append(s)
    )
    assert steps == [(done, 60) for done in range(1, 61)]


def test_a_batch_that_the_model_fixes_is_kept():
    model = Calls(lambda m, x: m.norm(m.conv(x)).view(4, -1), conv=nn.Conv2d(1, 2, 3))
    model.norm = nn.BatchNorm2d(2)
    graph = vibfx.trace(used_to(model, torch.randn(4, 1, 8, 8)), torch.zeros(4, 1, 8, 8))
    assert synthesize(graph, (1, 8, 8), count=6, seed=0, device=CPU).shape == (6, 1, 8, 8)


def test_refuses_tokens():
    graph = vibfx.trace(
        nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), torch.zeros(2, 5, dtype=torch.int64)
    )
    with pytest.raises(InputError) as caught:
        synthesize(graph, (5,), count=4, seed=0, device=CPU)
    assert caught.value.what.endswith("numbers, not for: int64")
    assert caught.value.hint == "Pass data to train on (--data)."
