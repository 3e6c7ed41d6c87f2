"""Deployment: faster networks for inference, and their export to files of other runtimes, compared with Keras."""

from typing import TYPE_CHECKING

from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.deployment.exporting import ExportReport, export
    from keras_resattn.deployment.inference import optimize_for_inference

__all__ = ["ExportReport", "export", "optimize_for_inference"]

MODULES = {"exporting": ("ExportReport", "export"), "inference": ("optimize_for_inference",)}

__getattr__, __dir__ = lazy.names(__name__, {name: module for module, names in MODULES.items() for name in names})
