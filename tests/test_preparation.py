"""What a compression starts from, and what it refuses to start from."""

from dataclasses import replace

import pytest
import torch
from networks import traced
from tasks import convnet, graph, images_data
from torch import nn

from vibfx.errors import DataError, InputError
from vibfx.preparation import loss_on_labels, objective_of
from vibfx.preparation import traced as prepared
from vibfx.training.objectives import Distillation, Supervised

CPU = torch.device("cpu")


def test_data_that_is_there_is_what_is_trained_on():
    data = images_data()
    found, same = prepared(convnet(), data, None, 0, CPU, lambda words: None)
    assert same is data
    assert found(torch.zeros(3, 1, 8, 8)).shape == (3, 4)


def test_without_data_inputs_are_made_and_said_to_be():
    said = []
    _, data = prepared(convnet(), None, (1, 8, 8), 0, CPU, said.append)
    assert data.labels == "none"
    assert next(iter(data.train)).shape[1:] == (1, 8, 8)
    assert "no data: making" in said[0]
    assert "1x8x8 (as told)" in said[0]


def test_without_data_a_shape_that_cannot_be_guessed_is_asked_for():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError) as caught:
        prepared(model.eval(), None, None, 0, CPU, lambda words: None)
    assert "--input" in caught.value.hint


def test_the_loss_is_cross_entropy_where_labels_are_classes():
    assert isinstance(loss_on_labels(graph(), images_data(), None), Supervised)
    assert loss_on_labels(graph(), replace(images_data(), labels="none"), None) is None


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        ("none", "mse", "the data has no labels"),
        ("values", None, "which may mean several things"),
    ],
)
def test_a_loss_that_does_not_fit_the_labels_is_refused(labels, loss, message):
    with pytest.raises(DataError, match=message):
        loss_on_labels(graph(), replace(images_data(), labels=labels), loss)


def test_more_classes_than_scores_are_refused():
    with pytest.raises(DataError, match="tells 3 classes apart, the data has 4"):
        loss_on_labels(traced(convnet(classes=3), (1, 8, 8)), images_data(), None)


@pytest.mark.parametrize(
    ("labelled", "share", "kind"),
    [
        (True, None, Supervised),
        (True, 0.0, Supervised),
        (True, 0.5, Distillation),
        (False, None, Distillation),
    ],
)
def test_what_is_learnt(labelled, share, kind):
    loss = Supervised("cross-entropy") if labelled else None
    assert type(objective_of(graph(), loss, share)) is kind
