"""From an example as found to a record that is known to be usable."""

from typing import NamedTuple

from timix_jax.data.prepare.image_cleaning import clean_image
from timix_jax.data.prepare.regions import clean_regions
from timix_jax.data.prepare.tasks import Problem, RawExample, replace_lone_surrogates, tidy
from timix_jax.data.records.schema import CorruptExample, Record


class Cleaned(NamedTuple):
    """A record, or None, with the size (width, height) of its image and what was left out."""

    record: Record | None
    size: tuple[int, int] = (0, 0)
    reencoded: bool = False
    problems: tuple[Problem, ...] = ()


def clean(example: RawExample, max_size: int | None) -> Cleaned:
    """Check an example: decode the whole image, tidy its texts, clip its boxes.

    An image is re-encoded (JPEG, quality 95) if its longer side exceeds `max_size`, if it is not
    JPEG, PNG or WebP, or if its EXIF data rotate it and it has no regions, since readers ignore
    that tag and boxes are in pixels as stored. Otherwise its bytes are kept.

    Args:
      example: the example as read by a format.
      max_size: longest side of a stored image in pixels; None: unlimited.
    """
    key = replace_lone_surrogates(example.key)
    captions = [tidy(caption) for caption in example.captions]
    kept = tuple(filter(None, captions))
    problems = [Problem("empty caption", key, skipped=False)] * (len(captions) - len(kept))
    if not kept:
        detail = "all of them are empty" if captions else "none given"
        return Cleaned(None, problems=(*problems, Problem("no caption", key, detail)))
    try:
        image = clean_image(example.image, key, max_size, upright=not example.regions)
    except CorruptExample as error:
        return Cleaned(None, problems=(*problems, Problem("corrupt image", key, error.reason)))
    scale = (image.size[0] / image.input_size[0], image.size[1] / image.input_size[1])
    regions, dropped = clean_regions(key, example.regions, image.input_size, scale)
    record = Record(key, image.data, kept, regions)
    reencoded = image.data is not example.image
    return Cleaned(record, image.size, reencoded, (*problems, *dropped))
