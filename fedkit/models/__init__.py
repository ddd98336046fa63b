"""Models by name. One file a family; a config names an entry, never a dotted path."""

from __future__ import annotations

from fedkit.models.catalogue import MODELS, build

__all__ = ["MODELS", "build"]
