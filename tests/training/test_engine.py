"""Device, precision, memory format and compiler: the same steps, run in another way."""

import numpy as np
import pytest
import torch
from counted_networks import cut
from networks import traced
from small_graphs import Calls
from tasks import images, one_thread  # noqa: F401
from torch import nn
from torch.nn import functional as F

import vibfx
from vibfx.data import TensorLoader
from vibfx.errors import InputError
from vibfx.passes import SetMode
from vibfx.training import engine
from vibfx.training.engine import Engine, Hardware, choose_device
from vibfx.training.objectives import Objective, Supervised

CPU = torch.device("cpu")
has_bfloat16 = engine._has_bfloat16


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """Whatever the processor can do."""
    monkeypatch.setattr(engine, "_has_bfloat16", lambda device: False)


@pytest.mark.parametrize("able", ["_is_amx_tile_supported", "_is_avx512_bf16_supported", None])
def test_a_processor_has_bfloat16_where_it_has_either_kind_of_instructions(able, monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == able)
    assert has_bfloat16(CPU) is (able is not None)


def pooled():
    """A network that takes images in either memory format."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6, 4),
    )
    return traced(model, (3, 8, 8))


def viewing():
    """One that lays out its features anew, which only the usual format allows."""
    torch.manual_seed(0)
    model = Calls(
        lambda net, x: net.b(net.a(x).view(x.shape[0], 6 * 64)),
        a=nn.Conv2d(3, 6, 3, padding=1),
        b=nn.Linear(6 * 64, 4),
    )
    return traced(model, (3, 8, 8))


def colored(batches=2):
    """The images, the same in three channels: one channel lies alike in either format."""
    return [(x.expand(-1, 3, -1, -1).contiguous(), labels) for x, labels in images(batches=batches)]


def trained(module, hardware):
    """Two steps, and the engine that made them."""
    SetMode(training=True)(module)
    torch.manual_seed(0)
    runner = Engine(module, hardware)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for x, labels in colored():
        runner.step(runner.place(x), labels, Supervised(), lambda: 0.0, optimizer)
    return module.state_dict(), runner


def assert_close(found, expected, tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("build", [pooled, viewing])
def test_the_memory_format_is_chosen_by_whether_it_works_and_changes_nothing(build):
    expected, _ = trained(build(), Hardware("cpu", channels_last=False))
    found, runner = trained(build(), Hardware("cpu"))
    assert_close(found, expected, 1e-5)
    x, _ = colored()[0]
    placed = runner.place(x)
    assert torch.equal(placed, x)
    is_last = placed.is_contiguous(memory_format=torch.channels_last)
    assert is_last == (build is not viewing)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_goes_on_in_the_memory_format_of_its_input(channels):
    """One channel lies alike in both; only the strides tell."""
    convolution = nn.Conv2d(channels, 4, 3)
    runner = Engine(traced(convolution, (channels, 8, 6)), Hardware("cpu", channels_last=True))
    x = torch.rand(2, channels, 8, 6)
    placed = runner.place(x)
    assert torch.equal(placed, x)
    found, expected = convolution(placed), convolution(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()
    torch.testing.assert_close(found, expected)


def test_the_memory_format_can_be_told():
    last = Engine(pooled(), Hardware("cpu", channels_last=True))
    usual = Engine(pooled(), Hardware("cpu", channels_last=False))
    x = torch.zeros(2, 3, 4, 4)
    assert last.place(x).is_contiguous(memory_format=torch.channels_last)
    assert usual.place(x).is_contiguous()
    assert last.place(torch.zeros(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "is_last"),
    [(7, 1, 2, False), (2, 1, (1, 2), False), (8, 1, 2, True), (2, 1, 1, True), (2, 3, 2, True)],
)
def test_narrow_strided_shortcuts_are_not_run_channels_last(channels, kernel, stride, is_last):
    """oneDNN corrupts the heap there; a process that does so may die any time later."""
    shortcut = nn.Conv2d(channels, 10, kernel, stride=stride, bias=False)
    module = traced(nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), shortcut), (3, 8, 8))
    for told in (True, None):
        placed = Engine(module, Hardware("cpu", channels_last=told)).place(torch.rand(32, 3, 8, 8))
        assert placed.is_contiguous(memory_format=torch.channels_last) == is_last


def test_the_memory_format_is_chosen_again_when_a_graph_is_cut():
    shortcut = nn.Conv2d(8, 10, 1, stride=2, bias=False)
    module = traced(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), shortcut), (3, 8, 8))
    runner, x = Engine(module, Hardware("cpu", channels_last=True)), torch.rand(32, 3, 8, 8)
    assert runner.place(x).is_contiguous(memory_format=torch.channels_last)
    coupling = vibfx.analyze(module)
    keep = np.arange(coupling.units) < 4
    module.graph = cut(module, coupling, keep).graph
    assert runner.place(x).is_contiguous()


def test_networks_without_images_are_left_alone():
    module = traced(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 8, 8))
    x = torch.zeros(2, 3, 8, 8)
    assert Engine(module, Hardware("cpu")).place(x).is_contiguous()


def test_trying_the_memory_format_leaves_no_trace():
    module = pooled()
    SetMode(training=True)(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    Engine(module, Hardware("cpu")).place(colored()[0][0])
    assert torch.equal(torch.rand(2), first)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_is_compiled_makes_the_same_steps_also_after_a_cut(monkeypatch):
    calls = []

    def compiled(module):
        calls.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", compiled)
    expected, _ = trained(pooled(), Hardware("cpu"))
    module = pooled()
    found, runner = trained(module, Hardware("cpu", compiled=True))
    assert_close(found, expected, 0.0)
    assert len(calls) == 1
    module.graph = torch.fx.Graph().__class__()  # another graph, as after a cut
    module.graph.output(module.graph.placeholder("x"))
    module.recompile()
    x = torch.ones(2, 3)
    assert torch.equal(runner(x), x)
    assert len(calls) == 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_can_be_told_and_weights_stay_float32(precision):
    expected, _ = trained(pooled(), Hardware("cpu", precision="float32"))
    found, runner = trained(pooled(), Hardware("cpu", precision=precision))
    assert {v.dtype for v in found.values() if v.is_floating_point()} == {torch.float32}
    assert_close(found, expected, 3e-2)
    assert any(not torch.equal(found[name], expected[name]) for name in found)
    assert runner(runner.place(colored()[0][0])).dtype == getattr(torch, precision)


def test_the_scale_of_gradients_is_carried_over():
    _, runner = trained(pooled(), Hardware("cpu", precision="float16"))
    other = Engine(pooled(), Hardware("cpu", precision="float16"))
    other.load_state(runner.state() | {"scale": 128.0})
    assert other.state()["scale"] == 128.0
    assert Engine(pooled(), Hardware("cpu")).state() == {}


class Sizes(Objective):
    """Notes how many examples it is asked about at a time."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, outputs, x, labels):
        assert len(x) == len(labels) == len(outputs)
        self.seen.append(len(labels))
        return F.cross_entropy(outputs, labels)


