"""Folders of published weights with a tokenizer whose words are `w0`, `w1`, …, so that texts are lists of ids."""

import json

import numpy as np
import tokenizers as hf
from published_cases import CASES, END, START, TOKENS, VOCABULARY
from tokenizers import models, pre_tokenizers, processors

PADS = {"open_clip_siglip": 1, "huggingface_siglip": 1, "big_vision": 1}
SPECIAL = {START: "<s>", END: "</s>"}


def write_tokenizer(folder, *, pad=0, bert=False):
    """Write a tokenizer.json of `VOCABULARY` ids."""
    special = {0: "[PAD]", 2: "[MASK]", START: "[CLS]", END: "[SEP]"} if bert else SPECIAL
    vocabulary = {special.get(i, f"w{i}"): i for i in range(VOCABULARY)}
    tokenizer = hf.Tokenizer(models.WordLevel(vocabulary, unk_token="w5"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*special.values()])
    if pad and not bert:
        tokenizer.add_special_tokens([f"w{pad}"])
    start, end = special[START], special[END]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[start, "$A", end], special_tokens=[(start, START), (end, END)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"pad_token": f"w{pad}"} if pad else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_folder(name, small, folder):
    """Write a case with its tokenizer and return the case."""
    case = CASES[name](small)
    case.write(folder)
    write_tokenizer(folder, pad=PADS.get(name, 0), bert=name == "bert")
    return case


def texts_of(tokens, pad):
    """Return texts whose ids are these."""
    return [" ".join(f"w{i}" for i in row[1:] if i not in (pad, START, END)) for row in tokens]


def random_tokens(pad, length=TOKENS, rows=5, seed=3):
    """Return ids (rows, length): start, words, end, padding."""
    rng = np.random.default_rng(seed)
    tokens = np.full((rows, length), pad, np.int32)
    for index, row in enumerate(tokens):
        words = 1 + index % (length - 2)
        row[: words + 2] = [START, *rng.integers(3, START, words), END]
    return tokens
