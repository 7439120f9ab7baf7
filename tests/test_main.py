"""A user error on the command line prints one line with field, value and fix, exits with 2 and writes nothing.

Most cases run `main.run` in this process; what needs a process of its own is at the end.
"""

import sys

import pytest
from command_line import start
from refusals import contents, forget_flags
from repository import ROOT

from timix_jax import main
from timix_jax.errors import RunError, UserError

# --config=tiny.py and these; then what the line must contain.
REFUSED = {
    "unknown field": (
        ["--config.optim.lrr=3"],
        ["config.optim.lrr='3'", "did you mean 'lr'"],
    ),
    "unknown section": (["--config.optm.lr=3"], ["config.optm", "did you mean 'optim'"]),
    "list without brackets": (
        ["--config.data.train=records:/a,records:/b"],
        ["config.data.train=records:/a,records:/b", "give a tuple such as ('one', 'two')"],
    ),
    "list given twice": (
        ["--config.data.train=('a:',)", "--config.data.train=('b:',)"],
        ["config.data.train is given 2 times (('a:',) and ('b:',))", "give it once"],
    ),
    "nothing to train": (
        ["--config.loss.itc.weight=0"],
        ["config.loss: every weight is 0", "config.loss.itc.weight=1"],
    ),
    "nothing to train at the end": (
        [
            *("--config.loss.itc.weight=0", "--config.mix.mixer=random_window"),
            "--config.mix.until=50%",
        ],
        ["config.mix.until", "nothing is trained", "config.loss.itc.weight=1"],
    ),
    "fraction of no image": (
        ["--config.mix.mixer=random_window", "--config.mix.fraction=0.1"],
        ["config.mix.fraction=0.1", "fewer than two of 8 images", "at least 0.25"],
    ),
    "no partner on the device": (
        [
            "--config.mix.mixer=random_window",
            "--config.mix.options.random_window.within_shard=True",
        ],
        ["config.mix.options.random_window.within_shard=True", "8 mixed images over 8 devices"],
    ),
    "one mixed image a device": (
        [
            *("--config.train.batch_size=16", "--config.mix.mixer=random_window"),
            *("--config.mix.fraction=0.5", "--config.mix.options.random_window.within_shard=True"),
        ],
        ["within_shard=True", "8 mixed images over 8 devices", "set it to False"],
    ),
    "mixed images that train nothing": (
        ["--config.mix.mixer=random_window", "--config.mix.weight=0"],
        ["config.mix.weight=0", "config.mix.mixer='none'"],
    ),
    "weight of a loss that has given way": (
        [
            *("--config.mix.mixer=random_window", "--config.mix.placement=replace"),
            "--config.loss.itc.weight=0.5",
        ],
        ["config.loss.itc.weight=0.5", "config.mix.placement='replace'", "config.mix.weight"],
    ),
    "workdir that cannot be": (
        ["--workdir=tiny.py/run"],
        ["--workdir=tiny.py/run cannot be written", "choose another --workdir"],
    ),
    "section": (["--config.mesh=3"], ["config.mesh=3", "data, fsdp, "]),
    "mistyped number": (
        ["--config.seed=1", "--config.optim.lr=fast"],
        ["config.optim.lr=fast", "give a float such as 0.0001"],
    ),
    "mistyped whole number": (
        ["--config.train.batch_size=8.5"],
        ["config.train.batch_size=8.5", "give an int such as 1024"],
    ),
    "mistyped choice": (["--config.model.scan=maybe"], ["config.model.scan=maybe", "bool"]),
    "mistyped duration": (
        ["--config.train.duration=long"],
        ["config.train.duration='long'", "30 epochs"],
    ),
    "batch that does not divide": (
        ["--config.train.batch_size=12"],
        ["config.train.batch_size=12", "8 devices", "use 8 or 16"],
    ),
    "regions that do not divide": (
        ["--config.loss.pta.weight=1", "--config.regions.batch_size=3"],
        ["config.regions.batch_size=3", "8 devices", "use 8"],
    ),
    "no regions in a batch": (
        ["--config.loss.pta.weight=1"],
        ["config.loss.pta.weight", "give config.regions.batch_size"],
    ),
    "no room for a region's words": (
        [
            *("--config.loss.pta.weight=1", "--config.regions.batch_size=8"),
            "--config.regions.max_tokens=2",
        ],
        ["config.regions.max_tokens=2", "give 3 to 12"],
    ),
    "more tokens than the text encoder has": (
        [
            *("--config.loss.pta.weight=1", "--config.regions.batch_size=8"),
            "--config.regions.max_tokens=13",
        ],
        ["config.regions.max_tokens=13", "give 3 to 12"],
    ),
    "mesh": (["--config.mesh.data=3"], ["config.mesh data=3", "there are 8"]),
    "image and patch": (
        ["--config.model.image.size=36"],
        ["config.model.image.size=36", "model.image.patch=8", "32"],
    ),
    "heads and tensor": (
        ["--config.mesh.tensor=8"],
        ["config.mesh: tensor=8", "the 2 heads of", "use a divisor of 2"],
    ),
    "words": (["--config.data.vocab_size=0"], ["config.data.vocab_size=0", "at least 64"]),
    "heads": (["--config.model.text.heads=3"], ["config.model.text.width=32", "heads=3"]),
    "no data": (["--config.data.train=()"], ["config.data.train=()", "records:DIR"]),
    "missing data": (
        ["--config.data.train=records:nowhere"],
        ["config.data.train", "nowhere", "timix_jax.data.prepare"],
    ),
    "empty data": (
        ["--config.data.train=records:empty"],
        ["config.data.train", "empty", "holds no examples"],
    ),
    "unknown source": (
        ["--config.data.train=record:x"],
        ["config.data.train", "'record'", "did you mean 'records'"],
    ),
    "fewer examples than a batch": (
        ["--config.train.batch_size=64"],
        ["config.train", "32 examples", "batch_size=64"],
    ),
    "data without regions": (
        ["--config.loss.pta.weight=1", "--config.regions.batch_size=8"],
        ["config.loss.pta.weight", "config.loss.pta.weight=0"],
    ),
    "scores from boxes that are missing": (
        ["--config.mix.mixer=timix", "--config.mix.score=oracle"],
        [
            "config.mix.score='oracle'",
            "no example of config.data.train has regions",
            "'single_patch'",
        ],
    ),
    "boxes of two kinds": (
        ["--config.mix.mixer=timix", "--config.mix.score=oracle+clutter"],
        ["config.mix.score='oracle+clutter'", "the boxes of one of oracle, clutter"],
    ),
    "missing vocabulary": (
        ["--config.data.tokenizer=vocab.txt"],
        ["config.data.tokenizer='vocab.txt'", "does not exist"],
    ),
    "missing evaluation data": (
        ["--config.eval.sets=val=records:nowhere"],
        ["config.eval.sets", "nowhere", "prepare"],
    ),
    "evaluation set without a name": (
        ["--config.eval.sets=records:nowhere"],
        ["config.eval.sets", "NAME=SOURCE"],
    ),
    "evaluation set without a name, with options": (
        ["--config.eval.sets=synthetic:?examples=8"],
        ["config.eval.sets: 'synthetic:?examples=8'", "NAME=SOURCE"],
    ),
    "unknown evaluator": (
        ["--config.eval.sets=v=synthetic:?examples=8", "--config.eval.evaluators=retreival"],
        ["config.eval", "'retreival'", "did you mean 'retrieval'"],
    ),
    "another run's folder": (
        ["--workdir=another"],
        ["--workdir=another", "seed: 7 there, 0 now", "choose another --workdir"],
    ),
    "missing weights": (
        ["--config.init_from=nowhere"],
        ["config.init_from", "nowhere", "no complete checkpoint"],
    ),
    "nothing to evaluate": (["--mode=eval"], ["runs/tiny", "no complete checkpoint"]),
    "crop": (
        ["--config.augment.crop_min=1.5"],
        ["config.augment.crop_min=1.5", "above 0 and at most 1"],
    ),
    "operations": (["--config.augment.magnitude=11"], ["config.augment.magnitude=11", "10"]),
    "weights": (["--config.data.weights=1,2"], ["weights=(1, 2)", "1 sources"]),
    "clip": (["--config.optim.clip_norm=-1"], ["config.optim.clip_norm=-1"]),
    "warm-up": (["--config.optim.warmup=9"], ["config.optim.warmup=9 steps", "2 steps"]),
    "rates": (
        ["--config.optim.lr_scales=(('imge/.*', 0.1),)"],
        ["config.optim.lr_scales", "imge/.*", "image/"],
    ),
    "teacher": (
        ["--config.loss.itc.alpha=0.4"],
        ["config.loss.itc.alpha=0.4", "config.optim.ema"],
    ),
    "mixer": (["--config.mix.mixer=timx"], ["config.mix.mixer", "'timx'", "timix"]),
    "mixer's option": (
        ["--config.mix.mixer=timix", "--config.mix.options.timix.low=2"],
        ["config.mix.options.timix", "low=2", "0 < low"],
    ),
    "placement": (
        ["--config.mix.mixer=timix", "--config.mix.placement=beside"],
        ["config.mix.placement='beside'", "'extra' or 'replace'"],
    ),
    "beta": (
        ["--config.mix.mixer=timix", "--config.mix.beta=-1"],
        ["config.mix.beta=-1.0", "0 to 1"],
    ),
    "smoothing": (
        ["--config.mix.mixer=timix", "--config.mix.label_smoothing=1.5"],
        ["config.mix.label_smoothing=1.5", "0 to 1"],
    ),
    "score": (
        ["--config.mix.mixer=timix", "--config.mix.score=luck"],
        ["config.mix.score='luck'", "random"],
    ),
    "activation": (["--config.model.act=relu"], ["config.model.act='relu'", "gelu_tanh"]),
    "profile": (["--profile=10"], ["--profile=10", "START:STOP", "10:15"]),
    "profile beyond the end": (["--profile=1:3"], ["--profile=1:3", "after 2 steps"]),
    "profile of another mode": (
        ["--profile=1:2", "--mode=eval"],
        ["--profile=1:2", "--mode=train"],
    ),
    "peak": (["--config.log.peak_tflops=-1"], ["config.log.peak_tflops=-1", "at least 0"]),
    "unknown flag": (["--worker=x"], ["worker"]),
    "unknown mode": (["--mode=tran"], ["--mode=tran", "train"]),
    "argument": (["more"], ["'more'"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_user_error_on_the_command_line(refused, case):
    arguments, words = REFUSED[case]
    line = refused("--config=tiny.py", *arguments)
    for word in words:
        assert word in line


def test_ctrl_c_is_one_line(monkeypatch, capfd):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_main", interrupt)
    monkeypatch.setattr(sys, "argv", ["main"])
    with pytest.raises(SystemExit) as ended:
        main.run()
    forget_flags()
    assert ended.value.code == 130
    assert "interrupted; the same command resumes" in capfd.readouterr().err


def test_no_recipe(refused):
    assert refused() == f"--config is missing; try --config={ROOT / 'configs' / 'demo.py'}"
    line = refused("--config=nowhere.py")
    assert "--config=nowhere.py: there is no such file" in line


def test_an_evaluation_set_larger_than_memory(refused, monkeypatch):
    monkeypatch.setattr("timix_jax.runtime.machine.available_memory", lambda: 2**20)
    line = refused("--config=tiny.py", "--config.eval.sets=big=synthetic:?examples=20000")
    for word in ("config.eval, big", "20000 images", "GiB", "evaluate fewer examples"):
        assert word in line


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("lr=-1: give more"), 2), (RunError("disk full: free space"), 1)]
)
def test_runtime_and_user_errors_have_different_codes(files, monkeypatch, capfd, error, code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("timix_jax.training.train.train_and_evaluate", fail)
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "argv", ["main", "--config=tiny.py", "--compile_cache="])
    try:
        with pytest.raises(SystemExit) as ended:
            main.run()
    finally:
        forget_flags()
    assert ended.value.code == code
    assert capfd.readouterr().err == f"error: {error}\n"


def test_a_process_ends_with_code_2_and_one_line(files):
    before = contents(files)
    ended = start("--config=tiny.py", "--config.model.image.size=36", folder=files)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "error: config.model.image.size=36 is not a multiple of model.image.patch=8; use 32 or 40"
    ]
    assert contents(files) == before
