"""What a model file may use of the packages that the caller trusts."""

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from model_file_helpers import archive, lenet, refused, saved
from torch import nn

from vibfx.model_files import load_model

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


def test_what_a_trusted_module_imports_is_not_trusted(package: Path, tmp_path: Path) -> None:
    command = f"touch '{tmp_path / 'mark'}'".encode()
    argument = b"X" + len(command).to_bytes(4, "little") + command
    pickled = b"\x80\x02cshapes.nets\nsystem\n" + argument + b"\x85R."
    path = archive(pickled, tmp_path / "model.pt")
    what = refused(path, trust=["shapes"]).what
    assert what.startswith("The file needs shapes.nets.system, which shapes.nets only borrows")
