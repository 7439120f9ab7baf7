"""The search against exhaustive search and against a beam search in float64 NumPy, on random tables."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from timix_jax.decoding import LengthPenalty, Search
from timix_jax.errors import UserError

PAD, START, END, MASK = 0, 1, 2, 3
STATES = 11  # of the cache: what the next token depends on, besides its position


def random_table(rows, tokens, vocabulary, seed=0, sharpness=2.0):
    """Return logits (B, T, STATES, V)."""
    rng = np.random.default_rng(seed)
    return sharpness * rng.standard_normal((rows, tokens, STATES, vocabulary))


def next_state(state, token):
    return (3 * state + 5 * token + 1) % STATES


def run(search, table, cache_axis=0):
    """Run the compiled search with a step that reads the table and keeps its state in the cache."""
    rows = len(table)
    lead = (1,) * cache_axis

    def step(tokens, position, cache):
        state = next_state(cache.reshape(rows, search.beams), tokens)
        logits = jnp.asarray(table)[jnp.arange(rows)[:, None], position, state]
        return logits, state.reshape(cache.shape)

    cache = jnp.zeros((*lead, rows, search.beams), jnp.int32)
    found = jax.jit(lambda cache: search(step, cache, rows=rows))(cache)
    return jax.tree.map(np.asarray, found)


def make_search(cache_axis=0, **options):
    options = {"max_tokens": 4, "banned": (MASK,), **options}
    return Search(start=START, end=END, pad=PAD, cache_axis=cache_axis, **options)


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def divisor(penalty, length):
    by_name = {"none": 1.0, "power": length**penalty.alpha}
    return by_name.get(penalty.formula, ((5 + length) / 6) ** penalty.alpha)


def scored(table, sequence):
    """Return the log-probability of a sequence under one row's table, in float64."""
    state, token, total = 0, START, 0.0
    for position, following in enumerate(sequence):
        state = next_state(state, token)
        total += log_softmax(table[position, state])[following]
        token = following
    return total


def exhaustive(table, search):
    """Return (score, sequence) of every possible hypothesis of one row, best first."""
    vocabulary = table.shape[-1]
    words = [t for t in range(vocabulary) if t not in (PAD, START, END, MASK)]
    found = []
    for length in range(search.max_tokens + 1):
        for body in itertools.product(words, repeat=length):
            if search.min_tokens <= length + 1 <= search.max_tokens:
                found.append((*body, END))
            if length == search.max_tokens:
                found.append(body)
    ranked = [(scored(table, s) / divisor(search.penalty, len(s)), s) for s in found]
    return sorted(ranked, reverse=True)


def numpy_beam_search(table, search):
    """Return (score, sequence) of the K best, by the rules that `Search` documents, without its early end."""
    vocabulary, beams = table.shape[-1], search.beams
    penalty = search.penalty if beams > 1 else LengthPenalty("none")
    alive, done = [(0.0, ())], []
    for position in range(search.max_tokens):
        candidates = []
        for total, body in alive:
            state, token = 0, START
            for following in body:
                state, token = next_state(state, token), following
            logp = log_softmax(table[position, next_state(state, token)])
            for token in range(vocabulary):
                short = token == END and position + 1 < search.min_tokens
                if token not in (PAD, START, MASK) and not short:
                    candidates.append((total + logp[token], (*body, token)))
        candidates.sort(reverse=True)
        done += [(t / divisor(penalty, len(s)), s) for t, s in candidates[:beams] if s[-1] == END]
        if beams == 1 and done:
            return done
        alive = [c for c in candidates[: 2 * beams] if c[1][-1] != END][:beams]
    done += [(t / divisor(penalty, len(s)), s) for t, s in alive]
    return sorted(done, reverse=True)[:beams]


def padded(sequence, length):
    return [*sequence, *(PAD for _ in range(length - len(sequence)))]


PENALTIES = [LengthPenalty("none"), LengthPenalty("power", 1.0), LengthPenalty("gnmt", 0.6)]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.formula)
def test_equals_exhaustive_search(penalty):
    """With V = 7 and T = 4 a beam for every candidate leaves nothing out: all hypotheses, in order."""
    search = make_search(beams=150, penalty=penalty)
    table = random_table(3, 4, 7)
    found = run(search, table)
    for row in range(3):
        want = exhaustive(table[row], search)[: search.beams]
        np.testing.assert_allclose(found.score[row, : len(want)], [s for s, _ in want], rtol=2e-5)
        for got, (_, sequence) in zip(found.tokens[row], want[:20], strict=False):
            assert got.tolist() == padded(sequence, 4)
        assert np.isneginf(found.score[row, len(want) :]).all()


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.formula)
def test_equals_numpy_beam_search(beams, penalty):
    search = make_search(beams=beams, penalty=penalty, max_tokens=9, min_tokens=3)
    table = random_table(6, 9, 12, seed=beams)
    table[:3, :, :, END] += 2  # some rows end early
    found = run(search, table)
    for row in range(6):
        want = numpy_beam_search(table[row], search)
        assert found.tokens[row].tolist()[: len(want)] == [padded(s, 9) for _, s in want]
        np.testing.assert_allclose(found.score[row], [s for s, _ in want], rtol=2e-5)
        for logp, (_, sequence) in zip(found.logp[row], want, strict=True):
            assert logp == pytest.approx(scored(table[row], sequence), rel=2e-5)


