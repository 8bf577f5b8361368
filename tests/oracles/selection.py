"""Which assignments of elements to tasks are right: Algorithm 1 of Tunable MAGMAX, the design's version, the optimum.

    candidates of task t = free elements p with I_t[p] >= I_u[p] for every u <= t that takes part

Ties go to the later task, which is asked first. Random choices make many assignments right, so `replay` checks one: it
walks the stages and finds in each what must have happened there. A stage whose candidates all fit takes them all; a
stage that overflows fills its task, so every element of that task not taken earlier was taken there. Hence owners
alone tell the pass of each element. `run_printed` draws one assignment, line by line as printed. Shapes:
`importance_TP`, T rows of P numbers; budgets, T numbers that sum to P; owners, P task indices. Left out: speed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.optimize import linear_sum_assignment

Table = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True)
class Replay:
    """Elements per task that each pass assigned, and those left to chance."""

    passes: list[list[int]]
    random: list[int]


def is_record(importance_TP: Table, task: int, element: int, taking_part: Sequence[int]) -> bool:
    """Whether no earlier task that takes part exceeds `task` at `element`."""
    return all(importance_TP[task][element] >= importance_TP[other][element] for other in taking_part if other < task)


def run_printed(
    importance_TP: Table, budgets: Sequence[int], passes: int, rng: random.Random
) -> tuple[list[int], Replay]:
    """Algorithm 1 to the letter. Returns the owners and what each pass assigned."""
    tasks, elements = len(budgets), len(importance_TP[0])
    everyone = range(tasks)
    unselected = set(range(elements))
    selected: list[set[int]] = [set() for _ in everyone]
    by_pass = []
    for _ in range(passes):
        counts = [0] * tasks
        for t in reversed(everyone):
            found = {p for p in unselected if is_record(importance_TP, t, p, everyone)}
            if len(selected[t] | found) > budgets[t]:
                found = set(rng.sample(sorted(found), budgets[t] - len(selected[t])))
            selected[t] |= found
            unselected -= found
            counts[t] = len(found)
        by_pass.append(counts)
    rest = []
    for t in everyone:
        found = set(rng.sample(sorted(unselected), budgets[t] - len(selected[t])))
        selected[t] |= found
        unselected -= found
        rest.append(len(found))
    owners = [next(t for t in everyone if p in selected[t]) for p in range(elements)]
    return owners, Replay(by_pass, rest)


def replay(
    importance_TP: Table, budgets: Sequence[int], owners: Sequence[int], *, passes: int = 2, law: str = "paper"
) -> Replay:
    """What each pass must have assigned for `owners` to come out. AssertionError when the algorithm cannot have
    produced them.

    `law` "printed": every task takes part in every pass (Algorithm 1). Otherwise tasks with a positive budget in pass
    1. In each later pass, "paper": those that still had budget at its start, with records among themselves; "released":
    the largest of all with a positive budget but task 1.
    """
    tasks = len(budgets)
    free = set(range(len(owners)))
    owned = [0] * tasks
    by_pass = []
    for k in range(passes):
        if law == "released":
            taking_part = [t for t in range(tasks) if budgets[t] and (k == 0 or t > 0)]
        else:
            taking_part = [t for t in range(tasks) if law == "printed" or owned[t] < budgets[t]]
        counts = [0] * tasks
        for t in reversed(taking_part):
            candidates = {p for p in free if is_record(importance_TP, t, p, taking_part)}
            if law == "released" and k > 0:
                later = [other for other in taking_part if other > t]
                candidates = {p for p in candidates if all(importance_TP[t][p] > importance_TP[o][p] for o in later)}
            room = budgets[t] - owned[t]
            taken = {p for p in candidates if owners[p] == t}
            if len(candidates) <= room:
                assert taken == candidates, (
                    f"pass {k + 1}, task {t}: had room for all {len(candidates)} candidates, took {len(taken)}"
                )
            else:
                assert len(taken) == room, (
                    f"pass {k + 1}, task {t}: {len(candidates)} candidates for {room} places, took {len(taken)}"
                )
            counts[t] = len(taken)
            owned[t] += len(taken)
            free -= taken
        by_pass.append(counts)
    rest = [sum(owners[p] == t for p in free) for t in range(tasks)]
    total = [a + b for a, b in zip(owned, rest, strict=True)]
    assert total == list(budgets), f"owners per task {total} are not the budgets {list(budgets)}"
    return Replay(by_pass, rest)


def magmax_owners(importance_TP: Table) -> list[int]:
    """The task of the largest importance at each element, the later one of equals."""
    owners = []
    for p in range(len(importance_TP[0])):
        best = 0
        for t in range(len(importance_TP)):
            if importance_TP[t][p] >= importance_TP[best][p]:
                best = t
        owners.append(best)
    return owners


def step_importance(deltas_TP: np.ndarray) -> np.ndarray:
    """I_t = |tau_t - tau_{t-1}| (float32 difference, tau_0 = 0) over its root mean square over the tensor, 0 where
    that is 0. Float64.
    """
    result = np.zeros(deltas_TP.shape)
    for t, delta in enumerate(deltas_TP):
        previous = deltas_TP[t - 1] if t else np.zeros_like(delta)
        steps = [float(abs(np.float32(a) - np.float32(b))) for a, b in zip(delta, previous, strict=True)]
        rms = sqrt(sum(s * s for s in steps) / len(steps)) if steps else 0.0
        result[t] = [s / rms if rms else 0.0 for s in steps]
    return result


def retained(importance_TP: Table, owners: Sequence[int]) -> float:
    """The importance that an assignment keeps: the sum of I_owner(p)[p]."""
    return sum(float(importance_TP[t][p]) for p, t in enumerate(owners))


def best_retained(importance_TP: Table, budgets: Sequence[int]) -> float:
    """The most that any assignment with these budgets keeps (scipy's solver; task t is n_t columns)."""
    columns = [t for t, n in enumerate(budgets) for _ in range(n)]
    gain_PP = np.array([[float(importance_TP[t][p]) for t in columns] for p in range(len(columns))]).reshape(
        len(columns), len(columns)
    )
    rows, chosen = linear_sum_assignment(gain_PP, maximize=True)
    return float(gain_PP[rows, chosen].sum())


def can_own(allowed_TP: Table, budgets: Sequence[int]) -> bool:
    """Whether every element can be given a task that `allowed_TP` (1 or 0) permits, with budgets met exactly."""
    return best_retained(allowed_TP, budgets) == sum(budgets)
