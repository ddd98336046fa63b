"""Updates of sites that are in this process: from their hands into the round loop, without a message for each.

A message costs more than a small site's training. What is asked of an update is the same as of a reply, see
`wire.as_read` and `admission.check_update`; what is spared is packing it and reading it again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from fedkit.federation.events import Stopped
from fedkit.types import ClientUpdate, Float32

Updates = Callable[[Sequence[str], Float32, int, float], Generator[ClientUpdate, None, None]]
"""(sites, parameters, round, proximal_mu) to their updates in any order; what a Grid of this process may have as
``updates``. A delta holds until the next is asked for; a site that is left out did not answer."""


def hear(
    updates: Updates,
    sites: Sequence[str],
    parameters: Float32,
    number: int,
    proximal_mu: float,
    *,
    together: int,
    stop: Callable[[], bool],
) -> Generator[ClientUpdate | str, None, None]:
    """The updates of some sites as they come, and the name of each that gave none.

    Args:
        parameters: float32 [d]; the sites are given a view of it that they cannot write to.
        together: how many sites are asked at once.
        stop: polled before each batch but the first.

    Raises:
        Stopped: ``stop`` said so.
    """
    model = parameters.view()
    model.setflags(write=False)
    for start in range(0, len(sites), together):
        if start and stop():
            raise Stopped
        silent = dict.fromkeys(sites[start : start + together])
        # Left by an error, the sites' processes are to end now and not when somebody collects them.
        with closing(updates(list(silent), model, number, proximal_mu)) as found:
            for update in found:
                # A second one, or another's, is nobody's answer.
                if update.site in silent:
                    del silent[update.site]
                    yield update
        yield from silent
