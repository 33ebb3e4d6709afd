"""What a plan notes of the network that it was made from: its inputs, and enough to know it again.

Weights do not enter, nor does how large an image is: a plan holds for every network that does the
same with parameters of the same names and shapes.
"""

import operator
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from vibfx.errors import PlanError
from vibfx.gates import apply_gates, gates_of
from vibfx.graph import tensor_names, where
from vibfx.input_form import InputForm
from vibfx.nesting import nesting_of, spec_of
from vibfx.rules.movement import MOVES

aten = torch.ops.aten

Shapes = Mapping[str, tuple[int, ...]]

# A batch of one would be taken for a constant when a graph is captured.
_EXAMPLES = 2

# Ops whose whole numbers say how large a tensor is, or where it is cut: they follow from the
# input's size where the model's code reads that from a shape.
_SIZED = {
    *MOVES,
    aten.narrow.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.roll.default,
    aten.split.sizes,
    aten.col2im.default,
    aten.arange.default,
    aten.arange.start,
    *(getattr(aten, f"{new}{kind}").default for new in ("", "new_") for kind in ("zeros", "ones")),
    aten.full.default,
    aten.new_full.default,
    *(
        overload
        for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d")
        for packet in [getattr(aten, f"upsample_{kind}")]
        for overload in (packet.vec, packet.default)
    ),
    aten.upsample_bicubic2d.vec,
    aten.upsample_bicubic2d.default,
}

# Ops whose other arguments say whether the network is in training.
_MODES = {aten.batch_norm.default, aten.dropout.default, aten.feature_dropout.default}


# Types of arguments that say what is computed, and not where or how precisely.
_PRINTED = (bool, int, float, str, type(None))


Constant = bool | int | float | str | None


@dataclass(frozen=True)
class ModelInput:
    """One leaf of what a model is called with.

    Attributes:
        name: The argument's name.
        tensor: What a tensor looks like; None for a constant.
        value: The constant.
    """

    name: str
    tensor: InputForm | None
    value: Constant = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ModelInput":
        """Read what ``dataclasses.asdict`` and JSON made of one.

        Raises:
            ValueError: It is no input that a machine can make.
        """
        tensor = fields["tensor"]
        return cls(**{**fields, "tensor": tensor and InputForm.from_fields(tensor)})

    def example(self, like: Tensor) -> Tensor | Constant:
        """Zeros of that form, two where there is a batch; a float on the type of ``like``."""
        if self.tensor is None:
            return self.value
        sizes, dtype = self.tensor.sizes(_EXAMPLES), self.tensor.torch_dtype
        return torch.zeros(
            sizes, dtype=like.dtype if dtype.is_floating_point else dtype, device=like.device
        )


