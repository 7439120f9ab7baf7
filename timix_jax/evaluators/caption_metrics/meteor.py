"""METEOR 1.5 (Denkowski and Lavie, 2014), a Java program of the extra `[caption]`."""

import subprocess
import threading
from collections.abc import Sequence

from timix_jax.evaluators.caption_metrics.ngrams import Words
from timix_jax.evaluators.caption_metrics.words import java_or_reason

_JAR = "meteor/meteor-1.5.jar"
_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")
_TIMEOUT_S = 600


def meteor(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, str]:
    """Return METEOR over all images and an empty text, or 0 and why it cannot be computed.

    Args:
      candidates: the words of one caption per image.
      references: the words of each image's references.
    """
    java, reason = java_or_reason(_JAR)
    if reason:
        return 0.0, reason
    *start, jar = java
    command = [*start, "-Xmx2G", "-jar", jar, *_OPTIONS]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program:
            guard = threading.Timer(_TIMEOUT_S, program.kill)
            guard.start()
            try:
                return _score(program, candidates, references), ""
            finally:
                guard.cancel()
                program.kill()
    except (OSError, ValueError) as error:
        return 0.0, f"java did not run it ({error}); it needs 2 GB of memory"


def _score(
    program: "subprocess.Popen[bytes]",
    candidates: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> float:
    """Ask the program for the statistics of each image, then for the score of all of them."""
    statistics = []
    for candidate, several in zip(candidates, references, strict=True):
        _tell(program, "SCORE", *map(_text, several), _text(candidate))
        statistics.append(_answer(program))
    _tell(program, "EVAL", *statistics)
    for _ in candidates:
        _answer(program)  # one score per image
    return float(_answer(program))


def _text(words: Words) -> str:
    return " ".join(words).replace("|||", "")


def _tell(program: "subprocess.Popen[bytes]", *parts: str) -> None:
    assert program.stdin is not None
    program.stdin.write((" ||| ".join(parts) + "\n").encode())
    program.stdin.flush()


def _answer(program: "subprocess.Popen[bytes]") -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise ValueError("no answer")
    return line.decode().strip()
