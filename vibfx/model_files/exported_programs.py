"""Programs that ``torch.export.save`` wrote, read as graphs.

``torch.export.load`` trusts its file: it unpickles, it evaluates expressions and it runs source
that it writes from names. So the archive is looked at first. Its description goes through
`program_screen`; its weights must be plain numbers, as many as it says; the one pickle that is in
it, of example inputs, may do no more than rebuild tensors. Anything else in the archive is refused:
compiled code, pickled weights, objects of classes.
"""

import io
import json
import re
from typing import Any

import torch
from torch import fx

from vibfx.errors import ModelFileError
from vibfx.model_files.archive import Archive
from vibfx.model_files.layouts import check_layout
from vibfx.model_files.names import is_path
from vibfx.model_files.pickle_screen import check_data
from vibfx.model_files.program_screen import check_program
from vibfx.model_files.refusals import OTHER_VERSION, damaged, described
from vibfx.model_files.trust import Trust
from vibfx.silence import silenced

_WRITER = "torch.export.save"

_PROGRAM = "models/model.json"
_INPUTS = "data/sample_inputs/model.pt"
_CONFIGS = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
_RECORDS = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|version|\.data/(version|serialization_id)|extra/.*"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)

# torch._export.serde.schema.ScalarType: the numbers by which a file names what it consists of.
_INTEGERS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}  # uint8, int8, int16, int32, int64
_FLOATS = {6: 2, 7: 4, 8: 8, 13: 2}  # float16, float32, float64, bfloat16
_OTHERS = {9: 4, 10: 8, 11: 16, 12: 1}  # complex32, complex64, complex128, bool
_ITEM_SIZES = _INTEGERS | _FLOATS | _OTHERS


def read_program(archive: Archive, trust: Trust) -> fx.GraphModule:
    """Reads a program as a graph.

    Args:
        archive: The archive.
        trust: What operators it may call beyond those that are known to be harmless.

    Returns:
        The graph, called as the exported module was. Nodes know their shapes (``meta["val"]``), and
        so do its inputs.

    Raises:
        ModelFileError: The file is damaged, or holds something that is not known to be harmless.
    """
    _check_records(archive)
    check_program(_json(archive, _PROGRAM), trust)
    for folder, config in _CONFIGS.items():
        _check_weights(archive, folder, _json(archive, config))
    _check_inputs(archive)
    archive.file.seek(0)
    try:
        with silenced():
            program = torch.export.load(archive.file)
            unlifted = program.module(check_guards=False)
            graph = fx.GraphModule(unlifted, unlifted.graph, "ExportedProgram")
    except Exception as error:  # what fits no version of the format can fail at any step
        raise ModelFileError(
            f"The program does not fit the installed torch {torch.__version__}, or is damaged: "
            f"{described(error)}.",
            hint=OTHER_VERSION,
        ) from error
    return graph


def _check_records(archive: Archive) -> None:
    if any(name.startswith("data/aotinductor/") for name in archive.sizes):
        raise ModelFileError(
            "The file holds compiled code of AOTInductor, which would run as it is.",
            hint="Save the program that it was compiled from with torch.export.save.",
        )
    for name in archive.sizes:
        if not _RECORDS.fullmatch(name):
            raise ModelFileError(
                f"The program holds {name[:80]}, which is no graph and no dense tensor.",
                hint="Save a single program, of a module that computes with tensors alone.",
            )


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name).decode())
    except (ValueError, RecursionError) as error:
        raise damaged(f"its record {name} is no JSON", _WRITER) from error


def _check_weights(archive: Archive, folder: str, listed: Any) -> None:
    """Check that what is listed are plain numbers, and are there."""
    kinds: dict[str, int] = {}
    try:
        for name, entry in listed["config"].items():
            if not is_path(name):
                raise damaged(f"a weight in it is called {name[:40]!r}", _WRITER)
            if entry["use_pickle"] is not False:
                raise ModelFileError(
                    f"The program's {name} is pickled.",
                    hint="Export a module whose weights are dense tensors.",
                )
            _check_tensor(archive, f"{folder}{entry['path_name']}", entry["tensor_meta"], kinds)
    except (LookupError, TypeError, AttributeError) as error:
        raise damaged(f"its list of {folder} cannot be read", _WRITER) from error


def _check_tensor(archive: Archive, record: str, declared: Any, kinds: dict[str, int]) -> None:
    # Tensors that share numbers are all set up as the first of them says.
    kind = declared["dtype"]
    if kind not in _ITEM_SIZES or kinds.setdefault(record, kind) != kind:
        raise damaged(f"its record {record} holds no numbers of a known type", _WRITER)
    if declared["device"]["type"] != "cpu":
        raise ModelFileError(
            f"The program's weights are on {str(declared['device']['type'])[:20]}.",
            hint="Move the module to the CPU before exporting it.",
        )
    length, rest = divmod(archive.sizes[record], _ITEM_SIZES[kind])
    if rest:
        raise damaged(f"its record {record} ends within a number", _WRITER)
    offset, *numbers = (
        entry["as_int"]
        for entry in (declared["storage_offset"], *declared["sizes"], *declared["strides"])
    )
    count = len(declared["sizes"])
    check_layout(offset, numbers[:count], numbers[count:], length)


def _check_inputs(archive: Archive) -> None:
    content = archive.read(_INPUTS)
    if content:
        inputs = Archive.of(io.BytesIO(content))
        inputs.check()
        check_data(inputs)
