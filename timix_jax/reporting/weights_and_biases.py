"""The numbers of a run on Weights & Biases, an optional package.

Its own environment variables decide where they go: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY.
"""

import importlib.util
import os
import uuid
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from timix_jax.errors import RunError, UserError
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.remote import is_remote

ID_FILE = "wandb_id.txt"
_PROJECT = "timix-jax"
_WITHOUT = "or set config.log.wandb=False"


def check_installed() -> None:
    """Raise a UserError if the package is missing."""
    spec = importlib.util.find_spec("wandb")
    # The folder `wandb` that its runs leave in the current directory looks like a package, but has no code.
    if spec is None or spec.origin is None:
        raise UserError(
            f"config.log.wandb=True needs the package wandb: pip install 'timix-jax[wandb]', {_WITHOUT}"
        )


class WandbRun:
    """One run there, which a resumed training continues.

    Steps after the checkpoint that a training resumes from are logged again, with the same numbers.

    Args:
      workdir: holds the run's id in `wandb_id.txt` and, unless it is remote, the files in `wandb/`.
      config: dotted field name → value, shown with the run.

    Raises:
      UserError: the package is missing, or there is no account.
      RunError: the server does not answer.
    """

    def __init__(self, workdir: epath.Path, config: Mapping[str, Any]) -> None:
        check_installed()
        # Imported here: it takes seconds, and only the first process needs it.
        import wandb

        id_file = workdir / ID_FILE
        identity = id_file.read_text().strip() if id_file.exists() else uuid.uuid4().hex[:8]
        try:
            self._run: Any = wandb.init(
                id=identity,
                resume="allow",
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                name=workdir.name,
                dir=None if is_remote(workdir) else os.fspath(workdir),
                config=dict(config),
                allow_val_change=True,  # the log, the mesh and others may differ after a resumption
                settings=wandb.Settings(console="off", quiet=True),  # the screen stays ours
            )
        except wandb.Error as error:
            kind = UserError if isinstance(error, wandb.errors.UsageError) else RunError
            reason = " ".join(str(error).split()).rstrip(".")
            raise kind(
                f"config.log.wandb=True: {reason}; set WANDB_MODE=offline to write to {workdir} only, {_WITHOUT}"
            ) from error
        # Not W&B's own step: it drops what is logged under an earlier one.
        self._run.define_metric("*", step_metric="step")
        atomic_write_text(id_file, f"{identity}\n")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log scalars under a step; a failure ends the logging there, not the training."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **numbers})
        except Exception:  # whatever the client raises: metrics.jsonl has the numbers
            logging.exception("Weights & Biases failed; the run goes on without it")
            self._run = None

    def close(self, *, failed: bool = False) -> None:
        """Upload the rest and end the run, as failed or finished."""
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=int(failed))
