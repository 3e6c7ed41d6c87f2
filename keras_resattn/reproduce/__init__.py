"""The papers' tables, to be run row by row: `keras-resattn reproduce`."""

from keras_resattn.reproduce.published import TABLES, get_table
from keras_resattn.reproduce.rows import DATA_SETS, PAPERS, DataSet, Row, Table
from keras_resattn.reproduce.runs import Options, run
from keras_resattn.reproduce.warn import ABLATION

__all__ = ["ABLATION", "DATA_SETS", "PAPERS", "TABLES", "DataSet", "Options", "Row", "Table", "get_table", "run"]
