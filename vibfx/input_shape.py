"""The shape of a model's input, worked out from the model where nobody says it.

A file that holds a model does not hold its input's shape, unless it is a graph, which does. What
settles it is tried in this order: what the model itself says, the sizes that torchvision's weights
of it were trained for, the one shape that it runs on, and a design that only one kind of data set
has. Where none of them does, or two shapes are as likely, the user is asked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from vibfx.dry_run import DryRun
from vibfx.errors import InputError
from vibfx.graph import is_tensor, shape_of

Shape = tuple[int, ...]

# The sizes that data sets come in. None is close above another: what flattens a map of 7x7 takes
# 224 to 255 pixels, since strides round down, and was made for 224.
_SIZES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)

# A whole number that is called so is the side of an image; as input_size it may be anything.
_SIDES = ("image_size", "img_size")
_SHAPES = ("input_shape", "input_size", *_SIDES)

# What takes a sequence for a batch, so that it runs on what it was not made for.
_SEQUENTIAL = (nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class GuessedShape:
    """The shape of one example, and what speaks for it.

    Attributes:
        shape: Such as ``(3, 224, 224)`` or ``(784,)``, without the batch.
        reason: A clause to print behind the shape, such as ``"the model's image_size says so"``.
    """

    shape: Shape
    reason: str


@dataclass(frozen=True)
class _Design:
    """What a network for one kind of image data looks like: its classes, and its last map."""

    shape: Shape
    classes: frozenset[int]
    last_map: range


# CIFAR's and ImageNet's. Strides for 224 pixels leave one pixel of 32, and those for 32 leave 28
# or more of 224. So ten classes behind ImageNet's strides, fine-tuned on who knows what, are
# neither.
_DESIGNS = (
    _Design((3, 32, 32), frozenset({10, 100}), range(4, 9)),
    _Design((3, 224, 224), frozenset({1000}), range(7, 8)),
)


def guess_input_shape(model: nn.Module) -> GuessedShape:
    """The shape of one example of a model's only input, if that is beyond doubt.

    Every guess was run, on a copy without numbers in it: the model is neither changed nor run.

    Args:
        model: A model that takes one tensor of floating-point numbers.

    Returns:
        The shape, and why it is that.

    Raises:
        InputError: The shape is not known; the message says to pass it.
    """
    if isinstance(model, fx.GraphModule) and (known := _of_graph(model)):
        return known
    run = DryRun.of(model)
    if run is None:
        raise _unknown(model, "the model cannot be copied to try it")
    channels = _layer_sizes(model, nn.Conv2d, "in_channels")
    for guess in _stated(model, channels):
        if run(guess.shape) is not None:
            return guess
    return _of_torchvision(model, run) or _of_features(model, run) or _of_images(model, run)


def _unknown(model: nn.Module, reason: str) -> InputError:
    return InputError(
        f"the shape of the model's input is not known: {reason}",
        where=type(model).__name__,
        hint="Pass the shape of one example, such as --input 3x224x224.",
    )


def _layer_sizes(model: nn.Module, kind: type[nn.Module], name: str) -> list[int]:
    """The different sizes that layers of a kind take, in the order of the layers."""
    return list(dict.fromkeys(getattr(m, name) for m in model.modules() if isinstance(m, kind)))


# --- what the model says


def _of_graph(graph: fx.GraphModule) -> GuessedShape | None:
    """What it was traced with; without a word on shapes it is a model like any other."""
    inputs = list(filter(is_tensor, graph.graph.find_nodes(op="placeholder")))
    if not inputs:
        return None
    if len(inputs) > 1:
        raise _unknown(graph, f"it takes {len(inputs)} inputs")
    (taken,) = inputs
    if not taken.meta["val"].is_floating_point() or not taken.meta["val"].dim():
        raise _unknown(graph, f"it takes {taken.meta['val'].dtype}")
    return GuessedShape(tuple(shape_of(taken)[1:]), "it was exported with that")


def _stated(model: nn.Module, channels: list[int]) -> Iterator[GuessedShape]:
    """What timm, transformers, torchvision's transformers and many others write on their models."""
    for name in ("pretrained_cfg", "default_cfg"):  # timm's, and that of its older versions
        stated = _entry(getattr(model, name, None), "input_size")
        yield from _guesses(stated, [], f"the model's {name} says so")
    config = getattr(model, "config", None)
    stated = _entry(config, "num_channels")
    config_channels = [stated] if _is_size(stated) else channels
    side = _entry(config, "image_size")
    yield from _guesses(side, config_channels, "the model's config says so")
    for name in _SHAPES:
        value = getattr(model, name, None)
        if name in _SIDES or not _is_size(value):
            yield from _guesses(value, channels, f"the model's {name} says so")