def test_a_batch_in_pieces_gives_the_same_gradients_and_one_penalty():
    """Without batch norm and dropout, which see one piece at a time."""
    results = []
    for micro_batch, sizes in ((None, [32]), (32, [32]), (31, [16, 16]), (10, [8, 8, 8, 8])):
        module = viewing()
        SetMode(training=True)(module)
        runner = Engine(module, Hardware("cpu", micro_batch=micro_batch))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        (x, labels), objective = colored(1)[0], Sizes()
        penalties = []

        def penalty(module=module, penalties=penalties):
            penalties.append(0.1 * sum(p.square().sum() for p in module.parameters()))
            return penalties[-1]

        loss, right = runner.step(runner.place(x), labels, objective, penalty, optimizer)
        assert objective.seen == sizes
        assert len(penalties) == 1
        assert not loss.requires_grad
        results.append((loss, right, *module.parameters()))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_what_is_recomputed_makes_the_same_steps():
    expected, _ = trained(pooled(), Hardware("cpu"))
    found, _ = trained(pooled(), Hardware("cpu", recompute=True))
    assert_close(found, expected, 0.0)


def test_what_is_compiled_is_not_recomputed():
    with pytest.raises(InputError, match="cannot be recomputed"):
        Engine(pooled(), Hardware("cpu", compiled=True, recompute=True))


@pytest.mark.parametrize(("free", "there"), [(10**6, True), (500, False)])
def test_samples_in_memory_live_on_a_gpu_that_has_room(monkeypatch, free, there):
    moved = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(TensorLoader, "to", lambda self, device: moved.append(device))
    runner = Engine(pooled(), Hardware("cpu"))
    loader = TensorLoader(torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64), batch_size=2)
    runner.take_in(loader)
    assert not moved  # the CPU has them already
    runner.device = torch.device("cuda")
    runner.take_in(loader)
    runner.take_in(colored())
    assert moved == [runner.device] * there


def test_the_device_is_the_one_named_or_the_best_there_is():
    assert choose_device("cpu") == CPU
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["toaster", "", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="there is no device") as caught:
        choose_device(name)
    assert repr(name) in caught.value.what
