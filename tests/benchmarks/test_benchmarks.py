"""Each benchmark runs at a tiny size and prints its table; what it times is not looked at."""

import json
import sys

import pytest
from benchmark_runs import TINY_RECIPE, FakeTraining, rows


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY_RECIPE)
    return str(path)


@pytest.mark.slow
def test_step_prints_a_case_with_what_it_is_compared_with(recipe, capsys):
    from benchmarks import step

    step.main(["--config", recipe, "--repeats", "1", "--cases", "TiMix replace, random"])
    head, *body = rows(capsys.readouterr().out)
    assert head == ["step", "ms", "images/s", "ratio", "of", "target"]
    assert [row[0] for row in body] == ["plain", "TiMix replace, random"]
    assert all(float(row[1]) > 0 for row in body)
    assert [row[4:] for row in body] == [["", ""], ["plain", "≤ 1.03"]]


def test_step_cases_do_what_their_names_say(recipe):
    from benchmarks import recipes, step
    from timix_jax.training import build as experiment

    config = recipes.small_config()
    model = experiment.build_model(experiment.read_settings(config), vocab_size=8, pad_id=0)
    terms = {
        case.name: sorted(o.name for o in step.case_objectives(config, model, case))
        for case in step.CASES
    }
    assert terms["plain"] == ["itc"]
    assert [case.name for case in step.with_bases([])] == list(terms)
    targets = {case.name: case.target for case in step.CASES if case.target}
    assert targets["TiMix replace, tpp"] == 1.2
    assert targets["TiMix replace, oracle"] == targets["TiMix replace, random"] == 1.03
    assert terms["floor: plain + second view + PTA"] == ["itc", "pta", "second_view"]
    assert terms["TiMix extra, tpp"] == ["itc", "mix", "pta"]
    assert terms["TiMix replace, tpp"] == ["mix"]
    assert terms["TiMix replace, tpp, + PTA"] == ["mix", "pta"]


def test_interleaved_repetitions_pair_the_cases():
    from benchmarks.interleaved import interleaved_seconds, median_ratio

    calls = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = interleaved_seconds(cases, repeats=3)
    assert calls == [*"abc", *"abc", *"cba", *"abc"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    # Paired, not a ratio of medians: 1, 2 and 8 against medians 3 / 2.
    assert median_ratio({"a": [2.0, 4.0, 3.0], "b": [2.0, 2.0, 0.375]}, "a", "b") == 2.0


@pytest.mark.slow
def test_pipeline_beside_the_step(recipe, capsys):
    from benchmarks import pipeline_vs_step

    pipeline_vs_step.main(["--config", recipe, "--seconds", "0.05", "--repeats", "1"])
    head, row = rows(capsys.readouterr().out)
    assert head == ["recipe", "pipeline, images/s", "step, images/s", "ratio", "target"]
    assert row[0] == recipe
    assert float(row[1]) > 0
    assert float(row[2]) > 0
    assert row[4] == "≥ 3"


@pytest.mark.slow
def test_the_loop_beside_the_step(recipe, capsys):
    from benchmarks import loop

    loop.main(["--config", recipe, "--steps", "2", "--repeats", "2"])
    head, whole, memory, saved_head, saved = rows(capsys.readouterr().out)
    assert head == ["loop", "bare step, ms", "in the loop, ms", "ratio", "target"]
    assert [whole[0], memory[0]] == ["with its pipeline", "batches from memory"]
    assert whole[-1] == "≤ 1.03"
    assert saved_head[0] == "state, MB"
    assert saved[-1] == "≤ 1.10"
    for row in (whole[1:], memory[1:], saved):
        assert all(float(cell) > 0 for cell in row[:-1]), row


@pytest.mark.slow
def test_an_evaluation_beside_a_forward_pass(recipe, capsys):
    from benchmarks import evaluation

    evaluation.main(["--config", recipe, "--pairs", "20", "--repeats", "1"])
    head, row = rows(capsys.readouterr().out)
    assert head[0] == "pairs"
    assert [row[0], row[-1]] == ["20", "< 1.30"]
    assert all(float(cell) > 0 for cell in row[1:-1])


def test_the_loop_and_the_bare_step_take_turns():
    """A step of 1 s, which the loop makes 1.5 s, on a clock of its own."""
    from benchmarks import loop

    now = [0.0]

    def step(state, batch):
        now[0] += 1.0
        return state, batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.time, "perf_counter", lambda: 100 + now[0])
        turns = loop.Alternating(step, "own", "batch", 3)
        for _ in range(loop.WARM_UP_STEPS + 3 * 4 + 1):
            now[0] += 0.5
            turns("state", "batch")
    assert turns.bare == [3.0] * 5
    # The first of the three times has its half second before the block begins, and after the last.
    assert turns.loop == [4.5] * 4
    assert loop.loop_ratio(turns) == 1.5


