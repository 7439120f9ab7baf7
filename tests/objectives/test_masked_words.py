"""Hidden words: which are hidden behind what, and the loss over the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_fusion
import pytest
from counting_model import mark_teacher
from fusion_runs import (
    CLS,
    MASK,
    PAD,
    SEP,
    VOCAB,
    counting_albef,
    encoded,
    fusion_batch,
    run,
    tiny_albef,
)
from tiny_model import make_forward, make_params, tiny_model

from timix_jax.errors import UserError
from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.masked_words import MaskedLanguage
from timix_jax.objectives.views.masked import mask_words
from timix_jax.objectives.vocabulary import Vocabulary
from timix_jax.objectives.word_loss import word_loss

MODEL = tiny_albef()
MANY = {"rate": 0.6, "most": 0.5, "vocabulary": VOCAB}
MLM = MaskedLanguage(**MANY)
DISTILLED = MaskedLanguage(alpha=0.4, alpha_steps=4, **MANY)


@pytest.fixture(scope="module")
def params():
    return make_params(MODEL)


def long_captions(rows=4000, words=30, length=40, size=500):
    rng = np.random.default_rng(0)
    tokens = np.full((rows, length), PAD, np.int32)
    tokens[:, 0], tokens[:, words + 1] = CLS, SEP
    tokens[:, 1 : words + 1] = rng.integers(4, size, (rows, words))
    return tokens, Vocabulary(size, PAD, MASK, (PAD, CLS, SEP, MASK))


def test_the_shares_are_bert_s_and_special_tokens_stay():
    tokens, vocabulary = long_captions()
    masked = jax.tree.map(
        np.asarray,
        jax.jit(lambda key, t: mask_words(key, t, vocabulary, rate=0.15, most=0.3))(
            jax.random.key(0), tokens
        ),
    )
    counted = masked.counted
    words = tokens > 3
    assert counted.sum() / words.sum() == pytest.approx(0.15, abs=0.003)
    labels = masked.labels[counted]
    assert (labels > 3).all()
    row = np.broadcast_to(np.arange(len(tokens))[:, None], counted.shape)
    shown = masked.tokens[row, masked.positions][counted]
    np.testing.assert_array_equal(tokens[row, masked.positions][counted], labels)
    assert np.mean(shown == MASK) == pytest.approx(0.8, abs=0.01)
    assert np.mean(shown == labels) == pytest.approx(0.1, abs=0.01)
    swapped = shown[(shown != MASK) & (shown != labels)]
    assert swapped.min() == 4  # never a special token
    assert swapped.max() == 499
    changed = masked.tokens != tokens
    hidden = np.zeros_like(changed)
    hidden[row[counted], masked.positions[counted]] = True
    assert not (changed & ~hidden).any()
    for special in (PAD, CLS, SEP):
        np.testing.assert_array_equal(masked.tokens == special, tokens == special)


def test_the_surplus_over_the_cap_is_dropped_at_random():
    tokens, vocabulary = long_captions()
    masked = mask_words(jax.random.key(0), tokens, vocabulary, rate=0.9, most=0.1)
    assert masked.positions.shape == (len(tokens), 4)
    assert np.asarray(masked.counted).all()
    where = np.bincount(np.asarray(masked.positions).ravel(), minlength=40)[1:31]
    assert where.std() / where.mean() < 0.1
    assert (np.asarray(masked.tokens) != tokens).sum(axis=1).max() <= 4


def test_words_are_counted_without_special_ids():
    vocabulary = Vocabulary(8, 7, 3, (0, 3, 5))
    assert [int(vocabulary.word(jnp.int32(n))) for n in range(vocabulary.words)] == [1, 2, 4, 6]
    assert np.asarray(vocabulary.is_word(jnp.arange(8))).tolist() == [
        *(False, True, True, False, True, False, True, False)
    ]


def drawn(params, batch, objective=MLM):
    forward = make_forward(MODEL, (objective,), params, batch, 2)
    return jax.tree.map(np.asarray, objective.view.draw(forward))


def word_logp(params, batch, masked):
    """Return log-probabilities (B, P, V) of the hidden words, in NumPy."""
    image, _, _ = encoded(MODEL, params, batch)
    _, text, _ = encoded(MODEL, params, {**batch, "tokens": masked.tokens})
    host = jax.tree.map(np.float64, params)
    states, tokens = np.float64(text.tokens), np.asarray(image.tokens)
    fused = numpy_fusion.fuse(host, states, np.asarray(text.mask), tokens)
    at = np.take_along_axis(fused, masked.positions[..., None], axis=1)
    return numpy_fusion.log_softmax(numpy_fusion.word_logits(host, at))


def test_the_loss_is_that_of_the_formula_per_hidden_word_of_the_batch(params):
    batch = fusion_batch()
    loss, log, _ = run(MODEL, (MLM,), params, batch, 2)
    masked = drawn(params, batch)
    per_row = masked.counted.sum(axis=1)
    assert per_row.min() < per_row.max()  # otherwise a mean of means would pass
    logp = word_logp(params, batch, masked)
    own = np.take_along_axis(logp, masked.labels[..., None], axis=-1)[..., 0]
    assert loss == pytest.approx(-own[masked.counted].mean(), abs=1e-4)
    assert log["mlm_nats"] == pytest.approx(float(loss), rel=1e-5)
    hits = (logp.argmax(-1) == masked.labels)[masked.counted]
    assert log["mlm_accuracy"] == pytest.approx(hits.mean())


@pytest.mark.slow
def test_the_teacher_s_targets_are_over_the_vocabulary(params):
    batch, teacher = fusion_batch(), make_params(MODEL, seed=1)
    loss, _, grads = run(MODEL, (DISTILLED,), params, batch, 2, teacher)
    masked = drawn(params, batch, DISTILLED)
    logp, target = word_logp(params, batch, masked), np.exp(word_logp(teacher, batch, masked))
    np.testing.assert_allclose(target.sum(-1), 1)
    own = np.take_along_axis(logp, masked.labels[..., None], axis=-1)[..., 0]
    alpha = 0.4 * 2 / 4  # halfway up the ramp
    want = -(1 - alpha) * own - alpha * (target * logp).sum(-1)
    assert loss == pytest.approx(want[masked.counted].mean(), abs=1e-4)
    without = run(MODEL, (MLM,), params, batch, 2)[2]
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(without), strict=True)
    )


def test_the_gradient_of_the_logits_is_softmax_minus_target():
    rng = np.random.default_rng(0)
    states, seen = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (3, 5)).astype(np.int32)
    counted = rng.random((3, 5)) < 0.6
    same = lambda x: x

    def loss(states):
        sums = word_loss(same, states, labels, counted, alpha=0.3, teacher=(same, seen))
        return sums.mean()

    p, q = (np.exp(numpy_fusion.log_softmax(np.float64(x))) for x in (states, seen))
    target = 0.7 * np.eye(7)[labels] + 0.3 * q
    want = (p - target) * counted[..., None] / counted.sum()
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(states)), want, atol=1e-6)
    assert not jax.grad(lambda s: word_loss(same, s, labels, counted * 0 > 1).mean())(
        jnp.asarray(states)
    ).any()


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_parts_give_the_same_loss_and_gradient(params, chunk):
    batch, teacher = fusion_batch(), make_params(MODEL, seed=1)
    whole = run(MODEL, (DISTILLED,), params, batch, 2, teacher)
    parts = MaskedLanguage(alpha=0.4, alpha_steps=4, chunk=chunk, **MANY)
    for a, b in zip(
        jax.tree.leaves(run(MODEL, (parts,), params, batch, 2, teacher)),
        jax.tree.leaves(whole),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_each_tower_of_student_and_teacher_runs_once_for_all_losses():
    model = counting_albef(text_dropout=0.3)
    objectives = (Contrastive(alpha=0.4), DISTILLED)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def loss(params):
        teacher = mark_teacher(params)
        forward = make_forward(model, objectives, params, fusion_batch(), 0, teacher)
        return [objective(forward).loss for objective in objectives]

    jax.eval_shape(loss, shapes)
    passes = model.dual.passes
    towers = {key: count for key, count in passes.items() if "encode_image" in key}
    assert sorted(towers.values()) == [1, 1]  # one of the student, one of the teacher
    texts = {key: count for key, count in passes.items() if "encode_text" in key}
    assert sum(texts.values()) == 4  # clean and masked captions, of both


def test_the_student_drops_and_the_teacher_does_not(params):
    dropping = tiny_albef(text_dropout=0.5)
    keys = {"student": [], "teacher": []}

    class Recording(type(dropping)):
        def _note(self, params, key):
            keys["teacher" if "teacher" in params else "student"].append(key is not None)

        def encode_text(self, params, tokens, *, key=None):
            self._note(params, key)
            return super().encode_text(params, tokens, key=key)

        def fuse(self, params, states, mask, memory, *, key=None):
            self._note(params, key)
            return super().fuse(params, states, mask, memory, key=key)

    model = Recording(dropping.dual, dropping.fusion_depth)
    teacher = mark_teacher(params)
    forward = make_forward(model, (DISTILLED,), params, fusion_batch(), 0, teacher)
    jax.eval_shape(lambda: DISTILLED(forward).loss)
    assert keys == {"student": [True, True], "teacher": [False, False]}


def test_what_cannot_work_is_refused():
    for fields, said in (
        ({"rate": 0.0}, r"mlm.rate=0.0 is not a share: use more than 0, at most 1"),
        ({"alpha": 1.5}, r"mlm.alpha=1.5 is not a share: use 0 to 1"),
        ({"chunk": -1}, r"mlm.chunk=-1"),
        ({"vocabulary": Vocabulary(30, 0, None)}, r"mlm hides words behind \[MASK\]"),
    ):
        with pytest.raises(UserError, match=said):
            MaskedLanguage(**fields)
    with pytest.raises(UserError, match=r"config.loss.mlm needs a fusion encoder"):
        MLM.reads(tiny_model())
