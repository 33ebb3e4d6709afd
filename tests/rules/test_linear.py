"""Linear layers and products of two activations."""

import pytest
import torch
from couplings import (
    INPUT_FEATURES,
    OUTPUT,
    UNLABELLED,
    Net,
    Value,
    case,
    channels,
    check_exact,
    frozen,
    rows,
    sites,
    sizes,
    unit,
    units,
)
from torch import nn
from torch.nn import functional as F


def mlp():
    return Net(lambda net, x: net.b(torch.relu(net.a(x))), a=nn.Linear(3, 5), b=nn.Linear(5, 2))


def test_on_vectors():
    given = case(mlp(), 3)
    assert units(given.found) == rows(5, "a", "> b")
    assert frozen(given.found) == {
        "a.weight:1": {INPUT_FEATURES: 3},
        "b.weight:0": {OUTPUT: 2},
        "b.bias:0": {OUTPUT: 2},
    }
    check_exact(given)


def test_on_tokens():
    given = case(mlp(), 4, 3)
    assert units(given.found) == rows(5, "a", "> b")
    check_exact(given)


def test_without_bias():
    layers = {"a": nn.Linear(3, 5, bias=False), "b": nn.Linear(5, 2, bias=False)}
    given = case(Net(lambda net, x: net.b(torch.relu(net.a(x))), **layers), 3)
    assert units(given.found) == channels(5, "a.weight:0", "b.weight:1")
    check_exact(given)


def test_a_layer_of_one_feature_has_no_channels():
    layers = {"a": nn.Linear(3, 1), "b": nn.Linear(1, 4), "c": nn.Linear(4, 2)}
    given = case(Net(lambda net, x: net.c(torch.relu(net.b(net.a(x)))), **layers), 3)
    assert units(given.found) == rows(4, "b", "> c")
    check_exact(given)


def test_a_weight_computed_on_the_fly():
    given = case(
        Net(
            lambda net, x: F.linear(torch.relu(net.a(x)), net.w.p * 2),
            a=nn.Linear(3, 5),
            w=Value(2, 5),
        ),
        3,
    )
    assert units(given.found) == channels(5, "a.weight:0", "a.bias:0", "w.p:1")
    check_exact(given)


def test_a_weight_used_both_ways():
    def forward(net, x):
        return F.linear(torch.relu(F.linear(x, net.w.p)), net.w.p.t())

    given = case(Net(forward, w=Value(4, 3)), 3)
    assert units(given.found) == channels(4, "w.p:0")
    assert frozen(given.found) == {"w.p:1": {INPUT_FEATURES: 3}}
    check_exact(given)


# --- products of two activations ----------------------------------------------------------------


def attention(net, x):
    scores = torch.softmax(net.q(x) @ net.k(x).transpose(1, 2), -1)
    return net.o(scores @ net.v(x))


def test_attention_with_one_head():
    layers = {
        "q": nn.Linear(3, 6),
        "k": nn.Linear(3, 6),
        "v": nn.Linear(3, 5),
        "o": nn.Linear(5, 2),
    }
    given = case(Net(attention, **layers), 4, 3)
    assert units(given.found) == rows(6, "q", "k") | rows(5, "v", "> o")
    assert sizes(given.found) == {"q": 6, "v": 5}
    assert sites(given.found) == ["linear", "matmul_1"]
    check_exact(given)


def heads(net, x):
    q, k, v = (layer(x).view(-1, 4, 3, 2).transpose(1, 2) for layer in (net.q, net.k, net.v))
    y = torch.softmax(q @ k.transpose(2, 3), -1) @ v
    return net.o(y.transpose(1, 2).reshape(-1, 4, 6))


def test_attention_loses_whole_heads():
    layers = {
        "q": nn.Linear(5, 6),
        "k": nn.Linear(5, 6),
        "v": nn.Linear(5, 6),
        "o": nn.Linear(6, 2),
    }
    given = case(Net(heads, **layers), 4, 5)
    slots = [f"{name}.{part}:0" for name in "qkv" for part in ("weight", "bias")]
    assert units(given.found) == {
        unit(*(f"{slot}[{2 * h},{2 * h + 1}]" for slot in [*slots, "o.weight:1"])) for h in range(3)
    }
    check_exact(given, share=0.4)


