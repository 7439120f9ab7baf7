"""The launchers' decisions, with stubs for srun, ssh and Python."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_scripts import LAUNCH, environment, executable, launch, wait_for


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
def test_slurm_requeues_a_preempted_job(tmp_path, code, stop, asked, ends):
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
import os, pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
flags = dict(word[2:].split("=", 1) for word in sys.argv[3:] if "=" in word) if sys.argv[1] == "-m" else None
if flags is None:  # the launcher asks if the run has finished
    sys.argv = sys.argv[1:]
    exec(sys.stdin.read())
index = flags.get("process", "0")
def leave(*_):
    time.sleep(0.3)  # saves
    (folder / f"saved-{{index}}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
(folder / f"pid-{{index}}").write_text(str(os.getpid()))
(folder / f"started-{{index}}").touch()
{body}
"""


@pytest.fixture
def stand_in(tmp_path):
    """Make a Python for PYTHON=… that runs `body` instead of timix_jax.main; on SIGTERM it saves and exits with 0."""

    def make(body):
        script = tmp_path / "process.py"
        script.write_text(PROCESS.format(folder=str(tmp_path), body=body))
        executable(tmp_path, "python", f'exec {sys.executable} {script} "$@"')
        return {"PYTHON": str(tmp_path / "python")}

    return make


def test_local_stops_the_others_if_one_dies(tmp_path, stand_in):
    settings = stand_in("time.sleep(1 if index == '1' else 60); sys.exit(7)")
    started = time.monotonic()
    done = launch(["local.sh", "3", "--config=a.py"], settings)
    assert done.returncode == 7
    assert time.monotonic() - started < 30
    assert {p.name for p in tmp_path.glob("saved-*")} == {"saved-0", "saved-2"}


@pytest.fixture
def interruptible():
    """Restore SIGINT: background jobs of a shell inherit that it is ignored, and bash could not trap it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("interruptible")
def test_local_stops_all_and_waits_until_they_have_saved(tmp_path, stand_in, sent, code, times):
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "local.sh"), "2", "--config=a.py"],
        env=environment(stand_in("time.sleep(60)")),
    )
    for index in range(2):
        wait_for(tmp_path / f"started-{index}")
    for _ in range(times):
        process.send_signal(sent)
        time.sleep(0.1)  # the children take 0.3 s to save
    assert process.wait(timeout=30) == code
    assert {p.name for p in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


# Freezes the first process, like a machine that hangs, and fails.
FREEZES = """
while index == "1" and not (folder / "started-0").exists():
    time.sleep(0.1)
if index == "1":
    os.kill(int((folder / "pid-0").read_text()), signal.SIGSTOP)
    sys.exit(7)
time.sleep(60)
"""


def test_local_kills_a_process_that_hangs(tmp_path, stand_in):
    settings = {**stand_in(FREEZES), "STOP_WAIT": "2"}
    done = launch(["local.sh", "2", "--config=a.py"], settings)
    assert done.returncode == 7
    assert "had not left after 2 s: killed" in done.stderr
    assert not list(tmp_path.glob("saved-*"))


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


def test_worker_in_another_mode_finishes_with_its_program(tmp_path, stand_in):
    flags = ["--config=a.py", f"--workdir={tmp_path}", "--mode=eval"]
    assert launch(["worker.sh", *flags], stand_in("pass")).returncode == 0
    assert launch(["worker.sh", *flags], stand_in("sys.exit(2)")).returncode == 2


def test_worker_told_to_stop_before_anything_could_be_saved(tmp_path, stand_in):
    body = "signal.signal(15, signal.SIG_DFL); (folder / 'deaf').touch(); time.sleep(60)"
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "worker.sh"), "--config=a.py", f"--workdir={tmp_path}"],
        env=environment(stand_in(body)),
    )
    wait_for(tmp_path / "deaf")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


def test_worker_told_to_stop_that_hangs(tmp_path, stand_in):
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "worker.sh"), "--config=a.py", f"--workdir={tmp_path}"],
        env=environment({**stand_in("time.sleep(60)"), "STOP_WAIT": "2"}),
    )
    wait_for(tmp_path / "started-0")
    os.kill(int((tmp_path / "pid-0").read_text()), signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert not (tmp_path / "saved-0").exists()


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
    """Install an ssh that runs the command locally."""
    executable(tmp_path, "ssh", 'exec bash -c "${@: -1}"')
    return tmp_path


def run_by_ssh(hosts, settings):
    name = hosts.name  # of the pid file in /tmp, which these "hosts" share
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


def test_ssh_stop_spares_another_program_with_that_process_id(hosts, stand_in):
    settings = run_by_ssh(hosts, stand_in("pass"))
    with subprocess.Popen(["sleep", "60"]) as another:
        left = Path(f"/tmp/timix_jax-{hosts.name}.pid")
        left.write_text(str(another.pid))
        try:
            assert launch(["ssh.sh", "stop"], settings).returncode == 0
            assert another.poll() is None
        finally:
            left.unlink()
            another.kill()
