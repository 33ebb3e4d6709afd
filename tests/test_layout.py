"""How the source is laid out: names, packages, layers, one test file a module."""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"vibfx": "vibfx", "vibfx.passes": "passes", "vibfx.cli": "cli"}
SOURCES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

# From the bottom up. A module imports from lower rows only, and within the packages listed in
# WITHIN from their own lower rows.
LAYERS = (
    ("errors",),
    ("importing",),
    ("gates", "data", "arguments", "nesting", "silence"),
    ("graph", "dry_run"),
    ("input_shape",),
    ("labels", "printer", "inputs", "copying"),
    ("input_form",),
    ("rules",),
    ("propagation", "architecture"),
    ("scaling",),
    ("sites", "components", "depth", "shape_check"),
    ("coupling",),
    ("planning", "metrics", "sides", "emptied"),
    ("passes", "frozen", "plan_diff"),
    ("export", "model_files"),
    ("latency",),
    ("costs",),
    ("inspection",),
    ("tracing", "equivalence", "budgets", "dot", "svg", "weighting"),
    ("selection", "any_size", "applying"),
    ("rounding",),
    ("training",),
    ("report", "preparation", "benching"),
    ("output_folder", "delivery"),
    ("compression",),
    ("cli",),
)
WITHIN = {
    "applying": (
        ("agreement", "layers"),
        ("narrowing",),
        ("refusals",),
        ("surgery",),
        ("__init__",),
    ),
    "data": (
        ("batches",),
        ("checks", "request"),
        ("arrays", "folder", "function", "npz", "synthesis"),
        ("loading",),
        ("__init__",),
    ),
    "export": (
        ("metadata", "peak_memory", "program", "runtime"),
        ("description", "fp16", "int8", "onnx_file", "onnx_module"),
        ("__init__",),
    ),
    "latency": (
        ("cache", "counts", "kernels"),
        ("layout", "micro_benchmarks"),
        ("steps", "table"),
        ("surfaces", "timetable"),
        ("model",),
        ("nominal",),
        ("__init__",),
    ),
    "model_files": (
        ("refusals",),
        ("archive", "architectures", "expressions", "layouts", "names", "trust"),
        ("safetensors_files", "state_dicts"),
        ("operators", "pickle_walk", "pretrained", "literals", "manifest"),
        ("module_screen", "pickle_screen", "graph_text"),
        ("legacy", "program_screen", "saved_graph"),
        ("exported_programs",),
        ("kinds",),
        ("results",),
        ("loading",),
        ("__init__",),
    ),
    "rules": (
        ("cut",),
        ("registry",),
        ("facts",),
        ("contraction", "movement", "reduction"),
        (
            "attention",
            "convolution",
            "creation",
            "embedding",
            "gating",
            "linear",
            "normalization",
            "pointwise",
            "pooling",
            "recurrent",
            "slicing",
            "writing",
        ),
        ("__init__",),
    ),
    "passes": (
        ("base", "views"),
        (
            "erase_asserts",
            "erase_counters",
            "fold_constants",
            "fold_gates",
            "fold_parameters",
            "functionalize",
            "fuse_shuffles",
            "inline_regions",
            "insert_gates",
            "prune_channels",
            "select_inputs",
            "set_mode",
            "write_defaults",
            "write_out_composites",
        ),
        ("__init__",),
    ),
    "training": (
        ("checkpoint", "denormals", "meter", "objectives", "optimizers", "ranks"),
        ("recompute", "resuming"),
        ("brake", "controller", "divergence", "engine", "evaluation", "logs", "shrinking"),
        ("landing",),
        ("compressor", "recording"),
        ("loop",),
        ("gated_training",),
        ("phases",),
        ("course",),
        ("__init__",),
    ),
    "cli": (
        ("live", "options", "plan_tables", "tables", "inspection_tables"),
        ("onnx_tables",),
        ("apply", "bench", "compress", "diff", "inspect"),
        ("demo",),
        ("__init__",),
    ),
}

# Packages that offer names of their modules, and nothing else.
FACES = [
    "vibfx",
    "vibfx.applying",
    "vibfx.data",
    "vibfx.export",
    "vibfx.latency",
    "vibfx.model_files",
    "vibfx.passes",
    "vibfx.training",
]

# The public face and the two-line runner stand above the layers.
ABOVE = {"vibfx", "vibfx.__main__"}

