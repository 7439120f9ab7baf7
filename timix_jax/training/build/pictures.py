"""`config.pictures`: the pictures of a finished run."""

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    """`config.pictures`; `examples` is the number of rows of the mixing sheet, 0 for no pictures."""

    examples: int

    @classmethod
    def read(cls, config: ConfigDict) -> "PictureSettings":
        """Read the group."""
        return cls(**config.pictures)
