"""What the log says of all processes: sums, maxima, and who is slow."""

from timix_jax.distributed import processes
from timix_jax.reporting import fleet


def test_one_process_speaks_for_itself():
    own = {"loss": 1.0, "skipped_examples": 3, "data_wait": 0.2}
    assert fleet.over_processes(own) == (own, None)


def test_the_first_of_several_speaks_for_all(monkeypatch):
    others = {
        1: {"skipped_examples": 5, "data_wait": 0.7, "host_memory_peak_gib": 1.0},
        2: {"skipped_examples": 0, "host_memory_peak_gib": 9.0},  # has not measured a wait yet
    }
    told = {}

    def latest(topic, value):
        told[topic] = value
        return {0: value, **others}

    monkeypatch.setattr(processes, "latest", latest)
    own = {"loss": 1.0, "skipped_examples": 3, "data_wait": 0.2, "host_memory_peak_gib": 2.0}
    metrics, slowest = fleet.over_processes(own)
    assert told == {"log": {name: own[name] for name in own if name != "loss"}}
    assert slowest == 1
    expected = {"skipped_examples": 8, "data_wait": 0.7, "host_memory_peak_gib": 9.0}
    assert metrics == {"loss": 1.0} | expected