def test_one_beam_is_greedy():
    table = random_table(8, 9, 12, seed=5)
    found = run(make_search(beams=1, max_tokens=9), table)
    for row in range(8):
        state, token, greedy = 0, START, []
        while len(greedy) < 9 and token != END:
            state = next_state(state, token)
            logits = table[row, len(greedy), state].copy()
            logits[[PAD, START, MASK]] = -np.inf
            token = int(np.argmax(logits))
            greedy.append(token)
        assert found.tokens[row, 0].tolist() == padded(greedy, 9)


def test_nothing_follows_an_end():
    """Every hypothesis, not only the best one, is cut at its first end."""
    table = random_table(8, 9, 12, seed=2)
    table[..., END] += 1.5
    found = run(make_search(beams=4, max_tokens=9), table)
    ends = 0
    for sequence in found.tokens.reshape(-1, 9).tolist():
        if END in sequence:
            ends += 1
            assert set(sequence[sequence.index(END) + 1 :]) <= {PAD}
            assert PAD not in sequence[: sequence.index(END)]
    assert ends > 20


def test_rows_do_not_depend_on_each_other():
    table = random_table(5, 9, 12, seed=3)
    table[0, :, :, END] += 5  # ends at once, while the others go on
    search = make_search(beams=3, max_tokens=9)
    together = run(search, table)
    for row in range(5):
        alone = run(search, table[row : row + 1])
        np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(together.score[row], alone.score[0], rtol=1e-6)


def test_stops_when_no_beam_can_win():
    """The loop counts its steps in the cache: two, where the first tokens settle it."""
    table = np.zeros((1, 9, STATES, 12))
    table[..., END] = 20
    search = make_search(beams=1, max_tokens=9)

    def step(tokens, position, cache):
        return jnp.asarray(table)[:, position, 0][:, None], cache + 1

    counted = []
    loop = jax.lax.while_loop

    def counting(condition, body, state):
        final = loop(condition, body, state)
        counted.append(final.step)
        return final

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "while_loop", counting)
        search(step, jnp.zeros((1, 1), jnp.int32), rows=1)
    assert int(counted[0]) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_cache_follows_its_hypothesis(axis):
    """Without the reordering, the state of another beam decides; the axis of the rows may come second."""
    search = make_search(cache_axis=axis, beams=4, max_tokens=9)
    table = random_table(4, 9, 12, seed=7)
    found = run(search, table, cache_axis=axis)
    for row in range(4):
        for sequence, logp in zip(found.tokens[row].tolist(), found.logp[row], strict=True):
            body = sequence[: sequence.index(END) + 1] if END in sequence else sequence
            assert logp == pytest.approx(scored(table[row], body), rel=2e-5)


def test_length_penalties():
    assert LengthPenalty("none").table(3).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(LengthPenalty("power", 0.5).table(4)[1:], [1, 2**0.5, 3**0.5, 2])
    np.testing.assert_allclose(LengthPenalty("gnmt", 0.6).table(7)[7], 2**0.6, rtol=1e-6)


def test_bad_settings_are_refused():
    for options, match in (
        ({"beams": 0}, "beams=0"),
        ({"min_tokens": 0}, "min_tokens=0"),
        ({"min_tokens": 5}, "min_tokens=5, max_tokens=4"),
    ):
        with pytest.raises(UserError, match=match):
            make_search(**options)
    with pytest.raises(UserError, match=r"length_penalty='wu'.*'gnmt'"):
        LengthPenalty("wu")


def test_scores_are_log_probabilities_over_the_penalty():
    search = make_search(beams=3, penalty=LengthPenalty("power", 1.0), max_tokens=6)
    found = run(search, random_table(2, 6, 9))
    for row, beam in itertools.product(range(2), range(3)):
        sequence = found.tokens[row, beam].tolist()
        length = sequence.index(END) + 1 if END in sequence else 6
        assert math.isclose(found.score[row, beam], found.logp[row, beam] / length, rel_tol=1e-5)
