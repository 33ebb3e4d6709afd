"""Where a factor on a channel can be taken up."""

import pytest
import torch
from couplings import Net, case
from torch import nn
from torch.nn import functional as F

from vibfx.scaling import absorbers


def absorbed(net, node, *shape, positive=True):
    """The layers that a factor on the channels of a node reaches; None where it cannot."""
    given = case(net, *shape)
    found = given.found
    (start,) = (n for n in given.graph.graph.nodes if n.name == node)
    taken = absorbers(given.graph, start, found.propagation, found.unit_of, positive=positive)
    return taken and ([n.name for n in taken.layers], [n.name for n in taken.path])


def net(forward, **layers):
    return Net(forward, a=nn.Conv2d(2, 4, 3), h=nn.Conv2d(4, 2, 3), **layers)


def image(forward, node="conv2d", positive=True, **layers):
    return absorbed(net(forward, **layers), node, 2, 8, 8, positive=positive)


def test_the_layer_that_reads_the_channels():
    assert image(lambda n, x: n.h(n.a(x))) == (["conv2d_1"], ["conv2d"])


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.avg_pool2d(y, 2),
        lambda y: F.dropout(y, training=False),
        lambda y: -y,
        lambda y: y * 2.0,
        lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    ],
    ids=["avg_pool", "dropout", "neg", "times", "permute"],
)
@pytest.mark.parametrize("positive", [True, False])
def test_through_what_is_linear(function, positive):
    layers, path = image(lambda n, x: n.h(function(n.a(x))), positive=positive)
    assert layers == ["conv2d_1"]
    assert path[0] == "conv2d"
    assert len(path) > 1


@pytest.mark.parametrize(
    "function",
    [torch.relu, F.leaky_relu, torch.abs, lambda y: F.max_pool2d(y, 2)],
    ids=["relu", "leaky_relu", "abs", "max_pool"],
)
def test_through_what_takes_no_negative_factor(function):
    layers, _ = image(lambda n, x: n.h(function(n.a(x))))
    assert layers == ["conv2d_1"]
    assert image(lambda n, x: n.h(function(n.a(x))), positive=False) is None


@pytest.mark.parametrize(
    "function",
    [torch.sigmoid, F.silu, F.relu6, torch.tanh, lambda y: y + 1, lambda y: torch.softmax(y, 2)],
    ids=["sigmoid", "silu", "relu6", "tanh", "plus one", "softmax"],
)
def test_not_through_what_is_not_linear(function):
    assert image(lambda n, x: n.h(function(n.a(x)))) is None


def test_not_through_an_op_without_a_rule():
    def forward(n, x):
        y = n.a(x)
        return n.h(y) + torch.cumsum(y, 2).mean()

    assert image(forward) is None


def test_not_out_of_the_model():
    def forward(n, x):
        y = n.a(x)
        return n.h(y), y.mean((2, 3))

    assert image(forward) is None
    assert image(lambda n, x: n.a(x)) is None


def test_not_through_a_norm():
    assert image(lambda n, x: n.h(n.n(n.a(x))), n=nn.BatchNorm2d(4)) is None


def test_every_reader_takes_it_up():
    def forward(n, x):
        y = n.a(x)
        return n.h(y) + n.g(torch.relu(y))

    layers, path = image(forward, g=nn.Conv2d(4, 2, 3))
    assert layers == ["conv2d_1", "conv2d_2"]
    assert path == ["conv2d", "relu"]


def test_one_reader_that_cannot_is_enough():
    def forward(n, x):
        y = n.a(x)
        return n.h(y) + n.g(torch.sigmoid(y))

    assert image(forward, g=nn.Conv2d(4, 2, 3)) is None


def test_a_depthwise_layer_takes_it_up():
    layers, _ = image(lambda n, x: n.h(n.d(n.a(x))), d=nn.Conv2d(4, 4, 3, groups=4))
    assert layers == ["conv2d_1"]


