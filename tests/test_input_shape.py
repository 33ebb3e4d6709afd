import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from networks import lenet
from torch import nn

from vibfx.errors import InputError
from vibfx.input_shape import guess_input_shape

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ON_NO_IMAGE = "it runs on no image of a usual size"


def pooled(channels=3, classes=10, strides=(2, 2), **said):
    """Convolutions and a global pooling: a network that takes images of any size."""
    layers = []
    for number, stride in enumerate(strides):
        layers += [nn.Conv2d(8 if number else channels, 8, 3, stride, 1), nn.BatchNorm2d(8)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    for name, value in said.items():
        setattr(model, name, value)
    return model


def empty(name, **options):
    """A network of torchvision whose weights nobody has written yet: quick to make."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(**options)
    return model.to_empty(device="cpu")


def refusal(model):
    with pytest.raises(InputError) as caught:
        guess_input_shape(model)
    assert caught.value.hint == "Pass the shape of one example, such as --input 3x224x224."
    assert caught.value.where == type(model).__name__
    return caught.value.what.removeprefix("the shape of the model's input is not known: ")


@pytest.mark.parametrize(
    ("said", "shape"),
    [
        ({"pretrained_cfg": {"input_size": (3, 160, 160)}}, (3, 160, 160)),
        ({"default_cfg": SimpleNamespace(input_size=(3, 96, 96))}, (3, 96, 96)),
        ({"config": SimpleNamespace(image_size=64, num_channels=3)}, (3, 64, 64)),
        ({"config": SimpleNamespace(image_size=(48, 64), num_channels=3)}, (3, 48, 64)),
        ({"image_size": 56}, (3, 56, 56)),
        ({"img_size": [40, 56]}, (3, 40, 56)),
        ({"input_shape": (3, 20, 30)}, (3, 20, 30)),
    ],
)
def test_what_the_model_says_goes_first(said, shape):
    guess = guess_input_shape(pooled(**said))
    assert guess.shape == shape
    assert guess.reason == f"the model's {next(iter(said))} says so"


@pytest.mark.parametrize(
    "said",
    [
        {"pretrained_cfg": {"input_size": (1, 160, 160)}},  # three channels do not fit
        {"config": SimpleNamespace(hidden_size=64)},
        {"input_size": 64},  # may be a number of features
        {"image_size": None},
        {"image_size": True},
        {"input_shape": ()},
    ],
)
def test_what_does_not_run_or_is_no_shape_is_not_heard(said):
    guess = guess_input_shape(pooled(**said))
    assert (guess.shape, "10 classes" in guess.reason) == ((3, 32, 32), True)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (3, 224, 224)),
        ("vgg16_bn", (3, 224, 224)),
        ("mobilenet_v2", (3, 224, 224)),
        ("densenet121", (3, 224, 224)),
        ("efficientnet_b0", (3, 224, 224)),
        ("efficientnet_b1", (3, 240, 240)),
        ("vit_b_16", (3, 224, 224)),
        ("swin_t", (3, 224, 224)),
        ("convnext_tiny", (3, 224, 224)),
        ("inception_v3", (3, 299, 299)),
    ],
)
def test_torchvision_knows_what_its_weights_are_for(name, shape):
    options = {"init_weights": False} if name == "inception_v3" else {}
    assert guess_input_shape(empty(name, **options)).shape == shape


def test_weights_for_two_sizes_are_no_answer():
    assert (
        refusal(torchvision.models.regnet_y_16gf())
        == "torchvision's weights of it are for 224x224 or 384x384"
    )


def test_linear_layers_say_how_many_features_they_take():
    guess = guess_input_shape(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2)))
    assert (guess.shape, guess.reason) == ((7,), "its first layer takes 7 features")


@pytest.mark.parametrize(("count", "shape"), [(784, (1, 28, 28)), (3072, (3, 32, 32))])
def test_what_flattens_its_input_was_made_for_images(count, shape):
    guess = guess_input_shape(nn.Sequential(nn.Flatten(), nn.Linear(count, 5)))
    assert guess.shape == shape
    assert guess.reason == f"it flattens its input, of {count} numbers"


def test_asks_for_the_shape_of_what_is_flattened_to_no_usual_image():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    assert refusal(model) == "it flattens its input, of 64 numbers in any shape"


def test_one_usual_size_that_runs_is_it():
    guess = guess_input_shape(lenet())
    assert (guess.shape, guess.reason) == ((1, 28, 28), "of the usual sizes it runs on no other")


def test_layers_are_found_in_whatever_order_they_are_registered():
    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16 * 8 * 8, 10)
            self.last, self.first = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x):
            return self.head(self.last(self.first(x)).flatten(1))

    assert guess_input_shape(HeadFirst()).shape == (3, 32, 32)


def test_the_usual_design_for_cifar(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from cifar_networks import ResNet20

    guess = guess_input_shape(ResNet20())
    assert guess.shape == (3, 32, 32)
    assert guess.reason == "10 classes, and a last map of 8x8, are usual for that"


def test_the_usual_design_for_imagenet():
    guess = guess_input_shape(pooled(classes=1000, strides=(2, 2, 2, 2, 2)))
    assert guess.shape == (3, 224, 224)
    assert guess.reason == "1,000 classes, and a last map of 7x7, are usual for that"


def test_asks_about_a_digit_of_any_size(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from mnist_networks import residual

    assert refusal(residual()) == "it runs on 1x28x28, 1x32x32, 1x48x48 and more"


@pytest.mark.parametrize(
    "unusual",
    [
        {"strides": (2, 2, 2, 2, 2)},  # ImageNet's stem, and ten classes
        {"classes": 1000},  # the other way round
        {"classes": 200},
        {"channels": 1},
        {"strides": (2,)},
    ],
)
def test_asks_where_the_evidence_does_not_agree(unusual):
    channels = unusual.get("channels", 3)
    few = ", ".join(f"{channels}x{side}x{side}" for side in (28, 32, 48))
    assert refusal(pooled(**unusual)) == f"it runs on {few} and more"


def test_asks_about_networks_of_torchvision_that_were_trained_on_something_else():
    for name in ("resnet18", "vgg11"):
        assert refusal(empty(name, num_classes=10)).startswith("it runs on 3x")


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(16, 16),
        nn.TransformerEncoderLayer(16, 2, batch_first=True),
        nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 2)),
        nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 30, 2)),
    ],
    ids=["recurrent", "attention", "tokens", "signal"],
)
def test_asks_about_sequences(model):
    assert refusal(model) == ON_NO_IMAGE


def test_asks_about_what_cannot_be_copied():
    class Unique(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is only one")

    assert refusal(nn.Sequential(Unique(3, 2))) == "the model cannot be copied to try it"


def test_the_model_stays_as_it_is():
    model = pooled().train()
    before = copy.deepcopy(model.state_dict())
    guess_input_shape(model)
    assert model.training
    assert all(m.training for m in model.modules())
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(type(p) is nn.Parameter for p in model.parameters())
