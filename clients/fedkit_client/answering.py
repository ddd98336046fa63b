"""What the executor's processes do: begin silently, and answer whatever the node's process hands on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fedkit.errors import FedkitError
from fedkit.governance.terms import SiteFile
from fedkit_client import logs
from fedkit_client.folder import SiteFolder
from fedkit_client.frames import Bytes
from fedkit_client.zygote import Handle


def answerer(file: SiteFile, folder: SiteFolder) -> Handle:
    """What a child answers requests with, for a site."""

    def answer(header: dict[str, Any], body: Bytes) -> tuple[dict[str, Any], Bytes]:
        # Loaded by the zygote: the node's process never holds torch, nor what opens a table.
        from fedkit_client.gatekeeper import Gatekeeper, handle

        keeper = Gatekeeper(file, folder)
        if header.get("tables"):
            from fedkit_client.tables import look_at_tables

            # Under the limits, as every later reading; a database's driver is nothing for the node's process.
            problem = keeper.probe()
            return problem or {"tables": [look.plain() for look in look_at_tables(file, folder)]}, b""
        if "purge" in header:
            return _purge(file, folder, header), b""
        return handle(keeper)(header, body)

    return answer


def _purge(file: SiteFile, folder: SiteFolder, header: dict[str, Any]) -> dict[str, Any]:
    from fedkit_client.retention import delete, due, plain, read_due

    try:
        folder.quarantine.refuse()
        if header["purge"] == "due":
            return {"due": plain(due(folder, file.site, file.retention, header["now"]))}
        for each in read_due(header["due"]):
            delete(folder, each)
        return {"deleted": True}
    except (FedkitError, OSError) as error:
        # It may speak of what is stored.
        logging.getLogger(logs.SITE).warning("what is beyond its deadline cannot be deleted: %s", error)
        return {"problem": True}


def silent(folder: SiteFolder) -> Callable[[], None]:
    """What the zygote begins with: its words go to the log, then it imports everything."""

    def begin() -> None:
        from fedkit_client.preload import preload

        logs.redirect(folder.log, None if folder.keys is None else folder.keys.known())
        preload()

    return begin
