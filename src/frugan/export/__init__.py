"""Trained models as files that run without frugan and torch: ONNX and OpenVINO."""

from frugan.export.package import Exported, ExportError, Precision, Target, export

__all__ = ["ExportError", "Exported", "Precision", "Target", "export"]
