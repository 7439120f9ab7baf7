"""The launchers' decisions, with stand-ins for gcloud, srun, ssh and Python."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from launch_scripts import LAUNCH, TPU, environment, executable, launch


@pytest.fixture
def cloud(tmp_path):
    """A gcloud with one TPU: preempted once while it trains, then it finishes. Logs what it is asked.

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
  *"tpu-vm ssh"*worker.sh*) log train; {tmp_path}/train ;;
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


def test_a_program_that_fails_is_not_started_for_ever(cloud):
    executable(cloud, "train", "exit 1")
    done = launch(RUN_TPU, TPU | {"POLL": "0", "TRIES": "2"}, cloud / "bin")
    assert done.returncode == 2
    assert "2 failures without a new checkpoint" in done.stderr
    assert (cloud / "log").read_text().split().count("train") == 2
    assert "delete" not in (cloud / "log").read_text()


@pytest.fixture
def slept(cloud):
    """A sleep that only notes how long."""
    executable(cloud / "bin", "sleep", f'echo "sleep $1" >> {cloud}/log')


LIVES = ["copy", "install", "train"]


@pytest.mark.usefixtures("slept")
def test_a_gcloud_that_fails_for_a_while_is_asked_again(cloud):
    """Before it is known whether there is a TPU, and while it trains: none is created beside it."""
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
def test_a_gcloud_that_never_says_how_the_tpu_is(cloud):
    (cloud / "fails-describe").write_text("UNAVAILABLE\n" * 200)
    done = launch(RUN_TPU, TPU, cloud / "bin")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: big: gcloud has not told the state")
    log = (cloud / "log").read_text().splitlines()
    assert log == ["describe failed", "sleep 30"] * 120


@pytest.mark.usefixtures("slept")
@pytest.mark.parametrize(("refused", "ends"), [(2, 0), (3, 2)])
def test_a_tpu_that_cannot_be_created_is_tried_for_again(cloud, refused, ends):
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
def test_a_tpu_that_fails_is_not_asked_for_without_a_pause(cloud):
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


def test_a_mistake_is_not_tried_again(cloud):
    executable(cloud, "train", "exit 2")
    done = launch(RUN_TPU, TPU | {"POLL": "0"}, cloud / "bin")
    assert done.returncode == 2
    assert "error: big: a mistake in flags or configuration" in done.stderr
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


def wait_for(path, seconds=30):
    for _ in range(seconds * 20):
        if path.exists():
            return
        time.sleep(0.05)
    raise TimeoutError(path)


@pytest.mark.parametrize(
    ("code", "stop", "asked", "ends"),
    [
        (0, False, [], 0),
        (75, False, ["requeue 7"], 0),
        (75, True, [], 0),
        (143, False, ["requeue 7"], 0),
        (143, True, [], 0),
        (2, False, [], 2),
        (134, False, [], 134),
    ],
)
def test_slurm_queues_what_was_preempted_again(tmp_path, code, stop, asked, ends):
    executable(tmp_path, "srun", f"exit {code}")
    executable(tmp_path, "scontrol", f'echo "$*" >> {tmp_path}/log')
    root = tmp_path / "checkout"
    shutil.copytree(LAUNCH, root / "launch")
    if stop:
        (root / "stop-7").touch()
    settings = {"SLURM_SUBMIT_DIR": str(root), "SLURM_JOB_ID": "7"}
    done = launch(["slurm.sh", "--config=a.py", f"--workdir={root}/run"], settings, tmp_path)
    assert done.returncode == ends
    log = tmp_path / "log"
    assert (log.read_text().splitlines() if log.exists() else []) == asked
    assert not (root / "stop-7").exists()


PROCESS = """
import pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
flags = dict(word[2:].split("=", 1) for word in sys.argv[3:] if "=" in word) if sys.argv[1] == "-m" else None
if flags is None:  # the question whether the run has finished
    sys.argv = sys.argv[1:]
    exec(sys.stdin.read())
index = flags.get("process", "0")
def leave(*_):
    time.sleep(0.3)  # saves
    (folder / f"saved-{{index}}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
(folder / f"started-{{index}}").touch()
{body}
"""


