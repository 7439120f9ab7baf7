#!/usr/bin/env bash
# A run on a Cloud TPU slice of any number of hosts, by queued resources; it survives preemptions.
#
#   export ZONE=us-west4-a TYPE=v5litepod-16 SPOT=1
#   launch/tpu.sh run NAME --config=configs/vitb16.py --workdir=gs://BUCKET/run \
#     --config.data.train="('records:gs://BUCKET/data?cache=/tmp/data',)"
#
# `run` creates the queued resource NAME, waits for it, installs this checkout on all workers and trains on all of
# them. When the TPU is preempted it deletes and creates the resource again and gives the same command, which resumes
# from the working folder, until WORKDIR/results.json exists. Leave it running where it stays connected (tmux on a VM).
#
# Needs: gcloud (logged in, with a project), TPU quota in ZONE, a bucket near it that the TPU's service account may
# write, a git checkout (HEAD is installed: commit first).
# Stop: Ctrl-C in `run` (or `launch/tpu.sh stop NAME` after `train`): all workers save and leave; the same command
# resumes. Clean up: the TPU stays and costs money until `launch/tpu.sh clean NAME` deletes it. The bucket is never touched:
# gcloud storage rm -r WORKDIR.
#
# Single steps: create, wait, install, train, status, stop, clean.
# Settings: ZONE, TYPE (both needed to create), PROJECT, VERSION (runtime; guessed from TYPE), SPOT=1 (preemptible),
# TRIES (failures without a new checkpoint, or to get a TPU, before it gives up; default 3), POLL (seconds, default 30),
# STOP_WAIT (of worker.sh).
# If gcloud cannot tell the state of the TPU, it is asked again, at most 120 times in a row (an hour).
# DRY_RUN=1 prints the commands for a TPU that is available at once and a run that finishes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=commands.sh
source "$here/commands.sh"

usage="usage: ZONE=… TYPE=… $0 run|create|wait|install|train|status|stop|clean NAME [flags of timix_jax.main]"
(($# >= 2)) || die "$usage"
command=$1 name=$2
shift 2
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || die "NAME '$name': lower-case letters, digits and '-'; $usage"
[[ -n ${ZONE:-} ]] || die "ZONE is not set, such as ZONE=us-west4-a"
read_patience
tries=${TRIES:-3} poll=${POLL:-30} asks=120
[[ $tries =~ ^[1-9][0-9]*$ ]] || die "TRIES='$tries': give a number"
[[ $poll =~ ^[0-9]+$ ]] || die "POLL='$poll': give a number of seconds"
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
queued=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)

on_all_workers() { # SHELL_COMMAND
  act "${vm[@]}" ssh "$name" "${where[@]}" --worker=all "${alive[@]/#/--ssh-flag=-o}" "--command=$1"
}

create() {
  [[ -n ${TYPE:-} ]] || die "TYPE is not set, such as TYPE=v5litepod-16"
  local version=${VERSION:-}
  if [[ -z $version ]]; then
    case $TYPE in
      v5litepod-*) version=v2-alpha-tpuv5-lite ;;
      v5p-*) version=v2-alpha-tpuv5 ;;
      v6e-*) version=v2-alpha-tpuv6e ;;
      *) version=tpu-ubuntu2204-base ;;
    esac
  fi
  act "${queued[@]}" create "$name" "--node-id=$name" "${where[@]}" "--accelerator-type=$TYPE" \
    "--runtime-version=$version" ${SPOT:+--spot}
}

# look ANSWER: sets `state` to ACTIVE, WAITING_FOR_RESOURCES, …; empty if there is none. ANSWER: for a dry run.
# Not in a subshell, because a signal would have to wait for it.
state=""
look() {
  local said asked
  for ((asked = 1; asked <= asks; asked++)); do
    if said=$(ask "$1" "${queued[@]}" describe "$name" "${where[@]}" '--format=value(state.state)' 2>&1); then
      # gcloud may print notices before and after it.
      state=$(grep -xE '[A-Z_]+' <<<"$said" | tail -n 1 || true)
      [[ -z $state && -z ${DRY_RUN:-} ]] || return 0
    elif [[ $said == *NOT_FOUND* ]]; then
      state=""
      return 0
    fi
    said=$(grep -m 1 ERROR <<<"$said" || tail -n 1 <<<"$said")
    echo "$name: asking again in $poll s, as gcloud says: $said" >&2
    sleep "$poll"
  done
  die "$name: gcloud failed to tell the state of the TPU $asks times in a row; fix what it reports and run this again"
}

await() {
  local before=""
  while true; do
    look ACTIVE
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | "") return 1 ;;
    esac
    [[ $state == "$before" ]] || echo "$name: $state"
    before=$state
    sleep "$poll"
  done
}

# Creates a TPU unless there is one, and waits until it is active.
provide() {
  case $state in
    FAILED | SUSPENDED) clean && create ;;
    "") create ;;
  esac && await
}

