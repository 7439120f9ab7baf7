"""The grid, the runner and the report, with a program in the place of the training."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from timix_jax.errors import UserError
from timix_jax.study.code_version import code_version, source_digest
from timix_jax.study.pictures import draw_study
from timix_jax.study.plan import Cell, read_study
from timix_jax.study.report import report
from timix_jax.study.runner import RECORD, Runner, read_record, recorded_code
from timix_jax.study.table import Point, Table

CODE = {"digest": "abc", "commit": "c0ffee", "packages": {"jax": "1"}}

TRAINER = """
import json, os, pathlib, signal, sys, time
flags = dict(item[2:].split("=", 1) for item in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
(folder / "calls").open("a").write("x")
if flags.get("config.fail") == "yes":
    print("error: config.mix: no such thing")
    sys.exit(2)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
end = time.monotonic() + float(flags.get("config.seconds", 0))
while time.monotonic() < end:
    if stopped:
        sys.exit(0)
    time.sleep(0.01)
lines = [{"step": n, "loss": 1.0, "mixed_images": 0.5, "flops_per_step": 2e12} for n in (10, 20)]
lines += [{"step": 25, "loss": 1.0, "flops_per_step": 1e12}, {"step": 25, "x": 1}]
(folder / "metrics.jsonl").write_text("\\n".join(map(json.dumps, lines)))
quality = float(flags["config.quality"]) + float(flags.get("config.more", 0)) + 0.001 * int(flags["config.seed"])
cores = len(os.sched_getaffinity(0))
(folder / "results.json").write_text(json.dumps({"a/r1": quality, "b/r1": quality + 0.1, "a/cores": cores}))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    return (sys.executable, str(path))


def make_study(**changes):
    return read_study(
        {
            "recipe": "configs/demo.py",
            "metric": ("*/r1",),
            "methods": {"plain": ("quality=0.2",), "timix": ("quality=0.3", "mix.mixer=timix")},
            "data": {"1k": (), "2k": ("more=0.15",)},
            "seeds": (0, 1, 2),
            "primary": (("timix", "plain"),),
            "amounts": {"1k": 1000, "2k": 2000},
            "baseline": "plain",
            "fresh": "2k",
            **changes,
        }
    )


def make_runner(study, tmp_path, program, workers=2, **options):
    said = []
    runner = Runner(study, tmp_path / "out", CODE, workers, program, said.append, **options)
    return runner, said


def test_cells_and_changes():
    study = make_study(common=("train.duration=9 steps", "seed=7"))
    cells = study.cells()
    assert len(cells) == len(set(cells)) == 12
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert study.changes(Cell("timix", "2k", "all", 1)) == (
        *("train.duration=9 steps", "seed=1", "more=0.15", "quality=0.3", "mix.mixer=timix"),
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("val/*_r?", 0.2),
        ("val/*2i*_r1", 0.3),
        ("val/*_chance_r?", 0.002),
        ("*/i2t_chance_r1", 0.002),
    ],
)
def test_a_wildcard_stands_for_no_chance(metric, value):
    """What chance would give stands beside each recall, and would halve every difference between methods."""
    study = make_study(metric=(metric,))
    results = {"val/t2i_r1": 0.3, "val/i2t_r1": 0.1}
    results |= {"val/i2t_chance_r1": 0.002, "val/t2i_chance_r1": 0.002}
    point = Point("plain", "1k", "all")
    table = Table(study, {Cell(*point, 0): {"results": results}})
    assert table.values(point, study.metric, [0]).tolist() == [[pytest.approx(value)]]


