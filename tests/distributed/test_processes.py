"""Messages between two processes and their shared checkpoints, over the loopback and as two hosts."""

import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from process_runs import free_port

from timix_jax.checkpointing import Checkpointer, restore_params
from timix_jax.distributed import processes

_PROCESS = """
    import sys
    import jax

    index, coordinator, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    from timix_jax.distributed import cluster

    cluster.join("auto", coordinator=coordinator, processes=2, process=index)

    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from timix_jax.checkpointing import checksums
    from timix_jax.distributed import processes
    from timix_jax.checkpointing import Checkpointer
    from timix_jax.errors import RunError, UserError

    mesh = Mesh(np.array(jax.devices()), ("data",))

    def put(values, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.make_array_from_callback(values.shape, sharding, lambda i: values[i])

    def state_of(step):
        values = np.arange(32, dtype=np.float32).reshape(8, 4) + step
        return {"params": {"w": put(values, "data")}, "step": put(np.int32(step))}

    def refuse():
        raise UserError("no räison")

    def fail():
        raise OSError(5, "broken disk")

    assert processes.is_first() == (index == 0)
    assert processes.gather_flags(index == 1) == [False, True]
    assert processes.from_first(lambda: [1, "ü" * 300, index]) == [1, "ü" * 300, 0]
    for value in (0.5, 1.5):  # the second replaces the first
        processes.latest("speed", {"wait": value + index})
        processes.gather_flags(True)
        published = processes.latest("speed", {"wait": value + index})
        everyone = {i: {"wait": value + i} for i in range(2)}
        assert published == (everyone if index == 0 else {index: everyone[index]})
        processes.gather_flags(True)
    try:
        processes.from_first(refuse)
    except UserError as error:
        assert type(error) is UserError
        print("refused:", error)
    for compute in (fail, lambda: processes._read("nobody", 1, 0.1)):
        try:
            processes.from_first(compute)
        except RunError as error:
            print("broken:", error)

    with Checkpointer(folder, timeout_s=30) as checkpointer:
        assert checkpointer.latest_valid() is None
        for step in (1, 2, 3):
            checkpointer.save(step, state_of(step), {"step": step})
        assert checkpointer.latest_valid() == 3

        def no_space(folder):
            raise OSError(28, "No space left on device")

        write, checksums.write_manifest = checksums.write_manifest, no_space  # process 0 uses it
        checkpointer.save(4, state_of(4), {})
        try:
            checkpointer.wait()
        except RunError as error:
            print("failed:", error)
        checksums.write_manifest = write
        assert checkpointer.latest_valid() == 3
        try:
            checkpointer.save(4, {"w": jax.numpy.zeros(3)}, {})
        except ValueError as error:
            print("local:", error)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0)
        )
        state, meta = checkpointer.restore(3, abstract)
        assert meta == {"step": 3}
        for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(3))):
            assert got.sharding == want.sharding
            for one, other in zip(got.addressable_shards, want.addressable_shards):
                np.testing.assert_array_equal(one.data, other.data)
    print("done")
"""


def test_one_process_needs_no_messages():
    assert processes.is_first()
    assert processes.gather_flags(True) == [True]
    assert processes.latest("speed", 3) == {0: 3}
    assert processes.from_first(lambda: {"a": (1, None)}) == {"a": (1, None)}
    with pytest.raises(ZeroDivisionError):
        processes.from_first(lambda: 1 / 0)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["loopback", "namespaces"])
def test_two_processes_agree_and_share_checkpoints_with_one(tmp_path, where, request):
    places = request.getfixturevalue(where)
    coordinator = f"{places.address}:{free_port()}"
    root = pathlib.Path(processes.__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": ""}
    script = textwrap.dedent(_PROCESS)
    running = [
        subprocess.Popen(
            [*prefix, sys.executable, "-c", script, str(i), coordinator, str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, prefix in enumerate(places.prefixes)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for index, (printed, errors) in enumerate(outputs):
        assert printed.splitlines()[-1:] == ["done"], errors
        kinds = ("refu", "broken", "fail", "local")  # Gloo also writes to standard output
        said = [line for line in printed.splitlines() if line.startswith(kinds)]
        refused, broken, silent, failed, local = said
        assert broken == "broken: [Errno 5] broken disk"
        assert silent.startswith("broken: process 1 did not answer within 0.1 s")
        assert refused == "refused: no räison"
        cause = "No space left" if index == 0 else "the log of process 0 names the cause"
        assert cause in failed
        assert local == "local: w is local to a process: make it a global array"
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid() == 3
    saved = restore_params(tmp_path)
    np.testing.assert_array_equal(saved["w"], np.arange(32, dtype=np.float32).reshape(8, 4) + 3)
