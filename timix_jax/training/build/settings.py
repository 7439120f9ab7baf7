"""A configuration as typed values, read once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from timix_jax.config import complete, flatten
from timix_jax.data.images.augment import Augment
from timix_jax.objectives import OBJECTIVES
from timix_jax.pretrained import INIT_FIELDS
from timix_jax.training.build.checkpoint import CheckpointSettings
from timix_jax.training.build.data import DataSettings, RegionSettings, read_augment
from timix_jax.training.build.evaluation import EvaluationSettings
from timix_jax.training.build.log import LogSettings
from timix_jax.training.build.losses import ContrastiveSettings, LossSettings
from timix_jax.training.build.mesh import MeshSettings
from timix_jax.training.build.mix import MixSettings
from timix_jax.training.build.model import ModelSettings
from timix_jax.training.build.optim import OptimSettings
from timix_jax.training.build.pictures import PictureSettings
from timix_jax.training.build.train import TrainSettings


@dataclasses.dataclass(frozen=True)
class Settings:
    """A complete configuration, one object per group.

    Attributes:
      seed: of initialisation, data order, augmentation and the step's random streams.
      init_from, init_from_image, init_from_text: weights to start from, of the whole model and of single towers;
        empty for none.
      init_pixels: how published weights had pixels normalised, where no file says; `flat` has it for those who load.
      flat: every field by its dotted name, as config.json and the metadata of checkpoints hold it.
    """

    seed: int
    init_from: str
    init_from_image: str
    init_from_text: str
    init_pixels: str
    data: DataSettings
    augment: Augment
    model: ModelSettings
    contrastive: ContrastiveSettings
    mix: MixSettings
    loss: LossSettings
    regions: RegionSettings
    optim: OptimSettings
    train: TrainSettings
    mesh: MeshSettings
    checkpoint: CheckpointSettings
    log: LogSettings
    eval: EvaluationSettings
    pictures: PictureSettings
    flat: dict[str, Any]

    @property
    def initial_weights(self) -> Mapping[str, str]:
        """Part of the model (empty for all of it, `image`, `text`) → weights to start from, in this order."""
        given = {part: getattr(self, field) for part, field in INIT_FIELDS.items()}
        return {part: path for part, path in given.items() if path}

    @property
    def uses_regions(self) -> bool:
        """True if a second stream of annotated images is read."""
        return bool(self.regions_reader)

    @property
    def regions_reader(self) -> str:
        """Name of a loss that reads annotated images; empty if none does."""
        readers = (
            name
            for name, kind in OBJECTIVES.items()
            if kind.reads_regions and self.loss.terms[name]["weight"] > 0
        )
        return next(readers, "")

    @property
    def more_captions(self) -> int:
        """Further captions per image and step."""
        fields = self.loss.terms["captions"]
        return int(fields["count"]) if fields["weight"] > 0 else 0

    @property
    def uses_image_ids(self) -> bool:
        """True if a step compares images by their examples."""
        return self.loss.terms["itm"]["weight"] > 0

    @property
    def periods(self) -> dict[str, str]:
        """The durations between two logs, evaluations and checkpoints."""
        return {
            "log": self.log.every,
            "eval": self.eval.every,
            "checkpoint": self.checkpoint.every,
        }


def read_settings(config: ConfigDict) -> Settings:
    """Read a recipe, with defaults for the fields that it leaves out.

    Raises:
      UserError: a field that does not exist, or a value of another type or out of range.

    **Example:** `build(read_settings(recipe))`
    """
    config = complete(config)
    return Settings(
        seed=config.seed,
        init_from=config.init_from,
        init_from_image=config.init_from_image,
        init_from_text=config.init_from_text,
        init_pixels=config.init_pixels,
        data=DataSettings.read(config),
        augment=read_augment(config),
        model=ModelSettings.read(config),
        contrastive=ContrastiveSettings.read(config),
        mix=MixSettings.read(config),
        loss=LossSettings.read(config),
        regions=RegionSettings.read(config),
        optim=OptimSettings.read(config),
        train=TrainSettings.read(config),
        mesh=MeshSettings.read(config),
        checkpoint=CheckpointSettings.read(config),
        log=LogSettings.read(config),
        eval=EvaluationSettings.read(config),
        pictures=PictureSettings.read(config),
        flat=flatten(config),
    )
