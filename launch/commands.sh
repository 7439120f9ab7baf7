# shellcheck shell=bash
# Sourced by the launchers: commands that are run, or with DRY_RUN=1 printed so that they could be pasted.

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# The words so quoted that a shell reads them back as they are.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Runs a command; with DRY_RUN=1 prints it and succeeds.
act() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# ask ANSWER COMMAND…: what the command prints; with DRY_RUN=1 the command is shown and ANSWER is printed.
ask() {
  local answer=$1
  shift
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "$(quoted "$@")" >&3
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}
exec 3>&1

# For ssh: a machine that no longer answers ends the connection after two minutes; without them, after hours.
# shellcheck disable=SC2034 # for those that source this
alive=("ConnectTimeout=30" "ServerAliveInterval=30" "ServerAliveCountMax=4")

# Sets `patience`: for how many seconds a process that is told to stop may save.
read_patience() {
  patience=${STOP_WAIT:-900}
  [[ $patience =~ ^(0|[1-9][0-9]*)$ ]] || die "STOP_WAIT='$patience': give a number of seconds"
}

# leave SECONDS PID…: asks these children to leave, waits, and kills who has not left after as many seconds.
leave() {
  local seconds=$1 until=$((SECONDS + $1)) child
  shift
  kill "$@" 2>/dev/null || true
  while ((SECONDS < until)) && kill -0 "$@" 2>/dev/null; do # true as long as one of them is there
    sleep 0.2
  done
  for child in "$@"; do
    ! kill -KILL "$child" 2>/dev/null || echo "error: process $child had not left after $seconds s: killed" >&2
  done
}

# flag_value NAME FLAG…: the value of the last --NAME=VALUE among the flags; empty where there is none.
flag_value() {
  local name=$1 flag value=""
  shift
  for flag in "$@"; do
    [[ $flag == "--$name="* ]] && value=${flag#*=}
  done
  printf '%s' "$value"
}

# longer_wait FLAG…: a --connect_timeout for pods and machines that start minutes apart; empty where one is given.
longer_wait() {
  [[ -n $(flag_value connect_timeout "$@") ]] || printf '%s' --connect_timeout=900
}

# Ends the script unless the flags of a run are there; a folder that machines share must be named.
require_run_flags() {
  local flag
  for flag in "$@"; do
    [[ $flag == --* ]] || die "'$flag' is no flag: give flags of timix_jax.main as --NAME=VALUE"
  done
  [[ -n $(flag_value config "$@") ]] || die "--config=FILE is missing, such as --config=configs/vitb16.py"
  [[ -n $(flag_value workdir "$@") ]] ||
    die "--workdir=FOLDER is missing: give a folder that all machines share, such as gs://BUCKET/run"
}
