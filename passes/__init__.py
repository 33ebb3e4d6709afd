"""Graph passes: graph in, graph out, one pass a file."""

from vibfx.passes.base import Pass
from vibfx.passes.erase_asserts import EraseAsserts
from vibfx.passes.erase_counters import EraseCounters
from vibfx.passes.fold_constants import FoldConstants
from vibfx.passes.fold_gates import FoldGates
from vibfx.passes.fold_parameters import FoldParameters
from vibfx.passes.functionalize import Functionalize
from vibfx.passes.fuse_shuffles import FuseShuffles
from vibfx.passes.inline_regions import InlineRegions
from vibfx.passes.insert_gates import InsertGates
from vibfx.passes.prune_channels import PruneChannels
from vibfx.passes.select_inputs import SelectInputs
from vibfx.passes.set_mode import SetMode
from vibfx.passes.write_defaults import WriteDefaults
from vibfx.passes.write_out_composites import WriteOutComposites

__all__ = [
    "EraseAsserts",
    "EraseCounters",
    "FoldConstants",
    "FoldGates",
    "FoldParameters",
    "Functionalize",
    "FuseShuffles",
    "InlineRegions",
    "InsertGates",
    "Pass",
    "PruneChannels",
    "SelectInputs",
    "SetMode",
    "WriteDefaults",
    "WriteOutComposites",
]
