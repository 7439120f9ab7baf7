"""Flags of XLA's CPU compiler for the tests and for the processes that they start."""

import jaxlib

FLAGS = [
    # Devices that reach two collectives in different orders wait for each other for ever on few cores.
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    # On a loaded machine eight devices on two cores come late to a collective; the default kills them after 40 s.
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    "--xla_cpu_collective_timeout_seconds=600",
    # Small programs compile faster in one piece.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jaxlib.__version__.startswith("0.10."):
    # What the tests' time goes to is compiling; this way of it takes a quarter. Later versions have no such choice.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")

EIGHT_DEVICES = " ".join(["--xla_force_host_platform_device_count=8", *FLAGS])
