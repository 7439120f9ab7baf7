#!/usr/bin/env bash
# Started by the launchers on each machine: runs one process and reports whether the run has finished.
#
#   launch/worker.sh --config=configs/vitb16.py --workdir=gs://BUCKET/run [flags of timix_jax.main]
#
# Exit code: 0 = the run has finished (WORKDIR/results.json exists; in another --mode: the program has ended); 75 = it
# was told to stop by SIGTERM, saved if there was anything to save, and resumes when started again; 2 = a user error in
# flags or configuration, which no restart fixes; anything else = a failure.
# SIGTERM and SIGINT are passed on, so this may be process 1 of a container. PYTHON: the interpreter. STOP_WAIT: seconds
# that the process has to save before it is killed, default 900.
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
signalled=
trap 'signalled=1; trap "" TERM INT; leave "$patience" "$child"' TERM INT
wait "$child"
code=$?
if [[ -n $signalled ]]; then # the signal interrupted the wait; 127: the child had just ended
  wait "$child"
  again=$?
  ((again == 127)) || code=$again
  ((code != 137)) || exit 75 # it never reacted to the signal
fi
((code != 143)) || exit 75 # ended by SIGTERM before the program could handle it
((code == 0)) || exit "$code"
mode=$(flag_value mode "$@")
[[ ${mode:-train} == train ]] || exit 0
"$python" - "$(flag_value workdir "$@")" <<'PYTHON' || exit 75
import sys

from etils import epath

sys.exit(not (epath.Path(sys.argv[1]) / "results.json").exists())
PYTHON
