"""The launchers: their commands by dry run, their decisions with stand-ins for gcloud, srun, ssh and Python."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
EXPECTED = Path(__file__).parent / "launch_expected"

# With everything that a shell could take apart.
FLAGS = [
    "--config=configs/vitb16.py",
    "--workdir=gs://bucket/my run",
    "--config.data.train=('records:gs://bucket/mine?annotated=0.1',)",
    '--config.mix.ramp="$HOME" `x` \\ *',
]
TPU = {"ZONE": "us-west4-a", "TYPE": "v5litepod-16"}
GKE = {"IMAGE": "eu.pkg.dev/p/r/timix:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x8"}
GPU = {"IMAGE": "timix:1", "ACCELERATOR": "nvidia-h100-80gb", "GPUS": "8", "HOSTS": "2"}
SSH = {"HOSTS": "gpu1 gpu2", "DIRECTORY": "/shared/timix jax"}

# name of the expectation: (settings, script and arguments)
DRY_RUNS = {
    "tpu_run": (TPU | {"SPOT": "1", "PROJECT": "mine"}, ["tpu.sh", "run", "big", *FLAGS]),
    "tpu_stop": (TPU, ["tpu.sh", "stop", "big"]),
    "tpu_clean": (TPU, ["tpu.sh", "clean", "big"]),
    "tpu_status": (TPU, ["tpu.sh", "status", "big"]),
    "gke_tpu": (GKE | {"SERVICE_ACCOUNT": "trainer"}, ["gke.sh", "run", "big", *FLAGS]),
    "gke_gpu": (GPU, ["gke.sh", "run", "big", *FLAGS]),
    "gke_stop": (GKE, ["gke.sh", "stop", "big"]),
    "gke_logs": (GKE, ["gke.sh", "logs", "big"]),
    "slurm": ({}, ["slurm.sh", *FLAGS]),
    "ssh_run": (SSH, ["ssh.sh", "run", *FLAGS]),
    "ssh_stop": (SSH, ["ssh.sh", "stop"]),
    "local": ({}, ["local.sh", "2", *FLAGS]),
    "worker": ({}, ["worker.sh", *FLAGS]),
}


def environment(settings, path=None):
    """Ours without what would change the scripts, and the settings."""
    kept = ("HOME", "LANG", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    paths = [str(path)] if path else []
    return {**env, "PATH": os.pathsep.join([*paths, os.environ["PATH"]]), **settings}


def launch(arguments, settings=None, path=None, **options):
    command = ["bash", str(LAUNCH / arguments[0]), *arguments[1:]]
    env = environment(settings or {}, path)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run(name):
    """UPDATE_EXPECTED=1 writes the files anew, to be read before they are committed."""
    settings, arguments = DRY_RUNS[name]
    done = launch(arguments, {"DRY_RUN": "1", "TMPDIR": "/tmp", **settings})
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    printed = done.stdout.replace(str(ROOT), "/checkout")
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        file.write_text(printed)
    assert printed == file.read_text()


def test_every_expectation_is_used():
    assert {file.stem for file in EXPECTED.iterdir()} == set(DRY_RUNS)


@pytest.mark.parametrize("name", ["tpu_run", "ssh_run", "gke_tpu", "gke_gpu", "slurm", "local"])
def test_flags_reach_the_process_as_they_were_given(name, tmp_path):
    """The printed command is run by the shells that would run it, down to a Python that prints its arguments."""
    settings, arguments = DRY_RUNS[name]
    printed = launch(arguments, {"DRY_RUN": "1", **settings}).stdout
    if name.startswith("gke"):
        import yaml

        (pod,) = yaml.safe_load(printed.partition("\n")[2])["spec"]["replicatedJobs"]
        container = pod["template"]["spec"]["template"]["spec"]["containers"][0]
        command = [*container["command"], *container["args"]]
    else:
        line = [text for text in printed.splitlines() if "config.data.train" in text][-1]
        command = bash_words(line)
        if name == "tpu_run":
            command = ["bash", "-c", command[-1].removeprefix("--command=")]
        elif name == "ssh_run":
            command = ["bash", "-c", command[-1]]
        elif name == "slurm":
            command = command[command.index("launch/worker.sh") :]
    words = tmp_path / "words"
    # worker.sh asks the same Python (with "-") whether the run has finished.
    prints = f'[[ $1 == - ]] || printf "%s\\0" "$@" > {shlex.quote(str(words))}'
    fake = executable(tmp_path, "python", prints)
    run = tmp_path / "timix_jax"
    shutil.copytree(LAUNCH, run / "launch")
    (run / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(fake, run / ".venv" / "bin" / "python")
    if name == "ssh_run":
        command[-1] = command[-1].replace("'/shared/timix jax'", shlex.quote(str(run)), 1)
    cwd = tmp_path if name == "tpu_run" else run
    env = environment({"JOB_COMPLETION_INDEX": "1"}, tmp_path)
    subprocess.run(command, cwd=cwd, env=env, check=True, timeout=60, capture_output=True)
    got = words.read_text().split("\0")[:-1]
    assert got[:2] == ["-m", "timix_jax.main"]
    assert got[-len(FLAGS) :] == FLAGS


def bash_words(line: str) -> list[str]:
    """The words of a line as bash reads them, ``$'…'`` too."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


