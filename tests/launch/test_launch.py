"""The launchers' commands in a dry run, and the arguments they refuse."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch_scripts import LAUNCH, ROOT, TPU, environment, executable, launch

EXPECTED = Path(__file__).parent / "expected"

# With every character that a shell could misinterpret.
FLAGS = [
    "--config=configs/vitb16.py",
    "--workdir=gs://bucket/my run",
    "--config.data.train=('records:gs://bucket/mine?annotated=0.1',)",
    '--config.mix.ramp="$HOME" `x` \\ *',
]
GKE = {"IMAGE": "eu.pkg.dev/p/r/timix:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x8"}
GPU = {"IMAGE": "timix:1", "ACCELERATOR": "nvidia-h100-80gb", "GPUS": "8", "HOSTS": "2"}
SSH = {"HOSTS": "gpu1 gpu2", "DIRECTORY": "/shared/timix jax"}

# Name of the expected output: (settings, script and arguments).
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


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run(name):
    """UPDATE_EXPECTED=1 rewrites the files; review them before committing."""
    settings, arguments = DRY_RUNS[name]
    done = launch(arguments, {"DRY_RUN": "1", "TMPDIR": "/tmp", **settings})
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    printed = done.stdout.replace(str(ROOT), "/checkout")
    file = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        file.write_text(printed)
    assert printed == file.read_text()


def test_every_expected_file_is_used():
    assert {file.stem for file in EXPECTED.iterdir()} == set(DRY_RUNS)


@pytest.mark.parametrize("name", ["tpu_run", "ssh_run", "gke_tpu", "gke_gpu", "slurm"])
def test_machines_that_start_minutes_apart_wait_for_one_another(name):
    settings, arguments = DRY_RUNS[name]
    for given, expected in ([], "900"), (["--connect_timeout=33"], "33"):
        printed = launch([*arguments, *given], {"DRY_RUN": "1", **settings}).stdout
        assert set(re.findall(r"--connect_timeout=(\d+)", printed)) == {expected}


@pytest.mark.parametrize("name", ["tpu_run", "ssh_run"])
def test_stop_wait_reaches_the_other_machines(name):
    settings, arguments = DRY_RUNS[name]
    printed = launch(arguments, {"DRY_RUN": "1", "STOP_WAIT": "33", **settings}).stdout
    assert set(re.findall(r"export STOP_WAIT=(\S+)", printed)) == {"33"}


@pytest.mark.parametrize("name", ["tpu_run", "ssh_run", "gke_tpu", "gke_gpu", "slurm", "local"])
def test_flags_reach_the_process_unchanged(name, tmp_path):
    """Run the printed command through its shells, down to a Python that prints its arguments."""
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
    """Split a line into words as bash does, including `$'…'`."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


# Settings, arguments, part of the error line.
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
    ({}, ["slurm.sh", "--config", "a.py"], "'a.py' is not a flag"),
    ({"SLURM_SUBMIT_DIR": "/tmp"}, ["slurm.sh", *FLAGS], "/tmp is not a checkout"),
    ({}, ["ssh.sh"], "usage: HOSTS="),
    ({}, ["ssh.sh", "run", *FLAGS], "HOSTS is not set"),
    (SSH | {"PORT": "http"}, ["ssh.sh", "run", *FLAGS], "PORT='http'"),
    (SSH | {"NAME": "a/b"}, ["ssh.sh", "stop"], "NAME='a/b'"),
    (SSH | {"STOP_WAIT": "soon"}, ["ssh.sh", "run", *FLAGS], "STOP_WAIT='soon'"),
    (TPU | {"STOP_WAIT": "-1"}, ["tpu.sh", "run", "big", *FLAGS], "STOP_WAIT='-1'"),
    (TPU | {"TRIES": "x"}, ["tpu.sh", "run", "big", *FLAGS], "TRIES='x'"),
    (TPU | {"POLL": "soon"}, ["tpu.sh", "run", "big", *FLAGS], "POLL='soon'"),
    (TPU, ["tpu.sh", "run", "big", *FLAGS, "--mode=eval"], "train big"),
    (SSH, ["ssh.sh", "run", "--workdir=/x"], "--config=FILE is missing"),
    ({}, ["local.sh"], "usage: "),
    ({}, ["local.sh", "two", "--config=a.py"], "usage: "),
    ({}, ["local.sh", "2", "--workdir=x"], "--config=FILE is missing"),
    ({"PORT": "0"}, ["local.sh", "2", "--config=a.py"], "PORT='0'"),
    ({}, ["worker.sh", "--config=a.py"], "--workdir=FOLDER is missing"),
]


@pytest.mark.parametrize(("settings", "arguments", "message"), REFUSED)
def test_user_errors_are_one_line(settings, arguments, message):
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


def test_headers_name_needs_and_how_to_stop():
    for script in LAUNCH.glob("*.sh"):
        if script.name == "commands.sh":  # sourced only
            continue
        header = re.split(r"\n(?!#)", script.read_text())[0]
        expected = ("Needs", "Stop", "lean up", "DRY_RUN=1")
        for said in ("Exit code", "SIGTERM") if script.name == "worker.sh" else expected:
            assert said in header, script.name
