"""A run that starts from published weights: refused before its folder exists, loaded onto the mesh, trained."""

import json

import jax
import numpy as np
import pytest
from published_cases import CASES, VOCABULARY
from tiny_model import compiler_settings
from tiny_run import tiny_config

from timix_jax.checkpointing import Checkpointer
from timix_jax.errors import UserError
from timix_jax.pretrained import read_public
from timix_jax.training import build as experiment
from timix_jax.training import start
from timix_jax.training.open_run import open_run
from timix_jax.training.train import train_and_evaluate


@pytest.fixture(scope="module", autouse=True)
def fast_compiler():
    with compiler_settings():
        yield


@pytest.fixture
def vocabulary(tmp_path):
    """A BERT vocabulary as long as the cases' word tables."""
    letters = [chr(ord("a") + i) for i in range(26)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    words += [f"##{letter}" for letter in letters[: VOCABULARY - len(words)]]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return str(tmp_path / "vocab.txt")


def config_for(folder, vocabulary, **overrides):
    """Return a tiny recipe with the settings of whole published weights."""
    fields = {name.replace(".", "__"): v for name, v in read_public(folder).settings.items()}
    fields |= {"data__tokenizer": vocabulary, "init_from": str(folder)}
    return tiny_config(1, **fields | overrides)


def initial_params(config, folder):
    run = experiment.build(experiment.read_settings(config))
    with Checkpointer(folder) as checkpointer:
        state, _ = start.initial_state(run, checkpointer)
    return run, state


@pytest.mark.slow
def test_both_towers_lie_on_the_mesh_as_fresh_ones_do(tmp_path, vocabulary):
    case = CASES["open_clip"](True)
    folder = case.write(tmp_path / "clip")
    config = config_for(folder, vocabulary, mesh__fsdp=2, mesh__tensor=2, mesh__small=1)
    run, state = initial_params(config, tmp_path / "checkpoints")
    shardings = run.layout.shardings(run.abstract_state).params
    jax.tree.map(
        lambda p, s: p.sharding.is_equivalent_to(s, p.ndim) or pytest.fail(str(s)),
        state.params,
        shardings,
    )
    assert not state.params["image"]["blocks"]["layers"]["mlp"]["up"]["kernel"].is_fully_replicated
    up = np.stack([block["up"][0] for block in case.image.blocks])
    loaded = state.params["image"]["blocks"]["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(loaded, up, rtol=1e-6)
    for one, other in zip(*map(jax.tree.leaves, (state.params, state.ema_params)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_each_tower_from_elsewhere(tmp_path, vocabulary):
    image, text = CASES["huggingface_vit"](True), CASES["bert"](True)
    folders = [case.write(tmp_path / name) for name, case in (("vit", image), ("bert", text))]
    fields = {
        name.replace(".", "__"): value
        for folder in folders
        for name, value in read_public(folder).settings.items()
    }
    config = tiny_config(
        1,
        **fields,
        init_from_image=str(folders[0]),
        init_from_text=str(folders[1]),
        data__tokenizer=vocabulary,
    )
    _, state = initial_params(config, tmp_path / "checkpoints")
    table, types = (text.text.layers[name] for name in ("positions", "types"))
    np.testing.assert_allclose(state.params["text"]["pos_embed"][0], table + types[0], atol=1e-6)
    layers = image.image.layers
    token = layers["cls"] + layers["cls_position"]
    np.testing.assert_allclose(state.params["image"]["cls"][0, 0], token, atol=1e-6)


@pytest.mark.slow
def test_a_run_trains_from_them(tmp_path, vocabulary):
    folder = CASES["huggingface_siglip"](True).write(tmp_path / "siglip")
    overrides = {"contrastive__loss": "sigmoid", "eval__sets": ()}
    train_and_evaluate(config_for(folder, vocabulary, **overrides), str(tmp_path / "run"))
    log = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert any(np.isfinite(line.get("loss", np.nan)) for line in log)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model__image__act": "gelu"},
            r"config\.init_from: .*--config\.model\.image\.act=quick_gelu",
        ),
        (
            {"data__tokenizer": "wordpiece"},
            r"has 40 words, and the tokenizer \d+: set config\.data\.tok",
        ),
        ({"init_from": "nowhere.safetensors"}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_folder_exists(
    tmp_path, vocabulary, overrides, message
):
    folder = CASES["open_clip"](True).write(tmp_path / "clip")
    config = config_for(folder, vocabulary, **overrides)
    with pytest.raises(UserError, match=message):
        open_run(experiment.read_settings(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