def test_some_methods_only():
    study = make_study(only={"2k": ("plain",)}, seeds=(0,))
    assert [(cell.method, cell.data) for cell in study.cells()] == [
        ("plain", "1k"), ("timix", "1k"), ("plain", "2k"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {}}, "study.method is unknown; the fields are recipe"),
        ({"methods": {}}, "study.methods is empty"),
        ({"methods": {"a/b": ()}}, "becomes part of a folder's name"),
        ({"methods": {"plain": "quality=1"}}, "give a tuple of changes"),
        ({"methods": {"plain": ("quality",)}}, "write FIELD=VALUE"),
        ({"primary": (("timix", "cutmix"),)}, "names 'cutmix'; known are plain, timix"),
        ({"amounts": {"4k": 1}}, "study.amounts names '4k'"),
        ({"seeds": (1, 1)}, "named twice"),
        ({"only": {"4k": ()}}, "study.only names '4k'"),
        ({"only": {"1k": ("cutmix",)}}, "study.only.1k names 'cutmix'; known are plain, timix"),
        ({"fresh": "4k"}, "study.fresh names '4k'; known are 1k, 2k"),
        ({"baseline": ""}, "study.fresh needs study.baseline"),
    ],
)
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(UserError, match=message):
        make_study(**changes)


def test_runs_once_and_resumes(tmp_path, program):
    study = make_study()
    runner, said = make_runner(study, tmp_path, program)
    ends = runner.run(study.cells()[:6])
    assert [end.error for end in ends] == [""] * 6
    assert said[-1].startswith("[6/6]")
    assert make_runner(study, tmp_path, program)[0].run(study.cells())
    for cell in study.cells():
        assert (runner.folder(cell) / "calls").read_text() == "x", "trained once"
        record = read_record(runner.folder(cell), CODE)
        assert record["cell"] == cell._asdict()
        assert record["mixed"] == {"mixed_images": pytest.approx(1 / 3)}
        assert (record["steps"], record["flops"]) == (25, 45e12)
        assert record["command"] == ["python", *runner.command(cell)[1:]]
        assert record["results"]["a/cores"] == record["cores"]
    assert sum(record["cores"] for record in (record,)) <= len(os.sched_getaffinity(0))


def test_a_failed_run_is_named_and_tried_again(tmp_path, program):
    study = make_study(methods={"plain": ("quality=1",), "bad": ("quality=1", "fail=yes")},
                       primary=(), baseline="", fresh="")  # fmt: skip
    runner, said = make_runner(study, tmp_path, program)
    ends = runner.run(study.cells())
    failed = [end for end in ends if end.error]
    assert len(failed) == 6
    assert "exit code 2: error: config.mix: no such thing" in failed[0].error
    assert sum("FAILED" in line for line in said) == 6
    again = make_runner(study, tmp_path, program)[0].run(study.cells())
    assert len(again) == 6
    assert (runner.folder(failed[0].cell) / "calls").read_text() == "xx"


def test_stopped_runs_end_and_continue(tmp_path, program):
    study = make_study(common=("seconds=60",), seeds=(0,))
    runner, _ = make_runner(study, tmp_path, program)
    thread = threading.Thread(target=lambda: ends.extend(runner.run(study.cells())))
    ends = []
    thread.start()
    until = time.monotonic() + 30
    while sum(1 for _ in (tmp_path / "out").glob("runs/*/calls")) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    runner.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert ends == []
    assert not list((tmp_path / "out").glob(f"runs/*/{RECORD}"))
    quick = make_study(common=("seconds=0",), seeds=(0,))
    assert len(make_runner(quick, tmp_path, program)[0].run(quick.cells())) == 4


def test_runs_of_other_code_are_refused(tmp_path, program):
    study = make_study(seeds=(0,))
    runner, _ = make_runner(study, tmp_path, program)
    runner.run(study.cells())
    for other in ({**CODE, "digest": "def"}, {**CODE, "packages": {"jax": "2"}}):
        with pytest.raises(UserError, match="made by other code"):
            Runner(study, tmp_path / "out", other, 1, program).run(study.cells())
    # Another commit of the same sources changes nothing.
    assert (
        Runner(study, tmp_path / "out", {**CODE, "commit": "x"}, 1, program).run(study.cells())
        == []
    )
    # A run that other code started is not continued either.
    (runner.folder(study.cells()[0]) / RECORD).unlink()
    with pytest.raises(UserError, match=r"started\.json was made by other code"):
        Runner(study, tmp_path / "out", {**CODE, "digest": "def"}, 1, program).run(study.cells())
    (runner.folder(study.cells()[1]) / RECORD).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        runner.run(study.cells())


