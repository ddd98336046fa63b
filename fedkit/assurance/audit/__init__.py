"""Does the mechanism do what the plan says? Measured on what the real training path releases, and on that alone."""

from fedkit.assurance.audit.verdict import Audit, audit

__all__ = ["Audit", "audit"]
