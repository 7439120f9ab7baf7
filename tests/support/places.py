"""Places where two processes run: on this host, or as two hosts."""

import os
import pathlib
import shutil
import socket
import subprocess
from typing import NamedTuple

import pytest


class Places(NamedTuple):
    """Prefixes of the commands of two processes, and the address of the first."""

    prefixes: list[list[str]]
    address: str


@pytest.fixture
def loopback():
    return Places([[], []], "127.0.0.1")


@pytest.fixture
def namespaces():
    """Create two connected network namespaces, which look like two hosts to the processes."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"timix{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]

    def ip(*arguments):
        return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)

    made = ip("netns", "add", names[0])
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        cable = ["veth0", "type", "veth", "peer", "name", "veth0", "netns", names[1]]
        laid = ip("link", "add", "netns", names[0], *cable)
        assert laid.returncode == 0, laid.stderr
        for name, address in zip(names, addresses, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            # Gloo connects to the address of the host's name.
            hosts = pathlib.Path("/etc/netns") / name / "hosts"
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        yield Places([["ip", "netns", "exec", name] for name in names], addresses[0])
    finally:
        for name in names:
            ip("netns", "delete", name)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
