"""All processes there or not, and of one mind or not: each of them hears it, in time."""

import socket
import threading
import time

import pytest

from timix_jax.distributed.roll_call import call_roll
from timix_jax.errors import FAULT_CODE, MISTAKE_CODE, UserError

LONG, SHORT = 60, 2


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def call(*processes, timeout_s, coordinator=None, code=MISTAKE_CODE):
    """Calls the roll as each (process, processes) at once; what each of them was told, "" for nothing.

    `code`: of the exit that each error must mean.
    """
    coordinator = coordinator or f"127.0.0.1:{free_port()}"
    told, codes = [None] * len(processes), set()

    def one(place, process, count):
        try:
            call_roll(coordinator, count, process, timeout_s=timeout_s)
            told[place] = ""
        except UserError as error:
            told[place] = str(error)
            codes.add(error.exit_code)

    threads = [
        threading.Thread(target=one, args=(place, *who)) for place, who in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * timeout_s + 30)
    assert None not in told
    assert codes <= {code}
    assert not any("\n" in text for text in told)
    return told


def test_all_are_there_and_the_port_is_free_again():
    coordinator = f"127.0.0.1:{free_port()}"
    for _ in range(2):
        who = [(3, 4), (1, 4), (0, 4), (2, 4)]
        assert call(*who, timeout_s=LONG, coordinator=coordinator) == [""] * 4
    with socket.create_server(("127.0.0.1", int(coordinator.split(":")[1]))):
        pass


def test_one_process_waits_for_nobody():
    assert call((0, 1), timeout_s=LONG) == [""]


def test_the_missing_one_is_named_to_all_that_came():
    told = call((0, 4), (1, 4), (3, 4), timeout_s=SHORT, code=FAULT_CODE)
    assert len(set(told)) == 1
    assert "--processes=4: process 2 did not come to --coordinator=127.0.0.1:" in told[0]
    assert "within --connect_timeout=2 s" in told[0]


def test_the_missing_ones_are_named_where_the_address_is_another_machine_s():
    (told,) = call(
        (0, 20), timeout_s=SHORT, coordinator=f"192.0.2.1:{free_port()}", code=FAULT_CODE
    )
    assert "processes 1, 2, 3, 4, 5, … did not come" in told
    assert "192.0.2.1 is no address of this machine, where process 0 runs" in told


def test_another_number_of_processes_is_told_at_once():
    begin = time.monotonic()
    told = call((0, 3), (2, 4), timeout_s=LONG)  # process 1 is still on its way
    assert time.monotonic() - begin < LONG
    for text in told:
        assert text.startswith("process 2 was started with --processes=4 and process 0 with --pro")


def test_the_same_index_twice():
    coordinator = f"127.0.0.1:{free_port()}"
    told = call((0, 3), (1, 3), (1, 3), timeout_s=LONG, coordinator=coordinator)
    assert told == ["two processes were started with --process=1: give each its own index"] * 3


def test_nobody_at_the_coordinator():
    port = free_port()
    (told,) = call((1, 2), timeout_s=SHORT, coordinator=f"127.0.0.1:{port}", code=FAULT_CODE)
    assert f"--coordinator=127.0.0.1:{port}: process 1 of 2 did not reach process 0" in told
    assert "refused" in told
    (told,) = call((1, 2), timeout_s=SHORT, coordinator="nowhere.invalid:1234", code=FAULT_CODE)
    assert "--coordinator=nowhere.invalid:1234: process 1 of 2 did not reach process 0" in told


def test_a_port_in_use():
    with socket.create_server(("", free_port())) as other:
        port = other.getsockname()[1]
        told = call(
            (0, 2), (1, 2), timeout_s=SHORT, coordinator=f"127.0.0.1:{port}", code=FAULT_CODE
        )
    assert f"process 0 cannot listen at port {port} (Address already in use)" in told[0]
    assert "did not reach process 0" in told[1]


def test_another_program_answers():
    def serve(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"\x00\x00\x12\x04 no JSON\n")

    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    with server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (told,) = call((1, 2), timeout_s=SHORT, coordinator=address, code=FAULT_CODE)
    assert "what answers is not process 0 at its start, but another program or run" in told


def test_strangers_and_restarts_do_not_disturb():
    """A port scanner, and a process 1 that is stopped and started again while process 0 waits."""
    port = free_port()
    told = []
    waiting = threading.Thread(
        target=lambda: told.append(call((0, 3), timeout_s=LONG, coordinator=f"127.0.0.1:{port}"))
    )
    waiting.start()
    for line in (b"GET / HTTP/1.1\r\n", b"[]\n", b'{"process": 1, "processes": 3}\n'):
        with connected(port) as stranger:
            stranger.sendall(line)
            stranger.makefile("rb").readline()
    rest = call((1, 3), (2, 3), timeout_s=LONG, coordinator=f"127.0.0.1:{port}")
    waiting.join(LONG)
    assert (told, rest) == ([[""]], ["", ""])


def connected(port: int) -> socket.socket:
    until = time.monotonic() + LONG
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise


@pytest.mark.parametrize("coordinator", ["host", "host:", "host:0", "host:99999", ":12", "h:port"])
def test_no_address(coordinator):
    (told,) = call((0, 2), timeout_s=SHORT, coordinator=coordinator)
    assert told.startswith(f"--coordinator={coordinator}: give HOST:PORT of process 0")
