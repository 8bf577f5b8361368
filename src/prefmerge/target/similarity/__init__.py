"""How much a target resembles each task, and the preference that follows: s_t = sim_t / sum sim.

similarity.py        what every kind returns: distances, similarities, shares in log space, a Preference
samples.py           checks of feature samples; squared distances without cancellation
label_overlap.py     "label": inner product of label distributions, in exact fractions (eq. 7)
ot_distance.py       "ot": optimal transport between embedded samples (POT)
cosine_distance.py   "cosine": between mean embeddings
mean_discrepancy.py  "mmd": maximum mean discrepancy with an RBF kernel
bootstrap.py         how sure a share is: intervals over the target's samples

Source: Tunable MAGMAX, section 3.3 and 4.4. NumPy in, NumPy out; the encoders of `prefmerge.models` make the
features. Importing this loads neither torch nor POT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from prefmerge.target.similarity.bootstrap import FeatureKind, Interval, feature_interval, label_interval
from prefmerge.target.similarity.cosine_distance import cosine
from prefmerge.target.similarity.label_overlap import label
from prefmerge.target.similarity.mean_discrepancy import mmd
from prefmerge.target.similarity.ot_distance import optimal_transport
from prefmerge.target.similarity.similarity import Similarity, SimilarityKind

__all__ = [
    "KINDS",
    "FeatureKind",
    "Interval",
    "SimilarityKind",
    "Similarity",
    "cosine",
    "feature_interval",
    "label",
    "label_interval",
    "mmd",
    "optimal_transport",
]

KINDS: Mapping[SimilarityKind, Callable[..., Similarity]] = MappingProxyType(
    {"label": label, "ot": optimal_transport, "cosine": cosine, "mmd": mmd}
)
