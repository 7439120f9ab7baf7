#!/usr/bin/env bash
# What the launchers start on each machine: one process of a run, and whether it has finished.
#
#   launch/worker.sh --config=configs/vitb16.py --workdir=gs://BUCKET/run [flags of timix_jax.main]
#
# Exit code: 0 = the run has finished (WORKDIR/results.json exists; in another --mode: it has done its work); 75 = it was
# told to stop (SIGTERM, which it answers by a checkpoint and exit code 0, or by its end before there is anything to
# save) and goes on when started again; 2 = a mistake in flags or configuration, which no restart mends; anything else =
# a failure.
# SIGTERM and SIGINT are passed on, so that this may be process 1 of a container. PYTHON: the interpreter. STOP_WAIT:
# seconds it has for its checkpoint before it is killed, default 900.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=commands.sh
source "$here/commands.sh"
require_run_flags "$@"
read_patience
cd "$here/.." || exit 1
python=${PYTHON:-python}

command=("$python" -m timix_jax.main "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  act "${command[@]}"
  exit
fi

"${command[@]}" &
child=$!
told=
trap 'told=1; trap "" TERM INT; leave "$patience" "$child"' TERM INT
wait "$child"
code=$?
if [[ -n $told ]]; then # the signal has cut the wait short; 127: it came right behind its end
  wait "$child"
  again=$?
  ((again == 127)) || code=$again
  ((code != 137)) || exit 75 # it never answered
fi
((code != 143)) || exit 75 # ended by SIGTERM itself: it came before the program could answer it
((code == 0)) || exit "$code"
mode=$(flag_value mode "$@")
[[ ${mode:-train} == train ]] || exit 0
"$python" - "$(flag_value workdir "$@")" <<'PYTHON' || exit 75
import sys

from etils import epath

sys.exit(not (epath.Path(sys.argv[1]) / "results.json").exists())
PYTHON
