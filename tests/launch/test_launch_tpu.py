"""Decisions of the Cloud TPU launcher, with a stub for gcloud."""

import signal
import subprocess

import pytest
from launch_scripts import LAUNCH, TPU, environment, executable, launch, wait_for


@pytest.fixture
def cloud(tmp_path):
    """Install a gcloud with one TPU that is preempted once and then finishes; it logs its calls.

    Each line in "fails-describe" or "fails-create" makes that command fail once, with the line as the reason.
    """
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    state, log = tmp_path / "state", tmp_path / "log"
    executable(
        bin_,
        "gcloud",
        f"""
log() {{ echo "$1" >> {log}; }}
refuse() {{ echo "ERROR: (gcloud.compute.tpus.queued-resources) $1" >&2; exit 1; }}
fail() {{ # COMMAND
  local file={tmp_path}/fails-$1 why
  [[ -s $file ]] || return 0
  why=$(head -n 1 "$file")
  sed -i 1d "$file"
  log "$1 failed"
  refuse "$why: try again later"
}}
case "$*" in
  "storage ls"*results.json) [[ -e {tmp_path}/finished ]] && echo "${{@: -1}}" || exit 1 ;;
  "storage ls"*checkpoints/) ls {tmp_path}/checkpoints 2>/dev/null ;;
  *"queued-resources describe"*) fail describe
    [[ -e {state} ]] || refuse "NOT_FOUND: Resource 'big' was not found."
    echo "Updates are available." >&2; cat {state} ;;
  *"queued-resources create"*) fail create
    [[ ! -e {state} ]] || refuse "ALREADY_EXISTS: Resource 'big' already exists."
    log create; echo ACTIVE > {state} ;;
  *"queued-resources delete"*) log delete; rm {state} ;;
  *"tpu-vm scp"*) log copy ;;
  *"tpu-vm ssh"*"exec launch/worker.sh"*) log train; {tmp_path}/train ;;
  *"tpu-vm ssh"*uv*) log install ;;
  *"tpu-vm ssh"*) log stop; touch {tmp_path}/stop ;;
  *) log "unknown: $*"; exit 1 ;;
esac""",
    )
    executable(bin_, "git", "exit 0")
    executable(
        tmp_path,
        "train",
        f"""
mkdir -p {tmp_path}/checkpoints
if [[ ! -e {tmp_path}/checkpoints/00000010 ]]; then
  touch {tmp_path}/checkpoints/00000010; echo SUSPENDED > {state}; exit 255
fi
touch {tmp_path}/finished""",
    )
    return tmp_path


RUN_TPU = ["tpu.sh", "run", "big", "--config=a.py", "--workdir=gs://bucket/run"]


def test_tpu_is_created_again_after_a_preemption(cloud):
    done = launch(RUN_TPU, TPU | {"POLL": "0"}, cloud / "bin")
    assert done.returncode == 0, done.stderr
    once = ["copy", "install", "train"]
    log = (cloud / "log").read_text().split()
    assert log == ["create", *once, "delete", "create", *once]
    assert "not finished (TPU: SUSPENDED, newest checkpoint: 00000010)" in done.stdout
    again = launch(RUN_TPU, TPU | {"POLL": "0"}, cloud / "bin")
    assert again.returncode == 0
    assert "finished" in again.stdout
    assert (cloud / "log").read_text().split() == log


def test_workdir_with_a_trailing_slash_is_found_finished(cloud):
    run = [*RUN_TPU[:-1], "--workdir=gs://bucket/run/"]
    done = launch(run, {"DRY_RUN": "1", **TPU})
    asked = [line for line in done.stdout.splitlines() if line.startswith("gcloud storage ls")]
    assert set(asked) == {"gcloud storage ls gs://bucket/run/results.json"}


def test_failing_program_is_not_restarted_forever(cloud):
    executable(cloud, "train", "exit 1")
    done = launch(RUN_TPU, TPU | {"POLL": "0", "TRIES": "2"}, cloud / "bin")
    assert done.returncode == 2
    assert "2 failures without a new checkpoint" in done.stderr
    assert (cloud / "log").read_text().split().count("train") == 2
    assert "delete" not in (cloud / "log").read_text()


