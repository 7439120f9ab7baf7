"""Recipe, model size and batch of a benchmark from its command line."""

import argparse
import runpy
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from timix_jax.config import complete, default_config
from timix_jax.config.command_line import flag_error
from timix_jax.models.vit import VIT_SIZES


def load(path: str) -> ConfigDict:
    """Return the complete configuration of a recipe.

    Raises:
      UserError: there is no such file, or it cannot be run; the message names its line.
    """
    try:
        return complete(runpy.run_path(path)["get_config"]())
    except Exception as error:  # a recipe is the user's own code
        raise flag_error(error, ["", f"--config={path}"]) from error


def small_config() -> ConfigDict:
    """Return both towers at size S and 224 px, as both of the paper's are of size B."""
    c = default_config()
    width, depth, heads, mlp_dim = VIT_SIZES["S"]
    tower = {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim}
    c.model.image.update({"size": 224, "patch": 16, **tower})
    c.model.text.update(tower)
    c.train.batch_size = 8
    c.regions.batch_size = 2
    c.model.scan = False  # faster on CPU; --scan overrides
    return c


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[ConfigDict, argparse.Namespace]:
    """Add `--config --size --batch` and print the choice.

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
        config = complete(recipe)
    else:
        config = load(args.config)
    config.train.batch_size = args.batch or config.train.batch_size
    image, device = config.model.image, jax.devices()[0]
    print(
        f"{'ViT-S/16' if small else args.config}: {image.size} px, batch {config.train.batch_size}, "
        f"{config.model.dtype}, {config.data.threads} loader threads; {jax.device_count()} × "
        f"{device.platform} ({device.device_kind}); medians\n",
        flush=True,
    )
    return config, args
