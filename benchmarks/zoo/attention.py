"""What Torch-Pruning has to be told about attention, as its own examples do: how many heads."""

from torch import nn

NUMBERS = ("num_heads", "num_attention_heads", "n_heads")
FUSED = ("qkv",)
QUERIES = ("q", "q_proj", "query")
SPLIT = (*QUERIES, "k", "v", "k_proj", "v_proj", "key", "value", "kv")
# What an attention keeps of its width, a head's and the whole one's.
HEAD_SIZES = ("head_dim", "attention_head_size")
WHOLE_SIZES = ("attn_dim", "all_head_size")

Heads = dict[nn.Linear, int]


def head_counts(model: nn.Module) -> Heads:
    """For the projections of every attention that says so, the number of its heads."""
    found: Heads = {}
    for module in model.modules():
        count = next((getattr(module, n) for n in NUMBERS if hasattr(module, n)), None)
        if not isinstance(count, int) or count < 1:
            continue
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and name in FUSED + SPLIT:
                found[child] = count
    return found


def mend_attention(model: nn.Module, heads: Heads) -> None:
    """Write the new widths where the attentions keep them."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child in heads and name in (*FUSED, *QUERIES):
                width = child.out_features // (3 if name in FUSED else 1)
                write(module, HEAD_SIZES, width // heads[child])
                write(module, WHOLE_SIZES, width)


def write(module: nn.Module, names: tuple[str, ...], value: int) -> None:
    """Set the attributes that are there."""
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)
