"""The benchmarks: processes that take turns, resumable results, goals, tables and plot."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import _driver
import _goals
import _harness
import _suites
import _worker
import pytest
import report
import run
from _driver import FailedProcessError, Process, alternate, summarise
from _table import ResultsFile

from keras_resattn.models import registry
from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


def rows_of_everything(**columns):
    """A row for each row that the benchmark measures, as if each had the speed of its peer."""
    measured = {
        "ratio": "1",
        "seconds": "0.5",
        "peer_seconds": "0.5",
        "error": "",
        "options": "",
        "versions": "a 1; b 2",
    }
    measured |= {"images_per_s": "16", "first_step_s": "2", "peak_mb": "1234", "date": "2026-11-28"}
    measured |= {"processor": "P", "threads": "2", "instructions": "amx_bf16", **columns}
    rows = [
        {**measured, "suite": suite.name, "name": path.name, "mode": suite.mode, **path.columns()}
        for suite in _suites.SUITES
        for path in suite.paths
    ]
    for once in _suites.STARTING[1]:
        peer = once.peer[0] if once.peer else ""
        name = f"{once.name} {once.backend}".strip()
        rows.append({**measured, "suite": "starting", "name": name, **once.columns(), "peer": peer})
    return rows


# --- Suites and goals ---------------------------------------------------------------------------


def test_rows_have_distinct_names_and_networks_that_exist():
    for suite in _suites.SUITES:
        names = [path.name for path in suite.paths]
        assert len(set(names)) == len(names)
        for path in (suite.peer, *suite.paths):
            assert path.library != "keras_resattn" or registry.is_network(path.network), path
            assert path.engine in (*_suites.BACKENDS, *_suites.RUNTIMES)
            assert suite.mode == "inference" or path.engine in _suites.BACKENDS, "runtimes do not train"
    names = [row["name"] for row in rows_of_everything() if row["suite"] == "starting"]
    assert len(set(names)) == len(names)


def test_every_goal_is_measured():
    expected = {"speed": 1.0, "time": 1.0, "seconds": 0.5, "added": 0.0}
    for goal, value in _goals.goal_rows(rows_of_everything()):
        assert value == expected[goal.kind], goal.name
        assert goal.value([]) is None


def test_a_goal_compares_the_fastest_rows_without_an_error():
    goal = _goals.Goal("faster", "speed", {"library": "ours", "without": "slow"}, 1.5, {"library": "theirs"})
    rows = [
        {"library": "ours", "options": "", "ratio": "3", "error": ""},
        {"library": "ours", "options": "", "ratio": "2", "error": ""},
        {"library": "ours", "options": "", "ratio": "9", "error": "failed"},
        {"library": "ours", "options": "very slow", "ratio": "9", "error": ""},
        {"library": "theirs", "options": "slow", "ratio": "2", "error": ""},
    ]
    assert goal.value(rows) == 1.5
    assert [_goals.verdict(goal, value) for value in (1.5, 1.49, None)] == ["met", "missed", "not measured"]
    time = dataclasses.replace(goal, kind="time", target=0.6)
    assert time.value(rows) == pytest.approx(2 / 3)
    assert _goals.verdict(time, 0.61) == "missed"


# --- Processes ----------------------------------------------------------------------------------


def test_a_worker_replies_once_for_the_first_step_and_once_per_request():
    calls, replies = [], io.StringIO()
    _worker.serve(lambda: lambda: calls.append(1), ["2\n", "3\n"], replies)
    first, *others = map(json.loads, replies.getvalue().splitlines())
    assert len(calls) == 1 + 2 + 3
    assert set(first) == {"start_s", "first_step_s", "peak_mb"}
    assert [set(reply) for reply in others] == [{"seconds", "peak_mb"}] * 2
    assert first["peak_mb"] > 10


@pytest.fixture
def start(tmp_path):
    """A function that starts a `Process` whose step runs given code; it is ended after the test."""
    processes = []

    def start(step, limit=60):
        script = tmp_path / f"worker{len(processes)}.py"
        script.write_text(
            f"import sys, time\nsys.path.append({str(ROOT / 'benchmarks')!r})\nimport _worker\n"
            f"def step():\n    {step}\n_worker.serve(lambda: step, sys.stdin, sys.stdout)\n"
        )
        processes.append(Process({}, "", limit, tmp_path, (sys.executable, str(script))))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def test_processes_take_turns(start, monkeypatch):
    monkeypatch.setattr(_driver, "TURN", 0.02)
    slow, fast = start("time.sleep(0.02)"), start("time.sleep(0.002)")
    for process in (slow, fast):
        assert process.reply()["first_step_s"] >= 0.002
    measured = alternate(slow, fast, budget=0)
    assert [len(seconds) for seconds in measured] == [_driver.LEAST] * 2
    found = summarise(*measured)
    assert float(found["ratio"]) < 1, "a speed: the slower process is below its peer"
    assert slow.peak_mb > 5


def test_a_process_that_fails_says_why(start):
    process = start("raise ValueError('Expected scipy.')")
    with pytest.raises(FailedProcessError, match=r"^ValueError: Expected scipy\.$"):
        process.reply()
    with pytest.raises(FailedProcessError):
        process.turn(1)


def test_a_process_that_takes_too_long_is_given_up(start):
    with pytest.raises(FailedProcessError, match=r"no reply within 0\.2 s"):
        start("time.sleep(60)", limit=0.2).reply()


# --- Results ------------------------------------------------------------------------------------


def test_a_row_is_measured_again_only_under_other_conditions(tmp_path):
    results = ResultsFile(tmp_path / "results" / "benchmarks.csv")
    row = {"suite": "a", "name": "b", "size": 224, "versions": "keras 1"}
    assert not results.has(row)
    results.add({**row, **_harness.machine(), "seconds": 1})
    assert results.has(row)
    assert not results.has({**row, "versions": "keras 2"})
    assert not results.has({**row, "size": 64})
    again = ResultsFile(results.path, again=True)
    assert not again.has(row)
    again.add({**row, **_harness.machine(), "seconds": 2})
    assert again.has(row)
    assert [row["seconds"] for row in results.rows()] == ["2"]


class FakeProcess:
    """Stands for a process that does not start where the specification names an engine of `failing`."""

    started, live, failing = [], 0, ()
    peak_mb = 7

    def __init__(self, specification, backend, limit, folder):
        self.specification, self.first = specification, None
        FakeProcess.live += 1

    def reply(self):
        if "do" in self.specification:
            return {"seconds": 2.0, "peak_mb": 5}
        engine = self.specification["path"]["engine"]
        FakeProcess.started.append(engine)
        if engine in FakeProcess.failing:
            raise FailedProcessError("out of memory")
        return {"start_s": 1.0, "first_step_s": 2.0, "peak_mb": 7}

    def turn(self, count):
        return {"seconds": 0.25, "peak_mb": 7}

    def close(self):
        FakeProcess.live -= 1


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Process", FakeProcess)
    monkeypatch.setattr(FakeProcess, "started", [])
    monkeypatch.setattr(FakeProcess, "live", 0)
    yield run.Runner(ResultsFile(tmp_path / "benchmarks.csv"), tmp_path, limit=1, budget=0)
    assert FakeProcess.live == 0, "every process is ended"


TORCH, JAX, OPENVINO = (_suites.Path("WARN-16-8", engine) for engine in ("torch", "jax", "openvino"))
SUITE = _suites.Suite("warn", "inference", 32, 4, 10, TORCH, (TORCH, JAX, OPENVINO))


def every(name):
    return True


def test_a_run_resumes_at_the_first_missing_row(runner, capsys):
    runner.run_suite(SUITE, lambda name: "jax" not in name)
    assert FakeProcess.started == ["torch", "torch", "openvino"], "the peer stays"
    runner.run_suite(SUITE, every)
    assert FakeProcess.started[3:] == ["torch", "jax"]
    runner.run_suite(SUITE, every)
    assert len(FakeProcess.started) == 5
    rows = runner.results.rows()
    assert [row["engine"] for row in rows] == ["torch", "openvino", "jax"]
    assert (rows[0]["images_per_s"], rows[0]["ratio"], rows[0]["peak_mb"]) == ("16.00", "1.0000", "7")
    assert "keras " in rows[2]["versions"]
    assert "jax " in rows[2]["versions"]


def test_a_path_that_fails_is_a_row_with_its_error(runner, monkeypatch, capsys):
    monkeypatch.setattr(FakeProcess, "failing", ("jax",))
    runner.run_suite(SUITE, every)
    assert [row["error"] for row in runner.results.rows()] == ["", "out of memory", ""]
    assert FakeProcess.started == ["torch", "torch", "jax", "torch", "openvino"], "the peer is started again"
    assert "out of memory" in capsys.readouterr().out


def test_actions_of_fresh_processes_are_timed(runner, capsys):
    alone = _suites.Once("load", {"do": "load", "network": "WARN-16-8"}, "jax", repeats=2)
    compared = _suites.Once("import", {"do": "imports"}, "jax", ("keras", {"do": "imports"}), repeats=2)
    command = _suites.Once("help", {"do": "command"}, "", repeats=1)
    for _ in range(2):
        runner.run_once("starting", (alone, compared, command), every)
    load, imported, help_ = runner.results.rows()
    assert (help_["name"], help_["seconds"], help_["pairs"]) == ("help", "2", "1")
    assert (load["name"], load["seconds"], load["ratio"], load["pairs"]) == ("load jax", "2", "", "2")
    assert (imported["peer"], imported["peer_seconds"], imported["ratio"]) == ("keras", "2", "1.0000")


def test_trying_the_benchmark_does_not_change_the_results(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--tiny"])
    with pytest.raises(SystemExit):
        run.main()
    assert "Expected --output with --tiny" in capsys.readouterr().err


def test_list_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "--list", "--only", "training_224_b8", "--match", "jax"])
    assert run.main() == 0
    assert capsys.readouterr().out.splitlines() == ["training_224_b8", "  ResidualAttention56 jax float32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("inference_224_b8", "ResidualAttention56 torch float32 channels_first"),
        ("training_64_b64", "ResidualAttention56 torch float32 keras_bn"),
        ("warn_torch_training", "WARN-28-10"),
    ],
)
def test_paths_run(suite, words, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pytorchcv")
    output = tmp_path / "benchmarks.csv"
    argv = ["run.py", "--tiny", "--budget", "0", "--only", suite, "--match", *words.split(), "--output", str(output)]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run.main() == 0
    assert [row["error"] for row in read_rows(output)] == [""]


# --- Tables and plot -----------------------------------------------------------------------------------


def test_tables_show_every_row():
    text = "".join(report.tables(rows_of_everything()).values())
    assert report.MISSING not in text
    assert "| ResNet50V2 | openvino | float32 |  | 16.0 | 500 | 1.00 | 2.0 | 1,234 |" in text
    assert "| `import keras_resattn` | jax | 0.50 | import keras: 0.50 | 1,234 |" in text
    assert "| training | torch | 0.500 | 0.500 | 1.000 |" in text
    failed = report.tables(rows_of_everything(error="no reply within 300 s"))["failed"]
    assert "- `inference_224_b8`: resattnet56 torch float32: no reply within 300 s" in failed


def test_plot(tmp_path):
    report.plot(rows_of_everything(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