def test_a_product_with_the_input_keeps_what_is_summed():
    layers = {"a": nn.Linear(3, 3), "o": nn.Linear(4, 2)}
    given = case(Net(lambda net, x: net.o(net.a(x) @ x.transpose(1, 2)), **layers), 4, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {
        "multiplied with a tensor whose channels cannot be removed": 3
    }


def test_free_and_contracted_labels_against_the_input():
    """Rows of a matrix that a layer makes: whole rows go, and are carried past the product."""

    def forward(net, x):
        y = net.a(x.mean(2)).view(-1, 3, 4) @ x
        return net.o(y.transpose(1, 2))

    given = case(Net(forward, a=nn.Linear(4, 12), o=nn.Linear(3, 2)), 4, 5)
    assert units(given.found) == {
        unit(
            *(
                f"a.{part}:0[{','.join(str(4 * i + j) for j in range(4))}]"
                for part in ("weight", "bias")
            ),
            f"o.weight:1[{i}]",
        )
        for i in range(3)
    }
    check_exact(given)


def test_a_parameter_on_the_left_is_gated_itself():
    def forward(net, x):
        return (net.w.p @ torch.relu(net.a(x)).t()).t()

    given = case(Net(forward, a=nn.Linear(3, 5), w=Value(2, 5)), 3)
    assert units(given.found) == channels(5, "a.weight:0", "a.bias:0", "w.p:1")
    assert sites(given.found) == ["w_p"]
    check_exact(given)


def test_batched_product():
    layers = {"q": nn.Linear(3, 6), "k": nn.Linear(3, 6)}
    given = case(Net(lambda net, x: torch.bmm(net.q(x), net.k(x).transpose(1, 2)), **layers), 4, 3)
    assert units(given.found) == rows(6, "q", "k")
    check_exact(given)


@pytest.mark.parametrize("lead", [(), (1,), (4,)], ids=str)
def test_a_product_with_broadcast_batch(lead):
    """The parameter is shared by all examples, or there is one a position."""
    forward = lambda net, x: (torch.relu(net.a(x)).unsqueeze(2) @ net.w.p).squeeze(2)  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6), w=Value(*lead, 6, 5)), 4, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", f"w.p:{len(lead)}")
    assert frozen(given.found)[f"w.p:{len(lead) + 1}"] == {OUTPUT: 5}
    check_exact(given)


VECTORS = {
    "matrix by vector": (lambda y, w: y @ w, (6,)),
    "vector by matrix": (lambda y, w: w @ y.mT, (6,)),
    "vector by batch": (lambda y, w: torch.matmul(w, y.mT.contiguous()), (6,)),
    "matrix by batch": (lambda y, w: torch.matmul(w, y.mT), (3, 6)),
}


@pytest.mark.parametrize("name", VECTORS)
def test_products_of_other_ranks(name):
    function, shape = VECTORS[name]
    forward = lambda net, x: function(torch.relu(net.a(x)), net.w.p)  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6), w=Value(*shape)), 4, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", f"w.p:{len(shape) - 1}")
    check_exact(given)


def test_two_vectors():
    """``dot`` sums over features that the batch was summed out of."""
    forward = lambda net, x: x[:, :2] * torch.dot(torch.relu(net.a(x)).sum(0), net.w.p)  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6), w=Value(6)), 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", "w.p:0")


@pytest.mark.parametrize("bias", [(5,), (1, 5), (5, 1), (1,)], ids=str)
def test_a_product_with_something_added(bias):
    forward = lambda net, x: net.h(  # noqa: E731
        torch.relu(torch.baddbmm(net.b.p, net.q(x), net.k(x).mT)).mean(1)
    )
    layers = {"q": nn.Linear(3, 6), "k": nn.Linear(3, 6), "h": nn.Linear(5, 2)}
    given = case(Net(forward, **layers, b=Value(*bias)), 5, 3)
    assert units(given.found) == rows(6, "q", "k")
    check_exact(given)


