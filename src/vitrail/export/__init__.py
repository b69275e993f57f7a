"""Models as files for other programs: WSInfer and QuPath, and ONNX."""

from __future__ import annotations

from vitrail.export.onnx import export_onnx
from vitrail.export.wsinfer import export_wsinfer

__all__ = ["export_onnx", "export_wsinfer"]