# settings, arguments, what the one line must say
REFUSED = [
    ({}, ["tpu.sh"], "usage: ZONE="),
    (TPU, ["tpu.sh", "fly", "big"], "unknown command 'fly'"),
    (TPU, ["tpu.sh", "run", "Big_1", *FLAGS], "NAME 'Big_1'"),
    ({}, ["tpu.sh", "status", "big"], "ZONE is not set"),
    ({"ZONE": "z"}, ["tpu.sh", "create", "big"], "TYPE is not set"),
    (TPU, ["tpu.sh", "run", "big"], "--config=FILE is missing"),
    (TPU, ["tpu.sh", "run", "big", "--config=a.py"], "--workdir=FOLDER is missing"),
    (TPU, ["tpu.sh", "run", "big", "--config=a.py", "--workdir=runs/x"], "give gs://BUCKET"),
    (TPU, ["tpu.sh", "stop", "big", "now"], "stop takes no further arguments: now"),
    ({}, ["gke.sh", "run"], "usage: IMAGE="),
    ({}, ["gke.sh", "run", "big", *FLAGS], "IMAGE is not set"),
    (GKE | {"TOPOLOGY": "16"}, ["gke.sh", "run", "big", *FLAGS], "TOPOLOGY='16'"),
    (GKE | {"CHIPS": "four"}, ["gke.sh", "run", "big", *FLAGS], "CHIPS='four'"),
    (GKE, ["gke.sh", "run", "b" * 41, *FLAGS], "at most 40"),
    (GKE, ["gke.sh", "run", "big", "--config=a.py", "--workdir=/x"], "give gs://BUCKET"),
    ({}, ["slurm.sh"], "--config=FILE is missing"),
    ({}, ["slurm.sh", "--config", "a.py"], "'a.py' is no flag"),
    ({"SLURM_SUBMIT_DIR": "/tmp"}, ["slurm.sh", *FLAGS], "/tmp is no checkout"),
    ({}, ["ssh.sh"], "usage: HOSTS="),
    ({}, ["ssh.sh", "run", *FLAGS], "HOSTS is not set"),
    (SSH | {"PORT": "http"}, ["ssh.sh", "run", *FLAGS], "PORT='http'"),
    (SSH | {"NAME": "a/b"}, ["ssh.sh", "stop"], "NAME='a/b'"),
    (SSH, ["ssh.sh", "run", "--workdir=/x"], "--config=FILE is missing"),
    ({}, ["local.sh"], "usage: "),
    ({}, ["local.sh", "two", "--config=a.py"], "usage: "),
    ({}, ["local.sh", "2", "--workdir=x"], "--config=FILE is missing"),
    ({"PORT": "0"}, ["local.sh", "2", "--config=a.py"], "PORT='0'"),
    ({}, ["worker.sh", "--config=a.py"], "--workdir=FOLDER is missing"),
]


@pytest.mark.parametrize(("settings", "arguments", "message"), REFUSED)
def test_mistakes_are_one_line(settings, arguments, message):
    done = launch(arguments, {"DRY_RUN": "1", **settings})
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_shellcheck():
    scripts = sorted(map(str, LAUNCH.glob("*.sh")))
    tool = shutil.which("shellcheck") or str(Path(sys.executable).parent / "shellcheck")
    done = subprocess.run([tool, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_headers_say_what_is_needed_and_how_to_stop():
    for script in LAUNCH.glob("*.sh"):
        if script.name == "commands.sh":  # sourced only
            continue
        header = re.split(r"\n(?!#)", script.read_text())[0]
        wanted = ("Needs", "Stop", "lean up", "DRY_RUN=1")
        for said in ("Exit code", "SIGTERM") if script.name == "worker.sh" else wanted:
            assert said in header, script.name


def executable(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cloud(tmp_path):
    """A gcloud with one TPU: preempted once while it trains, then it finishes. Logs what it is asked."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    state, log = tmp_path / "state", tmp_path / "log"
    executable(
        bin_,
        "gcloud",
        f"""
log() {{ echo "$1" >> {log}; }}
case "$*" in
  "storage ls"*results.json) [[ -e {tmp_path}/finished ]] && echo "${{@: -1}}" || exit 1 ;;
  "storage ls"*checkpoints/) ls {tmp_path}/checkpoints 2>/dev/null ;;
  *"queued-resources describe"*) [[ -e {state} ]] && cat {state} || exit 1 ;;
  *"queued-resources create"*) log create; echo ACTIVE > {state} ;;
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


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
        ("sys.exit(2)", 2),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_worker_tells_finished_from_preempted(tmp_path, stand_in, body, code):
    done = launch(["worker.sh", "--config=a.py", f"--workdir={tmp_path}"], stand_in(body))
    assert done.returncode == code


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
