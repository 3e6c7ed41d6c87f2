"""Deployment: export of networks to files of other runtimes, compared with Keras after writing."""

from typing import TYPE_CHECKING

from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.deployment.exporting import ExportReport, export

__all__ = ["ExportReport", "export"]

__getattr__, __dir__ = lazy.names(__name__, dict.fromkeys(__all__, "exporting"))
