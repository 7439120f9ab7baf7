"""Cross-modal CutMix from the configuration to the results: what is read, refused, trained, kept and exported."""

import jax
import numpy as np
import pytest
from tiny_model import compiler_settings
from tiny_run import metrics, tiny_config

import timix_jax
from timix_jax.checkpointing import Checkpointer, restore_params
from timix_jax.errors import UserError
from timix_jax.export.trained import Trained
from timix_jax.parallel.paths import path_names
from timix_jax.training import build as experiment
from timix_jax.training.build import read_settings
from timix_jax.training.build.batch import abstract_batch
from timix_jax.training.start import initial_state
from timix_jax.training.train import train_and_evaluate

ONLY_CMC = {"loss__pta__weight": 0.0, "mix__mixer": "none", "eval__evaluators": ("retrieval",)}


def cmc_config(steps=2, **overrides):
    settings = {"loss__cmc__weight": 0.5, "loss__cmc__rate": 0.75, **ONLY_CMC}
    return tiny_config(steps, **settings | overrides)


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiler_settings():
        yield


def test_one_line_says_what_cannot_work(tmp_path):
    no_regions = ("synthetic:?examples=48&size=16&captions=2",)
    for overrides, said in (
        ({"loss__cmc__rate": 2.0}, r"^config\.loss\.cmc\.rate=2\.0 is not a share .*$"),
        ({"regions__batch_size": 0}, r"^config\.loss\.cmc\.weight is above 0: give config\.reg.*$"),
        (
            {"data__train": no_regions},
            r"^config\.loss\.cmc\.weight is above 0, .* or set config\.loss\.cmc\.weight=0$",
        ),
        (
            {"data__train": no_regions, "loss__pta__weight": 1.0},
            r"^config\.loss\.pta\.weight is above 0, .*=0 and another mix\.score$",
        ),
    ):
        with pytest.raises(UserError, match=said):
            train_and_evaluate(cmc_config(**overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_regions_are_read_and_the_projection_is_made_for_this_loss_alone():
    for weight in (0.0, 0.5):
        settings = read_settings(cmc_config(loss__cmc__weight=weight))
        assert settings.uses_regions == ("regions" in abstract_batch(settings)) == (weight > 0)
        model = experiment.build_model(settings, vocab_size=50, pad_id=0)
        assert model.word_projection == (weight > 0)
    albef = read_settings(cmc_config(model__name="albef"))
    assert experiment.build_model(albef, vocab_size=50, pad_id=0).dual.word_projection


@pytest.fixture(scope="module")
def trained(quickly, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "cmc"
    return workdir, train_and_evaluate(cmc_config(), str(workdir))


@pytest.mark.slow
def test_trains_and_evaluates(trained):
    workdir, results = trained
    lines = [line for line in metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        parts = line["loss/itc"] + 0.5 * line["loss/cmc"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        # Shapes such as "a red square" in most captions, three of up to ten words each.
        assert 0.05 < line["cmc_words"] < 0.6
        assert 0.1 < line["cmc_captions"] < 0.95
    assert 0 <= results["val/i2t_r1"] <= 1
    loaded = timix_jax.load(workdir)
    assert loaded.encode_text(["a red disc"]).shape == (1, 8)
    exported = Trained.of(loaded).params
    assert exported
    assert not [name for name in exported if name.startswith("word_projection")]


@pytest.mark.slow
def test_starts_from_a_run_without_it_and_the_other_way_round(trained, whole_run, tmp_path):
    with_it, without = dict(restored(trained[0])), dict(restored(whole_run[0]))
    only = {name for name in with_it if name not in without}
    assert only == {"word_projection/output/kernel", "word_projection/output/bias"}
    started = started_from(whole_run[0], cmc_config(1), tmp_path)
    assert started.keys() == with_it.keys()
    for name, leaf in without.items():
        np.testing.assert_array_equal(started[name], leaf, err_msg=name)
    started = started_from(trained[0], tiny_config(1), tmp_path)
    assert started.keys() == without.keys()
    for name, leaf in started.items():
        np.testing.assert_array_equal(with_it[name], leaf, err_msg=name)


def restored(workdir):
    return path_names(jax.tree.map(np.asarray, restore_params(workdir)))


def started_from(run, config, tmp_path):
    config.init_from = str(run)
    config.data.tokenizer = str(run / "tokenizer.json")
    with Checkpointer(tmp_path / "none" / "checkpoints") as checkpointer:
        state, _ = initial_state(experiment.build(read_settings(config)), checkpointer)
    return dict(path_names(state.params))
