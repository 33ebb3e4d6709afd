"""Weights without their model: finds them in what was saved, and loads them into a network.

Files of every format end here, as a mapping from names to tensors. All of it has to fit: what is
missing, left over or of another shape is told, and nothing is loaded.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor, nn

from vibfx.errors import ModelFileError
from vibfx.model_files.refusals import described

# Where training scripts put the weights in a checkpoint; averages only where nothing else is there.
_ENTRIES = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params"),
    *("model_ema", "state_dict_ema", "ema_state_dict", "ema", "params_ema"),
)

# nn.DataParallel and DistributedDataParallel put this before every name, torch.compile that
# somewhere into it.
_PARALLEL = "module."
_COMPILED = "_orig_mod"

_SHOWN = 3

Weights = OrderedDict[str, Tensor]


def find_weights(loaded: object) -> Weights | None:
    """The weights among what was saved.

    Args:
        loaded: A state dict, or a checkpoint with one among its entries: ``state_dict``, ``model``
            and the like, or else one of averaged weights.

    Returns:
        The weights by name, with the versions of its layers that ``state_dict()`` notes on it;
        None if there are none.
    """
    if not isinstance(loaded, dict):
        return None
    # Not loaded.items(), here and below: the file may have set an attribute in its place.
    entries = dict(dict.items(loaded))
    nested = [entries[name] for name in _ENTRIES if isinstance(entries.get(name), dict)]
    for found in (loaded, *nested):
        if weights := _weights(found):
            return weights
    return None


def _weights(found: dict[Any, Any]) -> Weights | None:
    items = dict.items(found)
    if not items or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items):
        return None
    weights = OrderedDict((_uncompiled(name), value) for name, value in items)
    metadata = getattr(found, "__dict__", {}).get("_metadata")
    if len(weights) < len(items):
        return None
    if _is_metadata(metadata):
        weights._metadata = {  # type: ignore[attr-defined]
            _uncompiled(name): entry for name, entry in dict.items(metadata)
        }
    return weights


def _is_metadata(value: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    """Whether this is what ``state_dict()`` notes: for each layer, the version of its format."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and type(entry) is dict and type(entry.get("version", 1)) is int
        for name, entry in dict.items(value)
    )


def _uncompiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def load_weights(network: nn.Module, weights: Weights, arch: str) -> None:
    """Load weights into a network, all of them or none.

    Args:
        network: What they are of.
        weights: The weights by name; a ``module.`` that ``nn.DataParallel`` put before every name
            is taken off.
        arch: What the user calls the network.

    Raises:
        ModelFileError: Weights are missing, left over, of another shape or another kind.
    """
    own = network.state_dict()
    weights = _unwrapped(weights, own)
    _check_shapes(weights, own, arch)
    if not hasattr(weights, "_metadata") and weights.keys() == own.keys():
        weights._metadata = own._metadata  # type: ignore[attr-defined]
    try:
        # Layers add what an older version of them did not have, and say what is missing then.
        missing, extra = network.load_state_dict(weights, strict=False)
    except Exception as error:  # a network's own code decides what it raises
        raise ModelFileError(
            f"The weights cannot be loaded into {arch}: {described(error)}.", hint=_hint(arch)
        ) from error
    if missing or extra:
        raise _misfit(arch, missing=missing, extra=extra)


def _unwrapped(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    def is_wrapped(names: Iterable[str]) -> bool:
        return all(name.startswith(_PARALLEL) for name in names)

    while is_wrapped(weights) and not is_wrapped(own):
        metadata = getattr(weights, "_metadata", None)
        weights = OrderedDict((name.removeprefix(_PARALLEL), x) for name, x in weights.items())
        if metadata is not None:
            weights._metadata = {  # type: ignore[attr-defined]
                name.partition(".")[2]: entry for name, entry in metadata.items() if name
            }
    return weights


def _check_shapes(weights: Weights, own: Mapping[str, Tensor], arch: str) -> None:
    shared = [name for name in own if name in weights and isinstance(own[name], Tensor)]
    misshaped = [
        f"{name} ({_shape(weights[name])}, not {_shape(own[name])})"
        for name in shared
        if weights[name].shape != own[name].shape
    ]
    if misshaped:
        missing = [name for name in own if name not in weights]
        extra = [name for name in weights if name not in own]
        raise _misfit(arch, missing=missing, extra=extra, misshaped=misshaped)
    for name in shared:
        found, wanted = weights[name].dtype, own[name].dtype
        kinds = {(dtype.is_floating_point, dtype.is_complex) for dtype in (found, wanted)}
        if len(kinds) > 1:
            raise ModelFileError(
                f"The weights do not fit {arch}: {name} holds {found}, not {wanted}.",
                hint=_hint(arch),
            )


def _misfit(
    arch: str, *, missing: Sequence[str], extra: Sequence[str], misshaped: Sequence[str] = ()
) -> ModelFileError:
    parts = {"missing": missing, "not of it": extra, "of another shape": misshaped}
    told = [
        f"{len(names):,} {kind}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for kind, names in parts.items()
        if names
    ]
    return ModelFileError(
        f"The weights do not fit {arch}; {'; '.join(told)}.",
        hint=_hint(arch),
    )


def _hint(arch: str) -> str:
    example = f"{arch.partition('(')[0]}(num_classes=10)"
    return f"Pass the --arch that they were trained in, also with arguments: --arch '{example}'."


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
