"""Small state dicts with everything awkward in them: ties, zeros, -0.0, 0-d, empty and unchanged tensors, integers."""

from __future__ import annotations

import numpy as np

SHAPES = {"deep.weight": (37, 29), "deep.bias": (29,), "scalar": (), "empty": (0, 3), "one": (1,), "untouched": (5, 2)}


def state_dicts(
    tasks: int, seed: int = 0, *, step: float = 1 / 64
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """A base and T sequential tasks. Steps are multiples of 1/64, so that equal magnitudes and zeros are common."""
    rng = np.random.default_rng(seed)
    base: dict[str, np.ndarray] = {n: np.asarray(rng.standard_normal(s), np.float32) for n, s in SHAPES.items()}
    base["deep.bias"][:3] = -0.0
    base["position_ids"] = np.arange(7)
    current, result = dict(base), []
    for _ in range(tasks):
        moved = {}
        for name, values in current.items():
            if name in ("untouched", "position_ids"):
                moved[name] = values
            else:
                moved[name] = np.asarray(
                    values + np.float32(step) * rng.integers(-3, 4, values.shape).astype(np.float32), np.float32
                )
        current = moved
        result.append(moved)
    return base, result


def gaussian(tasks: int, size: int, seed: int = 0) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """One tensor, continuous values: no ties."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.standard_normal((tasks, size)).astype(np.float32) * np.float32(1e-2), axis=0, dtype=np.float32)
    base = rng.standard_normal(size).astype(np.float32)
    return {"w": base}, [{"w": base + tau} for tau in walk]


class Arrays:
    """Deltas at hand, shape (T, P)."""

    changed = True

    def __init__(self, tau_TP: np.ndarray, name: str = "w") -> None:
        self.name = name
        self.tau_TP = tau_TP
        self.size = tau_TP.shape[1]
        self.shape = (self.size,)
        self.readings = 0  # elements handed out, over all tasks

    def read(self, task: int, start: int, stop: int, out: np.ndarray) -> bool:
        out[:] = self.tau_TP[task, start:stop]
        self.readings += stop - start
        return bool(out.any())

    def gather(self, task: int, indices: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.tau_TP[task, indices]

    def base(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, np.float32)

    def model(self, task: int | None, start: int, stop: int) -> np.ndarray:
        return self.base(start, stop) if task is None else self.tau_TP[task, start:stop]
