"""The schema: what is filled in, what is converted, what is refused and with which words."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from timix_jax.config import complete, default_config, default_of, flatten, schema
from timix_jax.errors import UserError, error_prefix
from timix_jax.mixing import MIXERS
from timix_jax.mixing.partners import Paired
from timix_jax.objectives import OBJECTIVES
from timix_jax.objectives.base import INTERNAL


def recipe(**fields):
    """A recipe that sets `a__b__c` to a value and knows nothing of the schema."""
    config = {}
    for field, value in fields.items():
        *sections, name = field.split("__")
        section = config
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = value
    return ConfigDict(config)


def test_an_empty_recipe_is_the_default():
    assert complete(ConfigDict()) == default_config()
    assert complete(default_config()) == default_config()


def test_a_recipe_s_fields_win_and_the_others_stay():
    full = complete(recipe(optim__lr=3e-4, model__image__depth=2))
    changed = {
        field: value
        for field, value in flatten(full).items()
        if value != flatten(default_config())[field]
    }
    assert changed == {"optim.lr": 3e-4, "model.image.depth": 2}
    assert full.is_locked


def test_the_recipe_is_not_changed():
    given = recipe(train__duration=100)
    complete(given)
    assert given == recipe(train__duration=100)


def test_flat_fields_are_what_json_gives_back():
    flat = flatten(complete(recipe(data__train=("a:", "b:"), optim__lr_scales=(("x", 0.1),))))
    assert flat["data.train"] == ["a:", "b:"]
    assert flat["optim.lr_scales"] == [["x", 0.1]]
    assert json.loads(json.dumps(flat)) == flat
    assert not any(isinstance(value, dict) for value in flat.values())


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"optim__lr": 1}, "optim.lr", 1.0),
        ({"train__duration": 100}, "train.duration", "100"),
        ({"train__duration": 1e3}, "train.duration", "1000.0"),
        ({"mix__ramp": "5%"}, "mix.ramp", "5%"),
        ({"loss__itc__alpha_steps": "1 epoch"}, "loss.itc.alpha_steps", "1 epoch"),
        ({"eval__sets": ["a=b:"]}, "eval.sets", ("a=b:",)),
    ],
)
def test_values_take_the_field_s_type(given, field, value):
    target = complete(recipe(**given))
    for name in field.split("."):
        target = target[name]
    assert (type(target), target) == (type(value), value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optm__lr": 1.0}, "config.optm=.*: there is no such field; did you mean 'optim'?"),
        ({"optim__lrr": 2.5}, "config.optim.lrr=2.5: there is no such field; did you mean 'lr'?"),
        ({"mesh__qqq": 1}, "config.mesh.qqq=1: .* known: data, fsdp, "),
        ({"mix__options__timix__grid": 4}, "config.mix.options.timix.grid=4: there is no such"),
        ({"optim": 3}, "config.optim=3 is a section"),
        ({"optim__lr": "fast"}, "config.optim.lr='fast' is of type str; expected int or float"),
        ({"optim__lr": True}, "config.optim.lr=True is of type bool"),
        ({"seed": True}, "config.seed=True is of type bool; expected int"),
        ({"seed": 0.5}, "config.seed=0.5 is of type float; expected int"),
        ({"train__batch_size": "8"}, "config.train.batch_size='8' is of type str"),
        ({"train__duration": (1, 2)}, r"config.train.duration=\(1, 2\) is of type tuple"),
        ({"model__scan": 1}, "config.model.scan=1 is of type int; expected bool"),
        ({"data__train": "records:x"}, "config.data.train='records:x' is of type str"),
        ({"model__act": None}, "config.model.act=None is of type NoneType"),
        ({"train__batch_size": 0}, "config.train.batch_size=0: give at least 1"),
        ({"loss__pta__weight": -1.0}, "config.loss.pta.weight=-1.0: give at least 0"),
        ({"mix__weight": float("nan")}, "config.mix.weight=nan: give a finite number"),
        ({"optim__lr": float("inf")}, "config.optim.lr=inf: give a finite number"),
        ({"data__vocab_size": 10**20}, "config.data.vocab_size=1.*: give at most 2147483647"),
        ({"regions__max_tokens": -1}, "config.regions.max_tokens=-1: give at least 0"),
        ({"data__train": (1,)}, r"config.data.train=\(1,\): the item 1 must be str"),
        ({"data__weights": ("x",)}, "config.data.weights=.*: the item 'x' must be int or float"),
        ({"data__weights": (True,)}, "config.data.weights=.*: the item True must be"),
        ({"data__weights": (float("nan"),)}, "config.data.weights=nan: give a finite number"),
        ({"eval__sets": (None,)}, "config.eval.sets=.*: the item None must be str"),
        ({"eval__evaluators": (("a",),)}, "config.eval.evaluators=.*: the item .* must be str"),
        ({"augment__crop_ratio": (1.0,)}, r"config.augment.crop_ratio=.*: give 2 items, each int"),
        ({"model__temperature_range": ("a", "b")}, "temperature_range=.*: the item 'a' must be"),
        ({"optim__lr_scales": (("a", -1.0),)}, "config.optim.lr_scales: the item .*at least 0"),
        ({"optim__lr_scales": (("a",),)}, "config.optim.lr_scales: the item .*a pattern and a"),
        ({"optim__lr_scales": (("a", float("nan")),)}, "config.optim.lr_scales: the item"),
        ({"optim__lr_scales": ("a",)}, "config.optim.lr_scales=.*: the item 'a' must be tuple"),
        ({"model__temperature": 2.0}, "config.model.temperature=2.0: must lie within"),
    ],
)
def test_what_cannot_be_meant_is_named(given, message):
    with pytest.raises(UserError, match=message) as error:
        complete(recipe(**given))
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_configuration():
    with pytest.raises(UserError, match=r"returned {'seed': 1}; return a ConfigDict"):
        complete({"seed": 1})


def test_the_default_of_a_field():
    assert default_of("optim.lr", "x") == 1e-4
    with pytest.raises(UserError, match=r"config.optim.lrr='3': .* did you mean 'lr'"):
        default_of("optim.lrr", "3")
    with pytest.raises(UserError, match=r"config.optim.lr.x=3: config.optim.lr is not a section"):
        default_of("optim.lr.x", "3")
    with pytest.raises(UserError, match=r"config.mesh=3 is a section; .* data, fsdp, .*tensor"):
        default_of("mesh", "3")


def test_options_of_mixers_are_their_fields():
    options = default_config().mix.options
    assert set(options) == {name for name, kind in MIXERS.items() if kind}
    for name, kind in MIXERS.items():
        if kind:
            fields = {f.name: f.default for f in dataclasses.fields(kind)}
            given = {name: fields.pop(name) for name in ("grid", "shards") if name in fields}
            assert "shards" in given or not issubclass(kind, Paired)
            assert options[name].to_dict() == fields


def test_additional_objectives_are_off():
    for name, settings in default_config().loss.items():
        assert settings.weight == (1.0 if name == "itc" else 0.0)
        fields = dataclasses.fields(OBJECTIVES[name])
        assert set(settings) == {f.name for f in fields if f.metadata != INTERNAL}
        assert not set(settings) & {"pairs", "view", "target", "starts_at", "ends_at"}


@dataclasses.dataclass(frozen=True)
class Sprinkle:
    grid: int
    share: float = 0.25


@dataclasses.dataclass(frozen=True)
class Colour:
    shades: int
    weight: float = 1.0
    bins: int = 8
    ramp_steps: int = 0


def test_a_registered_mixer_and_objective_have_a_configuration(monkeypatch):
    monkeypatch.setitem(schema.MIXERS, "sprinkle", Sprinkle)
    monkeypatch.setitem(schema.OBJECTIVES, "colour", Colour)
    config = complete(recipe(mix__options__sprinkle__share=0.5, loss__colour__ramp_steps="5%"))
    assert config.mix.options.sprinkle.to_dict() == {"share": 0.5}
    assert config.loss.colour.to_dict() == {"weight": 0.0, "bins": 8, "ramp_steps": "5%"}
    with pytest.raises(UserError, match=r"config.loss.colour.bin=4: .* did you mean 'bins'"):
        complete(recipe(loss__colour__bin=4))


def test_errors_are_prefixed_once():
    def refuse(message):
        with error_prefix("config.augment."):
            raise UserError(message)

    with pytest.raises(UserError, match=r"^config\.augment\.crop_min=2$"):
        refuse("crop_min=2")
    with pytest.raises(UserError, match=r"^config\.seed=2$"):
        refuse("config.seed=2")