@pytest.fixture
def stand_in(tmp_path):
    """A Python for PYTHON=…: does ``body`` in the place of timix_jax.main; SIGTERM lets it save and leave with 0."""

    def make(body):
        script = tmp_path / "process.py"
        script.write_text(PROCESS.format(folder=str(tmp_path), body=body))
        executable(tmp_path, "python", f'exec {sys.executable} {script} "$@"')
        return {"PYTHON": str(tmp_path / "python")}

    return make


def test_local_one_that_dies_takes_the_others_along(tmp_path, stand_in):
    settings = stand_in("time.sleep(1 if index == '1' else 60); sys.exit(7)")
    started = time.monotonic()
    done = launch(["local.sh", "3", "--config=a.py"], settings)
    assert done.returncode == 7
    assert time.monotonic() - started < 30
    assert {p.name for p in tmp_path.glob("saved-*")} == {"saved-0", "saved-2"}


@pytest.fixture
def interruptible():
    """Tests that are a shell's background job inherit that SIGINT is ignored, and bash then could not trap it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("interruptible")
def test_local_stops_all_and_waits_until_they_have_saved(tmp_path, stand_in, sent, code):
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), "2", "--config=a.py"],
        env=environment(stand_in("time.sleep(60)")),
    )
    for index in range(2):
        wait_for(tmp_path / f"started-{index}")
    process.send_signal(sent)
    assert process.wait(timeout=30) == code
    assert {p.name for p in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


def test_local_all_finish(stand_in):
    assert launch(["local.sh", "2", "--config=a.py"], stand_in("")).returncode == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("(folder / 'results.json').write_text('{}')", 0),
        ("pass", 75),
        ("signal.signal(15, signal.SIG_DFL); signal.raise_signal(15)", 75),
        ("sys.exit(2)", 2),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_worker_tells_finished_from_preempted(tmp_path, stand_in, body, code):
    done = launch(["worker.sh", "--config=a.py", f"--workdir={tmp_path}"], stand_in(body))
    assert done.returncode == code


def test_worker_told_to_stop_before_anything_could_be_saved(tmp_path, stand_in):
    body = "signal.signal(15, signal.SIG_DFL); (folder / 'deaf').touch(); time.sleep(60)"
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "worker.sh"), "--config=a.py", f"--workdir={tmp_path}"],
        env=environment(stand_in(body)),
    )
    wait_for(tmp_path / "deaf")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def test_worker_passes_sigterm_on_and_waits(tmp_path, stand_in):
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "worker.sh"), "--config=a.py", f"--workdir={tmp_path}"],
        env=environment(stand_in("time.sleep(60)")),
    )
    wait_for(tmp_path / "started-0")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert (tmp_path / "saved-0").exists()


@pytest.fixture
def hosts(tmp_path):
    """An ssh that runs the command here."""
    executable(tmp_path, "ssh", 'exec bash -c "${@: -1}"')
    return tmp_path


def run_by_ssh(hosts, settings):
    name = hosts.name  # of the pid file in /tmp, which these hosts share
    return {
        "HOSTS": "one",
        "NAME": name,
        "PATH": f"{hosts}{os.pathsep}{os.environ['PATH']}",
        **settings,
    }


def test_ssh_runs_workers_and_reports(hosts, stand_in):
    settings = run_by_ssh(hosts, stand_in("sys.exit(0 if flags['processes'] == '1' else 9)"))
    done = launch(["ssh.sh", "run", "--config=a.py", f"--workdir={hosts}"], settings)
    assert done.returncode == 75, done.stderr
    (hosts / "results.json").write_text("{}")
    assert (
        launch(["ssh.sh", "run", "--config=a.py", f"--workdir={hosts}"], settings).returncode == 0
    )


def test_ssh_stop_lets_the_workers_save(hosts, stand_in):
    settings = run_by_ssh(hosts, stand_in("time.sleep(60)"))
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "ssh.sh"), "run", "--config=a.py", f"--workdir={hosts}"],
        env=environment(settings),
    )
    wait_for(hosts / "started-0")
    assert launch(["ssh.sh", "stop"], settings).returncode == 0
    assert process.wait(timeout=30) == 75
    assert (hosts / "saved-0").exists()
