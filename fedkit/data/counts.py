"""The units that a site has, held against the units that it declares."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fedkit.errors import DataError

_LOG = logging.getLogger("fedkit.site")
# A declared count sizes lots and noise: beyond the first share it is likely a mistake, beyond the second worth telling.
_DEVIATION = 0.2
_SHORT = 0.05


def check_counts(found: Mapping[str, int], declared: Mapping[str, int], *, private: bool) -> tuple[str, ...]:
    """Compare every site's count with its declaration.

    Args:
        found: site to the number of its units that are used, train and test together.
        declared: site to its declared number; sites without one are not judged.
        private: stop a site with more than it declares, since its plan holds for the declared number at most.

    Returns:
        One warning for each site that is short (private: by more than 5 %, which trains with the declared constants
        all the same; else: off by more than 20 % either way, a site without any unit aside). A smaller shortfall of a
        private site, as where it declares a round number, is told in the local log (``fedkit.site``) alone.

    Raises:
        DataError: FK222, all sites with more than they declare at once. The count stands in this local message only.

    >>> check_counts({"north": 10, "south": 99}, {"north": 20, "south": 100}, private=True)
    ('north has 10 units; records declares 20: it trains with the declared constants',)
    """
    over = {name: count for name, count in found.items() if count > declared.get(name, count)}
    if private and over:
        told = "; ".join(f"{name} has {count} units and declares {declared[name]}" for name, count in over.items())
        settings = " ".join(f"data.records.{name}={count}" for name, count in over.items())
        raise DataError(
            f"{told}: a private run is planned for the declared number at most",
            code="FK222",
            remedy="declare at least as many, best a round number above, by `records` in a site's own file and in a run"
            f" equally: {settings}",
        )
    warnings = []
    for name, count in found.items():
        target = declared.get(name)
        if target is None or not (count or private):
            continue
        if private and count < target:
            told = f"{name} has {count} units; records declares {target}: it trains with the declared constants"
            if target - count > _SHORT * target:
                warnings.append(told)
            else:
                _LOG.info("%s", told)
        elif not private and abs(count - target) > _DEVIATION * target:
            warnings.append(f"{name} has {count} units; records declares {target}, more than 20% off")
    return tuple(warnings)
