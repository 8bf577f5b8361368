"""Which task an input comes from, by the base's embeddings, and the mix of tasks that explains many inputs.

    z = (e - mean) / (mean over dimensions of the standard deviation);  p(c|x) = softmax((W z + b) / temperature)
    p(x|t) ~ mean over c of t of p(c|x);   r_t = sum over i of w_i s_t p(x_i|t) / sum over u of s_u p(x_i|u)
    s_t ~ max(r_t + alpha - 1, 0), again and again;   beside it: argmin over the simplex of |K' s - q|^2

Source: EM is Saerens et al. 2002; the black-box estimator Lipton et al. 2018 (K: how often a sample of one task is
taken for another's, q: what inputs are taken for). "c" is a class within a task, so tasks may share classes. Each
weighs the same in the regression and in the temperature, so p(c), which divides p(c|x) elsewhere, is the same for all.
Temperature and K come from four folds, because a classifier is too sure of the samples that it saw. Shapes: N training
samples, P classes within tasks, E width, M inputs, T tasks, B draws. Cost: five regressions on one core, some dozens
of steps of 4 N P E operations each, N at most `MOST`: seconds for a hundred classes of a hundred samples.
A step of EM is 4 B M T. Not here: encoding.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xxhash

from prefmerge.errors import require

FOLDS = 4
INVERSE_PENALTY = 0.1  # scikit-learn's C
MOST = 10_000  # training samples that the regression sees
LEAST_WORTH = 1e-3  # an input never says less than this part of a label
_GRADIENT = 1e-3  # of the mean loss, where the regression stops; calibrated, a tenth of it does no better
_SURE = 3  # standard errors above chance
LEAST_LIKELIHOOD = 1e-12  # of the likeliest task's: no input excludes a task for good
_REHEARSED = 500  # held-out training samples that misses are drawn from
_STEPS, _TOLERANCE = 5000, 1e-9  # of EM, for an estimate
_DRAW_STEPS, _DRAW_TOLERANCE = 300, 1e-4  # of EM, for a draw, which is noise of a hundred times that


def order(rows_NE: np.ndarray) -> np.ndarray:
    """Positions (N,) of the rows sorted by a hash of what they hold: what follows it does not depend on their order."""
    exact = np.ascontiguousarray(rows_NE, np.float64) + 0.0  # -0.0 is 0.0
    return np.argsort(np.array([xxhash.xxh3_64_intdigest(row.tobytes()) for row in exact], np.uint64), kind="stable")


@dataclass(frozen=True, eq=False)
class Recogniser:
    """What says which task an input comes from, and how well it does on training samples that it did not see.

    `confusion_TT[t, u]`: how often a sample of t is taken for u's, each class of t weighing the same; None where a task
    has no class of two samples. `worth_T`: what an input says of t, as a part of what a label says, 0 to 1: its mean
    probability of t over samples of t, less that over samples of the others (Tjur 2009). `above_chance`: whether the
    tasks are recognised more often than chance explains; False where no two tasks have a sample to check it with.
    Of the held-out training samples, as seen without their fold: `held_pair_N`, the class within a task that each is
    of, `held_distance_N` to the nearest class mean, and `held_likely_NT`, p(x|t).
    """

    mean_E: np.ndarray
    spread: float
    weights_PE: np.ndarray
    bias_P: np.ndarray
    task_of_P: np.ndarray
    class_of_P: np.ndarray
    temperature: float
    means_PE: np.ndarray
    confusion_TT: np.ndarray | None
    worth_T: np.ndarray
    above_chance: bool
    held_pair_N: np.ndarray
    held_distance_N: np.ndarray
    held_likely_NT: np.ndarray

    def likelihoods(self, embeddings_ME: np.ndarray) -> np.ndarray:
        """p(x|t) (M, T), the largest of each input 1."""
        logs_MP = _log_softmax(self._logits(embeddings_ME) / self.temperature)
        return _likelihoods(logs_MP, self.task_of_P, len(self.worth_T))

    def labelled_likelihoods(self, embeddings_ME: np.ndarray, labels_M: np.ndarray) -> np.ndarray:
        """p(x, label|t) (M, T): of each task's classes only the one that the label names."""
        logs_MP = _log_softmax(self._logits(embeddings_ME) / self.temperature)
        logs_MP = np.where(self.class_of_P == labels_M[:, None], logs_MP, -np.inf)
        return _likelihoods(logs_MP, self.task_of_P, len(self.worth_T))

    def distances(self, embeddings_ME: np.ndarray) -> np.ndarray:
        """To the nearest class mean (M,)."""
        return nearest((embeddings_ME - self.mean_E) / self.spread, self.means_PE)

    def in_mix(self, shares_T: np.ndarray) -> np.ndarray:
        """Weights of the held-out training samples, as often as their tasks are at the target; (n,), summing to 1, or
        all 0 where those tasks have none.
        """
        held_P = np.bincount(self.held_pair_N, minlength=len(self.task_of_P))
        classes_T = np.bincount(self.task_of_P[held_P > 0], minlength=len(shares_T))
        each_P = (shares_T / np.maximum(classes_T, 1))[self.task_of_P] / np.maximum(held_P, 1)
        weight_N = each_P[self.held_pair_N]
        return weight_N / (weight_N.sum() or 1.0)

    def _logits(self, embeddings_ME: np.ndarray) -> np.ndarray:
        return (embeddings_ME - self.mean_E) / self.spread @ self.weights_PE.T + self.bias_P


