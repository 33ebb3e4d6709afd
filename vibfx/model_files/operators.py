"""Which operators a graph from a file may call: those known to compute a result and nothing else.

Looking an operator up by name is harmless; calling one need not be. ATen has ops that open files,
take memory by its address, or trust the indices they are given. So a file may name what is known
to read its operands alone and to check them: ops that a rule here is for, pointwise ones, those of
torch's core set that write to nothing, and some families beside them; and their spellings that
write the result to the input. All else needs trust.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from vibfx.errors import ModelFileError
from vibfx.graph import PYTHON_TARGETS
from vibfx.model_files.refusals import OTHER_VERSION, described
from vibfx.model_files.trust import Trust
from vibfx.rules import RULES

# Whole families of pure functions, for which most models need no more than one.
_FAMILIES = ("fft_", "linalg_", "special_")

# Pure functions that models use, which have no rule and are in no set of torch's.
_OTHERS = frozenset(
    {"arange", "argsort", "baddbmm", "broadcast_to", "bucketize", "cdist", "channel_shuffle"}
    | {"complex", "cosine_similarity", "count_nonzero", "cross", "cummax", "cummin", "diag"}
    | {"diag_embed", "diff", "eye", "hann_window", "index_add", "index_copy", "index_fill", "isin"}
    | {"istft", "kthvalue", "linspace", "masked_fill", "masked_select", "meshgrid", "nan_to_num"}
    | {"nanmean", "nansum", "new_empty", "norm", "normal", "one_hot", "outer", "polar", "rand"}
    | {"randint", "randn", "real", "imag", "roll", "rot90", "scatter_reduce", "searchsorted"}
    | {"std", "stft", "take", "take_along_dim", "tensordot", "trace", "tril", "tril_indices"}
    | {"triu", "triu_indices", "unique_consecutive", "unique_dim", "var", "view_as_complex"}
    | {"view_as_real", "where", "_assert_tensor_metadata", "_fft_c2c", "_native_batch_norm_legit"}
    | {"_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_unique2"}
    | {"_unsafe_index", "_weight_norm"}
)

# What runs a part of a graph with autocast or gradients on or off. The part is a graph, too.
_REGIONS = {
    f"torch.ops.higher_order.{name}": name
    for name in ("wrap_with_autocast", "wrap_with_set_grad_enabled")
}

_PYTHON: dict[str, Callable[..., Any]] = {
    f"{target.__module__}.{target.__name__}": target for target in PYTHON_TARGETS
}


def name_of(target: Any) -> str:
    """The name by which ``operator_named`` finds an operator: ``aten.conv2d.default``.

    Args:
        target: What a graph's node calls.
    """
    if isinstance(target, OpOverload):
        return str(target)
    return f"{target.__module__}.{target.__name__}"


def operator_named(name: str, trust: Trust) -> Callable[..., Any]:
    """The operator that a file means.

    Args:
        name: Such as ``aten.conv2d.default``, also with ``torch.ops.`` before it, or
            ``_operator.getitem``.
        trust: ``mylib`` stands for all ops of a library's namespace, which is imported; ``aten.x``
            for one op.

    Returns:
        One overload of an op, or a function of Python's for the parts of results and for sizes; or
        what runs a part of a graph in another mode.

    Raises:
        ModelFileError: There is no such op, or it is not known to be harmless.
    """
    if (function := _PYTHON.get(name)) is not None:
        return function
    if name in _REGIONS:
        region: Callable[..., Any] = getattr(torch.ops.higher_order, _REGIONS[name])
        return region
    full = name.removeprefix("torch.ops.")
    parts = full.split(".")
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        raise _unknown(name)
    namespace, op, overload = parts
    trusted = trust.covers(f"{namespace}.{op}")
    if namespace == "torchvision" or (trusted and namespace != "aten"):
        _register(namespace, full)
    if namespace not in ("aten", "torchvision") and not trusted:
        raise _refused(full, namespace)
    found = _overload(namespace, op, overload)
    if found is None:
        raise _unknown(full)
    if not trusted and not _is_harmless(_pure(found, namespace, op, overload), namespace, op):
        raise _refused(full, f"{namespace}.{op}")
    return found


def _pure(found: OpOverload, namespace: str, op: str, overload: str) -> OpOverload | None:
    """The op itself if it writes to nothing; ``relu`` for ``relu_``, which writes to its input."""
    written = [
        arg.alias_info is not None and arg.alias_info.is_write for arg in found._schema.arguments
    ]
    if not any(written):
        return found
    if not op.endswith("_") or not written[0] or any(written[1:]):
        return None
    return _overload(namespace, op.removesuffix("_"), overload)


def _is_harmless(found: OpOverload | None, namespace: str, op: str) -> bool:
    if found is None or found._schema.is_mutable:
        return False
    if namespace == "torchvision" or found in RULES:
        return True
    if {torch.Tag.pointwise, torch.Tag.core} & set(found.tags):
        return True
    return op.removesuffix("_") in _OTHERS or op.startswith(_FAMILIES)


def _overload(namespace: str, op: str, overload: str) -> OpOverload | None:
    # Asked like this, torch looks into its own table and nowhere else.
    qualified = f"{namespace}::{op}"
    known = torch._C._jit_get_operation(qualified)[1] if _exists(qualified) else None
    if not known or overload not in {found or "default" for found in known}:
        return None
    found: OpOverload = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    return found


def _exists(qualified: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(qualified))


def _register(namespace: str, op: str) -> None:
    """Import the library whose import registers its ops."""
    try:
        importlib.import_module(namespace)
    except Exception as error:  # the imported code decides what it raises
        raise ModelFileError(
            f"The file needs {op}, and {namespace} cannot be imported: {described(error)}.",
            hint=f"Install {namespace}.",
        ) from error


def _unknown(name: str) -> ModelFileError:
    return ModelFileError(
        f"The file needs {name[:80]!r}, which is no op of torch {torch.__version__}.",
        hint=OTHER_VERSION,
    )


def _refused(name: str, prefix: str) -> ModelFileError:
    return ModelFileError(
        f"The file calls {name}, which is not known to be harmless.",
        hint=f"--trust {prefix} allows it; use it only for a file whose author you trust.",
    )