@pytest.mark.slow
def test_mixing_alone(capsys):
    from benchmarks import mixing

    mixing.main(["--batch", "1", "--image_size", "32", "--repeats", "1"])
    assert len(rows(capsys.readouterr().out)) == 7


@pytest.mark.slow
def test_contrastive_memory(capsys):
    from benchmarks import contrastive_memory

    small = ["--batch", "256", "--devices", "8", "--dim", "8", "--chunk", "16"]
    contrastive_memory.main([*small, "--exchange_batch", "16", "--grid", "4", "--width", "8"])
    losses, exchanges = capsys.readouterr().out.split("\n\n")
    head, *body = rows(losses)
    assert head[3:] == ["dense, MiB", "gather, MiB", "ring, MiB", "ring / dense"]
    assert [row[2] for row in body] == [
        f"{kind}, {batch}" for kind in ("softmax", "sigmoid") for batch in ("plain", "mixed, pred")
    ]
    assert all(0 < float(row[6]) < 1 for row in body)
    found = {row[0]: row[1] for row in rows(exchanges)[1:]}
    assert found["flip"] == "collective-permute"
    assert found["flip, within_shard"] == found["derangement, within_shard"] == "none"


PROGRAM = """
import sys, time
print("phases.py:130] opening data and tokenizer: 1.0 s", flush=True)
print("phases.py:130] making or restoring the initial state: 1.0 s", flush=True)
print("TiMix-JAX: training", flush=True)
if "stop" in sys.argv: sys.exit("error: no such field")
print("phases.py:130] waiting for the first batch: 0.2 s", flush=True)
print("phases.py:130] compiling and taking the first step: 2.5 s (compile cache: hit)", flush=True)
time.sleep(60)
"""


def test_first_step_reads_the_phases_and_stops_the_run():
    from benchmarks import first_step

    ends = first_step.phase_seconds([sys.executable, "-c", PROGRAM])
    assert list(ends) == list(first_step.PHASES.values())
    assert sorted(ends.values()) == list(ends.values())
    assert max(ends.values()) < 50  # the program sleeps on
    phase = list(first_step.PHASES.values())
    run = dict(zip(phase, (1.0, 1.5, 1.7, 4.2), strict=True))
    head, *body = rows(first_step.table({"cold": run, "warm": run}))
    assert head == ["phase", "cold, s", "warm, s"]
    assert [row[1] for row in body] == ["1.0", "0.5", "0.2", "2.5", "4.2 (target < 60)"]


def test_first_step_tells_why_a_run_ended_before_it():
    from benchmarks import first_step
    from timix_jax.errors import UserError

    with pytest.raises(UserError, match="no such field"):
        first_step.phase_seconds([sys.executable, "-c", PROGRAM, "stop"])