def fit(embeddings_NE: np.ndarray, labels_N: np.ndarray, tasks_N: np.ndarray, tasks: int) -> Recogniser:
    """A recogniser out of training samples, of which each of the `tasks` has at least one. The samples' order does not
    matter. One task needs no regression. Raises MissingExtra.
    """
    if tasks > 1:
        require("shares from inputs", "places", "sklearn")
    at_N = order(embeddings_NE)
    pairs_PX, pair_N = np.unique(np.stack([tasks_N, labels_N], axis=1)[at_N], axis=0, return_inverse=True)
    pair_N = pair_N.ravel()
    pairs = len(pairs_PX)
    rank_N = _ranks(pair_N)
    kept_N = rank_N < max(2 * FOLDS, MOST // pairs)
    at_N, pair_N, rank_N = at_N[kept_N], pair_N[kept_N], rank_N[kept_N]
    x_NE = np.asarray(embeddings_NE[at_N], np.float64)
    mean_E, spread = x_NE.mean(axis=0), float(x_NE.std(axis=0).mean()) or 1.0
    x_NE = (x_NE - mean_E) / spread
    counts_P = np.bincount(pair_N)
    task_P = pairs_PX[:, 0]
    weights_PE, bias_P = (
        _regression(x_NE, pair_N, pairs) if tasks > 1 else (np.zeros((pairs, x_NE.shape[1])), np.zeros(pairs))
    )

    # A class of one sample is never held out: without it a fold could not name that class.
    first_P = np.unique(pair_N, return_index=True)[1]  # so that small classes do not all lack the same fold
    fold_N = np.where(counts_P[pair_N] > 1, (rank_N + first_P[pair_N]) % FOLDS, -1)
    logits_NP, distance_N = np.zeros((len(x_NE), pairs)), np.zeros(len(x_NE))
    for fold in range(FOLDS):
        out_N = fold_N == fold
        if out_N.any():
            if tasks > 1:
                w_PE, b_P = _regression(x_NE[~out_N], pair_N[~out_N], pairs)
                logits_NP[out_N] = x_NE[out_N] @ w_PE.T + b_P
            distance_N[out_N] = nearest(x_NE[out_N], _means(x_NE[~out_N], pair_N[~out_N], pairs))
    held_N = fold_N >= 0
    truth_N = pair_N[held_N]
    temperature = _temperature(logits_NP[held_N], truth_N) if len(truth_N) and tasks > 1 else 1.0
    likely_NT = _likelihoods(_log_softmax(logits_NP[held_N] / temperature), task_P, tasks)
    return Recogniser(
        mean_E,
        spread,
        weights_PE,
        bias_P,
        task_P,
        pairs_PX[:, 1],
        temperature,
        _means(x_NE, pair_N, pairs),
        *_check(likely_NT, truth_N, task_P, tasks),
        truth_N,
        distance_N[held_N],
        likely_NT,
    )


def _check(
    likely_NT: np.ndarray, truth_N: np.ndarray, task_P: np.ndarray, tasks: int
) -> tuple[np.ndarray | None, np.ndarray, bool]:
    """`confusion_TT`, `worth_T` and `above_chance` of a `Recogniser`."""
    sure_NT = likely_NT / likely_NT.sum(axis=1, keepdims=True)
    taken_NT = np.eye(tasks)[np.argmax(likely_NT, axis=1)]
    hard_TT, soft_TT = np.full((tasks, tasks), np.nan), np.full((tasks, tasks), np.nan)
    variance_T = np.zeros(tasks)
    held_P = np.bincount(truth_N, minlength=len(task_P))
    for t in range(tasks):
        members = [truth_N == p for p in np.flatnonzero((task_P == t) & (held_P > 0))]
        if members:
            hard_TT[t] = np.mean([taken_NT[rows].mean(axis=0) for rows in members], axis=0)
            soft_TT[t] = np.mean([sure_NT[rows].mean(axis=0) for rows in members], axis=0)
            variance_T[t] = hard_TT[t, t] * (1 - hard_TT[t, t]) / sum(rows.sum() for rows in members)
    known_T = ~np.isnan(hard_TT[:, 0])
    worth_T = np.full(tasks, LEAST_WORTH)
    if known_T.sum() < 2:
        return None, worth_T, False
    for t in np.flatnonzero(known_T):
        others_T = known_T & (np.arange(tasks) != t)
        worth_T[t] = np.clip(soft_TT[t, t] - soft_TT[others_T, t].mean(), LEAST_WORTH, 1)
    worth_T[~known_T] = worth_T[known_T].min()
    right = float(np.diag(hard_TT)[known_T].mean())
    error = float(np.sqrt(variance_T[known_T].sum())) / int(known_T.sum())
    return hard_TT if known_T.all() else None, worth_T, right - _SURE * error > 1 / tasks


def _regression(x_NE: np.ndarray, pair_N: np.ndarray, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (P, E) and bias (P,) of a multinomial logistic regression; every pair occurs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # One thread: the same numbers on every machine, and here several wait for each other longer than they compute.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is short of the optimum is calibrated all the same
        model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=300, tol=_GRADIENT).fit(
            x_NE, pair_N
        )
    if pairs == 2:  # scikit-learn keeps the difference alone
        return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate(
            [-model.intercept_, model.intercept_]
        ) / 2
    return model.coef_, model.intercept_


def _temperature(logits_NP: np.ndarray, truth_N: np.ndarray) -> float:
    """What divides the logits so that the truth is likeliest, each class weighing the same; from 1/20 to 1,000."""
    from scipy.optimize import minimize_scalar

    weight_N = 1 / np.bincount(truth_N)[truth_N]

    def loss(log: float) -> float:
        return -float(weight_N @ _log_softmax(logits_NP / np.exp(log))[np.arange(len(truth_N)), truth_N])

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 1000]), method="bounded").x))  # pyright: ignore


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _likelihoods(logs_MP: np.ndarray, task_P: np.ndarray, tasks: int) -> np.ndarray:
    """The mean over each task's classes of exp(logs), divided by the largest of the row."""
    scaled_MP = np.exp(logs_MP - logs_MP.max(axis=1, keepdims=True))
    mean_MT = scaled_MP @ (np.eye(tasks)[task_P] / np.bincount(task_P, minlength=tasks))
    return np.maximum(mean_MT / mean_MT.max(axis=1, keepdims=True), LEAST_LIKELIHOOD)


