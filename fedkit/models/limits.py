"""How large a model of ours may be."""

from __future__ import annotations

MOST_PARAMETERS = 249_000_000
"""What a ledger can keep of one reply (FK357), a gigabyte."""