def test_digest_is_that_of_the_sources_but_not_of_studies(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "study" / "b.py").write_text("1")
    before = source_digest(tmp_path)
    (tmp_path / "study" / "b.py").write_text("2")
    assert source_digest(tmp_path) == before
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert source_digest(tmp_path) != before
    assert set(code_version()) == {"digest", "commit", "packages"}


def test_report(tmp_path, program):
    study = make_study()
    runner, _ = make_runner(study, tmp_path, program)
    runner.run(study.cells())
    records = {cell: read_record(runner.folder(cell), CODE) for cell in study.cells()}
    table = Table(study, records)
    text, numbers = report(table, title="Study x", command="python -m timix_jax.study", code=CODE)
    rows = [line for line in text.splitlines() if line.startswith("| 1k")]
    assert rows[0].startswith("| 1k | all | plain | 25.1 ± 0.1 | 3 |")
    assert "| 1k | all | timix | 35.1 ± 0.1 | 3 |" in rows[1]
    assert rows[1].endswith("| 45.0 | 33% / 0% / 0% |")
    assert "| 1k | all | plain | 15.0 | – |" in text
    assert "| 1k | all | timix | 5.0 | 67% |" in text
    assert "| 1k | all | timix | plain | +10.0 | +10.0 to +10.0 | < 0.001 | 3 |" in text
    # plain has 25.1% at 1,000 and 40.1% at 2,000.
    found = json.loads(numbers)
    multiplier = {m["data"]: m["value"] for m in found["multipliers"]}
    assert multiplier["1k"] == pytest.approx(2 ** (10 / 15))
    assert "| 2k | all | timix | ≥ 1.00 |" in text
    assert found["points"][0]["quality"] == pytest.approx([0.25, 0.251, 0.252])
    assert table.values(Point("plain", "1k", "all"), ("a/r1",), [0]).tolist() == [[0.2]]
    with pytest.raises(UserError, match="'c/r1' matches no result"):
        table.values(Point("plain", "1k", "all"), ("c/r1",), [0])

    del records[Cell("timix", "1k", "all", 2)]
    text, _ = report(Table(study, records), title="x", command="y", code=CODE)
    assert "**Incomplete: 11 of 12 runs have ended.**" in text
    assert "| 1k | all | timix | plain | +10.0 | +10.0 to +10.0 | < 0.001 | 2 |" in text
    draw_study(Table(study, records), tmp_path / "curves.png", "Study x")
    assert Image.open(tmp_path / "curves.png").size[0] > 800


def start(*flags):
    command = [sys.executable, "-m", "timix_jax.study", *flags]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


def test_command_line(tmp_path):
    study = tmp_path / "empty.py"
    study.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "  return ConfigDict({'recipe': 'configs/demo.py', 'metric': ('a',), 'methods': {}, 'seeds': (0,)})\n"
    )
    ended = start(f"--config={study}")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (
        2, "error: study.methods is empty; name at least one",
    )  # fmt: skip


def test_a_report_of_runs_by_other_code(tmp_path, program):
    study = make_study()
    runner, _ = make_runner(study, tmp_path, program)
    runner.run(study.cells())
    assert recorded_code(runner.out) == CODE
    assert code_version()["digest"] != CODE["digest"]
    recipe = tmp_path / "some.py"
    fields = {f.name: getattr(study, f.name) for f in dataclasses.fields(study)}
    fields |= {"primary": tuple(map(tuple, study.primary))}
    recipe.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n  return ConfigDict({fields!r})\n"
    )
    ended = start(f"--config={recipe}", f"--out={runner.out}", "--report_only")
    assert ended.returncode == 0, ended.stderr
    assert CODE["commit"] in (runner.out / "report.md").read_text()
    assert start(f"--config={recipe}", f"--out={runner.out}").returncode == 2
    with pytest.raises(UserError, match="no run has ended"):
        recorded_code(tmp_path / "nothing")
    for cell in study.cells():
        (runner.folder(cell) / RECORD).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        recorded_code(runner.out)
