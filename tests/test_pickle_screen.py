"""What a model file's pickle may name and call, and that a hostile pickle leaves no mark."""

import builtins
import functools
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.model_file_helpers import (
    Reduced,
    archive,
    damaged,
    lenet,
    records_of,
    refused,
    saved,
    shell_attack,
    small_model,
    survives,
)
from vibfx.model_files import load_model

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


# --- what is refused and explained ---------------------------------------------------------------


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


def test_another_pickle_protocol(tmp_path: Path) -> None:
    torch.save(lenet(), tmp_path / "model.pt", pickle_protocol=4)
    what = refused(tmp_path / "model.pt").what
    assert what == "The file was saved with pickle protocol 4, which cannot be read safely."


@pytest.mark.parametrize(
    "named", [b"torch.nn.modules.conv\nConv9d", b"torchvision.models.zebranet\nZebraNet"]
)
def test_a_class_that_this_version_does_not_have(named: bytes, tmp_path: Path) -> None:
    path = archive(b"\x80\x02c" + named + b"\n)\x81}b.", tmp_path / "model.pt")
    what = refused(path).what
    assert named.decode().replace("\n", ".") in what
    assert "which the installed torch" in what


# --- attacks ------------------------------------------------------------------------------------


def python_attack(mark: Path, function: Any = builtins.eval) -> Reduced:
    return Reduced(function, (f"__import__('pathlib').Path({str(mark)!r}).touch()",))


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


# --- damage -------------------------------------------------------------------------------------


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