@pytest.fixture
def slept(cloud):
    """Install a sleep that only records its duration."""
    executable(cloud / "bin", "sleep", f'echo "sleep $1" >> {cloud}/log')


LIVES = ["copy", "install", "train"]


@pytest.mark.usefixtures("slept")
def test_gcloud_that_fails_for_a_while_is_asked_again(cloud):
    """It fails before and during training, and no second TPU is created."""
    (cloud / "state").write_text("ACTIVE\n")
    (cloud / "checkpoints").mkdir()
    (cloud / "checkpoints" / "00000010").touch()
    executable(
        cloud,
        "train",
        f"""
if [[ -e {cloud}/once ]]; then touch {cloud}/finished; exit 0; fi
touch {cloud}/once; echo "UNAVAILABLE" > {cloud}/fails-describe; exit 255""",
    )
    (cloud / "fails-describe").write_text("UNAVAILABLE\nINTERNAL\n")
    done = launch(RUN_TPU, TPU | {"POLL": "7"}, cloud / "bin")
    assert done.returncode == 0, done.stderr
    assert "big: asking again in 7 s, as gcloud says: ERROR: (gcloud" in done.stderr
    again = ["describe failed", "sleep 7"]
    log = (cloud / "log").read_text().splitlines()
    assert log == [*again, *again, *LIVES, *again, "sleep 7", *LIVES]


@pytest.mark.usefixtures("slept")
def test_gcloud_that_never_tells_the_state(cloud):
    (cloud / "fails-describe").write_text("UNAVAILABLE\n" * 200)
    done = launch(RUN_TPU, TPU, cloud / "bin")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: big: gcloud failed to tell the state")
    log = (cloud / "log").read_text().splitlines()
    assert log == ["describe failed", "sleep 30"] * 120


@pytest.mark.usefixtures("slept")
@pytest.mark.parametrize(("refused", "ends"), [(2, 0), (3, 2)])
def test_creating_a_tpu_is_retried(cloud, refused, ends):
    (cloud / "fails-create").write_text("503\n" * refused)
    done = launch(RUN_TPU, TPU | {"POLL": "7", "TRIES": "3"}, cloud / "bin")
    assert done.returncode == ends, done.stderr
    log = (cloud / "log").read_text().splitlines()
    tried = ["create failed", "sleep 7"] * 2
    if ends:
        assert "error: big: no TPU after 3 tries (state none)" in done.stderr
        assert log == [*tried, "create failed"]
    else:
        assert log[:8] == [*tried, "create", *LIVES]


@pytest.mark.usefixtures("slept")
def test_failed_tpu_is_not_recreated_without_a_pause(cloud):
    executable(
        cloud / "bin", "rm", f"echo FAILED > {cloud}/state"
    )  # deleted, it comes back as failed
    (cloud / "state").write_text("FAILED\n")
    done = launch(RUN_TPU, TPU | {"POLL": "7", "TRIES": "3"}, cloud / "bin")
    assert done.returncode == 2
    assert "no TPU after 3 tries (state FAILED)" in done.stderr
    assert (cloud / "log").read_text().splitlines() == [
        "delete",
        "sleep 7",
        "delete",
        "sleep 7",
        "delete",
    ]


def test_user_error_is_not_retried(cloud):
    executable(cloud, "train", "exit 2")
    done = launch(RUN_TPU, TPU | {"POLL": "0"}, cloud / "bin")
    assert done.returncode == 2
    assert "error: big: a user error in flags or configuration" in done.stderr
    assert (cloud / "log").read_text().split().count("train") == 1


def test_interrupting_the_tpu_launcher_stops_all_workers(cloud):
    executable(
        cloud, "train", f"touch {cloud}/training; while [[ ! -e {cloud}/stop ]]; do sleep 0.1; done"
    )
    process = subprocess.Popen(
        ["bash", str(LAUNCH / RUN_TPU[0]), *RUN_TPU[1:]],
        env=environment(TPU | {"POLL": "0"}, cloud / "bin"),
        stderr=subprocess.PIPE,
    )
    wait_for(cloud / "training")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (cloud / "log").read_text().split()[-1] == "stop"
