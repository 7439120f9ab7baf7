"""The captions of one webdataset sample: `NNN.txt` and a field of `NNN.json`."""

import json
from typing import NamedTuple

from timix_jax.data.prepare.tasks import Note, Problem, tidy

_LINES = "text of several lines, kept as one caption (see --split-lines)"


class CaptionRules(NamedTuple):
    """Where captions are found.

    `field` belongs to `NNN.json`. `txt` says whether `NNN.txt` is read, `split_lines` whether each of
    its lines is a caption.
    """

    field: str = "caption"
    txt: bool = True
    split_lines: bool = False
    encoding: str = "utf-8"


def read_captions(
    members: dict[str, bytes], where: str, rules: CaptionRules
) -> tuple[tuple[str, ...], list[Problem | Note]]:
    """Return a sample's captions, each once, and what cannot be read or may be misread.

    Args:
      members: the sample's files, by extension.
      where: names the sample.
      rules: see `CaptionRules`.
    """
    captions: list[str] = []
    remarks: list[Problem | Note] = []
    if rules.txt and "txt" in members:
        try:
            text = _decode(members["txt"], rules.encoding)
        except ValueError as error:
            remarks.append(Problem("unreadable text", where, str(error), skipped=False))
        else:
            lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
            if len(lines) > 1 and not rules.split_lines:
                remarks.append(Note(_LINES, where))
            captions.extend(lines if rules.split_lines and lines else [text])
    if "json" in members:
        try:
            captions.extend(_json_captions(members["json"], rules.field))
        except (ValueError, RecursionError) as error:
            detail = str(error)[:200]
            remarks.append(Problem("unreadable JSON", where, detail, skipped=False))
    # img2dataset writes the same caption to both files.
    return tuple(dict.fromkeys(map(tidy, captions))), remarks


def _decode(data: bytes, encoding: str) -> str:
    """Decode a text file. Raises a ValueError if it has another encoding."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not {encoding} ({error.reason} at byte {error.start}); see --encoding"
        ) from error
    if "\0" in text.strip("\0"):  # UTF-16 without a byte order mark decodes as UTF-8
        raise ValueError(f"not {encoding} (NUL characters, as in UTF-16); see --encoding")
    return text


def _json_captions(data: bytes, field: str) -> list[str]:
    entry = json.loads(data)
    captions = entry.get(field) if isinstance(entry, dict) else None
    if captions is None:
        return []
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        raise ValueError(f"{field!r} is neither a string nor a list of strings")
    return captions