def test_comparison_is_of_equal_time_and_goes_on_where_it_was(
    recipe, tmp_path, capsys, monkeypatch
):
    from benchmarks import compare_mixers

    training = FakeTraining()
    monkeypatch.setattr(compare_mixers.subprocess, "run", training)
    out = tmp_path / "comparison"
    arguments = ["--config", recipe, "--seconds", "10", "--out", str(out)]
    compare_mixers.main([*arguments, "--seeds", "2"])
    head, *body = rows(capsys.readouterr().out)
    assert head[:3] == ["method", "steps", "training, s"]
    # 10 s at 160 and at 80 images per second, 8 per step.
    steps = {row[0]: row[1] for row in body}
    assert steps == {"none": "200", "none + PTA": "200", "random_window": "200", "timix": "100"}
    assert {row[2] for row in body} == {"10.0 ± 0.0"}
    assert body[0][3] == "15.0 ± 7.1"  # 10% and 20%
    assert json.loads((out / "comparison.json").read_text())["methods"]["timix"]["steps"] == 100
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(training.commands) == 2 * 4 + 4 * 2
    weights = {
        next(p for p in command if "workdir" in p).split("/")[-1].split(" seed")[0]: [
            p for p in command if "pta.weight" in p
        ]
        for command in training.commands
    }
    assert weights["none 200 steps"] == ["--config.loss.pta.weight=0.0"]
    assert weights["none + PTA 200 steps"] == weights["timix 100 steps"] == []

    compare_mixers.main([*arguments, "--seeds", "3"])  # only the third seed is new
    assert len(training.commands) == 2 * 4 + 4 * 3


def test_a_machine_that_becomes_slower_meets_all_methods(recipe, tmp_path, monkeypatch):
    from benchmarks import compare_mixers

    monkeypatch.setattr(compare_mixers.subprocess, "run", FakeTraining(slower=0.1))
    arguments = ["--config", recipe, "--seconds", "10", "--seeds", "1", "--out", str(tmp_path)]
    compare_mixers.main(arguments)
    methods = json.loads((tmp_path / "comparison.json").read_text())["methods"]
    # Over there and back, steps took 1.35 times as long for each of them.
    assert {name: row["steps"] for name, row in methods.items()} == {
        "none": 148,
        "none + PTA": 148,
        "random_window": 148,
        "timix": 74,
    }


def test_comparison_is_of_equal_steps_when_told_so(recipe, tmp_path, capsys, monkeypatch):
    from benchmarks import compare_mixers

    training = FakeTraining()
    monkeypatch.setattr(compare_mixers.subprocess, "run", training)
    arguments = ["--config", recipe, "--steps", "30", "--seeds", "2", "--out", str(tmp_path)]
    compare_mixers.main([*arguments, "--parallel", "3"])
    _, *body = rows(capsys.readouterr().out)
    assert {row[1] for row in body} == {"30"}
    assert {row[3] for row in body} == {"15.0 ± 7.1"}  # seeds stay in their order
    assert len(training.commands) == 4 * 2
    with pytest.raises(SystemExit):
        compare_mixers.main(["--parallel", "2", "--out", str(tmp_path)])


def test_comparison_refuses_a_folder_of_another_configuration(recipe, tmp_path, monkeypatch):
    from benchmarks import compare_mixers
    from timix_jax.errors import UserError

    monkeypatch.setattr(compare_mixers.subprocess, "run", FakeTraining())
    arguments = ["--config", recipe, "--seeds", "1", "--methods", "none", "--out", str(tmp_path)]
    compare_mixers.main(arguments)
    with pytest.raises(UserError, match=r"flags: \[\] there"):
        compare_mixers.main([*arguments, "--config.train.batch_size=16"])


@pytest.mark.slow
def test_load_weights_prints_time_and_memory(capsys):
    from benchmarks import load_weights

    load_weights.main(["--width", "256", "--depth", "2", "--repeats", "1"])
    head, row = rows(capsys.readouterr().out)
    assert head[:4] == ["parameters, GB", "read, s", "load, s", "ratio"]
    assert all(float(row[index]) > 0 for index in (1, 2, 3))


@pytest.mark.slow
def test_decoding_prints_a_case_with_what_it_is_compared_with(capsys):
    from benchmarks import decoding

    tiny = {"batch": 2, "beams": 2, "tokens": 4, "width": 8, "depth": 2, "heads": 2}
    tiny |= {"image_tokens": 5, "vocab_size": 11, "repeats": 1}
    decoding.main([part for name, value in tiny.items() for part in (f"--{name}", str(value))])
    head, *body = rows(capsys.readouterr().out)
    assert head[0] == "decoding"
    assert [row[0] for row in body] == ["cached", "whole text", "nothing kept"]
    assert float(body[0][4]) < float(body[1][4])
