"""Every error that vibfx raises on purpose.

::

    VibfxError                  anything vibfx refuses to do, with what to do about it
    ├── InputError              what the user handed in cannot be used (exit code 2)
    │   ├── ModelFileError      a model file is missing, unreadable, unsafe or not a model
    │   ├── DataError           a data set is missing, malformed or unfit for training
    │   ├── TargetError         a target cannot be read or cannot be reached
    │   ├── OutputError         the output folder cannot be written
    │   ├── CheckpointError     an unfinished run cannot be gone on with
    │   └── NothingRemovableError   no unit of the network can be removed (exit code 3)
    ├── TraceError              the model could not be captured as a graph (exit code 2)
    ├── PlanError               a plan does not fit the graph it is applied to (exit code 2)
    ├── GraphError              a graph breaks a structural rule; names the pass (exit code 1)
    ├── DivergenceError         training left all bounds (exit code 1)
    ├── TargetMissedError       the result has lost more than was allowed (exit code 1)
    ├── EquivalenceError        a rewritten graph computes something else (exit code 1)
    ├── ExportError             the graph cannot be written as ONNX (exit code 1)
    └── ParityError             ONNX Runtime disagrees with the graph it came from (exit code 1)
"""

from typing import ClassVar


class VibfxError(Exception):
    """What happened, where, and what to do.

    Args:
        what: One sentence on what happened.
        where: The node, module path, file or source line concerned.
        hint: What the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        parts = [what, f"at {where}" if where else "", hint or ""]
        super().__init__("\n  ".join(part for part in parts if part))


class InputError(VibfxError):
    """What the user handed in cannot be used."""

    exit_code = 2


class ModelFileError(InputError):
    """A model file is missing, unreadable, unsafe or not a model."""


class DataError(InputError):
    """A data set is missing, malformed or unfit for training."""


class TargetError(InputError):
    """A target cannot be read or cannot be reached."""


class CheckpointError(InputError):
    """An unfinished run cannot be gone on with."""


class OutputError(InputError):
    """The output folder cannot be written."""


class NothingRemovableError(InputError):
    """No unit of the network can be removed; the message lists the reasons."""

    exit_code = 3


class TraceError(VibfxError):
    """The model could not be captured as a graph."""

    exit_code = 2


class PlanError(VibfxError):
    """A plan does not fit the graph it is applied to."""

    exit_code = 2


class GraphError(VibfxError):
    """A graph breaks a structural rule."""


class DivergenceError(VibfxError):
    """The loss of a training run became no number, or left all bounds."""


class TargetMissedError(VibfxError):
    """The result has lost more than was allowed."""


class EquivalenceError(VibfxError):
    """A rewritten graph computes something else than the graph it came from."""


class ExportError(VibfxError):
    """The graph cannot be written as ONNX."""


class ParityError(VibfxError):
    """ONNX Runtime disagrees with the graph that was exported."""
