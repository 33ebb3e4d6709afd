"""What each unit's gate weighs."""

import numpy as np
import pytest

from vibfx.errors import InputError
from vibfx.weighting import Weighting

# LeNet-5: 20 and 50 channels, 500 units; kernels of 5 x 5, 24 and 8 pixels a side.
PARAMS_OF_A_UNIT = (25 + 1 + 50 * 25, 20 * 25 + 1 + 16 * 500, 800 + 1 + 10)


def every(coupling):
    return np.ones(coupling.units, dtype=bool)


def one_of_each(coupling, values):
    return [values[group.start] for group in coupling.groups]


def test_by_cost_a_unit_weighs_what_goes_with_it(lenet_costs):
    coupling, costs = lenet_costs
    keep, full = every(coupling), costs.cost("params", every(coupling))
    found = Weighting("cost", coupling, costs)
    assert one_of_each(coupling, found.shares("params", keep) * full) == list(PARAMS_OF_A_UNIT)
    relative = found.relative(keep)
    assert relative.mean() == pytest.approx(1.0)
    ratios = relative / costs.unit_shares("flops", keep)
    assert ratios == pytest.approx(ratios[0])


def test_by_cost_it_is_the_cost_in_the_network_as_it_is_now(lenet_costs):
    coupling, costs = lenet_costs
    keep = every(coupling)
    keep[coupling.groups[1].units] = False
    keep[coupling.groups[1].start] = True
    found = Weighting("cost", coupling, costs)
    cost = costs.cost("params", keep)
    expected = [25 + 1 + 25, 20 * 25 + 1 + 16 * 500, 16 + 1 + 10]
    assert one_of_each(coupling, found.shares("params", keep) * cost) == pytest.approx(expected)
    assert found.relative(keep)[keep].mean() == pytest.approx(1.0)


def test_all_alike(lenet_costs):
    coupling, costs = lenet_costs
    keep = every(coupling)
    keep[: coupling.units // 2] = False
    found = Weighting("uniform", coupling, costs)
    assert set(found.relative(keep)) == {1.0}
    assert found.shares("params", keep)[keep].sum() == pytest.approx(1.0)


def test_a_weight_for_a_group(lenet_costs):
    coupling, costs = lenet_costs
    first, second, third = coupling.groups
    found = Weighting({first.name: 20.0, third.name: 0.5}, coupling, costs)
    keep = every(coupling)
    assert one_of_each(coupling, found.relative(keep)) == [20.0, 1.0, 0.5]
    shares = found.shares("flops", keep)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[first.start] / shares[second.start] == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("size", "cannot be weighted by 'size'"),
        ({"nothing": 1.0}, "there is no group 'nothing'"),
        ({"conv1": 0.0}, "weight of group 'conv1' is 0, not above 0"),
        ({"conv1": float("nan")}, "weight of group 'conv1' is nan"),
    ],
)
def test_what_is_no_weighting_is_refused(lenet_costs, weights, sentence):
    coupling, costs = lenet_costs
    if isinstance(weights, dict) and "conv1" in weights:
        sentence = sentence.replace("conv1", coupling.groups[0].name)
        weights = {coupling.groups[0].name: weights["conv1"]}
    with pytest.raises(InputError, match=sentence):
        Weighting(weights, coupling, costs)
