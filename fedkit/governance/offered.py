"""What a site's offer tells of its policy, and how it is read again: by the parser of the site's own file.

All of it are declared constants. Of ``min_records`` only the verdict is told, since the declared count is public.

::

    FK540  what is no such part of a policy
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkit.errors import FederationError
from fedkit.governance.policy_checks import DISCLOSABLE, policy_of
from fedkit.governance.reading import Reader
from fedkit.governance.terms import DAYS, Hours, Policy, Submitter

_UNBOUND = ("max_epsilon_per_run", "hours")
"""Keys that may be null: the policy has no such bound, and the offer says so."""


def offered_policy(policy: Policy, records: int) -> dict[str, Any]:
    """Those parts of a policy that its site discloses, as plain JSON types.

    Args:
        records: the data set's declared units.
    """
    whole = {
        "purposes": list(policy.purposes),
        "studies": list(policy.studies),
        "release": list(policy.release),
        "approval": policy.approval,
        "max_rounds": policy.max_rounds,
        "max_epsilon_per_run": policy.max_epsilon_per_run,
        "min_records": records >= policy.min_records,
        "min_other_sites": policy.min_other_sites,
        "hours": _hours(policy.hours),
        "submitters": "any" if policy.submitters is None else [_user(one) for one in policy.submitters],
    }
    return {key: whole[key] for key in DISCLOSABLE if key in policy.disclose}


def read_offered(values: Mapping[str, Any], max_epsilon: float, records: int) -> Policy:
    """The policy as far as it was told; ``disclose`` names the parts that were, all others admit whatever comes.

    Args:
        max_epsilon: of the data set.
        records: its declared units.

    Raises:
        FederationError: FK540.
    """
    found, given = Reader(Path()), {key: value for key, value in values.items() if key != "min_records"}
    few = values.get("min_records", True)
    if "disclose" in given or not isinstance(few, bool):
        raise _unreadable("names disclose, or a min_records that is no verdict")
    if blank := [key for key, value in given.items() if value is None and key not in _UNBOUND]:
        raise _unreadable(f"leaves {blank[0]!r:.40} blank")
    told = {key: value for key, value in given.items() if value is not None}
    policy = policy_of(found, told, "policy", max_epsilon, absent=True)
    if found.problems:
        raise _unreadable(found.problems[0][:200])
    return Policy(
        **{
            **vars(policy),
            # Whoever was not told does not count as refused.
            "submitters": policy.submitters if "submitters" in told else None,
            "min_records": 1 if few else records + 1,
            "disclose": tuple(key for key in DISCLOSABLE if key in values),
        }
    )


def _hours(hours: Hours | None) -> dict[str, Any] | None:
    if hours is None:
        return None
    return {
        "days": [DAYS[day] for day in hours.days],
        "from": f"{hours.begin // 60:02}:{hours.begin % 60:02}",
        "to": f"{hours.end // 60:02}:{hours.end % 60:02}",
        "timezone": hours.timezone,
    }


def _user(one: Submitter) -> str:
    return one.name if one.key is None else f"{one.name}={one.key}"


def _unreadable(why: str) -> FederationError:
    return FederationError(
        f"the policy of an offer {why}", code="FK540", remedy="update the coordinator, which is the older side"
    )
