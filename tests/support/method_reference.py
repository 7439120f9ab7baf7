"""The method in plain NumPy loops, float64: an independent implementation of docs/method.md."""

import math

import numpy as np


def softmax(rows):
    rows = np.asarray(rows, np.float64)
    out = np.zeros_like(rows)
    for k, row in enumerate(rows):
        weights = [math.exp(v - max(row)) for v in row]
        out[k] = np.array(weights) / sum(weights)
    return out


def cross_entropy(target, logits):
    """Return the mean over rows of −Σ target · log softmax."""
    total = 0.0
    for goal, row in zip(np.asarray(target), softmax(logits), strict=True):
        total -= sum(t * math.log(p) for t, p in zip(goal, row, strict=True))
    return total / len(logits)


def both_ways(logits, i2t, t2i):
    return (cross_entropy(i2t, logits) + cross_entropy(t2i, np.asarray(logits).T)) / 2


def z_score(rows):
    rows = np.asarray(rows, np.float64)
    return np.stack([(row - row.mean()) / np.std(row, ddof=1) for row in rows])


def window_sums(score, r):
    """Map score (g, g) to {(row, column): sum} in row-major order."""
    last = len(score) - r + 1
    return {
        (i, j): sum(score[i + a][j + b] for a in range(r) for b in range(r))
        for i in range(last)
        for j in range(last)
    }


def windows(scores, r):
    """Return lists of the least and the most relevant windows of scores (B, N); ties go to the first."""
    side = math.isqrt(scores.shape[1])
    low, high = [], []
    for row in np.asarray(scores, np.float64):
        sums = window_sums(row.reshape(side, side), r)
        low.append(min(sums, key=sums.get))
        high.append(max(sums, key=sums.get))
    return low, high


def mix_images(images, scores, r, partner, patch):
    """Overwrite window lo_k of image k with window hi_π(k) of image π(k), pixel by pixel."""
    low, high = windows(scores, r)
    mixed = np.array(images)
    side = r * patch
    for k, other in enumerate(partner):
        if other == k:
            continue
        top, left = (patch * v for v in low[k])
        from_top, from_left = (patch * v for v in high[other])
        for a in range(side):
            for b in range(side):
                mixed[k, top + a, left + b] = images[other, from_top + a, from_left + b]
    return mixed


def hard_targets(lam, partner):
    """Return (i2t, t2i): the shares of captions in each image, and the transpose with rows that sum to 1."""
    count = len(partner)
    i2t = np.zeros((count, count))
    for k in range(count):
        i2t[k, k] += lam[k]
        i2t[k, partner[k]] += 1 - lam[k]
    t2i = i2t.T / i2t.T.sum(axis=1, keepdims=True)
    return i2t, t2i


def pred_targets(lam, partner, clean_logits):
    U, Q = softmax(clean_logits), softmax(np.asarray(clean_logits).T)
    count = len(partner)
    i2t, t2i = np.zeros((count, count)), np.zeros((count, count))
    for k in range(count):
        for j in range(count):
            i2t[k, j] = lam[k] * U[k, j] + (1 - lam[k]) * U[partner[k], j]
            t2i[j, k] = lam[k] * Q[j, k] + (1 - lam[k]) * Q[j, partner[k]]
    return i2t, t2i / t2i.sum(axis=1, keepdims=True)


def targets(name, lam, partner, clean_logits, beta=0.5):
    hard, pred = hard_targets(lam, partner), pred_targets(lam, partner, clean_logits)
    return {
        "hard": hard,
        "pred": pred,
        "pred_shared": (pred[0], pred[0]),
        "blend": tuple(beta * h + (1 - beta) * p for h, p in zip(hard, pred, strict=True)),
    }[name]


def patch_labels(box, grid):
    """Return (N,) 0/1 labels of the patches that a box (fractions x0, y0, x1, y1) overlaps, at least one."""
    x0, y0, x1, y1 = (float(v) * grid for v in box)
    labels = np.zeros((grid, grid), int)
    rows = range(max(math.floor(y0), 0), min(math.ceil(y1), grid))
    columns = range(max(math.floor(x0), 0), min(math.ceil(x1), grid))
    for i in rows:
        for j in columns:
            labels[i, j] = 1
    return labels.reshape(-1)
