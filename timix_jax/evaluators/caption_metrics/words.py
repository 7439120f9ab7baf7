"""Texts into words: the Penn Treebank's tokenizer where Java is, or a plain one."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from timix_jax.errors import RunError

_PTB_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_TIMEOUT_S = 600

# The 17 marks that COCO's evaluation drops from the tokenizer's output. It lower-cases, so that brackets stay: -lrb-.
_PTB_MARKS = frozenset(
    {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"}
    | {".", "?", "!", ",", ":", "-", "--", "...", ";"}
)
_PLAIN_MARKS = frozenset("'`\"“”‘’.?!,:;-–—…(){}[]")
_WORD = re.compile(r"\w+(?:[-'’.]\w+)*|[^\w\s]")


def plain_words(texts: Sequence[str]) -> list[list[str]]:
    """Split lower-cased texts at white space and around punctuation, of which the common marks are dropped."""
    return [
        [word for word in _WORD.findall(text.lower()) if word not in _PLAIN_MARKS] for text in texts
    ]


def java_or_reason(needed: str) -> tuple[list[str], str]:
    """Return how to start Java with a file of the extra `[caption]`, or why that is impossible.

    Args:
      needed: path of a jar in the package pycocoevalcap.

    Returns:
      The command up to the jar's absolute path, which is its last word, and an empty text; or nothing, and the reason.
    """
    java = shutil.which("java")
    if java is None:
        return [], "no java on the PATH"
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        return [], "pip install 'timix-jax[caption]' is missing"
    jar = Path(found.submodule_search_locations[0]) / needed
    if not jar.is_file():
        return [], f"{jar} is missing"
    return [java, "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", str(jar)], ""


def why_no_ptb() -> str:
    """Return why the PTB tokenizer cannot run; empty if it can."""
    return java_or_reason(_PTB_JAR)[1]


def ptb_words(texts: Sequence[str]) -> list[list[str]]:
    """Split texts with Stanford's PTB tokenizer, as COCO's evaluation does.

    Not pycocoevalcap's wrapper, which writes into its own package, where that may be forbidden.

    Raises:
      RunError: the tokenizer fails.
    """
    (*java, jar), reason = java_or_reason(_PTB_JAR)
    if reason:
        raise RunError(f"the PTB tokenizer cannot run: {reason}")
    command = [*java, "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
    lines = "".join(f"{' '.join(text.split())}\n" for text in texts)
    try:
        done = subprocess.run(
            [*command, "-lowerCase"],
            input=lines.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"the PTB tokenizer failed ({error})") from error
    tokenized = done.stdout.decode().split("\n")
    if done.returncode or len(tokenized) < len(texts):
        said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        raise RunError(f"the PTB tokenizer failed ({said})")
    return [
        [word for word in line.split() if word not in _PTB_MARKS]
        for line in tokenized[: len(texts)]
    ]
