"""Whether all that a site's folder holds under its key opens: a restored backup, or one that is to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from fedkit.errors import FedkitError
from fedkit_client.console_factors import users_of
from fedkit_client.folder import SiteFolder
from fedkit_client.lineage import all_shown
from fedkit_client.pseudonyms import pseudonym_key
from fedkit_client.rectified import times_of
from fedkit_client.withdrawals import read_withdrawn


def unopened(folder: SiteFolder, datasets: Iterable[str]) -> list[str]:
    """What does not open, a sentence each; nothing is changed.

    Raises:
        DeploymentError: FK790, FK791, FK793: the key itself.
    """
    from fedkit.privacy.ledger.ledger import Ledger

    vault = folder.vault()
    found: list[str] = []

    def tried(look: Callable[[], object]) -> None:
        try:
            look()
        except FedkitError as error:
            found.append(str(error))

    def ledger(name: str) -> None:
        with Ledger(folder.ledger(name), read_only=True, vault=vault) as opened:
            opened.verify()

    for name in sorted(path.stem for path in folder.ledgers.glob("*.sqlite")):
        tried(partial(ledger, name))
    for name in datasets:
        tried(partial(read_withdrawn, folder.withdrawals, name, vault))
        tried(partial(times_of, folder.rectified, name, "", vault))
    users = users_of(folder)
    tried(lambda: users.factors(users.read()))
    if folder.pseudonym_key.exists():
        tried(lambda: pseudonym_key(folder, make=False))
        tried(lambda: all_shown(folder))
    return found
