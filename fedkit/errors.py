"""The errors that fedkit raises on purpose.

::

    FedkitError                 FK0xx  base: a stable code, one message, exit status 2
    ├── ConfigError             FK1xx  what an experiment says (collects every problem, not the first)
    ├── DataError               FK2xx  a table, its declaration, its sites
    ├── PrivacyError            FK3xx  a plan or a budget that cannot be honoured
    ├── TrainingError           FK4xx  a model or an update that cannot be used
    ├── FederationError         FK5xx  rounds, quorum, grid
    ├── RunError                FK6xx  run directories, replay, reports
    └── DeploymentError         FK7xx  coordinator and site: folders, keys, network, enrolment

``Interrupted`` stands apart: the user's Ctrl-C, exit status 130.
"""

from __future__ import annotations

from collections.abc import Sequence


class FedkitError(Exception):
    """One clear message for a person: what value, what bound, what to do.

    Args:
        message: one sentence that names the value and the bound.
        code: stable identifier such as ``"FK301"``, for scripts and search.
        remedy: what the reader can do about it; empty if the message says so already.

    >>> str(FedkitError("epsilon is -1; it must be above 0", code="FK301", remedy="set privacy.epsilon=3"))
    'FK301: epsilon is -1; it must be above 0. Remedy: set privacy.epsilon=3.'
    """

    exit_status = 2

    def __init__(self, message: str, *, code: str = "FK000", remedy: str = "") -> None:
        self.message, self.code, self.remedy = message.rstrip("."), code, remedy.rstrip(".")
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}." + (f" Remedy: {self.remedy}." if self.remedy else "")


class ConfigError(FedkitError):
    """Everything that is wrong with a config, at once.

    Args:
        problems: one finished sentence each.
    """

    def __init__(self, problems: Sequence[str], *, code: str = "FK101") -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(self.problems), code=code)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.code}: {self.problems[0]}"
        return f"{self.code}: {len(self.problems)} problems\n" + "\n".join(f"  - {p}" for p in self.problems)


class DataError(FedkitError):
    """A table that cannot be read as declared."""


class PrivacyError(FedkitError):
    """A privacy plan that cannot be honoured."""


def together(problems: Sequence[PrivacyError]) -> PrivacyError:
    """Several problems as one error, each said once; a single one stays as it is.

    >>> together([PrivacyError("delta is 0", code="FK302"), PrivacyError("sigma is 0", code="FK303")]).code
    'FK300'
    """
    unique = list({str(problem): problem for problem in problems}.values())
    if len(unique) == 1:
        return unique[0]
    lines = "\n".join(f"  - {problem}" for problem in unique)
    return PrivacyError(f"{len(unique)} problems\n{lines}", code="FK300")


class TrainingError(FedkitError):
    """A model or an update that cannot be used."""


class FederationError(FedkitError):
    """A federation that cannot start or go on."""


class RunError(FedkitError):
    """A run directory that cannot be written or read."""


class DeploymentError(FedkitError):
    """A coordinator or a site that cannot be set up, reached or joined."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its name where it says nothing.

    >>> first_line(ValueError("one\\ntwo")), first_line(MemoryError())
    ('one', 'MemoryError')
    """
    return (str(error).splitlines() or [""])[0] or type(error).__name__


class Interrupted(Exception):
    """The user stopped the run; what was done so far is on disk."""

    exit_status = 130
