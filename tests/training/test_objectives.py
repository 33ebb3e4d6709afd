"""The data term: losses on labels, and the original's outputs."""

import pytest
import torch
from networks import traced
from torch import nn
from torch.nn import functional as F

from vibfx.errors import InputError
from vibfx.training.objectives import (
    Distillation,
    Objective,
    Supervised,
    as_objective,
    divergence,
    floats,
    relative_error,
    share_right,
)

X = torch.zeros(4, 3)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear():
    torch.manual_seed(0)
    return traced(nn.Linear(3, 5), (3,))


# --- on labels


@pytest.mark.parametrize(
    ("name", "function", "labels"),
    [
        ("cross-entropy", F.cross_entropy, torch.tensor([0, 1, 4, 2])),
        ("bce", F.binary_cross_entropy_with_logits, (drawn(4, 5) > 0).float()),
        ("mse", F.mse_loss, drawn(4, 5, seed=1)),
    ],
)
def test_a_loss_by_name(name, function, labels):
    outputs = drawn(4, 5)
    assert torch.equal(Supervised(name)(outputs, X, labels), function(outputs, labels))


def test_a_loss_may_be_any_function_of_outputs_and_labels():
    loss = Supervised(lambda outputs, labels: (outputs["score"] - labels).abs().mean())
    assert loss({"score": torch.ones(4)}, X, torch.zeros(4)) == 1.0


def test_a_loss_without_a_function_of_that_name_is_refused():
    with pytest.raises(InputError, match=r"no loss 'hinge'\n.*There are cross-entropy, bce, mse"):
        Supervised("hinge")


def test_a_loss_needs_labels():
    with pytest.raises(InputError, match=r"have no labels[\s\S]*Distillation"):
        Supervised()(drawn(4, 5), X, None)


def test_what_a_user_may_pass():
    own = Supervised("mse")
    assert as_objective(own) is own
    outputs, labels = drawn(4, 5), torch.tensor([0, 1, 4, 2])
    assert as_objective(None)(outputs, X, labels) == F.cross_entropy(outputs, labels)
    assert as_objective("mse")(outputs, X, outputs + 2.0) == pytest.approx(4.0)
    assert as_objective(lambda o, t: o.sum())(outputs, X, labels) == outputs.sum()


# --- the original


def test_the_error_is_relative_to_how_much_the_original_varies():
    wanted = drawn(1000, 3) * torch.tensor([1.0, 10.0, 0.1]) + 50.0
    mean = wanted.mean(dim=0).expand_as(wanted)
    assert relative_error([wanted], [wanted]) == 0.0
    assert relative_error([mean], [wanted]) == pytest.approx(1.0, rel=1e-5)
    assert relative_error([mean, wanted], [wanted, wanted]) == pytest.approx(0.5, rel=1e-5)
    scaled = relative_error([7.0 * mean + 3.0], [7.0 * wanted + 3.0])
    assert scaled == pytest.approx(1.0, rel=1e-4)


def test_an_output_that_never_varies_is_not_divided_by_nothing():
    assert torch.isfinite(relative_error([torch.ones(4, 2) + 1e-5], [torch.ones(4, 2)]))


def test_distillation_wants_what_the_original_gives_and_trains_nothing_of_it():
    graph = linear()
    objective, x = Distillation(graph), drawn(4, 3)
    outputs = drawn(4, 5, seed=2).requires_grad_()
    term = objective(outputs, x, None)
    assert term == relative_error([outputs.detach()], [graph(x).detach()])
    assert objective(graph(x).detach(), x, None) == 0.0
    term.backward()
    assert outputs.grad.abs().sum() > 0
    assert all(p.grad is None for p in graph.parameters())


def test_distillation_with_labels_is_a_mixture():
    graph, x, labels = linear(), drawn(4, 3), torch.tensor([0, 1, 4, 2])
    outputs = drawn(4, 5, seed=2)
    mixed = Distillation(graph, Supervised(), share=0.25)(outputs, x, labels)
    parts = Distillation(graph)(outputs, x, labels), F.cross_entropy(outputs, labels)
    assert mixed == pytest.approx(float(0.25 * parts[0] + 0.75 * parts[1]))


def test_scores_of_classes_are_compared_as_softened_probabilities():
    graph, x, labels = linear(), drawn(4, 3), torch.tensor([0, 1, 4, 2])
    outputs, wanted = drawn(4, 5, seed=2), graph(x).detach()
    p, q = (wanted / 2).softmax(dim=1), (outputs / 2).softmax(dim=1)
    expected = 4 * (p * (p / q).log()).sum(dim=1).mean()
    found = Distillation(graph)(outputs, x, labels)
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert Distillation(graph)(wanted + 3.0, x, labels) == pytest.approx(0.0, abs=1e-5)
    # Labels that are values say nothing of classes.
    by_error = Distillation(graph)(outputs, x, labels.float())
    assert by_error == relative_error([outputs], [wanted])


def test_each_pixel_has_scores_of_its_own():
    scores, wanted = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    flat = [t.movedim(1, -1).reshape(-1, 3) for t in (scores, wanted)]
    assert divergence(scores, wanted) == pytest.approx(float(divergence(*flat)), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "share"), [(None, 0.5), (None, 0.0), (Supervised(), 1.0), (Supervised(), -0.1)]
)
def test_a_share_that_does_not_fit_is_refused(loss, share):
    with pytest.raises(InputError, match=f"share of {share:g} of the data term"):
        Distillation(linear(), loss, share)


def test_outputs_of_any_structure_are_compared_where_they_are_floats():
    class Several(nn.Module):
        def forward(self, x):
            return {"a": x * 2, "rest": (x.argmax(1), [x.half(), None])}

    found = floats(Several()(drawn(4, 3)))
    assert [t.dtype for t in found] == [torch.float32, torch.float32]
    graph = traced(Several(), (3,))
    x = drawn(4, 3)
    assert Distillation(graph)(Several()(x), x, None) == 0.0
    assert Distillation(graph)(Several()(x + 1), x, None) > 0.1


def test_an_objective_moves_with_what_it_holds():
    graph = linear()
    objective: Objective = Distillation(graph).to(torch.float64)
    assert {p.dtype for p in objective.parameters()} == {torch.float64}


# --- the accuracy


def test_the_share_of_labels_that_are_met():
    scores = torch.eye(4)
    assert share_right(scores, torch.tensor([0, 1, 3, 3])) == 0.75
    pixels = scores[:, :, None].expand(4, 4, 2)
    assert share_right(pixels, torch.tensor([[0, 0], [1, 0], [2, 2], [0, 3]])) == 0.75


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (torch.eye(4), None),
        (torch.eye(4), torch.rand(4, 4)),
        ((torch.eye(4),), torch.tensor([0, 1, 2, 3])),
        (torch.rand(4), torch.tensor([0, 1, 2, 3])),
    ],
    ids=["no labels", "values", "two outputs", "no scores"],
)
def test_where_it_has_no_meaning_it_is_none(outputs, labels):
    assert share_right(outputs, labels) is None
