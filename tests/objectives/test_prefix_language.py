"""PrefixLM: where captions are split, and its loss against float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting_model import mark_teacher
from objective_runs import assert_trees_close
from tiny_model import TOKENS, make_batch, make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.models.mplug import Mplug
from timix_jax.objectives import build_objective
from timix_jax.objectives.views.prefix import split_points, split_words
from timix_jax.objectives.vocabulary import Vocabulary

PAD, CLS, SEP, MASK = 0, 1, 2, 3
INNER = (25, 26, 27, 28, 29)  # ids of pieces inside a word
VOCABULARY = Vocabulary(
    30,
    pad_id=PAD,
    mask_id=MASK,
    special=(PAD, CLS, SEP, MASK),
    start_id=CLS,
    end_id=SEP,
    continues=np.isin(np.arange(30), INNER).tobytes(),
)
MODEL = Mplug(tiny_model(scan=False), fusion_depth=2, stride=1, decoder_depth=2)


def captions(rows, length=9, seed=0):
    """Return captions [CLS] pieces [SEP] of 1 to length − 2 pieces, whose first one begins a word."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 30, (rows, length)).astype(np.int32)
    tokens[:, 0] = CLS
    tokens[:, 1] = rng.integers(4, 25, rows)
    end = rng.integers(2, length, (rows, 1))
    places = np.arange(length)
    return np.where(places < end, tokens, np.where(places == end, SEP, PAD)).astype(np.int32)


def words(row):
    """Return the words of a row as tuples of pieces, without special tokens."""
    found = []
    for token in row.tolist():
        if token in (PAD, CLS, SEP):
            continue
        if token in INNER:
            found[-1] = (*found[-1], token)
        else:
            found.append((token,))
    return found


split = jax.jit(split_words, static_argnames=("vocabulary", "empty_prefix"))


def test_splits_lie_between_words():
    """Both parts together are the caption, each with a word at least; a single word goes to the decoder."""
    tokens = captions(400)
    got = jax.tree.map(np.asarray, split(jax.random.key(0), tokens, VOCABULARY))
    single = 0
    for row, prefix, rest in zip(tokens, got.prefix, got.rest, strict=True):
        whole, first, last = words(row), words(prefix), words(rest)
        assert first + last == whole
        assert last
        assert first or len(whole) == 1
        single += not first
        for part, inside in ((prefix, first), (rest, last)):
            pieces = [piece for word in inside for piece in word]
            want = [CLS, *pieces, SEP]
            assert part.tolist() == [*want, *[PAD] * (len(part) - len(want))]
    assert 0 < single < 200


def test_labels_follow_the_rest():
    tokens = captions(100)
    got = jax.tree.map(np.asarray, split(jax.random.key(1), tokens, VOCABULARY))
    for rest, labels, counted in zip(got.rest, got.labels, got.counted, strict=True):
        size = int(counted.sum())
        assert counted[:size].all()
        np.testing.assert_array_equal(labels[:size], rest[1 : size + 1])
        assert labels[size - 1] == SEP
        assert not np.isin(labels[: size - 1], (PAD, CLS, SEP)).any()


def test_every_place_is_equally_likely():
    tokens = np.tile(np.array([[CLS, 5, 6, 26, 7, 8, SEP, PAD, PAD]], np.int32), (6000, 1))
    got = split(jax.random.key(2), tokens, VOCABULARY)
    lengths = np.sum(np.asarray(got.prefix) != PAD, axis=1) - 2  # pieces of the prefix
    counts = np.bincount(lengths, minlength=6)
    assert counts[[0, 2, 5]].tolist() == [0, 0, 0]  # 2 would split the second word
    np.testing.assert_allclose(counts[[1, 3, 4]] / 6000, 1 / 3, atol=0.03)


def test_empty_prefixes():
    tokens = captions(4000)
    several = np.array([len(words(row)) > 1 for row in tokens])
    got = split(jax.random.key(3), tokens, VOCABULARY, empty_prefix=0.25)
    empty = np.asarray(got.prefix)[:, 1] == SEP
    assert empty[~several].all()
    assert np.mean(empty[several]) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(np.asarray(got.rest)[empty], tokens[empty])


def test_words_of_vocabularies_that_mark_their_end():
    """CLIP's pieces say whether their word goes on."""
    marked = Vocabulary(
        **{"size": 30, "pad_id": PAD, "special": (PAD, CLS, SEP), "start_id": CLS, "end_id": SEP},
        unfinished=np.isin(np.arange(30), [7]).tobytes(),
    )
    tokens = np.array([[CLS, 5, 7, 6, 8, SEP, PAD]], np.int32)
    assert np.flatnonzero(split_points(tokens, marked)).tolist() == [2, 4]


# The loss.


def batch_of(rows=4):
    batch = make_batch(batch=rows)
    return {"image": batch["image"], "tokens": captions(rows, TOKENS, seed=5)}


@functools.partial(jax.jit, static_argnums=0)
def run(objective, params, batch, step, teacher=None):
    def loss(params):
        forward = make_forward(MODEL, (objective,), params, batch, step, teacher)
        term = objective(forward)
        return term.loss, dict(term.log)

    return jax.value_and_grad(loss, has_aux=True)(params)


