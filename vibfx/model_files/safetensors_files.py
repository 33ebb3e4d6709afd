"""Weights in a ``.safetensors`` file: a header in JSON, and the numbers.

The library checks that every tensor has its bytes and every byte its tensor. The format has **no
checksums**: a flipped bit of a weight cannot be told from a right one.
"""

from pathlib import Path

from torch import Tensor

from vibfx.model_files.refusals import damaged, described


def is_safetensors(head: bytes, suffix: str) -> bool:
    """Whether this is such a file.

    Args:
        head: How it begins, 9 bytes or more: with the length of its header, and a brace.
        suffix: How its name ends.
    """
    return suffix == ".safetensors" or (head[4:8] == bytes(4) and head[8:9] == b"{")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the weights by name.

    Args:
        path: The file.

    Raises:
        ModelFileError: The file is damaged.
    """
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # of the library's own, and of torch for numbers it does not have
        raise damaged(described(error), "safetensors") from error
    return tensors
