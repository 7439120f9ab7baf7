"""BLEU-1 to 4, ROUGE-L, CIDEr-D and METEOR of captions, with the numbers of COCO's caption evaluation.

The first three are own code over words; METEOR, and the tokenizer of the Penn Treebank (PTB) that published numbers
use, are Java programs that come with the extra `[caption]`. Where they cannot run, the result says so. SPICE is left
out: it needs Java 8 and a download of 384 MB.

**Example:**

    scores = score_captions(["a dog runs"], [["a dog is running", "the dog runs"]])
    scores.metrics["bleu4"], scores.tokenizer, scores.absent
"""

import dataclasses
from collections.abc import Mapping, Sequence

from timix_jax.errors import UserError
from timix_jax.evaluators.caption_metrics.bleu import bleu
from timix_jax.evaluators.caption_metrics.cider import cider_d
from timix_jax.evaluators.caption_metrics.meteor import meteor
from timix_jax.evaluators.caption_metrics.rouge import rouge_l
from timix_jax.evaluators.caption_metrics.words import plain_words, ptb_words, why_no_ptb

__all__ = ["CaptionScores", "bleu", "cider_d", "meteor", "rouge_l", "score_captions"]

NO_PTB = "no PTB"


@dataclasses.dataclass(frozen=True)
class CaptionScores:
    """Scores of one caption per image.

    Attributes:
      metrics: bleu1 to bleu4, rouge_l, cider and, where Java is, meteor. BLEU, ROUGE-L and METEOR are 0 to 1; CIDEr-D
        has no upper bound but 10, and depends on the references of all images together: it is 0 for a single image.
      images: their number, without which CIDEr-D says nothing.
      tokenizer: "PTB", or "no PTB" for the plain one, whose numbers are not those of publications.
      absent: metric or tokenizer → why it is missing.
    """

    metrics: Mapping[str, float]
    images: int
    tokenizer: str
    absent: Mapping[str, str]


def score_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, ptb: bool | None = None
) -> CaptionScores:
    """Score the caption of each image against its references.

    Args:
      candidates: one caption per image.
      references: at least one caption per image.
      ptb: split texts into words with the PTB tokenizer; None where it can run.

    Raises:
      UserError: no image, or one without references; with `ptb=True`, the tokenizer cannot run.
    """
    check_references(len(candidates), references)
    reason = why_no_ptb() if ptb is not False else "not asked for"
    if reason and ptb:
        raise UserError(f"the PTB tokenizer cannot run: {reason}")
    split = plain_words if reason else ptb_words
    sizes = [len(several) for several in references]
    flat = split([*candidates, *(text for several in references for text in several)])
    found, rest = flat[: len(candidates)], iter(flat[len(candidates) :])
    wanted = [[next(rest) for _ in range(size)] for size in sizes]
    metrics = {f"bleu{n}": value for n, value in enumerate(bleu(found, wanted), start=1)}
    metrics |= {"rouge_l": rouge_l(found, wanted), "cider": cider_d(found, wanted)}
    absent = {"PTB": reason} if reason else {}
    score, missing = meteor(found, wanted)
    if missing:
        absent["meteor"] = missing
    else:
        metrics["meteor"] = score
    return CaptionScores(metrics, len(candidates), NO_PTB if reason else "PTB", absent)


def check_references(images: int, references: Sequence[Sequence[str]]) -> None:
    """Raise a UserError unless each of so many images has a reference."""
    if not images:
        raise UserError("no image has a caption to score")
    if len(references) != images:
        raise UserError(f"{images} captions and the references of {len(references)} images")
    bare = next((index for index, several in enumerate(references) if not len(several)), None)
    if bare is not None:
        raise UserError(f"image {bare} has no reference caption to compare with")
