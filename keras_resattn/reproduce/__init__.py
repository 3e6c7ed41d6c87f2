"""Tables of the papers, reproduced row by row: `keras-resattn reproduce`."""

from typing import TYPE_CHECKING

from keras_resattn.reproduce.published import TABLES, get_table
from keras_resattn.reproduce.published.warn import ABLATION
from keras_resattn.reproduce.rows import DATASETS, PAPERS, PaperDataset, Row, Table
from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.reproduce.runner import Options, run

__all__ = ["ABLATION", "DATASETS", "PAPERS", "TABLES", "Options", "PaperDataset", "Row", "Table", "get_table", "run"]

__getattr__, __dir__ = lazy.names(__name__, {"Options": "runner", "run": "runner"})
