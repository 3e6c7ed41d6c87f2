"""The papers' tables, to be run row by row: `keras-resattn reproduce`."""

from typing import TYPE_CHECKING

from keras_resattn import lazy
from keras_resattn.reproduce.published import TABLES, get_table
from keras_resattn.reproduce.rows import DATA_SETS, PAPERS, DataSet, Row, Table
from keras_resattn.reproduce.warn import ABLATION

if TYPE_CHECKING:
    from keras_resattn.reproduce.runs import Options, run

__all__ = ["ABLATION", "DATA_SETS", "PAPERS", "TABLES", "DataSet", "Options", "Row", "Table", "get_table", "run"]

__getattr__, __dir__ = lazy.names(__name__, {"Options": "runs", "run": "runs"})
