"""mPLUG from the configuration to the results: trains, evaluates, writes captions, resumes; what cannot work."""

import shutil

import numpy as np
import pytest
from fusion_runs import MPLUG_STEPS as STEPS
from fusion_runs import mplug_config
from one_device import on_one_device
from tiny_model import compiler_settings
from tiny_run import assert_same_run, copy_run, metrics

import timix_jax
from timix_jax.errors import UserError
from timix_jax.inspection import info
from timix_jax.training.build import build, read_settings
from timix_jax.training.train import train_and_evaluate

# Saved after every step. On one device: meshes are those of tests/objectives/test_prefix_on_meshes.py.
OPTIONS = {"checkpoint__every": "1 steps", "checkpoint__keep_last": STEPS}


@pytest.fixture(scope="module", autouse=True)
def cached():
    with compiler_settings(), on_one_device():
        yield


@pytest.fixture(scope="module")
def whole(cached, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    config = mplug_config(**OPTIONS, pictures__examples=2)
    return workdir, train_and_evaluate(config, str(workdir))


@pytest.mark.slow
def test_trains_with_all_losses_and_writes_captions(whole):
    workdir, results = whole
    lines = [line for line in metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        parts = line["loss/itc"] + line["loss/itm"] + line["loss/mix"] + line["loss/pta"]
        parts += 0.5 * (line["loss/mlm"] + line["loss/plm"])
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert results["val/plm_perplexity"] > 1
    assert results["val/caption_images"] == 12
    assert {name.removesuffix("_no_ptb") for name in results} >= {"val/bleu4", "val/cider"}
    assert (workdir / "pictures" / "captions_val.png").stat().st_size > 10_000
    model = timix_jax.load(workdir)
    assert len(model.caption([np.zeros((16, 16, 3), np.uint8)], "a", max_tokens=4)) == 1


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(whole, tmp_path):
    """What a run leaves that is killed after step 3, of which nothing was saved yet."""
    workdir = copy_run(whole[0], tmp_path / "resumed")
    (workdir / "results.json").unlink()
    for step in (3, 4):
        shutil.rmtree(workdir / "checkpoints" / f"{step:08d}")
    log = workdir / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    train_and_evaluate(mplug_config(**OPTIONS), str(workdir))
    assert_same_run(whole[0], workdir, STEPS)


def test_one_line_says_what_cannot_work(tmp_path):
    for overrides, said in (
        ({"model__name": "albef"}, r"config\.loss\.plm needs a decoder \(decode\)"),
        ({"optim__ema": 0.0, "loss__itc__alpha": 0.0, "loss__mlm__alpha": 0.0}, "plm.alpha=0.4"),
        ({"model__options__mplug__stride": 0}, r"options\.mplug: stride=0: give at least 1"),
        ({"model__text__max_tokens": 3}, r"max_tokens=3: config\.loss\.plm splits captions"),
        ({"loss__plm__empty_prefix": 2.0}, r"config\.loss\.plm\.empty_prefix=2\.0 is not a share"),
    ):
        with pytest.raises(UserError, match=said):
            train_and_evaluate(mplug_config(**overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_captions_of_one_word_are_refused(monkeypatch):
    """One caption of two words among them is enough."""
    from timix_jax.training.build import caption_checks, run

    settings = read_settings(mplug_config())
    checked = []

    def check(objectives, sources, tokenizer, max_tokens):
        single = OneWord(sources[0], "lemon")
        with pytest.raises(UserError, match=r"none of the first 48 examples.*two words within"):
            caption_checks.check_splittable(objectives, [single], tokenizer, max_tokens)
        caption_checks.check_splittable(objectives, [single, *sources], tokenizer, max_tokens)
        checked.append(True)

    monkeypatch.setattr(run, "check_splittable", check)
    build(settings)
    assert checked


class OneWord:
    """A source whose captions are replaced."""

    def __init__(self, source, caption):
        self.source, self.caption = source, caption

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source[index]._replace(captions=(self.caption,))


@pytest.mark.slow
def test_info_describes_it():
    text = info.describe(read_settings(mplug_config()), "runs/x")
    assert "decoder" in text
    assert "FLOP per step" in text
