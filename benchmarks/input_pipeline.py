"""Training images per second: this pipeline against webdataset + PyTorch DataLoader on the same cores.

    python -m benchmarks.input_pipeline FOLDER    # made by python -m timix_jax.data.prepare

Both read the same JPEGs (the other side from tar shards written for the purpose), cut the same kind
of random window, resize it bicubically, flip, tokenize a random caption with the same tokenizer and
deliver uint8 batches. The other side decodes and resizes with Pillow, as users of torchvision do. A
row has n cores for everything: n threads or n processes (config.data.processes) here, n worker
processes there. Runs alternate, each in a fresh process; medians are printed, and the paired ratio
with its range. Without `pip install torch webdataset` the other side is left out.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import program
from timix_jax.data.images.augment import Augment
from timix_jax.data.images.side_words import mentions_side
from timix_jax.data.images.transforms import sample_crop, snap_crop
from timix_jax.data.loading.pipeline import make_train_iterator
from timix_jax.data.sources.records import RecordSource
from timix_jax.data.tokenizers import Tokenizer, train_tokenizer

MAX_TOKENS = 32
THEIRS = "webdataset + DataLoader"
TARGET = 1.5
WARM_UP_BATCHES = 4


class Task(NamedTuple):
    """The picklable arguments of one measurement."""

    folder: str
    shards: tuple[str, ...]
    tokenizer: Tokenizer
    image_size: int
    batch_size: int
    crop_min: float
    cores: int
    seconds: float


def threads(task: Task) -> float:
    """Measure images per second of this pipeline with `cores` threads."""
    return ours(task, num_threads=task.cores, num_processes=0)


def processes(task: Task) -> float:
    """Measure images per second of this pipeline with `cores` processes."""
    return ours(task, num_threads=1, num_processes=task.cores)


def ours(task: Task, *, num_threads: int, num_processes: int) -> float:
    """Measure images per second of this pipeline."""
    flags.FLAGS.mark_as_parsed()
    iterator = make_train_iterator(
        [RecordSource(task.folder)],
        batch_size=task.batch_size,
        image_size=task.image_size,
        max_tokens=MAX_TOKENS,
        tokenizer=task.tokenizer,
        seed=0,
        augment=Augment(crop_min=task.crop_min),
        num_threads=num_threads,
        num_processes=num_processes,
    )
    try:
        return images_per_second(iterator, task)
    finally:
        iterator.close()


class PillowTransform:
    """Decode a webdataset sample into the same arrays with Pillow."""

    def __init__(self, task: Task):
        self._task = task

    def __call__(self, sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        task, rng = self._task, np.random.default_rng()
        captions = json.loads(sample["json"])
        caption = captions[rng.integers(len(captions))]
        image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        width, height = image.size
        crop = sample_crop(rng, height, width, scale=(task.crop_min, 1.0))
        size = (task.image_size, task.image_size)
        image = image.crop(snap_crop(crop, height, width)).resize(size, Image.Resampling.BICUBIC)
        if rng.random() < 0.5 and not mentions_side([caption]):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(image), task.tokenizer.encode([caption], MAX_TOKENS)[0]


def theirs(task: Task) -> float:
    """Measure images per second of webdataset + DataLoader with `cores` worker processes."""
    import torch
    import webdataset

    torch.set_num_threads(1)
    dataset = webdataset.WebDataset(list(task.shards), shardshuffle=False, empty_check=False)
    dataset = dataset.repeat().shuffle(1000).map(PillowTransform(task))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=task.batch_size, num_workers=task.cores, drop_last=True
    )
    return images_per_second(iter(loader), task)


def images_per_second(batches: Iterator[Any], task: Task) -> float:
    """Measure the rate of a warm iterator over `task.seconds`."""
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    start, images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < task.seconds:
        next(batches)
        images += task.batch_size
    return images / elapsed


def in_fresh_process(measure: Callable[[Task], float], task: Task) -> float:
    """Run a measurement in a process of its own, pinned to the first `task.cores` cores."""
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everything)[: task.cores])  # inherited by the child
    try:
        pool = multiprocessing.get_context("spawn").Pool(1)
        # Pool workers are daemons and may not have children, but DataLoader needs them.
        rate = pool.apply(_as_ordinary_process, (measure, task))
        pool.close()
        pool.join()
        return rate
    finally:
        os.sched_setaffinity(0, everything)


def _as_ordinary_process(measure: Callable[[Task], float], task: Task) -> float:
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    return measure(task)


def write_shards(source: RecordSource, folder: Path, count: int) -> tuple[str, ...]:
    """Write the source's JPEGs and captions as `count` webdataset tars."""
    paths = [folder / f"{number:02d}.tar" for number in range(count)]
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for index in range(number, len(source), count):
                record = source[index]
                captions = json.dumps(record.captions).encode()
                for suffix, content in (("jpg", record.image), ("json", captions)):
                    info = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tuple(map(str, paths))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="prepared records of JPEGs")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--crop-min", type=float, default=0.5)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()

    source = RecordSource(args.folder)
    some = range(0, len(source), max(1, len(source) // 2000))
    tokenizer = train_tokenizer((c for i in some for c in source[i].captions), vocab_size=4000)
    sides = {"timix_jax, threads": threads, "timix_jax, processes": processes}
    if all(importlib.util.find_spec(name) for name in ("torch", "webdataset")):
        sides[THEIRS] = theirs
    print(
        f"{len(source)} images, {args.image_size} px, batch {args.batch_size}, median of "
        f"{args.repeats} runs of {args.seconds:g} s each\n\n"
        f"| cores | pipeline | images/s | of {THEIRS} | target |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        shards = write_shards(source, Path(temporary), max(args.cores)) if THEIRS in sides else ()
        for cores in args.cores:
            task = Task(
                args.folder, shards, tokenizer, args.image_size, args.batch_size, args.crop_min,
                cores, args.seconds,
            )  # fmt: skip
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(args.repeats):
                for name, side in sides.items():
                    rates[name].append(in_fresh_process(side, task))
            for name, runs in rates.items():
                ratio = "|"
                if THEIRS in sides and name != THEIRS:
                    ratios = [a / b for a, b in zip(runs, rates[THEIRS], strict=True)]
                    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | ≥ {TARGET}"
                print(f"| {cores} | {name} | {statistics.median(runs):.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    program.run(main)