def _entry(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _guesses(stated: Any, channels: Iterable[int], reason: str) -> Iterator[GuessedShape]:
    """A whole shape as it is; a height and a width, or one side for both, with these channels."""
    sizes = (stated, stated) if _is_size(stated) else stated
    if not isinstance(sizes, (tuple, list)) or not sizes or not all(map(_is_size, sizes)):
        return
    if len(sizes) != 2:
        yield GuessedShape(tuple(sizes), reason)
        return
    for count in channels:
        yield GuessedShape((count, *sizes), reason)


def _of_torchvision(model: nn.Module, run: DryRun) -> GuessedShape | None:
    """What torchvision's own weights of as many parameters were trained on."""
    if not type(model).__module__.startswith("torchvision.models."):
        return None
    from torchvision import models

    count = sum(parameter.numel() for parameter in model.parameters())
    weights = [w for name in models.list_models(models) for w in models.get_model_weights(name)]
    sides = {w.transforms.keywords["crop_size"] for w in weights if w.meta["num_params"] == count}
    if len(sides) > 1:
        listed = " or ".join(f"{side}x{side}" for side in sorted(sides))
        raise _unknown(model, f"torchvision's weights of it are for {listed}")
    shapes = [(3, side, side) for side in sides if run((3, side, side)) is not None]
    return GuessedShape(shapes[0], "torchvision's weights of it are for that") if shapes else None


# --- what the model runs on


def _of_features(model: nn.Module, run: DryRun) -> GuessedShape | None:
    """The features of the first layer of a network of linear layers."""
    if any(isinstance(module, _SEQUENTIAL) for module in model.modules()):
        return None
    counts = [n for n in _layer_sizes(model, nn.Linear, "in_features") if run((n,)) is not None]
    if len(counts) != 1:
        return None
    (count,) = counts
    if run((1, count)) != run((count,)):
        return GuessedShape((count,), f"its first layer takes {count} features")
    # It flattens what it gets, whatever the shape is.
    shapes = [(c, s, s) for c in (1, 3) for s in _SIZES if c * s * s == count]
    if len(shapes) != 1:
        raise _unknown(model, f"it flattens its input, of {count} numbers in any shape")
    return GuessedShape(shapes[0], f"it flattens its input, of {count} numbers")


def _of_images(model: nn.Module, run: DryRun) -> GuessedShape:
    """The one usual size that it runs on, or of several the one that it was designed for."""
    channels = _layer_sizes(model, nn.Conv2d, "in_channels")
    shapes = [(c, s, s) for c in channels for s in _SIZES if run((c, s, s)) is not None]
    if not shapes:
        raise _unknown(model, "it runs on no image of a usual size")
    if len(shapes) == 1:
        return GuessedShape(shapes[0], "of the usual sizes it runs on no other")
    for design in _DESIGNS:
        if design.shape in shapes and (reason := _fits(design, run)):
            return GuessedShape(design.shape, reason)
    named = ", ".join("x".join(map(str, shape)) for shape in shapes[:3])
    raise _unknown(model, f"it runs on {named}{' and more' if len(shapes) > 3 else ''}")


def _fits(design: _Design, run: DryRun) -> str:
    """What says that a network was designed for such data; nothing if it does not say so."""
    result = run(design.shape)
    if result is None or len(result.output) != 1 or result.last_map not in design.last_map:
        return ""
    (classes,) = result.output
    side = result.last_map
    if classes not in design.classes:
        return ""
    return f"{classes:,} classes, and a last map of {side}x{side}, are usual for that"
