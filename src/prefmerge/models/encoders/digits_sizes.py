"""The sizes of the demo's tower: known without torch, which the tower itself needs."""

from __future__ import annotations

IMAGE_SIZE = 16  # pixels a side; the digits are 8 x 8 and enlarged
PATCH_SIZE = 4  # pixels a side
WIDTH = 96  # channels of a token
DEPTH = 4  # blocks
MLP_WIDTH = 192
HEAD_WIDTH = 32  # channels of one attention head
EMBED_WIDTH = 64
