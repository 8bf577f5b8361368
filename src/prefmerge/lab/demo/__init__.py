"""The embedded default: a tiny CLIP-style encoder learns handwritten digits, two at a time, and is merged.

Needs the extra `demo` (torch, accelerate, scikit-learn, matplotlib), and imports none of it before `run` is called.
"""

from __future__ import annotations

from prefmerge.lab.demo.run import run

__all__ = ["run"]
