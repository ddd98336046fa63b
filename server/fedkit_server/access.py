"""Who is speaking, and may they: tokens to users, users to roles.

::

    FK720  no token, or one that is not known      401
    FK721  a role that does not suffice            403
    FK725  too many failed tokens, or statements   429
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from fedkit.errors import DeploymentError
from fedkit.federation.keyring import ROLES, Member
from fedkit_server.shares import Shares
from fedkit_server.state import State
from fedkit_server.tokens import Brake, looks_like_token, owner

_LOG = logging.getLogger("fedkit.access")


@dataclass
class Access:
    """Judges tokens; may be called from any thread."""

    state: State
    brake: Brake = field(default_factory=Brake)
    archives: Shares = field(default_factory=Shares)
    stated: Brake = field(default_factory=lambda: Brake(most=5, seconds=3600.0))
    pulled: Brake = field(default_factory=lambda: Brake(most=240, seconds=3600.0))

    def user(self, token: str, address: str) -> Member:
        """The user of a token.

        Raises:
            DeploymentError: FK720, FK725.

        Guarantee: an unknown token, one of a revoked user and none at all are answered alike; nobody else's bad tokens
        keep a user out.
        """
        member = self._member(token)
        if member is None:
            # Only whoever has no token is held up: behind one address there may be a whole hospital. It is its 256
            # random bits that keep a token from being guessed.
            if self.brake.holds(address):
                raise DeploymentError(
                    f"{self.brake.most} requests from this address had no valid token within {self.brake.seconds:g} s",
                    code="FK725",
                    remedy="wait a minute, then use the token of your profile",
                )
            self.brake.failed(address)
            self.state.failed_logins += 1
            _LOG.warning("a request from %s had no valid token", address)
            raise DeploymentError(
                "a valid token is needed", code="FK720", remedy="use a profile whose token an admin has made"
            )
        return member

    def require(self, member: Member, role: str) -> None:
        """Refuse a user whose role does not suffice.

        Raises:
            DeploymentError: FK721.
        """
        if ROLES.index(member.role) < ROLES.index(role):
            raise DeploymentError(
                f"{member.name} is {member.role}; {role} is needed", code="FK721", remedy="ask an admin for the role"
            )

    def may_state(self, member: Member) -> None:
        """Count a statement for the keyring, which never shrinks; an admin makes as many as they like.

        Raises:
            DeploymentError: FK725.
        """
        if member.role == "admin":
            return
        if self.stated.holds(member.name):
            raise DeploymentError(
                f"{member.name} has sent {self.stated.most} statements within an hour",
                code="FK725",
                remedy="wait an hour, or ask an admin",
            )
        self.stated.failed(member.name)

    def may_pull(self, member: Member) -> None:
        """Count an archive: each is a line of the audit log, which never shrinks.

        Raises:
            DeploymentError: FK725.
        """
        if self.pulled.holds(member.name):
            raise DeploymentError(
                f"{member.name} has asked for {self.pulled.most} archives within an hour",
                code="FK725",
                remedy="wait an hour; `fedkit server watch RUN` tells how a run goes on",
            )
        self.pulled.failed(member.name)

    def may_control(self, token: str) -> bool:
        """Whether a token is an admin's."""
        member = self._member(token)
        return member is not None and member.role == "admin"

    def _member(self, token: str) -> Member | None:
        # What is written like none costs no look at the database.
        user = owner(token, self.state.store.tokens()) if looks_like_token(token) else None
        return None if user is None else self.state.member(user)
