"""What `fedkit client doctor` says of data sets that read one table: each has a budget, and the patients have both."""

from __future__ import annotations

from collections.abc import Iterator

from fedkit.governance.terms import SiteFile


def shared_sources(file: SiteFile) -> Iterator[tuple[str, str]]:
    """What was found and what to do, for each table that several data sets read.

    Two queries of one database may name the same patients as well; nobody can tell.
    """
    readers: dict[tuple[object, ...], list[str]] = {}
    for name, own in file.data.items():
        source = own.declaration.source
        place = source.path or source.url or source.url_env or source.url_file
        readers.setdefault((source.kind, place, source.query), []).append(name)
    for names in readers.values():
        if len(names) > 1:
            limits = " + ".join(f"{file.data[name].max_epsilon:g}" for name in names)
            yield (
                f"{', '.join(names)} read one table, and each has a budget: what they cost a patient adds up to epsilon"
                f" {limits}",
                "offer the table once, or lower each max_epsilon before the first start",
            )
