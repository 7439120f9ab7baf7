"""Recipe, model size and batch of a benchmark, from its command line."""

import argparse
import runpy
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks.step import small_config
from timix_jax.config import complete


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[ConfigDict, argparse.Namespace]:
    """Adds ``--config --size --batch``, and prints what they choose.

    Returns:
      the complete configuration, and all arguments.
    """
    parser.add_argument("--config", default="configs/demo.py", help="recipe")
    parser.add_argument(
        "--size", choices=["config", "S16"], default="config", help="S16: both towers, at 224 px"
    )
    parser.add_argument("--batch", type=int, default=0, help="default: the recipe's")
    args = parser.parse_args(argv)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags
    small = args.size == "S16"
    if small:
        recipe = small_config()
        recipe.data.train = ("synthetic:?examples=1024&size=256&regions=2",)
        recipe.log.every = "10 steps"
        recipe.optim.warmup = "0 steps"  # runs of a few steps
    else:
        recipe = runpy.run_path(args.config)["get_config"]()
    config = complete(recipe)
    config.train.batch_size = args.batch or config.train.batch_size
    image, device = config.model.image, jax.devices()[0]
    print(
        f"{'ViT-S/16' if small else args.config}: {image.size} px, batch {config.train.batch_size}, "
        f"{config.model.dtype}, {config.data.threads} loader threads; {jax.device_count()} × "
        f"{device.platform} ({device.device_kind}); medians\n",
        flush=True,
    )
    return config, args
