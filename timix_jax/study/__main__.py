"""Command line: `python -m timix_jax.study --config=configs/studies/NAME.py [--out=DIR] [--workers=N]`."""

import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from absl import app, flags
from ml_collections import config_flags

from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_bytes
from timix_jax.runtime.machine import available_cores
from timix_jax.study.check import check_runs
from timix_jax.study.code_version import code_version
from timix_jax.study.pictures import draw_study
from timix_jax.study.plan import Cell, read_study
from timix_jax.study.report import report
from timix_jax.study.runner import Runner, read_record, recorded_code
from timix_jax.study.table import Table

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "Study, such as configs/studies/gap.py.")
_OUT = flags.DEFINE_string("out", "", "Folder of runs and report; default runs/studies/NAME.")
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Runs at a time, which share the cores; 0: one per core.", 0
)
_SHARE = flags.DEFINE_string(
    "share", "0/1", "K/N: train every N-th run from the K-th on, for N hosts with one --out."
)
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write the report of what has ended.")


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
    if _CONFIG.value is None:
        raise UserError("--config is missing; try --config=configs/studies/gap.py")
    study = read_study(_CONFIG.value.to_dict())
    name = Path(config_flags.get_config_filename(FLAGS["config"])).stem
    out = Path(_OUT.value or f"runs/studies/{name}").expanduser()
    code = recorded_code(out) if _REPORT_ONLY.value else code_version()
    runner = Runner(study, out, code, _WORKERS.value or available_cores())
    failed = []
    if not _REPORT_ONLY.value:
        check_runs(study)
        _stop_on_signals(runner)
        ends = runner.run(_own(study.cells(), _SHARE.value))
        failed = [outcome for outcome in ends if outcome.error]
    records = {
        c: r for c in study.cells() if (r := read_record(runner.folder(c), code)) is not None
    }
    if not records:
        raise UserError(f"{out}: no run has ended, so that there is nothing to report")
    table = Table(study, records)
    command = shlex.join(["python", "-m", "timix_jax.study", *sys.argv[1:]])
    text, numbers = report(table, title=f"Study {name}", command=command, code=code)
    atomic_write_bytes(out / "report.md", text.encode())
    atomic_write_bytes(out / "report.json", numbers.encode())
    draw_study(table, out / "report.png", f"Study {name}")
    print(f"{text}\nwritten to {out / 'report.md'}")
    return 1 if failed else 0


def _own(cells: list[Cell], share: str) -> list[Cell]:
    """Return the runs of this host."""
    part, slash, parts = share.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UserError(f"--share={share}; write K/N with 0 <= K < N")
    return cells[int(part) :: int(parts)]


def _stop_on_signals(runner: Runner) -> None:
    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        print("stopping: every run saves and ends; the same command continues", file=sys.stderr)
        runner.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def run() -> None:
    """Run the command line; a user error prints one line and exits with 2."""
    try:
        app.run(_main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