def test_a_layer_written_as_addmm():
    forward = lambda net, x: net.h(torch.relu(torch.addmm(net.b.p, net.a(x), net.w.p)))  # noqa: E731
    layers = {"a": nn.Linear(3, 6), "b": Value(4), "w": Value(6, 4), "h": nn.Linear(4, 2)}
    given = case(Net(forward, **layers), 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", "w.p:0") | channels(
        4, "b.p:0", "w.p:1", "h.weight:1"
    )
    check_exact(given)


# --- einsum -------------------------------------------------------------------------------------

EINSUMS = {
    "written out": ("ntc,cd->ntd", ()),
    "implicit result": ("ntc,cd", (1, 2, 0)),
    "ellipsis": ("...c,cd->...d", ()),
    "ellipsis, implicit": ("...c,cd", ()),
    "spaces": ("n t c, c d -> n t d", ()),
    "transposed result": ("ntc,cd->dtn", (2, 1, 0)),
    "summed in one operand": ("ntc,cd->nd", ()),
}


@pytest.mark.parametrize("name", EINSUMS)
def test_einsum_as_a_layer(name):
    equation, order = EINSUMS[name]

    def forward(net, x):
        y = torch.einsum(equation, torch.relu(net.a(x)), net.w.p)
        return net.h(y.permute(order) if order else y)

    given = case(Net(forward, a=nn.Linear(3, 6), w=Value(6, 4), h=nn.Linear(4, 2)), 5, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", "w.p:0") | channels(
        4, "w.p:1", "h.weight:1"
    )
    check_exact(given)


def test_einsum_of_three_operands():
    def forward(net, x):
        return torch.einsum("ntc,cd,de->nte", torch.relu(net.a(x)), net.v.p, net.w.p)

    given = case(Net(forward, a=nn.Linear(3, 6), v=Value(6, 4), w=Value(4, 2)), 5, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", "v.p:0") | channels(
        4, "v.p:1", "w.p:0"
    )
    check_exact(given)


def test_einsum_with_a_shared_letter_that_stays():
    """An element-by-element product, channel by channel."""
    forward = lambda net, x: net.h(torch.einsum("ntc,c->ntc", net.a(x), net.v.p))  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6), v=Value(6), h=nn.Linear(6, 2)), 5, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0", "v.p:0", "h.weight:1")
    check_exact(given)


def test_einsum_of_one_operand_sums():
    forward = lambda net, x: torch.einsum("ntc->nt", torch.relu(net.a(x)))  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 6)), 5, 3)
    assert units(given.found) == channels(6, "a.weight:0", "a.bias:0")
    check_exact(given)


def test_einsum_of_a_diagonal_stays():
    forward = lambda net, x: torch.einsum("nii->ni", net.a(x))  # noqa: E731
    given = case(Net(forward, a=nn.Linear(3, 5)), 5, 3)
    assert units(given.found) == set()
    assert frozen(given.found)["a.weight:0"] == {"an einsum takes a diagonal of it": 5}


def test_mixing_tokens_and_channels():
    """A tensor with channels of its own and hidden units of the tokens: one factor each."""

    def forward(net, x):
        y = net.emb(x)
        y = y + net.t2(F.gelu(net.t1(y.transpose(1, 2)))).transpose(1, 2)
        y = y + net.c2(F.gelu(net.c1(y)))
        return net.h(y.mean(1))

    layers = {
        "emb": nn.Linear(3, 6),
        "t1": nn.Linear(5, 7),
        "t2": nn.Linear(7, 5),
        "c1": nn.Linear(6, 8),
        "c2": nn.Linear(8, 6),
        "h": nn.Linear(6, 2),
    }
    given = case(Net(forward, **layers), 5, 3)
    stream = rows(6, "emb", "> c1", "c2", "> h")
    assert units(given.found) == stream | rows(7, "t1", "> t2") | rows(8, "c1", "> c2")
    assert frozen(given.found)["t2.weight:0"] == {UNLABELLED: 5}
    check_exact(given)
