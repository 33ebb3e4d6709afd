"""An ONNX file as a module, to be measured as graphs are."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vibfx.export.runtime import feed, run, session


class OnnxModule(nn.Module):
    """Runs an ONNX file in ONNX Runtime, on the CPU.

    Args:
        path: The file.
        threads: How many it computes one op with; 0 for one a core.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        super().__init__()
        self._session = session(path, threads=threads)

    def forward(self, *inputs: Tensor) -> Any:
        """The file's outputs, where the inputs are: a tensor, or a tuple of several."""
        found = tuple(
            torch.from_numpy(value).to(inputs[0].device)
            for value in run(self._session, feed(self._session, inputs))
        )
        return found[0] if len(found) == 1 else found
