"""Compressed networks as files, and ONNX Runtime to run them."""

from vibfx.export.onnx_file import Export, export_onnx
from vibfx.export.program import save_program
from vibfx.export.runtime import latencies

__all__ = ["Export", "export_onnx", "latencies", "save_program"]
