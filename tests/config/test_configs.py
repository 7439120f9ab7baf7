"""Every recipe in configs/ is whole, and the largest takes a real step at batch 4."""

import importlib.util
import inspect
import re

import jax
import numpy as np
import pytest
from one_device import on_one_device
from repository import ROOT

from timix_jax.config import complete, flatten
from timix_jax.inspection.tables import parameters_by_tower
from timix_jax.parallel.mesh import put_batch
from timix_jax.training import build as experiment
from timix_jax.training.step import make_train_step

RECIPES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


def recipe(name):
    return load(next(path for path in RECIPES if path.stem == name)).get_config()


def load(path):
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_is_complete_and_its_model_can_be_built(path):
    module = load(path)
    settings = experiment.read_settings(module.get_config())
    model = experiment.build_model(settings, vocab_size=1000, pad_id=0)
    assert experiment.abstract_params(model)
    assert experiment.build_objectives(settings, model, None, lambda value, field: 0)
    assert module.__doc__.strip()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_is_evaluated_on_its_training_or_test_data(path):
    """What is looked at during the training is neither what it learns from nor what is reported in the end."""
    config = complete(load(path).get_config())
    evaluated = {entry.partition("=")[2] for entry in config.eval.sets}
    assert not evaluated & set(config.data.train)
    assert not [source for source in evaluated if re.search(r"\btest\b|_test\b", source)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_line_of_a_recipe_says_what_the_field_is(path):
    """A comment a field: on its line, above its group, or a name that needs none."""
    plain = re.compile(r"(image|text)\.(width|depth|heads|mlp_dim)$|every$|b[12]$|tensorboard$")
    group = False
    for line in inspect.getsource(load(path).get_config).splitlines():
        field = re.match(r"    c\.([\w.]+) = ", line)
        group = line.strip().startswith("#") or (group and bool(line.strip()))
        if field:
            assert "#" in line or group or plain.search(field[1]), line


def test_the_recipes_of_the_paper_s_scale_differ_in_the_mixer_alone():
    mixed, plain = (flatten(complete(recipe(name))) for name in ("vitb16", "vitb16_nomix"))
    differing = {field for field in mixed if mixed[field] != plain[field]}
    assert differing == {"mix.mixer"}


@pytest.mark.parametrize("name", ["demo_boxes", "vitb16_boxes"])
def test_annotated_images_follow_the_batch_unless_given(name):
    config = recipe(name)
    config.train.batch_size = 4096
    assert complete(config).regions.batch_size == 1024
    config.regions.batch_size = 64
    config.train.batch_size = 2048
    followed = complete(config)
    assert (followed.regions.batch_size, followed.train.batch_size) == (64, 2048)


def bert_vocabulary(path):
    """A vocab.txt of BERT's size; its words are letters and numbers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [chr(i) for i in range(ord("a"), ord("z") + 1)]
    words += ["##" + word for word in words[5:]]
    words += [str(number) for number in range(30522 - len(words))]
    path.write_text("\n".join(words))


@pytest.mark.slow
def test_vitb16_boxes_takes_a_real_step(tmp_path):
    """Everything as configured, bfloat16 included, except for data, batch sizes and most of the equal layers."""
    bert_vocabulary(tmp_path / "vocab.txt")
    config = recipe("vitb16_boxes")
    config.data.tokenizer = str(tmp_path / "vocab.txt")
    config.data.train = ("synthetic:?examples=16&size=64&regions=2",)
    config.data.threads = 1
    config.train.batch_size = config.regions.batch_size = 4
    config.train.duration = "4 steps"
    config.optim.warmup = "1 step"
    with on_one_device():
        whole = experiment.build(experiment.read_settings(config))
    towers = parameters_by_tower(whole.abstract_state.params)
    assert 85e6 < towers["image"] < 88e6
    assert 108e6 < towers["text"] < 111e6

    config.model.text.depth = config.model.image.depth = 2
    config.model.tpp_layer = 1
    with on_one_device():
        run = experiment.build(experiment.read_settings(config))
    step = make_train_step(
        run.model,
        run.objectives,
        run.optimizer,
        schedule=run.schedule,
        ema_decay=config.optim.ema,
        seed=config.seed,
    )
    state = jax.jit(run.create_state)(jax.random.key(0))
    before = np.asarray(state.params["text"]["projection"]["kernel"])
    batch = run.first_batch()
    batch.pop("example_id")
    state, metrics = jax.jit(step, donate_argnums=0)(state, put_batch(batch, run.mesh))
    assert int(state.step) == 1
    assert bool(metrics["finite"])
    # Four candidates: fresh weights know nothing.
    assert float(metrics["loss/itc"]) == pytest.approx(np.log(4), abs=0.7)
    assert float(metrics["loss/pta"]) == pytest.approx(np.log(2), abs=0.3)
    change = np.abs(np.asarray(state.params["text"]["projection"]["kernel"]) - before)
    # The first rate is 1e-6, and Adam's first step is as long as the rate.
    assert 5e-7 < change.max() < 1.5e-6
