"""A small federation's keys, made once: tests of what is signed share them."""

from functools import cache

from fedkit.config.compose import compose
from fedkit.federation import statements
from fedkit.federation.job import make_job, open_job
from fedkit.storage.keys import fingerprint, new_signing_key

NOW = 1_800_000_000.0
FEDERATION = fingerprint(b"a certificate")
ROOT, COORDINATOR, OPERATOR, VIEWER, OTHER = (new_signing_key() for _ in range(5))


def keyring():
    made = statements.start(FEDERATION, "ana", ROOT, COORDINATOR.public, NOW - 100)
    made = statements.add(made, "bo", "operator", OPERATOR.public, ROOT, NOW - 90)
    return statements.add(made, "vi", "viewer", VIEWER.public, ROOT, NOW - 80)


@cache
def config(*overrides):
    return compose("heart_disease", ["privacy.noise=secure", *overrides])


def job_text(made=None, key=OPERATOR, submitter="bo", **changes):
    given = {
        "federation": FEDERATION, "run": "run-1", "study": "heart", "submitter": submitter, "min_sites": 2,
        "deadline": 60.0, "lifetime": 3600.0, "key": key, "now": NOW, **changes,
    }  # fmt: skip
    return make_job(made or config(), **given).text


def job(made=None, **changes):
    return open_job(job_text(made, **changes), keyring(), FEDERATION, NOW)
