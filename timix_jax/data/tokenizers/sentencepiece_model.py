"""Sentencepiece's model files, converted once to the `tokenizers` library, so that checkpoints need no other."""

from __future__ import annotations

import importlib
from typing import Any

import tokenizers as hf
from etils import epath
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from timix_jax.errors import UserError

_UNIGRAM, _BPE = 1, 2  # trainer_spec.model_type
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # types of pieces
_SPACE = "▁"


def load_sentencepiece(path: epath.Path) -> tuple[hf.Tokenizer, int | None]:
    """Convert a sentencepiece model, such as SigLIP's `sentencepiece.model`.

    A text is encoded as its words and the end-of-sentence piece, without a start, as SigLIP does.

    Returns:
      The tokenizer, and the id that pads: that of the end for T5's kind of model, which has no start piece (SigLIP),
      and that of the padding piece for others (Gemma's kind, SigLIP 2); None if it has no such piece.

    Raises:
      UserError: the package sentencepiece is missing, or the file is not a model of kind unigram or BPE with an
        end-of-sentence piece.
    """
    model = _parsed(path)
    pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
    trained, rules = model.trainer_spec, model.normalizer_spec
    if trained.model_type not in (_UNIGRAM, _BPE):
        raise UserError("its kind is neither unigram nor BPE, which can be read")
    names = [name for name, _, _ in pieces]
    eos = names.index(trained.eos_piece) if trained.eos_piece in names else -1
    if eos < 0:
        raise UserError(f"it has no end-of-sentence piece {trained.eos_piece!r}")
    build = _unigram if trained.model_type == _UNIGRAM else _bpe
    tokenizer = hf.Tokenizer(build(pieces, trained))
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(hf.Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    prepend = "always" if rules.add_dummy_prefix else "never"
    split = trained.model_type == _UNIGRAM and trained.split_by_whitespace
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=prepend, split=split)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(_SPACE, prepend_scheme=prepend, split=split),
            decoders.Fuse(),
        ]
    )
    special = [name for name, _, kind in pieces if kind in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    defined = [name for name, _, kind in pieces if kind == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in defined])
    end = names[eos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, eos)]
    )
    if trained.bos_piece not in names:
        return tokenizer, eos
    return tokenizer, names.index(trained.pad_piece) if trained.pad_piece in names else None


def _parsed(path: epath.Path) -> Any:
    try:
        messages: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise UserError(
            "reading it needs sentencepiece: pip install 'timix-jax[siglip]'"
        ) from error
    model = messages.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # DecodeError of whichever protobuf is installed
        raise UserError(f"it is not a sentencepiece model ({error})") from error
    if not model.pieces:
        raise UserError("it is not a sentencepiece model (it has no pieces)")
    return model


def _unigram(pieces: list[tuple[str, float, int]], trained: Any) -> models.Unigram:
    unknown = [index for index, (_, _, kind) in enumerate(pieces) if kind == _UNKNOWN]
    scores = [(name, score) for name, score, _ in pieces]
    return models.Unigram(scores, unknown[0] if unknown else None, trained.byte_fallback)


def _bpe(pieces: list[tuple[str, float, int]], trained: Any) -> models.BPE:
    """Recover the merges: pieces in the order of their scores, each from every pair of pieces that gives it."""
    vocabulary = {name: index for index, (name, _, _) in enumerate(pieces)}
    usable = {n for n, _, kind in pieces if kind not in (_CONTROL, _UNKNOWN, _UNUSED)}
    merges = []
    for name, _, _ in sorted((p for p in pieces if p[0] in usable), key=lambda p: -p[1]):
        pairs = [
            (name[:cut], name[cut:])
            for cut in range(1, len(name))
            if name[:cut] in usable and name[cut:] in usable
        ]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    unknown = next((name for name, _, kind in pieces if kind == _UNKNOWN), None)
    return models.BPE(
        vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trained.byte_fallback
    )
