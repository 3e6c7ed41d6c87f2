"""The papers' tables, to be run row by row: `keras-resattn reproduce`."""

from typing import TYPE_CHECKING

from keras_resattn.reproduce.published import TABLES, get_table
from keras_resattn.reproduce.published.warn import ABLATION
from keras_resattn.reproduce.rows import DATA_SETS, PAPERS, DataSet, Row, Table
from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.reproduce.runner import Options, run

__all__ = ["ABLATION", "DATA_SETS", "PAPERS", "TABLES", "DataSet", "Options", "Row", "Table", "get_table", "run"]

__getattr__, __dir__ = lazy.names(__name__, {"Options": "runner", "run": "runner"})
