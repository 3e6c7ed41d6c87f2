"""The goals of the benchmark, as data, and their evaluation from rows of results."""

from dataclasses import dataclass, field

from _suites import BACKENDS


@dataclass(frozen=True)
class Goal:
    """A goal: the quantity `kind` of the rows that `ours` selects, at least or at most `target`.

    Attributes:
        name: Description in tables.
        kind: `"speed"` (speed of our fastest row relative to the fastest one of `theirs`), `"time"` (its inverse),
            `"seconds"` (of our slowest row), or `"added"` (seconds beyond those of the row's own peer).
        ours: `{column: value}` of the rows of ours; `"with"` and `"without"` name options.
        target: The number to reach.
        theirs: `{column: value}` of the rows of the alternative. Without it, the alternative is the peer of the suite.
    """

    name: str
    kind: str
    ours: dict
    target: float
    theirs: dict = field(default_factory=dict)

    @property
    def at_least(self):
        return self.kind == "speed"

    def value(self, rows):
        """Return the value in rows of results, or `None` if a row is missing or failed."""
        ours = select(rows, self.ours)
        theirs = select(rows, self.theirs) if self.theirs else None
        if not ours or theirs == []:
            return None
        if self.kind == "seconds":
            return max(float(row["seconds"]) for row in ours)
        if self.kind == "added":
            return max(float(row["seconds"]) - float(row["peer_seconds"]) for row in ours)
        speed = _fastest(ours) / (_fastest(theirs) if theirs else 1)
        return speed if self.kind == "speed" else 1 / speed

    def met(self, value):
        return value >= self.target if self.at_least else value <= self.target


def select(rows, wanted):
    """Return the rows without an error that have the wanted values and options."""
    wanted = dict(wanted)
    present, absent = ({*wanted.pop(key, "").split()} for key in ("with", "without"))
    return [
        row
        for row in rows
        if not row["error"]
        and all(row[column] == value for column, value in wanted.items())
        and present <= {*row["options"].split()}
        and not absent & {*row["options"].split()}
    ]


def _fastest(rows):
    return max(float(row["ratio"]) for row in rows)


def _in(suite, network, dtype=None, **more):
    return {"suite": suite, "network": network, **({"dtype": dtype} if dtype else {}), **more}


OURS, PEER = "ResidualAttention56", "resattnet56"
INFERENCE, TRAINING = "inference_224_b8", "training_224_b8"


def _same_path(engine, dtype):
    return Goal(
        f"inference: {engine}, {dtype}, time relative to ResNet-152",
        "time",
        _in(INFERENCE, OURS, dtype, engine=engine, without="compiled optimized channels_first"),
        0.60,
        _in(INFERENCE, "ResNet152V2", dtype, engine=engine),
    )


def _built(network, backend):
    return {"suite": "starting", "name": f"build {network} {backend}"}


def _imported(backend):
    return {"suite": "starting", "name": f"import keras_resattn {backend}"}


GOALS = (
    *(
        Goal(
            f"inference: our fastest {dtype} path, speed relative to pytorchcv's fastest",
            "speed",
            _in(INFERENCE, OURS, dtype),
            target,
            _in(INFERENCE, PEER, dtype),
        )
        for dtype, target in (("bfloat16", 1.5), ("float32", 1.4))
    ),
    Goal(
        "inference: our fastest int8 path, speed relative to pytorchcv's fastest in any precision",
        "speed",
        _in(INFERENCE, OURS, "int8"),
        2.2,
        _in(INFERENCE, PEER),
    ),
    *(
        Goal(
            f"inference: PyTorch backend, optimized, {dtype}, speed relative to pytorchcv's eager channels-last",
            "speed",
            _in(INFERENCE, OURS, dtype, engine="torch", **{"with": "optimized", "without": "compiled"}),
            1.0,
            _in(INFERENCE, PEER, dtype, **{"with": "channels_last", "without": "compiled"}),
        )
        for dtype in ("float32", "bfloat16")
    ),
    *(
        Goal(
            f"inference: PyTorch backend, optimized and compiled, {dtype}, speed relative to pytorchcv's compiled",
            "speed",
            _in(INFERENCE, OURS, dtype, engine="torch", **{"with": "optimized compiled"}),
            1.0,
            _in(INFERENCE, PEER, dtype, **{"with": "compiled"}),
        )
        for dtype in ("float32", "bfloat16")
    ),
    Goal(
        "inference: TensorFlow backend, bfloat16, speed relative to pytorchcv's fastest eager bfloat16",
        "speed",
        _in(INFERENCE, OURS, "bfloat16", engine="tensorflow"),
        1.0,
        _in(INFERENCE, PEER, "bfloat16", without="compiled"),
    ),
    *(
        Goal(
            f"training: our fastest {dtype} backend, speed relative to pytorchcv's fastest",
            "speed",
            _in(TRAINING, OURS, dtype),
            1.0,
            _in(TRAINING, PEER, dtype),
        )
        for dtype in ("float32", "bfloat16")
    ),
    *(_same_path(engine, dtype) for engine in ("tensorflow", "openvino") for dtype in ("float32", "bfloat16")),
    *(
        Goal(
            f"{mode}: WARN-28-10 on {backend}, time relative to WRN-28-10",
            "time",
            _in(f"warn_{backend}_{mode}", "WARN-28-10"),
            1.05,
        )
        for backend in BACKENDS
        for mode in ("inference", "training")
    ),
    *(
        Goal(f"building ResidualAttention452 on {backend}, s", "seconds", _built("ResidualAttention452", backend), 5.0)
        for backend in BACKENDS
    ),
    *(
        Goal(f"importing every public name on {backend}, s beyond `import keras`", "added", _imported(backend), 0.2)
        for backend in BACKENDS
    ),
    Goal("`keras-resattn --help`, s", "seconds", {"suite": "starting", "name": "keras-resattn --help"}, 0.3),
)


def goal_rows(rows):
    """Return `(goal, value or None)` of every goal."""
    return [(goal, goal.value(rows)) for goal in GOALS]


def verdict(goal, value):
    """Return `"met"`, `"missed"` or `"not measured"`."""
    if value is None:
        return "not measured"
    return "met" if goal.met(value) else "missed"


def print_goals(rows):
    """Print every goal, its value, and whether it is met."""
    for goal, value in goal_rows(rows):
        sign = ">=" if goal.at_least else "<="
        number = "" if value is None else f"{value:.3f}"
        print(f"{verdict(goal, value):<13}{number:>8} ({sign} {goal.target:g})  {goal.name}")
