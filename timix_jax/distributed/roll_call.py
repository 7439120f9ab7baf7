"""Are all processes there, and of one mind about their number? Asked before JAX connects them.

JAX ends a process without a Python error when the others do not come, and does not say which one is missing. So
process 0 first listens at the coordinator's address itself: each other process sends its index and the number of
processes that it was told, and all get the same answer.
"""

import contextlib
import errno
import json
import os
import socket
import time
from typing import Any, BinaryIO

from timix_jax.errors import RunError, UserError

_RETRY_S = 0.2
_ANSWER_S = 5.0  # beyond the time limit, for the answer to arrive
_NAMED = 5


def call_roll(coordinator: str, processes: int, process: int, *, timeout_s: float) -> None:
    """Returns when all processes are there.

    Args:
      coordinator: `host:port` of process 0; the port is free again afterwards.
      processes: how many there are.
      process: the index of this one.
      timeout_s: how long to wait for the others.

    Raises:
      UserError: no such address, or processes that do not fit together; on all processes that can be reached.
      RunError: a port that is in use, or a process that did not come in time; likewise.
    """
    host, port = split_address(coordinator)
    if process == 0:
        _listen(host, port, processes, timeout_s)
    else:
        _report(host, port, processes, process, timeout_s)


def split_address(coordinator: str) -> tuple[str, int]:
    """`"host:1234"` → ("host", 1234); an IPv6 address stands in brackets."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator}: give HOST:PORT of process 0, such as 10.0.0.1:12355"
        )
    return host.strip("[]"), int(port)


def _listen(host: str, port: int, processes: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    connections: list[socket.socket] = []
    present: dict[int, socket.socket] = {}
    problem, missing = "", False
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server(port))
        while len(present) < processes - 1 and not problem:
            server.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                connection = stack.enter_context(server.accept()[0])
            except TimeoutError:
                problem, missing = _missing(host, port, processes, set(present), timeout_s), True
                break
            connection.settimeout(_ANSWER_S)
            said = _read_line(connection.makefile("rb"))
            if not isinstance(said.get("process"), int):
                connection.close()  # not one of ours
                continue
            _send(connection, {"heard": True})
            connections.append(connection)
            problem = _misfit(said, processes, present)
            present[said["process"]] = connection
        for connection in connections:
            _send(connection, {"problem": problem, "missing": missing})
    if problem:
        raise (RunError if missing else UserError)(problem)


def _server(port: int) -> socket.socket:
    try:
        # As JAX will do; SO_REUSEADDR is set, so that a run that has just ended does not block the port.
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise RunError(
            f"--coordinator=…:{port}: process 0 cannot listen at port {port} ({why}); stop what uses it, or give all"
            " processes another port"
        ) from error


def _missing(host: str, port: int, processes: int, present: set[int], timeout_s: float) -> str:
    missing = [i for i in range(1, processes) if i not in present]
    named = ", ".join(map(str, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
    what = f"process {named}" if len(missing) == 1 else f"processes {named}"
    hint = ""
    if not present and not _is_local(host):
        hint = f"; {host} is no address of this machine, where process 0 runs"
    return (
        f"--processes={processes}: {what} did not come to --coordinator={host}:{port} within"
        f" --connect_timeout={timeout_s:g} s{hint}; start all of them, or mend --processes or --coordinator"
    )


def _misfit(said: dict[str, Any], processes: int, present: dict[int, socket.socket]) -> str:
    process, count = said["process"], said.get("processes")
    if count != processes:
        return (
            f"process {process} was started with --processes={count} and process 0 with --processes={processes}: give"
            " all the same number"
        )
    if process in present and not _is_closed(present[process]):
        return f"two processes were started with --process={process}: give each its own index"
    return ""


def _is_local(host: str) -> bool:
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(address)
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, socket.EAI_NONAME)
    return True


def _report(host: str, port: int, processes: int, process: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(_RETRY_S, deadline - time.monotonic())
        reason, answer = "", dict[str, Any]()
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                _send(connection, {"process": process, "processes": processes})
                lines = connection.makefile("rb")
                if _read_line(lines).get("heard"):
                    # Process 0 may have been started later than this one, and has its own time limit.
                    connection.settimeout(timeout_s + _ANSWER_S)
                    answer = _read_line(lines)
                    reason = "process 0 went away while it waited for the others"
                else:
                    reason = (
                        "what answers is not process 0 at its start, but another program or run"
                    )
        except OSError as error:
            reason = error.strerror or str(error)
        if answer.get("problem") == "":
            return
        if answer.get("problem"):
            raise (RunError if answer.get("missing") else UserError)(answer["problem"])
        if time.monotonic() + _RETRY_S > deadline:
            raise RunError(
                f"--coordinator={host}:{port}: process {process} of {processes} did not reach process 0 there within"
                f" --connect_timeout={timeout_s:g} s ({reason}); start process 0, open the port, or mend --coordinator"
            )
        time.sleep(_RETRY_S)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it has gone: whoever waits for it will say so
        connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(lines: BinaryIO) -> dict[str, Any]:
    """One line of JSON; empty where something else, or nothing, comes."""
    try:
        said = json.loads(lines.readline(4096))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_closed(connection: socket.socket) -> bool:
    """True where the other side has gone; it was to send one line only, which has been read."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_ANSWER_S)
