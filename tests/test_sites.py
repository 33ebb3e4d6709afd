"""Where the gates go: in front of what sums, hoisted to where the channel is made."""

import torch
from couplings import Net, Value, case, check_exact, rows, sites, units
from torch import nn
from torch.nn import functional as F

from vibfx.labels import varying


def two(forward, channels=4, **layers):
    return case(
        Net(forward, a=nn.Conv2d(2, channels, 3), h=nn.Conv2d(channels, 2, 1), **layers), 2, 6, 6
    )


def test_behind_norm_and_activation():
    given = two(lambda net, x: net.h(torch.relu(net.n(net.a(x)))), n=nn.BatchNorm2d(4))
    assert sites(given.found) == ["relu"]


def test_in_front_of_a_pool_that_follows_the_activation():
    given = two(lambda net, x: net.h(F.max_pool2d(torch.relu(net.a(x)), 2)))
    assert sites(given.found) == ["relu"]


def test_one_site_for_many_readers():
    def forward(net, x):
        x = torch.relu(net.a(x))
        return net.h(x) + net.g(x) + net.h(F.dropout(x, training=False))

    given = two(forward, g=nn.Conv2d(4, 2, 1))
    assert sites(given.found) == ["relu"]
    check_exact(given)


def test_at_every_producer_of_a_sum():
    given = two(
        lambda net, x: net.h(net.a(x) + net.b(x) - net.c(x)),
        b=nn.Conv2d(2, 4, 3),
        c=nn.Conv2d(2, 4, 3),
    )
    assert units(given.found) == rows(4, "a", "b", "c", "> h")
    assert sites(given.found) == ["conv2d", "conv2d_1", "conv2d_2"]
    check_exact(given)


def test_not_behind_a_smooth_activation_in_a_sum():
    """Its gate could not be folded into any weight from there, unlike that of a ReLU."""
    layers = {"b": nn.Conv2d(2, 4, 3)}
    smooth = two(lambda net, x: net.h(F.silu(net.a(x)) + F.silu(net.b(x))), **layers)
    assert sites(smooth.found) == ["conv2d", "conv2d_1"]
    check_exact(smooth)
    bent = two(lambda net, x: net.h(F.relu(net.a(x)) + F.relu(net.b(x))), **layers)
    assert sites(bent.found) == ["relu", "relu_1"]
    check_exact(bent)


def test_behind_a_smooth_activation_that_a_layer_reads():
    given = two(lambda net, x: net.h(F.silu(net.a(x))))
    assert sites(given.found) == ["silu"]


def test_not_behind_an_activation_that_is_not_all_that_is_read():
    def forward(net, x):
        y = net.a(x)
        return net.h(torch.relu(y)) + net.h(y)

    given = two(forward)
    assert sites(given.found) == ["conv2d"]
    check_exact(given)


def test_behind_several_activations_in_a_row():
    given = two(lambda net, x: net.h(F.relu(F.leaky_relu(net.a(x)))))
    assert sites(given.found) == ["relu"]
    check_exact(given)


def test_behind_the_last_op_that_moves_zero():
    given = two(lambda net, x: net.h(F.dropout(torch.sigmoid(net.a(x)), training=False) * 2))
    assert sites(given.found) == ["sigmoid"]
    check_exact(given)


def test_behind_a_max_pool_that_is_padded_with_infinity():
    """In front of the pool a shut gate would make no number of minus infinity."""

    def forward(net, x):
        y = F.pad(torch.relu(net.a(x)), (0, 1, 0, 1), value=float("-inf"))
        return net.h(F.max_pool2d(y, 3, 2))

    given = two(forward)
    assert sites(given.found) == ["max_pool2d"]
    check_exact(given)


def test_a_constant_in_front_of_zero_padding():
    """A removed channel would be 1 inside and 0 in the border: the gate goes behind the sum."""
    net = Net(
        lambda net, x: net.b(net.a(x) + 1),
        a=nn.Conv2d(2, 4, 3),
        b=nn.Conv2d(4, 3, 3, padding=1),
    )
    given = case(net, 2, 6, 6)
    assert sites(given.found) == ["add"]
    check_exact(given)


def test_through_the_full_operand_of_a_product():
    def forward(net, x):
        y = net.a(x)
        return net.h(torch.sigmoid(net.g(y.mean((2, 3), keepdim=True))) * y)

    given = two(forward, g=nn.Conv2d(4, 4, 1))
    assert sites(given.found) == ["conv2d"]
    check_exact(given)


def test_a_product_of_two_broadcast_tensors():
    def forward(net, x):
        return net.h(net.a(x).unsqueeze(2) * net.b(x).unsqueeze(1))

    layers = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 5), "h": nn.Linear(5, 2)}
    given = case(Net(forward, **layers), 3)
    assert units(given.found) == rows(5, "b", "> h")
    assert sites(given.found) == ["mul"]
    check_exact(given)


def test_only_at_the_labelled_parts_of_a_cat():
    def forward(net, x):
        return net.g(torch.cat([x, net.a(x), x], 1))

    net = Net(forward, a=nn.Conv2d(2, 4, 3, padding=1), g=nn.Conv2d(8, 2, 1))
    given = case(net, 2, 6, 6)
    assert sites(given.found) == ["conv2d"]
    check_exact(given)


def test_a_depthwise_layer_asks_for_no_gate_in_front():
    given = two(
        lambda net, x: net.h(torch.relu(net.d(torch.relu(net.a(x))))),
        d=nn.Conv2d(4, 4, 3, groups=4),
    )
    assert sites(given.found) == ["relu_1"]
    check_exact(given)


def test_nothing_is_gated_that_cannot_go():
    def forward(net, x):
        y = torch.relu(net.a(x))
        return net.h(y), y

    assert sites(two(forward).found) == []


def test_a_site_is_gated_along_its_labels():
    given = two(lambda net, x: net.h(torch.relu(net.a(x))))
    (site,) = given.found.sites
    assert varying(site.labels) == (1,)
    assert site.labels.shape == (2, 4, 4, 4)
    assert site.per_example


def test_a_site_with_channels_in_front_is_not_per_example():
    def forward(net, x):
        return (torch.relu(net.a(x)).t() + net.v.p).t() @ net.w.p

    net = Net(forward, a=nn.Linear(3, 5), v=Value(5, 1), w=Value(5, 2))
    given = case(net, 3)
    (site,) = given.found.sites
    assert site.node == "add"
    assert varying(site.labels) == (0,)
    assert not site.per_example
    check_exact(given)
