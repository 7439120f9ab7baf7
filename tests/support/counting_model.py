"""A dual encoder that counts its passes while it is traced."""

import collections
import dataclasses

import jax

from timix_jax.models.dual_encoder import DualEncoder


@dataclasses.dataclass(frozen=True)
class CountingModel(DualEncoder):
    """Counts (function, weights, rows) of each call; parameters with a key "teacher" are the teacher's."""

    passes: collections.Counter = dataclasses.field(
        default_factory=collections.Counter, compare=False
    )

    def encode_image(self, params, patches, **options):
        self._count("encode_image", params, patches)
        return super().encode_image(params, patches, **options)

    def encode_blocks(self, params, patches, blocks):
        self._count("encode_blocks", params, patches)
        return super().encode_blocks(params, patches, blocks)

    def encode_text(self, params, tokens, **options):
        self._count("encode_text", params, tokens)
        return super().encode_text(params, tokens, **options)

    def _count(self, function, params, rows):
        self.passes[function, "teacher" if "teacher" in params else "student", len(rows)] += 1


def counting(model: DualEncoder) -> CountingModel:
    """Return the same model, counting."""
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(DualEncoder)}
    return CountingModel(**fields)


def mark_teacher(params):
    """Return the parameters, recognisable as the teacher's; a model reads its own keys only."""
    return {**params, "teacher": jax.numpy.zeros(())}