def _ranks(group_N: np.ndarray) -> np.ndarray:
    """The how-manieth of its group each one is, from 0."""
    at_N = np.argsort(group_N, kind="stable")
    starts = np.searchsorted(group_N[at_N], group_N[at_N])
    ranks_N = np.empty(len(group_N), np.int64)
    ranks_N[at_N] = np.arange(len(group_N)) - starts
    return ranks_N


def _means(x_NE: np.ndarray, pair_N: np.ndarray, pairs: int) -> np.ndarray:
    return np.stack([x_NE[pair_N == p].mean(axis=0) for p in range(pairs)])


def nearest(x_ME: np.ndarray, means_PE: np.ndarray) -> np.ndarray:
    """The distance (M,) of each row to the nearest of the means."""
    squares_MP = (x_ME**2).sum(axis=1)[:, None] + (means_PE**2).sum(axis=1) - 2 * x_ME @ means_PE.T
    return np.sqrt(np.maximum(squares_MP.min(axis=1), 0))


def mix(likely_NT: np.ndarray, weight_N: np.ndarray, alpha: float) -> np.ndarray:
    """Shares (T,) of the tasks in what was seen: the likeliest at alpha = 1; below it, with rare tasks drawn to 0."""
    start_1T = np.full((1, likely_NT.shape[1]), 1 / likely_NT.shape[1])
    best_1T = _em(likely_NT, weight_N[None], 1.0, start_1T, _STEPS, _TOLERANCE)
    # From there: from even shares, a prior below 1 would drop tasks that the inputs had no time to speak for.
    return (best_1T if alpha == 1 else _em(likely_NT, weight_N[None], alpha, best_1T, _STEPS, _TOLERANCE))[0]


