"""The metrics and the refinement once more, frame by frame in plain Python, from their definitions; for random comparisons."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

UNKNOWN = 255


def segments(labels, exclude=(), short_last=False):
    """[label, start, end) of maximal runs, the last one a frame short if asked."""
    found = []
    for t, label in enumerate(labels):
        if t and label == labels[t - 1]:
            found[-1][2] = t + 1
        else:
            found.append([label, t, t + 1])
    if short_last and found:
        found[-1][2] -= 1
    return [tuple(each) for each in found if each[0] not in exclude]


def edit_distance(a, b):
    @lru_cache(None)
    def of(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of(len(a), len(b))


def overlap(a, b):
    mine, other = set(range(*a[1:])), set(range(*b[1:]))
    return len(mine & other) / len(mine | other) if mine | other else 0.0


def greedy(found, there, threshold):
    """(TP, FP, FN) of the rule as it is written: one predicted segment after the other."""
    used, right, wrong = set(), 0, 0
    for one in found:
        best, at = -1.0, None
        for place, other in enumerate(there):
            if other[0] == one[0] and overlap(one, other) > best:
                best, at = overlap(one, other), place
        if at is not None and best >= threshold and at not in used:
            used.add(at)
            right += 1
        else:
            wrong += 1
    return right, wrong, len(there) - len(used)


def most_pairs(found, there, tolerance):
    """Size of the largest one-to-one matching, by augmenting paths: no thought of order or nearness."""
    partner: dict[int, int] = {}

    def place(one, seen):
        for other in there:
            if abs(one - other) <= tolerance and other not in seen:
                seen.add(other)
                if other not in partner or place(partner[other], seen):
                    partner[other] = one
                    return True
        return False

    return sum(place(one, set()) for one in found)


def f1(right, wrong, missed):
    if right + wrong + missed == 0:
        return 100.0
    precision = right / (right + wrong) if right + wrong else 0.0
    recall = right / (right + missed) if right + missed else 0.0
    return 100 * 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def measured(truths, predictions, exclude, boundaries, thresholds, tolerance, official_ends):
    right = frames = 0
    edits, counts, changes = [], {threshold: [0, 0, 0] for threshold in thresholds}, [0, 0, 0]
    for truth, predicted, bounds in zip(truths, predictions, boundaries, strict=True):
        kept = [t for t in range(len(truth)) if truth[t] != UNKNOWN]
        if not kept:
            continue
        true, said = [truth[t] for t in kept], [predicted[t] for t in kept]
        frames += len(kept)
        right += sum(a == b for a, b in zip(true, said, strict=True))
        there, found = segments(true, exclude, official_ends), segments(said, exclude, official_ends)
        longest = max(len(there), len(found))
        distance = edit_distance(tuple(each[0] for each in found), tuple(each[0] for each in there))
        edits.append(100 * (1 - distance / longest) if longest else 100.0)
        for threshold in thresholds:
            counts[threshold] = [a + b for a, b in zip(counts[threshold], greedy(found, there, threshold), strict=True)]
        at = {kept.index(t) for t in bounds if t in kept} - {0}
        real = {t for t in range(1, len(true)) if true[t] != true[t - 1]}
        pairs = most_pairs(sorted(at), sorted(real), tolerance)
        changes = [changes[0] + pairs, changes[1] + len(at) - pairs, changes[2] + len(real) - pairs]
    return {
        "accuracy": 100 * right / frames,
        "edit": sum(edits) / len(edits),
        **{f"f1_{round(100 * threshold)}": f1(*counts[threshold]) for threshold in thresholds},
        "boundary_f1": f1(*changes),
    }


def peaks(boundary, threshold=0.5):
    inner = range(1, len(boundary) - 1)
    return [0] + [t for t in inner if boundary[t] >= threshold and boundary[t - 1] < boundary[t] > boundary[t + 1]]


def refined(scores, boundary, labels):
    """`scores` [class][frame]."""
    edges = [*peaks(boundary), len(boundary)]
    result = []
    for start, end in pairwise(edges):
        span = range(start, end)
        ranked = [(sum(labels[t] == k for t in span), sum(row[t] for t in span), -k) for k, row in enumerate(scores)]
        result += [-max(ranked)[2]] * (end - start)
    return result
