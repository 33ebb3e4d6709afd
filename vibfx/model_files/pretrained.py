"""Networks by name, to be downloaded: ``torchvision:resnet18@DEFAULT`` and ``timm:resnet18``."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files.architectures import check_timm, check_torchvision
from vibfx.model_files.refusals import described

_NAME = re.compile(r"(torchvision|timm):(.+)")


def is_name(model: str) -> bool:
    """Whether this names a network of a library, and not a file."""
    return _NAME.fullmatch(model) is not None


def download(model: str) -> nn.Module:
    """A trained network, by its library's own download, which keeps the file for the next time.

    Whatever arrives is read as weights alone, without running code of it.

    Args:
        model: ``torchvision:NAME@WEIGHTS`` with weights such as ``IMAGENET1K_V1`` or ``DEFAULT``,
            or ``timm:NAME``.

    Returns:
        The network, in eval mode and on the CPU.

    Raises:
        ModelFileError: There is no such network, it has no such weights, or they cannot be had.
    """
    library, _, name = model.partition(":")
    network = _from_timm(name) if library == "timm" else _from_torchvision(name)
    return network.eval()


def _from_torchvision(model: str) -> nn.Module:
    from torchvision import models

    name, at, wanted = model.partition("@")
    check_torchvision(name)
    weights = models.get_model_weights(name)
    names = list(weights.__members__)
    listed = " or ".join(f"torchvision:{name}@{known}" for known in names)
    hint = f"Pass {listed}." if names else "There are no weights of it."
    if not at:
        raise ModelFileError(
            "It is the name of an untrained network.", where=f"torchvision:{name}", hint=hint
        )
    if wanted not in names:
        raise ModelFileError(
            f"torchvision has no weights {wanted} of {name}.",
            where=f"torchvision:{model}",
            hint=hint,
        )
    chosen = weights[wanted]
    with _downloading(f"torchvision:{name}", chosen.url):
        network: nn.Module = models.get_model(name, weights=chosen)
    return network


def _from_timm(name: str) -> nn.Module:
    check_timm(name)
    import timm

    if not timm.models.is_model_pretrained(name):
        raise ModelFileError(
            f"timm has no weights of {name}.",
            where=f"timm:{name}",
            hint="Pass a file of weights, and this name with --arch.",
        )
    source = timm.get_pretrained_cfg(name)
    hub = f"https://huggingface.co/{source.hf_hub_id}" if source else "timm's pages"
    with _downloading(f"timm:{name}", hub):
        network: nn.Module = timm.create_model(name, pretrained=True)
    return network


@contextmanager
def _downloading(arch: str, address: str) -> Iterator[None]:
    # The libraries read what they fetched by torch.load, and torchvision without weights_only.
    forced = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(forced)
    os.environ[forced] = "1"
    try:
        yield
    except Exception as error:  # each library raises its own kinds, and those of its network code
        raise ModelFileError(
            f"The weights cannot be downloaded: {described(error)}.",
            where=arch,
            hint=f"Download them elsewhere from {address}, and pass the file with --arch {arch}.",
        ) from error
    finally:
        if before is None:
            del os.environ[forced]
        else:
            os.environ[forced] = before
