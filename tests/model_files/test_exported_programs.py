"""Programs of ``torch.export``: what is read, and what an archive of one may not hold."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import (
    Small,
    described,
    program,
    records_of,
    refused,
    rewritten,
    shell_attack,
)
from torch import nn

import vibfx
from vibfx.export.program import save_program
from vibfx.input_shape import guess_input_shape
from vibfx.model_files import load_model

WEIGHTS = "data/weights/model_weights_config.json"
INPUTS = "data/sample_inputs/model.pt"


# --- what is read -------------------------------------------------------------------------------


def test_it_computes_what_was_exported(path: Path) -> None:
    loaded = load_model(path)
    exported = torch.export.load(path).module()
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(loaded(images), exported(images))
    assert not loaded.training
    assert loaded.state_dict().keys() == {*Small().state_dict(), "shift"}


def test_it_says_what_it_takes(path: Path) -> None:
    found = guess_input_shape(load_model(path))
    assert found.shape == (3, 8, 8)
    assert found.reason == "it was exported with that"


def test_it_can_be_traced_and_cut(path: Path) -> None:
    loaded = load_model(path)
    images = torch.randn(4, 3, 8, 8)
    graph = vibfx.trace(loaded, images[:2])
    assert torch.allclose(graph(images), loaded(images), atol=1e-6)
    assert vibfx.analyze(graph).units == 8
    assert vibfx.analyze(vibfx.trace(Small(), images[:2])).units == 8


def test_what_vibfx_wrote_is_read_again(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 8, 8)
    graph = vibfx.trace(Small(), images)
    for _ in range(2):
        save_program(graph, tmp_path / "model.pt2")
        again = vibfx.trace(load_model(tmp_path / "model.pt2"), images)
        assert torch.equal(again(images), graph(images))
        assert vibfx.analyze(again).units == 8
        graph = again


def test_a_batch_that_was_fixed(tmp_path: Path) -> None:
    made = torch.export.export(Small().eval(), (torch.randn(1, 3, 8, 8),))
    torch.export.save(made, tmp_path / "model.pt2")
    loaded = load_model(tmp_path / "model.pt2")
    assert guess_input_shape(loaded).shape == (3, 8, 8)
    assert vibfx.analyze(vibfx.trace(loaded, torch.zeros(2, 3, 8, 8))).units == 8


class Nested(nn.Module):
    def forward(self, pair: Any, *, scale: Any = None) -> Any:
        x, y = pair["x"], pair["y"]
        return {"sum": x + y, "both": (x, [y if scale is None else y * scale])}


def test_arguments_and_results_may_be_nested(tmp_path: Path) -> None:
    pair, scale = {"x": torch.ones(2, 3), "y": torch.ones(2, 3)}, torch.full((2, 3), 2.0)
    made = torch.export.export(Nested(), (pair,), {"scale": scale})
    torch.export.save(made, tmp_path / "model.pt2")
    found = load_model(tmp_path / "model.pt2")(pair, scale=scale)
    assert torch.equal(found["both"][1][0], scale)


class Regions(Small):
    """A part of it runs without gradients, another one under autocast."""

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            hidden = self.norm(self.conv(x)).relu()
        with torch.autocast("cpu", enabled=False):
            return self.head(hidden.mean((2, 3)))


def test_parts_that_run_in_another_mode(tmp_path: Path) -> None:
    loaded = load_model(program(tmp_path / "model.pt2", Regions()))
    images = torch.randn(2, 3, 8, 8)
    graph = vibfx.trace(loaded, images)
    assert torch.allclose(graph(images), loaded(images), atol=1e-6)
    assert vibfx.analyze(graph).units == 8


# --- what an archive may not hold ---------------------------------------------------------------


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_an_attack_in_the_example_inputs_works_on_torch_itself(path: Path) -> None:
    rewritten(path, lambda found: found.update({INPUTS: pickled(shell_attack(path.parent))}))
    with pytest.raises(AssertionError):
        torch.export.load(path)
    assert path.with_name("mark").exists()


@pytest.mark.parametrize("nested", [False, True])
def test_the_example_inputs_run_nothing(nested: bool, path: Path) -> None:
    attack = shell_attack(path.parent)
    value = ((torch.ones(1), attack), {}) if nested else attack
    rewritten(path, lambda found: found.update({INPUTS: pickled(value)}))
    assert "system" in refused(path).what


def test_example_inputs_ask_for_no_more_than_is_there(path: Path) -> None:
    inner = path.with_name("inputs.pt")
    torch.save(((torch.ones(2, 3, 8, 8),), {}), inner)
    rewritten(inner, lambda found: found.update({"data/0": b"1234"}))
    rewritten(path, lambda found: found.update({INPUTS: inner.read_bytes()}))
    assert "does not have" in refused(path).what


def test_pickled_weights_are_not_unpickled(path: Path) -> None:
    def change(found: Any) -> None:
        found["config"]["conv.weight"]["use_pickle"] = True

    rewritten(
        path,
        lambda found: found.update({"data/weights/weight_0": pickled(shell_attack(path.parent))}),
    )
    assert refused(described(path, change, WEIGHTS)).what == "The program's conv.weight is pickled."


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ("data/aotinductor/model/model.so", "compiled code of AOTInductor"),
        ("data/constants/custom_obj_0", "holds data/constants/custom_obj_0"),
        ("data/constants/opaque_obj_0", "holds data/constants/opaque_obj_0"),
        ("data/weights/model.pt", "holds data/weights/model.pt"),
        ("data/constants/model.pt", "holds data/constants/model.pt"),
        ("data/executorch/model.pte", "holds data/executorch/model.pte"),
        ("models/other.json", "holds models/other.json"),
    ],
)
def test_other_records(record: str, part: str, path: Path) -> None:
    attack = pickled(shell_attack(path.parent))
    assert part in refused(rewritten(path, lambda found: found.update({record: attack}))).what


@pytest.mark.parametrize(
    "record", ["models/model.json", INPUTS, WEIGHTS, "archive_version", "data/weights/weight_0"]
)
def test_missing_and_empty_records(record: str, path: Path) -> None:
    whole = path.read_bytes()
    refused(rewritten(path, lambda found: found.pop(record)))
    path.write_bytes(whole)
    rewritten(path, lambda found: found.update({record: b""}))
    if record != INPUTS:
        refused(path)


def meta(found: Any, name: str = "conv.weight") -> Any:
    return found["config"][name]["tensor_meta"]


def size(*numbers: int) -> list[dict[str, int]]:
    return [{"as_int": number} for number in numbers]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda found: meta(found).update(sizes=size(8, 3, 3, 4)), "beyond the 216 that are there"),
        (lambda found: meta(found).update(storage_offset={"as_int": 1}), "beyond the 216"),
        (lambda found: meta(found).update(strides=size(-27, 9, 3, 1)), "that are none"),
        (lambda found: meta(found).update(strides=size(27, 9, 3)), "that are none"),
        (
            lambda found: meta(found).update(sizes=size(2**20, 2**20), strides=size(0, 0)),
            "repeats its 216 numbers to 1,099,511,627,776",
        ),
        (lambda found: meta(found).update(dtype=99), "no numbers of a known type"),
        (lambda found: meta(found).update(device={"type": "cuda", "index": 0}), "are on cuda"),
        (lambda found: meta(found).update(device={"type": "meta", "index": 0}), "are on meta"),
        (lambda found: found["config"]["conv.weight"].update(path_name="../x"), "cannot be read"),
        (lambda found: found["config"].update({"a.forward": 1}), "is called 'a.forward'"),
        (lambda found: found["config"].update({"a": {}}), "cannot be read"),
        (lambda found: found["config"].pop("conv.weight"), "does not fit the installed torch"),
        (lambda found: found.update(config=[]), "cannot be read"),
    ],
)
def test_weights_that_are_not_as_listed(change: Any, part: str, path: Path) -> None:
    assert part in refused(described(path, change, WEIGHTS)).what


def test_an_empty_record_asks_for_no_memory(path: Path) -> None:
    # torch makes zeros of whatever size such a weight has.
    def change(found: Any) -> None:
        meta(found).update(sizes=size(10**6, 10**6), strides=size(1, 1))

    rewritten(path, lambda found: found.update({"data/weights/weight_0": b""}))
    assert "beyond the 0" in refused(described(path, change, WEIGHTS)).what


def test_a_flipped_bit_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(records_of(path)["data/weights/weight_0"]) + 7] ^= 4
    path.write_bytes(content)
    assert "does not match its checksum" in refused(path).what
