"""A site whose noise is a simulation's: for comparing the two, and in no image or wheel."""

import sys

from fedkit.cli.main import main
from fedkit.federation import site
from fedkit.privacy.randomness import Secure, Seeded
from fedkit.training import local

_private = local._private


def private(worker, task, x, y, flat, plan, request, here, sums):
    """The private training of one round, with the draws that a simulation of it takes."""
    local.Secure = lambda: Seeded(request.seed, request.round, here.name, "lots and noise")
    try:
        return _private(worker, task, x, y, flat, plan, request, here, sums)
    finally:
        local.Secure = Secure


# Not where pytest looks into the file for doctests: every other test's noise would be a simulation's.
if __name__ == "__main__":
    local._private = private
    site.SiteRuntime._source = lambda self, name, number: Seeded(self.seed, number, name, "evaluation")
    main(["client", *sys.argv[1:]])
