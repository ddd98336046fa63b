"""Which rows a run may read, from a site's file, the run's purpose and who has withdrawn.

::

    FK590  a run without a purpose, for a data set whose rows are used by consent
    FK592  a data set in which nobody can tell whose a record is
"""

from __future__ import annotations

import datetime

from fedkit.data.consent import ConsentFilter
from fedkit.errors import FederationError
from fedkit.governance.terms import SiteData


def filter_of(
    own: SiteData, dataset: str, withdrawn: frozenset[str], purpose: str | None, day: datetime.date
) -> ConsentFilter | None:
    """Which rows of a data set a run may read on a day; None where that is all of them.

    Args:
        withdrawn: ids whose withdrawal stands.

    Raises:
        FederationError: FK590; FK592, somebody has withdrawn from records that are nobody's.
    """
    terms = own.consent
    if terms is None and not withdrawn:
        return None
    if terms is not None and not purpose:
        raise FederationError(
            f"records of {dataset} are used by consent to a purpose, and the run has none",
            code="FK590",
            remedy="submit it with purpose=NAME",
        )
    if withdrawn:
        require_ids(own, dataset)
    column, register = (terms.column, terms.register) if terms is not None else (None, None)
    return ConsentFilter(purpose or "", day, column, register, own.ids, withdrawn)


def require_ids(own: SiteData, dataset: str) -> str:
    """The column that tells whose a record is.

    Raises:
        FederationError: FK592, there is none.
    """
    if own.ids is None:
        raise FederationError(
            f"nothing in {dataset} tells whose a record is",
            code="FK592",
            remedy=f"name the column of ids as data.{dataset}.consent.unit, or take the rows out of the source",
        )
    return own.ids