UNTESTED = {
    "vibfx/__init__.py": "names only, checked here",
    "vibfx/__main__.py": "run by tests/cli/test_compress.py",
    "vibfx/applying/__init__.py": "names only, checked here",
    "vibfx/data/__init__.py": "names only, checked here",
    "vibfx/data/checks.py": "refusals, checked where they are raised: test_npz, test_function",
    "vibfx/data/request.py": "what load_data was asked for, checked in test_loading",
    "vibfx/export/__init__.py": "names only, checked here",
    "vibfx/latency/__init__.py": "names only, checked here",
    "vibfx/model_files/__init__.py": "names only, checked here",
    "vibfx/model_files/pickle_walk.py": "the walk behind the screen, checked in test_pickle_screen",
    "vibfx/model_files/refusals.py": "sentences, checked where they are raised: test_loading",
    "vibfx/rules/__init__.py": "imports that register the rules",
    "vibfx/training/__init__.py": "names only, checked here",
    "passes/__init__.py": "names only, checked here",
    "cli/__init__.py": "run by tests/cli/test_compress.py",
}

# Files of 400 lines or more, each with the reason why it is not split.
LONG: dict[str, str] = {}


def module_name(path):
    """``passes/base.py`` as ``vibfx.passes.base``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    dotted = {folder: package for package, folder in FOLDERS.items()}[parts[0]].split(".")
    rest = [part for part in parts[1:] if part != "__init__"]
    return ".".join([*dotted, *rest])


def imports(path):
    """Dotted names of everything of vibfx that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "vibfx")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if (node.module or "").split(".")[0] == "vibfx":
                yield node.module


def rank(rows, name):
    (found,) = [number for number, row in enumerate(rows) if name in row]
    return found


# --- names


@pytest.mark.parametrize("name", FACES)
def test_public_names_are_sorted_and_all_that_is_imported(name):
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(imported) == module.__all__
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("name", FACES)
def test_a_public_face_holds_no_logic(name):
    tree = ast.parse(Path(importlib.import_module(name).__file__).read_text(encoding="utf-8"))
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert {type(node) for node in rest} == {ast.ImportFrom, ast.Assign}


# --- packages


def test_every_package_is_listed_with_its_folder():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        module_name(path): str(path.parent.relative_to(ROOT))
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert setuptools["package-dir"] == found
    assert setuptools["packages"] == sorted(found)
    for path in SOURCES:
        assert (path.parent / "__init__.py").is_file()


def test_every_module_has_a_test_file_of_its_own():
    missing = {
        name
        for name, path in zip(IDS, SOURCES, strict=True)
        if not _test_file(path.relative_to(ROOT)).is_file()
    }
    assert missing == set(UNTESTED)


def _test_file(path):
    folder = Path(*path.parent.parts[1:]) if path.parts[0] == "vibfx" else path.parent
    return ROOT / "tests" / folder / f"test_{path.name}"


# --- layers


def test_every_module_has_its_place_in_the_layers():
    listed = [name for row in LAYERS for name in row]
    assert len(listed) == len(set(listed))
    present = {
        module_name(path).split(".")[1] for path in SOURCES if module_name(path) not in ABOVE
    }
    assert set(listed) == present
    for package, rows in WITHIN.items():
        folder = ROOT / FOLDERS.get(f"vibfx.{package}", f"vibfx/{package}")
        assert {name for row in rows for name in row} == {p.stem for p in folder.glob("*.py")}


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_imports_point_downwards(path):
    name = module_name(path)
    if name in ABOVE:
        return
    own, *below = name.split(".")[1:]
    for imported in imports(path):
        assert imported != "vibfx", "imports from the package root"
        target, *inner = imported.split(".")[1:]
        if target != own:
            assert rank(LAYERS, target) < rank(LAYERS, own), imported
        elif inner:
            rows = WITHIN[own]
            assert rank(rows, inner[0]) < rank(rows, below[0] if below else "__init__"), imported
        else:
            assert not below, f"{imported}: a package's own __init__"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_nothing_is_printed_outside_the_command_line(path):
    if path.relative_to(ROOT).parts[0] == "cli":
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_files_are_short():
    long = {
        name
        for name, path in zip(IDS, SOURCES, strict=True)
        if len(path.read_text(encoding="utf-8").splitlines()) >= 400
    }
    assert long == set(LONG)