@dataclass(frozen=True)
class Architecture:
    """A network without its weights.

    Attributes:
        inputs: The leaves of its arguments, in order.
        structure: How they are nested, for ``spec_of``; None where that needs a class.
        operations: What it computes, a line an op: operands by their number among the lines or by
            the name of the parameter.
    """

    inputs: tuple[ModelInput, ...] = ()
    structure: Any = None
    operations: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: fx.GraphModule) -> "Architecture":
        """That of a graph, gated or not."""
        placeholders = module.graph.find_nodes(op="placeholder")
        inputs = tuple(found for node in placeholders if (found := _input(node)) is not None)
        structure = _structure(module) if len(inputs) == len(placeholders) else None
        return cls(inputs, structure, tuple(line for _, line in _operations(module)))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Architecture":
        """Read what ``dataclasses.asdict`` and JSON made of one."""
        inputs = tuple(map(ModelInput.from_fields, fields["inputs"]))
        structure = fields["structure"]
        if structure is not None and spec_of(structure).num_leaves != len(inputs):
            raise ValueError("the arguments do not nest the inputs")
        return cls(inputs, structure, tuple(map(str, fields["operations"])))

    def examples(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments to call a model with, ``model(*args, **kwargs)``: zeros of two examples.

        Raises:
            PlanError: The inputs are not known.
        """
        if self.structure is None:
            raise PlanError(
                "the plan does not say what inputs the model takes",
                hint="Pass example inputs, or --input.",
            )
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        leaves = [entry.example(like) for entry in self.inputs]
        args, kwargs = pytree.tree_unflatten(leaves, spec_of(self.structure))
        return tuple(args), dict(kwargs)


def _input(node: fx.Node) -> ModelInput | None:
    """None for a constant that JSON does not know, such as a type."""
    tensor, value = InputForm.of(node), node.meta.get("val")
    if tensor is not None:
        return ModelInput(node.name, tensor)
    known = value is None or isinstance(value, (bool, int, float, str))
    return ModelInput(node.name, None, value) if known else None


def _structure(module: fx.GraphModule) -> Any:
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is None:
        return None
    structure = nesting_of(info.in_spec)
    return structure if spec_of(structure) == info.in_spec else None  # a class of the user's own


def parameter_shapes(
    module: fx.GraphModule, also: Container[str] = ()
) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters that a graph reads, its gates' not counted, in its order.

    Args:
        module: The graph.
        also: Names of buffers to add.
    """
    gates = tuple(f"{name}." for name in gates_of(module))
    return {
        name: tuple(tensor.shape)
        for name, tensor in tensor_names(module)
        if name in also
        or (isinstance(tensor, nn.Parameter) and not (gates and name.startswith(gates)))
    }


@dataclass(frozen=True)
class Difference:
    """Where two networks part first.

    Attributes:
        name: The parameter, or the number of the operation.
        first: What the one has there.
        second: What the other one has.
        operation: The number among the operations; None for a parameter.
    """

    name: str
    first: str
    second: str
    operation: int | None = None


def first_difference(
    first: tuple[Shapes, Sequence[str]], second: tuple[Shapes, Sequence[str]]
) -> Difference | None:
    """Compare two networks: their parameters' shapes, then their operations.

    Args:
        first: The shapes of parameters, and the operations.
        second: Those of the other network.

    Returns:
        The first that only one of them has, or has otherwise; None if there is none.
    """
    for name in dict.fromkeys((*first[0], *second[0])):
        shapes = first[0].get(name), second[0].get(name)
        if shapes[0] != shapes[1]:
            said = ["no such parameter" if s is None else f"shape {s}" for s in shapes]
            return Difference(name, said[0], said[1])
    for number, lines in enumerate(zip_longest(first[1], second[1], fillvalue="nothing more")):
        if lines[0] != lines[1]:
            return Difference(f"operation {number}", lines[0], lines[1], operation=number)
    return None


def check_parameters(module: nn.Module, shapes: Shapes) -> None:
    """Check a module's own parameters, which is all that can be compared before it is traced.

    Raises:
        PlanError: With the first name that differs.
    """
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    own = {name: tuple(tensors[name].shape) for name in shapes if name in tensors}
    found = first_difference((shapes, ()), (own, ()))
    if found is not None:
        raise _refusal(found, "the module", found.name, _MADE_FROM)


def check_same(module: fx.GraphModule, shapes: Shapes, architecture: Architecture) -> None:
    """Check that a graph is of the network that a plan was made from.

    Args:
        module: The graph, gated or not.
        shapes: The shapes of that network's parameters.
        architecture: That network. Where it says no operations, nothing is known of it.

    Raises:
        PlanError: With the first name that differs.
    """
    if not architecture.operations:
        return
    own = list(_operations(module))
    lines = [line for _, line in own]
    found = first_difference(
        (shapes, architecture.operations), (parameter_shapes(module, also=shapes), lines)
    )
    if found is not None:
        at = found.operation
        place = found.name if at is None else where(own[min(at, len(own) - 1)][0])
        is_table = _is_table(found.name, architecture)
        raise _refusal(found, "this graph", place, _SELECTED if is_table else _MADE_FROM)


def _refusal(found: Difference, what: str, place: str, hint: str) -> PlanError:
    return PlanError(
        f"the plan is for another network: it has {found.first} where {what} has {found.second}",
        where=place,
        hint=hint,
    )


_MADE_FROM = "Apply a plan to a network of the architecture that it was made from."
_SELECTED = (
    "The plan removes features of the model's inputs: apply it to a graph with its inputs selected "
    "(SelectInputs), or make it without --gate-inputs."
)


def _is_table(name: str, architecture: Architecture) -> bool:
    """Whether a tensor is the table by which features of an input are selected."""
    select = f"{aten.index_select.default}("
    return any(
        line.startswith(select) and line.endswith(f", {name})") for line in architecture.operations
    )


def _operations(module: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Every op on tensors, and the result, each with its line; gates left out."""
    names: dict[fx.Node, str] = {}
    for number, node in enumerate(module.graph.find_nodes(op="placeholder")):
        names[node] = f"input{number}"
    count = 0
    for node in module.graph.nodes:
        if node.op == "get_attr":
            names[node] = str(node.target)
        elif node.target is apply_gates:
            names[node] = names[node.args[0]]
        elif node.op == "output" or (node.op == "call_function" and _has_tensors(node)):
            names[node] = f"%{count}"
            count += 1
            yield node, f"{_name(node)}({', '.join(_operands(node, names))})"


def _has_tensors(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))


def _name(node: fx.Node) -> str:
    if node.op == "output":
        return "return"
    return node.target.__name__ if node.target is operator.getitem else str(node.target)


def _operands(node: fx.Node, names: Mapping[fx.Node, str]) -> list[str]:
    """What a line says of an op's operands: tensors, and what the architecture decides."""
    found: list[str] = []

    def note(value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value in names:
                found.append(names[value])
        elif node.target not in _MODES and not isinstance(value, (list, tuple, dict, slice)):
            is_number = isinstance(value, int) and not isinstance(value, bool)
            if isinstance(value, _PRINTED) and not (is_number and node.target in _SIZED):
                found.append(str(value))
        return value

    fx.node.map_aggregate((node.args, node.kwargs), note)
    return found
