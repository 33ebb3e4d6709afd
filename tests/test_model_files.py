"""What ``load_model`` reads, what it refuses, and that a hostile file leaves no mark."""

import builtins
import functools
import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torchvision
from torch import nn

from vibfx.errors import ModelFileError
from vibfx.model_files import load_model


class Reduced:
    """Pickles as a call of `function`, or as whatever else `__reduce__` may return."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 12 * 12, 10),
    )


def saved(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def archive(pickled: bytes, path: Path) -> Path:
    """An archive like torch.save's around a pickle that no torch.save would write."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", sys.byteorder)
        file.writestr("archive/version", "3\n")
    return path


def refused(path: Path, **options: Any) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        load_model(path, **options)
    assert caught.value.where == str(path)
    assert caught.value.hint
    return caught.value


# --- what is read -------------------------------------------------------------------------------


def test_a_sequential_lenet_is_read_back_in_eval_mode(tmp_path: Path) -> None:
    model = lenet().train()
    loaded = load_model(str(saved(model, tmp_path / "model.pt")))
    images = torch.randn(2, 1, 28, 28)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "mobilenet_v2", "densenet121", "squeezenet1_1"]
)
def test_a_torchvision_model_is_read_back(name: str, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    if name == "vgg11_bn":
        # Its classifier is 99 % of the weights and the same layers as the others'.
        model.classifier = nn.Linear(512 * 7 * 7, 3).eval()
    loaded = load_model(saved(model, tmp_path / "model.pt"))
    images = torch.randn(1, 3, 64, 64)
    assert type(loaded) is type(model)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, num_layers=2),
        nn.MultiheadAttention(4, 2),
        nn.ModuleDict({"a": nn.GELU(), "b": nn.GroupNorm(2, 4)}),
        nn.ParameterList([torch.ones(2)]),
        nn.Embedding(3, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_a_state_of_their_own_are_read_back(layer: nn.Module, tmp_path: Path) -> None:
    loaded = load_model(saved(layer, tmp_path / "model.pt"))
    assert str(loaded) == str(layer)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_plain_data_in_attributes_is_read_back(tmp_path: Path) -> None:
    model: Any = nn.Identity()
    data = {"z": 1j, "kind": torch.float16, "on": torch.device("cpu"), "size": torch.Size([2, 3])}
    model.notes = {**data, "raw": b"\x00\xff", "long": 10**30, "set": {1, 2}}
    loaded = load_model(saved(model, tmp_path / "model.pt"))
    assert loaded.notes == model.notes


def test_parameters_and_buffers_with_attributes_are_read_back(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.decay = 0.5  # type: ignore[attr-defined]
    model.count = nn.Buffer(torch.ones(1))
    loaded: Any = load_model(saved(model, tmp_path / "model.pt"))
    assert loaded.weight.decay == 0.5
    assert dict(loaded.named_buffers()).keys() == {"count"}


def test_data_parallel_is_unwrapped(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.DataParallel(nn.Linear(2, 3)))
    loaded = load_model(saved(model, tmp_path / "model.pt"))
    assert type(loaded) is nn.Linear


# --- trust --------------------------------------------------------------------------------------

SOURCE = """
from os import system
from pathlib import Path
from torch import nn

Path(__file__).with_suffix(".imported").touch()

def double(module, args, output):
    return 2 * output

class Net(nn.Module):
    def __init__(self, activation=None):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.activation = activation

    def forward(self, x):
        return self.layer(x)

    class Inner(nn.Linear):
        pass
"""
SOURCES = {"shapes", "shapesother"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package ``shapes`` and a module ``shapesother``, importable until the test ends."""
    folder = tmp_path / "code"
    (folder / "shapes").mkdir(parents=True)
    (folder / "shapes" / "__init__.py").touch()
    for name in ("shapes/nets.py", "shapesother.py"):
        (folder / name).write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget_modules()


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in SOURCES]:
        del sys.modules[name]


def test_a_class_of_another_package_is_refused_and_not_imported(
    package: Path, tmp_path: Path
) -> None:
    from shapes.nets import Net  # type: ignore[import-not-found]

    path = saved(Net(), tmp_path / "model.pt")
    forget_modules()
    (package / "shapes" / "nets.imported").unlink()
    error = refused(path)
    assert error.what == (
        "The file needs shapes.nets.Net, beyond the layers of torch and torchvision."
    )
    assert error.hint is not None
    assert error.hint.startswith("--trust shapes allows it; the file may then run code of shapes")
    assert "shapes" not in sys.modules
    assert not (package / "shapes" / "nets.imported").exists()


@pytest.mark.parametrize("prefix", ["shapes", "shapes.nets"])
def test_a_trusted_class_is_read(prefix: str, package: Path, tmp_path: Path) -> None:
    from shapes.nets import Net

    model = nn.Sequential(Net(), Net())
    path = saved(model, tmp_path / "model.pt")
    loaded = load_model(path, trust=["unused", prefix])
    assert torch.equal(loaded(torch.ones(1, 2)), model(torch.ones(1, 2)))


def test_a_class_inside_a_class_is_refused(package: Path, tmp_path: Path) -> None:
    from shapes.nets import Net

    error = refused(saved(Net.Inner(2, 2), tmp_path / "model.pt"), trust=["shapes"])
    assert error.what.startswith("The file looks up an attribute by name")
    assert error.hint is not None
    assert error.hint.startswith("Move the class or the function to the top level")


def test_a_trusted_object_may_be_called_and_restored(tmp_path: Path) -> None:
    model: Any = nn.Identity()
    model.norm = functools.partial(nn.LayerNorm, eps=1e-6)
    path = saved(model, tmp_path / "model.pt")
    assert "functools.partial" in refused(path).what
    loaded: Any = load_model(path, trust=["functools"])
    assert loaded.norm(4).eps == 1e-6


def test_trusted_functions_may_be_attributes_and_hooks(package: Path, tmp_path: Path) -> None:
    from shapes.nets import Net, double

    model = nn.Sequential(nn.Linear(2, 2), Net(activation=double))
    model[0].register_forward_hook(double)
    path = saved(model, tmp_path / "model.pt")
    assert "shapes.nets.Net, shapes.nets.double" in refused(path).what
    loaded = load_model(path, trust=["shapes"])
    assert torch.equal(loaded(torch.ones(1, 2)), model(torch.ones(1, 2)))


def test_a_prefix_ends_at_a_dot(package: Path, tmp_path: Path) -> None:
    from shapesother import Net  # type: ignore[import-not-found]

    path = saved(Net(), tmp_path / "model.pt")
    assert "shapesother.Net" in refused(path, trust=["shapes"]).what
    assert isinstance(load_model(path, trust=["shapesother"]), Net)


def test_trusted_modules_are_found_in_the_current_directory(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shapesother import Net

    path = saved(Net(), tmp_path / "model.pt")
    forget_modules()
    sys.path.remove(str(package))
    before = list(sys.path)
    error = refused(path, trust=["shapesother"])
    assert error.what.startswith(
        "The trusted module shapesother cannot be imported: ModuleNotFound"
    )
    monkeypatch.chdir(package)
    assert type(load_model(path, trust=["shapesother"])).__name__ == "Net"
    assert sys.path == before


def test_a_trusted_module_that_fails_or_changed_is_named(package: Path, tmp_path: Path) -> None:
    from shapesother import Net

    path = saved(Net(), tmp_path / "model.pt")
    forget_modules()
    (package / "shapesother.py").write_text("raise ZeroDivisionError('on import')")
    what = refused(path, trust=["shapesother"]).what
    assert what.endswith("shapesother cannot be imported: ZeroDivisionError: on import.")
    (package / "shapesother.py").write_text("# Net has gone, and this is longer than before")
    what = refused(path, trust=["shapesother"]).what
    assert what == "The trusted module shapesother has no Net."


@pytest.mark.parametrize("prefix", ["", ".", "shapes.", " ", "*"])
def test_a_prefix_that_names_no_package_is_refused(prefix: str, tmp_path: Path) -> None:
    error = refused(saved(lenet(), tmp_path / "model.pt"), trust=[prefix])
    assert error.what == f"{prefix!r} is not the name of a package to trust."


def test_one_string_is_not_a_sequence_of_prefixes(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="sequence of names"):
        load_model(saved(lenet(), tmp_path / "model.pt"), trust="shapes")


def test_a_class_of_the_saving_script_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = type("Net", (nn.Linear,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Net", net, raising=False)
    error = refused(saved(net(2, 2), tmp_path / "model.pt"))
    assert error.what == "Net was defined in the script that saved the model."
    assert error.hint is not None
    assert "Move it into a module that can be imported" in error.hint


# --- what is no model ---------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "model.pt").what == "The model file does not exist."


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path).what == "The model file is a folder."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert refused(tmp_path / "model.pt").what == "The model file is not a regular file."


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = saved(lenet(), tmp_path / "model.pt")
    # A mode of 0 would not keep the superuser out.
    monkeypatch.setattr(Path, "open", denied)
    assert refused(path).what == "The model file cannot be read: Permission denied."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "The model file is empty."),
        (b"conv1: 3x3\n", "The file is not a model that torch.save wrote."),
        (random.Random(0).randbytes(999), "The file is not a model that torch.save wrote."),
        (pickle.dumps([1, 2]), "The file is a plain pickle, which cannot be read safely."),
    ],
    ids=["empty", "text", "random", "pickle"],
)
def test_a_file_of_another_kind(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert refused(tmp_path / "model.pt").what == what


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = saved(lenet(), tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[:-100])
    what = refused(path).what
    assert what.startswith("The model file is damaged or was not written by torch.save: its zip")


def test_another_zip_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
        file.writestr("readme.txt", "no model")
    what = refused(tmp_path / "model.pt").what
    assert what == "The file is a zip archive that torch.save did not write."


def test_the_legacy_format(tmp_path: Path) -> None:
    torch.save(lenet(), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    what = refused(tmp_path / "model.pt").what
    assert what == "The file has the format of torch before 1.6, which cannot be read safely."


def test_another_pickle_protocol(tmp_path: Path) -> None:
    torch.save(lenet(), tmp_path / "model.pt", pickle_protocol=4)
    what = refused(tmp_path / "model.pt").what
    assert what == "The file was saved with pickle protocol 4, which cannot be read safely."


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_state_dict(key: str | None, tmp_path: Path) -> None:
    weights = lenet().state_dict()
    value = weights if key is None else {key: weights, "epoch": 3}
    error = refused(saved(value, tmp_path / "model.pt"))
    assert error.what == "The file holds weights without the model."
    assert error.hint == "Save the whole module with torch.save(model, path)."


def test_a_safetensors_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    assert refused(tmp_path / "model.safetensors").what == (
        "The file holds weights without the model."
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.ones(2), "Tensor"), ([nn.ReLU()], "list"), ({"epoch": 3}, "dict"), (None, "NoneType")],
)
def test_an_object_that_is_no_module(value: object, kind: str, tmp_path: Path) -> None:
    what = refused(saved(value, tmp_path / "model.pt")).what
    assert what == f"The file holds an object of type {kind}, not a module."


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program(tmp_path: Path) -> None:
    program = torch.jit.script(nn.ReLU())
    torch.jit.save(program, tmp_path / "model.pt")
    error = refused(tmp_path / "model.pt")
    assert error.what == "The file is a TorchScript program."
    assert error.hint is not None
    assert "eager module" in error.hint


def test_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    what = refused(tmp_path / "model.pt2").what
    assert what == "The file is a program of torch.export; vibfx reads eager modules here."


def test_an_exported_program_of_older_versions(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as file:
        file.writestr("version", "8.2")
        file.writestr("serialized_exported_program.json", "{}")
    assert "torch.export" in refused(tmp_path / "model.pt2").what


@pytest.mark.parametrize("name", ["model.onnx", "model.pt"])
@pytest.mark.parametrize("producer", ["", "pytorch"])
def test_an_onnx_model(name: str, producer: str, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [value])
    onnx.save(onnx.helper.make_model(graph, producer_name=producer), tmp_path / name)
    error = refused(tmp_path / name)
    assert error.what == "The file is an ONNX model, which is already exported."
    assert error.hint is not None
    assert "PyTorch model" in error.hint


def test_a_graph_module(tmp_path: Path) -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    what = refused(saved(traced, tmp_path / "model.pt")).what
    assert what == "The file holds a torch.fx.GraphModule: Python source, which loading would run."


@pytest.mark.parametrize(
    ("named", "what"),
    [
        (b"torch.nn.parallel.distributed\nDistributedDataParallel", "DistributedDataParallel"),
        (b"torch._dynamo.eval_frame\nOptimizedModule", "torch.compile"),
    ],
)
def test_a_wrapper_that_cannot_be_read_back(named: bytes, what: str, tmp_path: Path) -> None:
    path = archive(b"\x80\x02c" + named + b"\n)\x81}b.", tmp_path / "model.pt")
    assert what in refused(path).what


# --- other versions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named", [b"torch.nn.modules.conv\nConv9d", b"torchvision.models.zebranet\nZebraNet"]
)
def test_a_class_that_this_version_does_not_have(named: bytes, tmp_path: Path) -> None:
    path = archive(b"\x80\x02c" + named + b"\n)\x81}b.", tmp_path / "model.pt")
    what = refused(path).what
    assert named.decode().replace("\n", ".") in what
    assert "which the installed torch" in what


def test_a_module_without_the_attributes_it_needs(tmp_path: Path) -> None:
    # An LSTM reads its own _all_weights while it is restored.
    path = archive(b"\x80\x02ctorch.nn.modules.rnn\nLSTM\n)\x81}b.", tmp_path / "model.pt")
    what = refused(path).what
    assert what.startswith(f"The file does not fit the installed torch {torch.__version__}")
    assert "_all_weights" in what


@pytest.mark.parametrize("missing", ["_modules", "_parameters", "_buffers"])
def test_a_module_without_its_tables(missing: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU())
    del model[0].__dict__[missing]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith(f"a ReLU in it has no usable {missing}.")


def test_a_table_that_holds_something_else(tmp_path: Path) -> None:
    model = nn.Sequential()
    model._modules["0"] = nn.ReLU  # type: ignore[assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.endswith("a Sequential in it has no usable _modules.")


def test_a_data_parallel_around_nothing(tmp_path: Path) -> None:
    model = nn.DataParallel(nn.ReLU())
    model._modules["module"] = None
    assert refused(saved(model, tmp_path / "model.pt")).what.endswith("wraps no module.")


def test_a_model_that_contains_itself(tmp_path: Path) -> None:
    model = nn.Sequential(nn.ReLU())
    model._modules["1"] = model
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == "The model contains itself, or is nested too deeply to be used."


# --- attacks: the file calls something while it is loaded ---------------------------------------


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def shell_attack(mark: Path) -> Reduced:
    return Reduced(os.system, (f"touch '{mark}'",))


def python_attack(mark: Path, function: Any = builtins.eval) -> Reduced:
    return Reduced(function, (f"__import__('pathlib').Path({str(mark)!r}).touch()",))


def refused_without_mark(path: Path, mark: Path, **options: Any) -> str:
    error = refused(path, **options)
    assert not mark.exists()
    return error.what


def test_the_attacks_work_on_an_ordinary_unpickler(tmp_path: Path, mark: Path) -> None:
    for attack in (shell_attack(mark), python_attack(mark), python_attack(mark, builtins.exec)):
        torch.load(saved(attack, tmp_path / "model.pt"), weights_only=False)
        mark.unlink()


@pytest.mark.parametrize("trust", [(), ("posix", "nt")])
def test_a_shell_command_is_not_run(trust: tuple[str, ...], tmp_path: Path, mark: Path) -> None:
    path = saved(shell_attack(mark), tmp_path / "model.pt")
    what = refused_without_mark(path, mark, trust=trust)
    # Trust alone is not enough for these modules: torch blocks them whoever asks.
    assert f"{os.name}.system" in what


@pytest.mark.parametrize("function", [builtins.eval, builtins.exec])
def test_source_is_not_run(function: Any, tmp_path: Path, mark: Path) -> None:
    path = saved(python_attack(mark, function), tmp_path / "model.pt")
    assert f"builtins.{function.__name__}" in refused_without_mark(path, mark)


def test_an_attack_inside_a_model_is_not_run(tmp_path: Path, mark: Path) -> None:
    model: Any = lenet()
    model.notes = [{"deep": (shell_attack(mark),)}]
    path = saved(model, tmp_path / "model.pt")
    assert f"{os.name}.system" in refused_without_mark(path, mark)


def test_an_attack_inside_a_state_dict_is_not_run(tmp_path: Path, mark: Path) -> None:
    path = saved({"state_dict": {"weight": shell_attack(mark)}}, tmp_path / "model.pt")
    refused_without_mark(path, mark)


def test_another_file_is_not_loaded(tmp_path: Path, mark: Path) -> None:
    inner = tmp_path / "inner.pkl"
    inner.write_bytes(pickle.dumps(shell_attack(mark)))
    for function in (torch.load, torch.jit.load, torch.hub.load_state_dict_from_url):
        path = saved(Reduced(function, (str(inner),)), tmp_path / "model.pt")
        assert function.__name__ in refused_without_mark(path, mark)


@pytest.mark.parametrize("suffix", [".pt", ".onnx", ".safetensors"])
def test_plain_and_legacy_pickles_are_not_opened(suffix: str, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(shell_attack(mark)))
    refused_without_mark(path, mark)
    torch.save(shell_attack(mark), path, _use_new_zipfile_serialization=False)
    refused_without_mark(path, mark)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_protocol_gets_an_attack_through(protocol: int, tmp_path: Path, mark: Path) -> None:
    torch.save(shell_attack(mark), tmp_path / "model.pt", pickle_protocol=protocol)
    refused_without_mark(tmp_path / "model.pt", mark)


TRUE = b"X\x04\x00\x00\x00true"
POSIX_SYSTEM = b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system"


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (b"cposix\nsystem\n" + TRUE + b"\x85R.", "needs posix.system"),
        (b"\x80\x02cposix\nsystem\n" + TRUE + b"\x85\x81.", "needs posix.system"),
        (b"\x80\x02(cposix\nsystem\n" + TRUE + b"o.", "the instruction OBJ"),
        (b"\x80\x02(" + TRUE + b"iposix\nsystem\n.", "the instruction INST"),
        (b"\x80\x02" + POSIX_SYSTEM + b"\x93" + TRUE + b"\x85R.", "the instruction STACK_GLOBAL"),
        (b"\x80\x02ctorch\nnn.os.system\n" + TRUE + b"\x85R.", "needs torch.nn.os.system"),
        (b"\x80\x02K\x01K\x02\x86)R.", "calls something that is not a function"),
        (b"\x80\x02R.", "its pickle is malformed"),
        (b"\x80\x02}}b.", "changes an object that it did not just create"),
    ],
)
def test_a_handmade_pickle_is_refused(pickled: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(archive(pickled, tmp_path / "model.pt")).what


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("torch.nn.modules.module warnings.sys.exit", "does not have"),
        ("torch.nn.modules. Linear", "does not have"),
        ("torch.nn.modules.module torch", "beyond the layers"),
        ("torch.nn.modules.utils _pair", "beyond the layers"),
        ("torch.nn.modules_evil Linear", "beyond the layers"),
        ("torch.jit ScriptModule", "beyond the layers"),
        ("torch.nn.functional relu", "beyond the layers"),
        ("torchvision.io.image read_file", "beyond the layers"),
        ("torchvision.models._api get_model", "beyond the layers"),
        ("torchvision.models.feature_extraction DualGraphModule", "beyond the layers"),
    ],
)
def test_what_is_no_layer_is_refused(named: str, reason: str, tmp_path: Path) -> None:
    pickled = b"\x80\x02c" + named.replace(" ", "\n").encode() + b"\n)\x81}b."
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert f"needs {named.replace(' ', '.')}, " in what
    assert reason in what


def test_the_constructor_of_a_layer_is_not_called(tmp_path: Path) -> None:
    path = saved(Reduced(nn.Linear, (2, 2)), tmp_path / "model.pt")
    assert refused(path).what == "Loading the file would call torch.nn.modules.linear.Linear."


def test_a_layer_is_not_created_with_arguments(tmp_path: Path) -> None:
    pickled = b"\x80\x02ctorch.nn.modules.linear\nLinear\nK\x01\x85\x81}b."
    assert "would call" in refused(archive(pickled, tmp_path / "model.pt")).what


def test_a_tensor_rebuilder_does_not_call_a_layer(tmp_path: Path) -> None:
    rebuild = torch._tensor._rebuild_from_type_v2
    inner: Any = (nn.Linear, nn.Linear, (2, 2), {})
    path = saved(Reduced(rebuild, inner), tmp_path / "model.pt")
    assert "would call torch.nn.modules.linear.Linear" in refused(path).what
    path = saved(Reduced(rebuild, (rebuild, nn.Linear, inner, {})), tmp_path / "model.pt")
    assert "in a way that torch.save does not write" in refused(path).what


def test_an_object_is_restored_once(tmp_path: Path) -> None:
    # The first round sets __setstate__ on the instance, which the second would call.
    pickled = (
        b"\x80\x02ctorch.nn.modules.activation\nReLU\n)\x81"
        b"}X\x0c\x00\x00\x00__setstate__ctorch.nn.modules.linear\nIdentity\nsb}b."
    )
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert "changes an object that it did not just create" in what


def test_what_a_trusted_module_imports_is_not_trusted(
    package: Path, tmp_path: Path, mark: Path
) -> None:
    command = f"touch '{mark}'".encode()
    argument = b"X" + len(command).to_bytes(4, "little") + command
    pickled = b"\x80\x02cshapes.nets\nsystem\n" + argument + b"\x85R."
    path = archive(pickled, tmp_path / "model.pt")
    what = refused_without_mark(path, mark, trust=["shapes"])
    assert what.startswith("The file needs shapes.nets.system, which shapes.nets only borrows")


# --- attacks: the module calls something when it is used ----------------------------------------


class Marker:
    """A hook that would leave a mark; of a class that no file may name."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, *args: Any) -> None:
        self.mark.touch()


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_hooks_of_other_classes_are_refused(register: str, tmp_path: Path, mark: Path) -> None:
    model: Any = lenet()
    getattr(model[0], register)(Marker(mark))
    what = refused_without_mark(saved(model, tmp_path / "model.pt"), mark)
    assert "Marker" in what


def test_a_function_in_an_attribute_is_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    for function, name in ((os.system, "system"), (nn.functional.relu, "relu")):
        model.activation = function
        assert name in refused(saved(model, tmp_path / "model.pt")).what


TABLES = [name for name in vars(nn.Module()) if name.endswith("_hooks")]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("hook", [nn.Sequential, nn.Identity()], ids=["class", "module"])
def test_hooks_made_of_layers_are_refused(table: str, hook: object, tmp_path: Path) -> None:
    model: Any = lenet()
    setattr(model[0], table, OrderedDict({0: hook}))
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"A Conv2d in the file has {table}, which would run along with it."


def test_hooks_in_a_module_outside_the_tree_are_refused(tmp_path: Path) -> None:
    model: Any = lenet()
    hidden = nn.ReLU()
    hidden.register_forward_hook(nn.Identity())
    model.stages = [({"hidden": hidden},)]
    assert "has _forward_hooks" in refused(saved(model, tmp_path / "model.pt")).what


def test_hooks_of_a_parameter_are_refused(tmp_path: Path) -> None:
    rebuild = torch._utils._rebuild_parameter
    hooks = OrderedDict({0: nn.Identity()})
    model: Any = lenet()
    model.hidden = [Reduced(rebuild, (torch.ones(2), True, hooks))]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what.startswith("A Parameter in the file has _backward_hooks")


@pytest.mark.parametrize(
    "name", ["forward", "__call__", "_call_impl", "train", "named_modules", "state_dict"]
)
@pytest.mark.parametrize("value", [nn.Sequential, nn.Identity()], ids=["class", "module"])
def test_an_attribute_in_place_of_a_method_is_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    model: Any = lenet()
    model[0].__dict__[name] = value
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == f"A Conv2d in the file replaces its method {name}."


def test_a_compiled_call_in_the_file_is_refused(tmp_path: Path) -> None:
    # torch.save leaves the attribute out, so that only a handmade file can hold it.
    pickled = saved_pickle(nn.ReLU(), tmp_path).replace(
        b"X\x07\x00\x00\x00inplace", b"X\x13\x00\x00\x00_compiled_call_impl"
    )
    what = refused(archive(pickled, tmp_path / "model.pt")).what
    assert what == "A ReLU in the file replaces its method _compiled_call_impl."


def test_a_tensor_that_replaces_a_method_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.weight.dim = nn.Identity  # type: ignore[method-assign, assignment]
    what = refused(saved(model, tmp_path / "model.pt")).what
    assert what == "A Parameter in the file replaces its method dim."


def test_what_the_process_allows_elsewhere_stays_allowed(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([nn.Linear])
    try:
        load_model(saved(lenet(), tmp_path / "model.pt"))
        assert set(torch.serialization.get_safe_globals()) == {*before, nn.Linear}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# --- damage -------------------------------------------------------------------------------------


def saved_pickle(value: object, tmp_path: Path) -> bytes:
    path = saved(value, tmp_path / "whole.pt")
    with zipfile.ZipFile(path) as file:
        return file.read("whole/data.pkl")


def survives(path: Path, mark: Path) -> bool:
    """Whether the file loads; if not, load_model must have refused it properly."""
    try:
        loaded = load_model(path)
    except ModelFileError:
        return False
    finally:
        assert not mark.exists()
    assert isinstance(loaded, nn.Module)
    return True


def small_model() -> Any:
    return nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.DataParallel(nn.ReLU()))


def damaged(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return content[: chance.randrange(1, len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_a_damaged_file_is_refused_or_read(tmp_path: Path, mark: Path) -> None:
    model = small_model()
    model.attack = shell_attack(mark)
    for seed, value in enumerate((small_model(), model)):
        chance = random.Random(seed)
        content = saved(value, tmp_path / "whole.pt").read_bytes()
        for _ in range(100):
            (tmp_path / "model.pt").write_bytes(damaged(content, chance))
            survives(tmp_path / "model.pt", mark)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("attacked", [False, True])
def test_a_damaged_pickle_is_refused_or_read(attacked: bool, tmp_path: Path, mark: Path) -> None:
    model = small_model()
    if attacked:
        model.attack = shell_attack(mark)
    path = saved(model, tmp_path / "whole.pt")
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    chance = random.Random(7)
    read = 0
    for _ in range(200):
        # Only the pickle is damaged, so that the checks and the unpickler get to see it.
        changed = {**records, "whole/data.pkl": damaged(records["whole/data.pkl"], chance)}
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
            for name, content in changed.items():
                file.writestr(name, content)
        read += survives(tmp_path / "model.pt", mark)
    assert attacked or 0 < read < 200