def objective_of(**options):
    return build_objective("plm", vocabulary=VOCABULARY, **options)


@jax.jit
def logits_of(params, batch, prefix, rest):
    """Return the decoder's logits, computed without the objective."""
    image = MODEL.encode_image(params, MODEL.embed_patches(params, batch["image"]))
    text = MODEL.encode_text(params, prefix)
    memory = MODEL.image_memory(params, image.tokens)
    fused = MODEL.fuse(params, text.tokens, text.mask, memory)
    read = MODEL.decoder_memory(params, fused, text.mask)
    return MODEL.decoder_logits(params, MODEL.decode(params, rest, read))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_equals_float64(alpha):
    """Σ over Σcount of the whole batch; the teacher's probabilities add to 1 over the vocabulary of each token."""
    objective = objective_of(alpha=alpha, alpha_steps=4)
    params, teacher, batch = make_params(MODEL), make_params(MODEL, seed=1), batch_of()
    (got, log), grads = run(objective, params, batch, 2, teacher if alpha else None)
    forward = make_forward(MODEL, (objective,), params, batch, 2)
    parts = jax.tree.map(np.asarray, objective.view.draw(forward))
    assert len(set(parts.counted.sum(axis=1).tolist())) > 1  # a mean of means would differ

    student = log_softmax(np.float64(logits_of(params, batch, parts.prefix, parts.rest)))
    target = np.eye(30)[parts.labels]
    ramped = alpha / 2  # step 2 of 4
    soft = np.exp(log_softmax(np.float64(logits_of(teacher, batch, parts.prefix, parts.rest))))
    np.testing.assert_allclose(soft.sum(axis=-1), 1)
    target = (1 - ramped) * target + ramped * soft
    per_token = -np.sum(target * student, axis=-1)
    assert float(got) == pytest.approx(per_token[parts.counted].mean(), rel=1e-5)
    hard = -np.take_along_axis(student, parts.labels[..., None], axis=-1)[..., 0]
    assert float(log["plm_nats"]) == pytest.approx(hard[parts.counted].mean(), rel=1e-5)
    hits = student.argmax(-1) == parts.labels
    assert float(log["plm_accuracy"]) == pytest.approx(hits[parts.counted].mean())

    def stated(params):
        logp = jax.nn.log_softmax(logits_of(params, batch, parts.prefix, parts.rest))
        weight = parts.counted / parts.counted.sum()
        return -jnp.sum(weight[..., None] * target * logp)

    assert_trees_close(grads, jax.jit(jax.grad(stated))(params))


@pytest.mark.slow
def test_chunks_change_nothing():
    params, batch = make_params(MODEL), batch_of()
    whole, parts = (run(objective_of(chunk=c), params, batch, 0) for c in (0, 4))
    assert float(parts[0][0]) == pytest.approx(float(whole[0][0]), rel=1e-6)
    assert_trees_close(parts[1], whole[1])


@pytest.mark.slow
def test_padding_contributes_nothing():
    """A longer row of padding changes neither the split of a caption that has one place for it, nor the loss."""
    params, batch = make_params(MODEL), batch_of()
    batch["tokens"] = np.tile(np.array([[CLS, 5, 26, 9, SEP, PAD]], np.int32), (4, 1))
    shorter = {**batch, "tokens": batch["tokens"][:, :-1]}
    longer, short = (run(objective_of(), params, b, 0)[0][0] for b in (batch, shorter))
    assert float(longer) == pytest.approx(float(short), rel=1e-6)


def test_the_student_drops_and_the_teacher_does_not():
    passes = {"student": [], "teacher": []}

    def noting(name):
        def run(self, params, *args, key=None):
            passes["teacher" if "teacher" in params else "student"].append((name, key is not None))
            return getattr(Mplug, name)(self, params, *args, key=key)

        return run

    names = ("encode_text", "fuse", "decode")
    recording = type("Recording", (Mplug,), {name: noting(name) for name in names})
    dual = dataclasses.replace(MODEL.dual, text_dropout=0.5)
    model = recording(dual, fusion_depth=2, stride=1, decoder_depth=2)
    objective, shapes = objective_of(alpha=0.4), jax.eval_shape(MODEL.init, jax.random.key(0))

    def loss(params):
        teacher = mark_teacher(params)
        return objective(make_forward(model, (objective,), params, batch_of(), 0, teacher)).loss

    jax.eval_shape(loss, shapes)
    for whose, drops in (("student", True), ("teacher", False)):
        assert sorted(passes[whose]) == sorted((name, drops) for name in names)


def test_what_is_missing_is_refused():
    with pytest.raises(
        UserError, match=r"config\.loss\.plm needs a decoder \(decode\).*DualEncoder"
    ):
        objective_of().reads(tiny_model())
    with pytest.raises(UserError, match=r"plm needs texts that begin with \[CLS\]"):
        build_objective("plm", vocabulary=Vocabulary(30))
    for field in ("alpha", "empty_prefix"):
        with pytest.raises(UserError, match=rf"plm\.{field}=1\.5 is not a share"):
            objective_of(**{field: 1.5})
