"""`timix_jax.embed` compared with the bare forward pass, and exact search over a million images.

    python -m benchmarks.embed                        # ViT-S/16 at 224 px
    python -m benchmarks.embed --width 768 --images 64 --clock cpu
    python -m benchmarks.embed --search 1000000

Embed: JPEG files on disk to files of embeddings. Forward pass: the image tower over as many images in memory, in
batches of the same size. Search: from the query to the 20 best, with the embeddings in the page cache.
"""

import argparse
import collections
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.interleaved import CLOCKS, interleaved_seconds, median_ratio
from timix_jax.data.tokenizers import train_tokenizer
from timix_jax.embed.engine import embed_parts
from timix_jax.embed.inputs import find_parts
from timix_jax.embed.layout import EmbeddingFolder
from timix_jax.inference import LoadedModel
from timix_jax.models.dual_encoder import DualEncoder
from timix_jax.models.text import TextShape
from timix_jax.models.vit import VitShape
from timix_jax.parallel.mesh import make_mesh, replicated
from timix_jax.search.index import EmbeddingIndex

TARGETS = {"embed": "≥ 0.95", "search": "≤ 1 s"}
_PIXELS = (375, 500)  # of a file, as in web data sets


def random_model(width: int, batch_size: int) -> LoadedModel:
    """Return a ViT of 12 layers with random weights."""
    tokenizer = train_tokenizer(["a red square near the sea"], vocab_size=64)
    model = DualEncoder(
        VitShape(224, 16, width, 12, width // 64, 4 * width),
        TextShape(tokenizer.vocab_size, 16, 64, 1, 2, 128),
        embed_dim=512,
        scan=True,
        tpp_layer=5,
    )
    mesh = make_mesh(jax.local_devices())
    params = jax.jit(model.init, out_shardings=replicated(mesh))(jax.random.key(0))
    return LoadedModel(
        model, params, mesh, tokenizer, image_size=224, max_tokens=16, batch_size=batch_size
    )


def write_photos(folder: Path, count: int) -> None:
    """Write JPEG files with detail at all scales."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = np.zeros((*_PIXELS, 3), np.float32)
        for side in (4, 16, 64):
            noise = rng.uniform(0, 90, (side, side, 3)).astype(np.float32)
            pixels += cv2.resize(noise, _PIXELS[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), pixels.clip(0, 255).astype(np.uint8))


def embed_seconds(
    width: int, images: int, batch_size: int, repeats: int, clock: str
) -> dict[str, list[float]]:
    """Return `forward` and `embed` → seconds over the images in each repetition."""
    model = random_model(width, batch_size)
    batch = np.zeros((model.towers.batch_size, 224, 224, 3), np.uint8)
    batches = -(-images // len(batch))
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        write_photos(photos, images)
        parts, numbers = find_parts(str(photos), 4096), itertools.count()

        def embed() -> None:
            out = EmbeddingFolder(Path(folder) / str(next(numbers)), len(parts))
            out.start({})
            embed_parts(model, parts, range(len(parts)), out, lambda line: None)

        def forward() -> None:
            collections.deque(model.towers.images(itertools.repeat(batch, batches)), maxlen=0)

        cases: dict[str, Callable[[], object]] = {"forward": forward, "embed": embed}
        return interleaved_seconds(cases, repeats=repeats, clock=CLOCKS[clock])


def search_seconds(rows: int, width: int, repeats: int) -> list[float]:
    """Return seconds per search of an index of random embeddings."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("img_emb", "metadata"):
            (folder / kind).mkdir()
        for part, start in enumerate(range(0, rows, 100_000)):
            size = min(100_000, rows - start)
            block = rng.standard_normal((size, width), dtype=np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            np.save(folder / "img_emb" / f"img_emb_{part}.npy", block)
            table = pa.table({"image_path": [f"{start + n}.jpg" for n in range(size)]})
            pq.write_table(table, folder / "metadata" / f"metadata_{part}.parquet")
        index, seconds = EmbeddingIndex(folder), []
        for _ in range(repeats + 1):
            query = rng.standard_normal(width).astype(np.float32)
            started = time.perf_counter()
            index.nearest(query / np.linalg.norm(query), 20)
            seconds.append(time.perf_counter() - started)
    return seconds[1:]  # the first one reads the files


def main(argv: Sequence[str] | None = None) -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--search", type=int, default=0, help="rows; only the search then")
    args = parser.parse_args(argv)
    if args.search:
        seconds = search_seconds(args.search, 512, args.repeats)
        print("| search, rows | seconds | target |")
        print(f"| {args.search} × 512 | {statistics.median(seconds):.3f} | {TARGETS['search']} |")
        return
    times = embed_seconds(args.width, args.images, args.batch_size, args.repeats, args.clock)
    forward, embed = (args.images / statistics.median(times[name]) for name in ("forward", "embed"))
    ratio = median_ratio(times, "forward", "embed")
    print("| width | forward, images/s | embed, images/s | ratio | target |")
    print(f"| {args.width} | {forward:.1f} | {embed:.1f} | {ratio:.3f} | {TARGETS['embed']} |")


if __name__ == "__main__":
    main()
