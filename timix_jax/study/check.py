"""Every run of a study is checked before the first one starts."""

from absl import flags
from ml_collections import config_flags

from timix_jax.config.command_line import flag_error
from timix_jax.errors import UserError
from timix_jax.study.plan import Cell, Study
from timix_jax.training.build import Settings, build_model, build_objectives, read_settings
from timix_jax.training.build.checks import check_settings, nominal_steps

NOMINAL_WORDS = 1000  # of the vocabulary, which is not known before the data are read


def check_runs(study: Study) -> None:
    """Refuse a change that one of the runs would refuse, hours later perhaps.

    Raises:
      UserError: an unknown field, or a value that cannot work; the message names the run.
    """
    checked: set[tuple[str, ...]] = set()
    for cell in study.cells():
        changes = study.changes(cell._replace(seed=0))
        if changes not in checked:
            checked.add(changes)
            try:
                _check(_settings(study, cell))
            except UserError as error:
                raise UserError(f"study run {cell.folder}: {error}") from error


def _check(settings: Settings) -> None:
    check_settings(settings)
    model = build_model(settings, vocab_size=NOMINAL_WORDS, pad_id=0)
    build_objectives(settings, model, None, nominal_steps(settings))


def _settings(study: Study, cell: Cell) -> Settings:
    """Return the settings of a run, read as the program reads its command line."""
    changes = [f"--config.{change}" for change in study.changes(cell)]
    argv = ["timix_jax.main", f"--config={study.recipe}", *changes]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        config = values["config"].value
    except Exception as error:  # a recipe is the user's own code
        raise flag_error(error, argv) from error
    return read_settings(config)
