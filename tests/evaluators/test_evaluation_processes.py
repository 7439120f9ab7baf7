"""Evaluation by two processes: each reads its half, and the figures are those of one process."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from fusion_runs import mplug_config
from lookup_model import GreySource, LookupModel, NumberTokenizer
from process_runs import ROOT, environment_of, free_port

from timix_jax.data.records.schema import Region
from timix_jax.evaluators import EVALUATORS, EvaluationInputs, build_evaluator
from timix_jax.parallel.mesh import make_mesh
from timix_jax.training.build import build, build_evaluators, read_settings

IMAGES = 13
BY_LOOKUP = [name for name, kind in EVALUATORS.items() if kind.supports(LookupModel())]
BY_MPLUG = [name for name in EVALUATORS if name not in BY_LOOKUP]


class NotedSource(GreySource):
    """Notes what is read of it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.read = set()

    def __getitem__(self, index):
        self.read.add(index)
        return super().__getitem__(index)


def measure():
    """Figures and the examples read, of evaluators by lookup; the first images have most captions and regions."""
    rng = np.random.default_rng(0)
    counts = [9 if i % 4 == 0 else 1 for i in range(IMAGES)]
    captions = np.split(rng.permutation(sum(counts)), np.cumsum(counts)[:-1])
    regions = [
        [Region(str(n), (2.0 * (n % 3), 0.0, 2.0, 4.0 + 2 * (n % 2))) for n in range(count)]
        if i % 3 == 0
        else []
        for i, count in enumerate(counts)
    ]
    params = {
        "images": rng.normal(size=(IMAGES, 6)).astype(np.float32),
        "texts": rng.normal(size=(sum(counts), 6)).astype(np.float32),
        "logits": rng.normal(size=(IMAGES, sum(counts), 16)).astype(np.float32),
        "patches": rng.normal(size=(IMAGES, 16, 6)).astype(np.float32),
    }
    found = {}
    for name in BY_LOOKUP:
        classes = [[i % 3] for i in range(IMAGES)]
        source = NotedSource(classes if name == "classification" else captions, regions)
        inputs = EvaluationInputs(
            model=LookupModel(4),
            source=source,
            tokenizer=NumberTokenizer(),
            mesh=make_mesh(fsdp=2),
            image_size=8,
            max_tokens=4,
            batch_size=4,
            max_regions=2,
        )
        options = {"templates": ("{}", "1{}")} if name == "classification" else {}
        evaluator = build_evaluator(name, inputs, **options)
        source.read.clear()
        metrics = evaluator.run(params)
        found[name] = {"metrics": metrics, "read": sorted(source.read)}
    return found


def measure_mplug():
    """Figures of the evaluators that need a fusion encoder or a decoder, of fresh weights."""
    depths = ("options__mplug__fusion_depth", "options__mplug__decoder_depth", "image__depth")
    options = {f"model__{name}": 1 for name in depths} | {"eval__options__captions__beams": 1}
    settings = read_settings(mplug_config(eval__evaluators=tuple(BY_MPLUG), **options))
    run = build(settings)
    params = jax.jit(lambda: run.create_state(jax.random.key(0)).params)()
    (evaluators,) = build_evaluators(settings, run.model, run.tokenizer, run.mesh).values()
    return {name: e.run(params) for name, e in zip(BY_MPLUG, evaluators, strict=True)}


def run_processes(count, devices):
    """What `measure` and `measure_mplug` find on each of `count` processes of `devices` devices."""
    address = f"127.0.0.1:{free_port()}"
    running = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(count), str(index)],
            env={**os.environ, **environment_of(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for index in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    # Gloo writes to the standard output, too.
    return [json.loads(out[out.index("found:") :].split("\n")[0][6:]) for out, _ in outputs]


@pytest.mark.slow
def test_two_processes_share_the_reading():
    (one,) = run_processes(1, 4)
    two = run_processes(2, 2)
    for process in two:
        assert process["mplug"].keys() == set(BY_MPLUG)
        for name, metrics in process["mplug"].items():
            assert metrics == pytest.approx(one["mplug"][name], rel=1e-4), name
    for name in BY_LOOKUP:
        assert all(process[name]["metrics"] == one[name]["metrics"] for process in two)
        first, second = (process[name]["read"] for process in two)
        # A patch score is compared with that of the next example's text, which the other process may read too.
        read = {*first, *second} if name == "patch_scores" else first + second
        assert sorted(read) == one[name]["read"]
        assert first
        assert second
    assert one["retrieval"]["read"] == one["classification"]["read"] == list(range(IMAGES))
    assert one["patch_text"]["read"] == [0, 3, 6, 9, 12]


if __name__ == "__main__":
    coordinator, processes, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if processes > 1:
        jax.distributed.initialize(coordinator, processes, index)
    found = measure() | {"mplug": measure_mplug()}
    print(f"\nfound:{json.dumps(found)}", flush=True)
