"""Names of the files in the folder of a run. Needs no Keras."""

CHECKPOINT = "checkpoint.npz"
RECIPE = "recipe.json"
STATISTICS = "statistics.json"
LOG = "log.csv"
ARCHITECTURE = "model.json"
WEIGHTS = "model.weights.h5"
REPORT = "report.json"
#: `fine_tune` keeps its two phases in these folders, and describes itself in a file beside them.
HEAD, FINE_TUNE = "head", "fine_tune"
TRANSFER = "transfer.json"
#: The model that `keras-resattn fine-tune` writes.
CLASSIFIER = "classifier.keras"