clean() {
  act "${queued[@]}" delete "$name" "${where[@]}" --force --quiet
}

install() {
  local archive=${TMPDIR:-/tmp}/timix_jax-$name.tar.gz
  # If this fails, an older checkout may still be there.
  act git -C "$here/.." archive --format=tar.gz "--output=$archive" HEAD || return
  act "${vm[@]}" scp "$archive" "$name:timix_jax.tar.gz" "${where[@]}" --worker=all || return
  # The images' Python is older than 3.11: uv installs a newer one.
  on_all_workers 'set -e; mkdir -p timix_jax; tar -xzf timix_jax.tar.gz -C timix_jax; cd timix_jax
python3 -m pip install --quiet --user uv; test -d .venv || python3 -m uv venv --quiet --python 3.12 .venv
VIRTUAL_ENV=.venv python3 -m uv pip install --quiet --editable ".[tpu,gcs]"'
}

# First stop what a lost connection left behind: two runs must not share a working folder.
# shellcheck disable=SC2016 # expanded on the workers
# The process id may belong to another program by now.
stop_command='cd timix_jax && if test -s run.pid; then pid=$(cat run.pid)
if grep -qs launch/worker.sh "/proc/$pid/cmdline"; then kill "$pid" 2>/dev/null
while kill -0 "$pid" 2>/dev/null; do sleep 1; done; fi; rm -f run.pid; fi'

train() {
  local flags=(--distributed=on) wait
  wait=$(longer_wait "$@")
  flags+=(${wait:+"$wait"})
  # Compiled once, read by every worker and after every preemption.
  [[ -n $(flag_value compile_cache "$@") ]] || flags+=("--compile_cache=$workdir/compiled")
  on_all_workers "$stop_command; echo \$\$ > run.pid; export STOP_WAIT=$patience PYTHON=.venv/bin/python
exec launch/worker.sh $(quoted "${flags[@]}" "$@")"
}

stop() { on_all_workers "$stop_command"; }

# finished ANSWER: succeeds if the results exist.
finished() {
  [[ -n $(ask "$1" gcloud storage ls "$workdir/results.json" 2>/dev/null || true) ]]
}

newest_checkpoint() {
  gcloud storage ls "$workdir/checkpoints/" 2>/dev/null | sort | tail -n 1 || true
}

run() {
  local failures=0 refusals=0 checkpoint before="" training="" code
  trap 'trap "" INT TERM; echo "$name: stopping all workers" >&2; stop || true; wait; exit 130' INT TERM
  if finished ""; then
    echo "$name: $workdir/results.json is there: finished"
    return 0
  fi
  [[ -n ${DRY_RUN:-} ]] || before=$(newest_checkpoint)
  look ""
  while true; do
    if ! provide; then
      refusals=$((refusals + 1))
      ((refusals < tries)) || die "$name: no TPU after $tries tries (state ${state:-none}); see launch/tpu.sh status"
      sleep "$poll"
      look ""
      continue
    fi
    refusals=0
    if install; then
      # In the background, so that signals are handled at once and Ctrl-C does not cut the connection.
      train "$@" &
      training=$!
      code=0
      wait "$training" || code=$?
      ((code != 2)) || die "$name: a user error in flags or configuration, or a loss that is not finite; read the log above"
    fi
    if finished "$workdir/results.json"; then
      echo "$name: finished; launch/tpu.sh clean $name gives the TPU back"
      return 0
    fi
    look ACTIVE
    checkpoint=$(newest_checkpoint)
    if [[ $state == ACTIVE && $checkpoint == "$before" ]]; then
      failures=$((failures + 1))
      ((failures < tries)) ||
        die "$name: $tries failures without a new checkpoint, while the TPU is there; read the log above"
    else
      failures=0
    fi
    before=$checkpoint
    echo "$name: not finished (TPU: ${state:-gone}, newest checkpoint: ${checkpoint:-none}); going on"
    sleep "$poll"
  done
}

case $command in
  run | train)
    require_run_flags "$@"
    workdir=$(flag_value workdir "$@")
    workdir=${workdir%/}
    mode=$(flag_value mode "$@")
    [[ $command == train || ${mode:-train} == train ]] ||
      die "--mode=$mode: run repeats until a training has finished; give it to: $0 train $name"
    [[ $workdir == gs://?* ]] || die "--workdir=$workdir: the workers share no disk; give gs://BUCKET/FOLDER"
    "$command" "$@"
    ;;
  create | install | stop | clean)
    (($# == 0)) || die "$command takes no further arguments: $1; $usage"
    "$command"
    ;;
  wait) await || die "$name: the queued resource has failed or does not exist; see launch/tpu.sh status $name" ;;
  status) act "${queued[@]}" describe "$name" "${where[@]}" ;;
  *) die "unknown command '$command'; $usage" ;;
esac
