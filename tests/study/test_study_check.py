"""The studies of the project are whole, and one that cannot work is refused before its first run."""

import runpy

import pytest
from repository import ROOT

from timix_jax.errors import UserError
from timix_jax.study.check import check_runs
from timix_jax.study.plan import read_study

STUDIES = sorted((ROOT / "configs" / "studies").glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # studies name their recipe relative to it


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_run_of_our_studies_can_start(path):
    check_runs(read_study(runpy.run_path(str(path))["get_config"]().to_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.duration='600 steps'", r"config\.train\.duration=.* not a duration"),
        ("mix.until='85%'", r"config\.mix\.until=.* not a duration"),
        ("mix.mixr=none", r"config\.mix\.mixr='none': there is no such field"),
        ("mix.mixer=timx", r"config\.mix\.mixer: mixer 'timx' is unknown"),
        ("eval.sets=5", r"config\.eval\.sets=\(5,\): the item 5 must be str"),
    ],
)
def test_a_change_that_a_run_would_refuse(change, message):
    study = read_study(
        {
            "recipe": "configs/small_scenes.py",
            "metric": ("val/i2t_r1",),
            "methods": {"plain": (), "other": ("mix.mixer=timix", change)},
            "seeds": (0, 1),
        }
    )
    with pytest.raises(UserError, match=rf"^study run other--all--all--seed0: {message}"):
        check_runs(study)


def test_a_recipe_that_does_not_exist():
    study = {"recipe": "configs/smal.py", "metric": ("a",), "methods": {"a": ()}, "seeds": (0,)}
    with pytest.raises(UserError, match=r"--config=configs/smal\.py: there is no such file"):
        check_runs(read_study(study))
