"""Layers as operators, and which of their widths the runtime computes in blocks."""

import pytest
import torch
from networks import traced
from torch import nn

from vibfx.latency.kernels import NEVER, Blocks, Kernel, kernel_of
from vibfx.metrics import layers_of


def kernels(model, shape):
    return [kernel_of(node, layer) for node, layer in layers_of(traced(model, shape))]


def dense(**changed):
    fields = {"op": "Conv", "space": (8, 8), "attributes": (), "shape": (32, 24, 3, 3)}
    return Kernel(**fields | changed)


def test_what_a_convolution_is_told_comes_along():
    model = nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2), dilation=(1, 2), groups=2)
    (found,) = kernels(model, (4, 9, 20))
    assert (found.op, found.space, found.shape) == ("Conv", (9, 20), (6, 2, 3, 5))
    assert (found.groups, found.reads) == (2, 1)
    assert dict(found.attributes) == {
        "kernel_shape": (3, 5),
        "strides": (2, 2),
        "pads": (1, 2, 1, 2),
        "dilations": (1, 2),
    }


def test_padding_to_the_same_size_is_spelled_out():
    (found,) = kernels(nn.Conv1d(4, 6, 4, padding="same", dilation=3), (4, 20))
    assert dict(found.attributes)["pads"] == (4, 5)
    (found,) = kernels(nn.Conv1d(4, 6, 4, padding="valid"), (4, 20))
    assert dict(found.attributes)["pads"] == (0, 0)


def test_a_transposed_convolution_reads_by_its_first_dimension():
    (found,) = kernels(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (4, 5, 5))
    assert (found.op, found.shape, found.reads) == ("ConvTranspose", (4, 6, 3, 3), 0)
    assert dict(found.attributes)["output_padding"] == (1, 1)


def test_products_have_as_many_rows_as_there_are_positions():
    one, several = (kernels(nn.Linear(6, 3), shape)[0] for shape in ((6,), (5, 6)))
    assert (one.op, one.space, one.shape) == ("Gemm", (1,), (3, 6))
    assert (several.op, several.space) == ("MatMul", (5,))


def test_the_matrices_of_a_recurrent_layer_are_products():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0][:, -1]

    assert [(k.op, k.space, k.shape) for k in kernels(Last(), (7, 4))] == [
        ("MatMul", (7,), (15, 4)),
        ("MatMul", (7,), (15, 5)),
    ]


@pytest.mark.parametrize(
    ("kernel", "blocks"),
    [
        (dense(), Blocks((16, 16), (1, 4), direct=16)),
        (dense(shape=(24, 1, 3, 3), groups=24), Blocks((16, 1), (4, 1))),
        (dense(shape=(64, 16, 3, 3), groups=2), Blocks((32, 16), (32, 16))),
        (dense(shape=(64, 2, 3, 3), groups=32), Blocks((1, 1), (NEVER, NEVER))),
        (dense(space=(8,), shape=(32, 24, 3)), Blocks((1, 1), (NEVER, NEVER))),
        (dense(op="ConvTranspose", reads=0), Blocks((1, 1), (NEVER, NEVER))),
        (dense(op="Gemm", space=(1,), shape=(8, 8)), Blocks((1, 1), (NEVER, NEVER))),
    ],
)
def test_what_is_computed_in_blocks_of_16(kernel, blocks):
    assert kernel.blocks(16) == blocks
    assert kernel.blocks(1) == Blocks((1, 1), (NEVER, NEVER))


def test_blocks_hold_multiples_of_4_and_what_is_read_directly():
    blocks = dense().blocks(16)
    assert [w for w in range(1, 25) if blocks.hold((5, w))] == [*range(1, 17), 20, 24]


def test_groups_left():
    depthwise, columns = dense(shape=(24, 1, 3, 3), groups=24), dense(shape=(64, 16), groups=2)
    assert depthwise.groups_left((10, 1)) == 10
    assert columns.groups_left((32, 8)) == 2
    assert depthwise.units == (1, 1)
    assert columns.units == (2, 1)


def test_the_blocks_are_those_that_the_runtime_really_makes(tmp_path):
    """A width is computed in blocks exactly where its optimised model says so."""
    import onnx

    from vibfx.latency import micro_benchmarks

    block = micro_benchmarks.channel_block()
    if block == 1:
        pytest.skip("the runtime has no blocked kernels on this processor")
    attributes = (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1)))
    for shape, groups in (((32, 32, 3, 3), 1), ((32, 1, 3, 3), 32), ((64, 32, 3, 3), 2)):
        kernel = dense(shape=shape, groups=groups, attributes=attributes)
        first, second = shape[:2]
        for less in range(0, first // kernel.groups if not kernel.loses_groups else first, 3):
            widths = (
                (first - less, 1) if second == 1 else (first - less * groups, second - less % 31)
            )
            path = tmp_path / "optimized.onnx"
            micro_benchmarks._session(micro_benchmarks._model(kernel, widths), optimized=path)
            domains = {node.domain for node in onnx.load(str(path)).graph.node}
            assert kernel.blocks(block).hold(widths) == ("com.microsoft.nchwc" in domains), widths


def test_a_traced_graph_may_have_been_made_with_any_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    import vibfx

    two, five = (vibfx.trace(model, torch.zeros(n, 3, 4, 4)) for n in (2, 5))
    made = [[kernel_of(n, layer) for n, layer in layers_of(g)] for g in (two, five)]
    assert made[0] == made[1]
