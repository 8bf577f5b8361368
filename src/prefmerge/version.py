"""The version of prefmerge, for what records it; here, so that they need not import the whole package."""

from __future__ import annotations

__version__ = "0.2.0"