def mixes(likely_NT: np.ndarray, weight_BN: np.ndarray, alpha: float, near_T: np.ndarray) -> np.ndarray:
    """`mix` (B, T) for many weights at once, started close to `near_T`."""
    start_T = 0.9 * near_T + 0.1 / len(near_T)
    start_BT = np.broadcast_to(start_T, (len(weight_BN), len(near_T)))
    return _em(likely_NT, weight_BN, alpha, start_BT, _DRAW_STEPS, _DRAW_TOLERANCE)


def _em(
    likely_NT: np.ndarray, weight_BN: np.ndarray, alpha: float, start_BT: np.ndarray, steps: int, tolerance: float
) -> np.ndarray:
    share_BT = np.array(start_BT)
    active = np.arange(len(share_BT))
    weights = weight_BN
    for _ in range(steps):
        old = share_BT[active]
        count = old * ((weights / (old @ likely_NT.T)) @ likely_NT)
        new = np.maximum(count + (alpha - 1), 0)
        lost = new.sum(axis=1) == 0  # so many tasks that none has half an input
        new[lost] = count[lost]
        new /= new.sum(axis=1, keepdims=True)
        share_BT[active] = new
        going = np.abs(new - old).max(axis=1) > tolerance
        if not going.all():
            active, weights = active[going], weights[going]
            if not len(active):
                break
    return share_BT


def misses(recogniser: Recogniser, shares_T: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """How far EM is off (B, T) where the truth is known: on held-out training samples in this mix, weighted Exp(1)
    for each draw. It is what too few training samples do to the weights and to the temperature.
    """
    weight_N = recogniser.in_mix(shares_T)
    # They lie in the order of a hash, so that the first ones are a random choice.
    at_N = np.flatnonzero(weight_N > 0)[:_REHEARSED]
    if not len(at_N):
        return np.zeros((draws, len(shares_T)))
    weights_BN = random.standard_exponential((draws, len(at_N))) * weight_N[at_N]
    true_BT = weights_BN @ np.eye(len(shares_T))[recogniser.task_of_P[recogniser.held_pair_N[at_N]]]
    mixed_BT = mixes(recogniser.held_likely_NT[at_N], weights_BN, 1.0, shares_T)
    return mixed_BT - true_BT / true_BT.sum(axis=1, keepdims=True)


def black_box(taken_T: np.ndarray, confusion_TT: np.ndarray) -> np.ndarray:
    """The shares (T,) under which the tasks would be taken for one another as often as was seen (T,): least squares."""
    from scipy.optimize import nnls

    heavy = 1e4  # of the equation that shares sum to 1, so that it holds to eight digits
    tasks = len(taken_T)
    shares_T = nnls(np.vstack([confusion_TT.T, np.full(tasks, heavy)]), np.append(taken_T, heavy))[0]
    return shares_T / shares_T.sum()