def test_not_a_weight_that_others_read_too():
    assert image(lambda n, x: n.h(n.a(x)).mean() + n.h(torch.cat([x, x], 1)).mean()) is None


def test_not_a_weight_that_is_computed():
    assert image(lambda n, x: F.conv2d(n.a(x), n.h.weight * 2)) is None


# --- two operands -------------------------------------------------------------------------------


def test_not_into_a_sum_with_channels_of_the_same_group():
    assert image(lambda n, x: n.h(n.a(x) + n.b(x)), b=nn.Conv2d(2, 4, 3)) is None


def test_a_sum_of_what_is_scaled_with_itself():
    layers, _ = image(lambda n, x: (lambda y: n.h(torch.relu(y) + y))(n.a(x)))
    assert layers == ["conv2d_1"]


def test_not_into_a_sum_with_what_is_broadcast():
    assert image(lambda n, x: n.h(n.a(x) + n.b(x)), b=nn.Conv2d(2, 1, 3)) is None
    assert image(lambda n, x: n.h(n.a(x) + torch.tensor(2.0))) is None


def test_not_into_a_sum_with_what_is_the_same_for_all_channels():
    def forward(n, x):
        y = n.a(x)
        return n.h(y + n.row.weight.expand_as(y))

    assert image(forward, row=nn.Linear(6, 6)) is None


def test_a_product_takes_it_from_one_side():
    layers, _ = image(lambda n, x: n.h(n.a(x) * torch.sigmoid(n.b(x))), b=nn.Conv2d(2, 4, 3))
    assert layers == ["conv2d_2"]


def test_not_into_a_product_with_itself():
    assert image(lambda n, x: (lambda y: n.h(y * y))(n.a(x))) is None
    assert image(lambda n, x: (lambda y: n.h(y * torch.relu(y)))(n.a(x))) is None


def test_squeeze_and_excite():
    """The branch's layer takes it up as well, so that its sigmoid sees what it saw before."""

    def forward(n, x):
        y = n.a(x)
        return n.h(y * torch.sigmoid(n.g(y.mean((2, 3), keepdim=True))))

    layers, _ = image(forward, g=nn.Conv2d(4, 4, 1))
    assert layers == ["conv2d_1", "conv2d_2"]


def test_a_cat_with_other_channels():
    layers, path = absorbed(
        Net(
            lambda n, x: n.h(torch.cat([n.a(x), n.b(x), x], 1)),
            a=nn.Linear(3, 4),
            b=nn.Linear(3, 2),
            h=nn.Linear(9, 2),
        ),
        "linear",
        3,
    )
    assert layers == ["linear_2"]
    assert path == ["linear", "cat"]


def test_every_part_of_a_split_takes_it_up():
    def forward(n, x):
        first, second = n.a(x).split([2, 2], 1)
        return n.h(torch.cat([first, second], 1)), n.g(first)

    layers, path = image(forward, g=nn.Conv2d(2, 1, 1))
    assert layers == ["conv2d_1", "conv2d_2"]
    assert path[:4] == ["conv2d", "split_with_sizes", "getitem", "getitem_1"]


def test_not_where_one_channel_is_split_off():
    """It has no label that could say that it is scaled."""

    def forward(n, x):
        first, second = n.a(x).split([3, 1], 1)
        return n.h(torch.cat([first, torch.relu(second)], 1)), n.g(second)

    assert image(forward, g=nn.Conv2d(1, 1, 1)) is None


def test_positions_are_not_scaled():
    """Of a maximum's value and its place, only the value is: the layer behind the place waits."""

    def forward(n, x):
        values, places = F.max_pool2d(n.a(x), 2, return_indices=True)
        return n.h(values), n.g(places.float())

    layers, path = image(forward, g=nn.Conv2d(4, 1, 1))
    assert layers == ["conv2d_1"]
    assert path == ["conv2d", "max_pool2d_with_indices", "getitem"]
