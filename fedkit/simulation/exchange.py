"""How a ServerApp in another process hands its rounds to the command that started it: one atomic file a round."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedkit.federation.rounds import Finish, OnRound
from fedkit.storage.atomic import write_bytes, write_json
from fedkit.types import ClientUpdate, Float32, RoundReport

_FINISH = "finish.json"


@dataclass(frozen=True)
class Exchange:
    """A folder between two processes on one machine."""

    folder: Path

    def put_round(self, report: RoundReport, parameters: Float32, updates: Sequence[ClientUpdate]) -> None:
        """Called in the ServerApp after each round."""
        arrays: dict[str, object] = {"parameters": parameters, "report": json.dumps(asdict(report))}
        for index, update in enumerate(updates):
            arrays[f"delta/{index}"] = update.delta
            arrays[f"update/{index}"] = json.dumps([update.site, update.weight])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(self.folder / f"{report.round:05d}.npz", buffer.getvalue())

    def put_finish(self, finish: Finish) -> None:
        """Called in the ServerApp at the end."""
        write_json(
            self.folder / _FINISH, {"outcome": finish.outcome, "rounds": finish.rounds, "notes": list(finish.notes)}
        )

    def put_error(self, message: str) -> None:
        """Called in the ServerApp when it cannot go on."""
        write_json(self.folder / _FINISH, {"error": message})

    def take_round(self, number: int, on_round: OnRound) -> Float32 | None:
        """Hand round ``number`` on, if it has arrived; return its model."""
        path = self.folder / f"{number:05d}.npz"
        if not path.is_file():
            return None
        with np.load(path) as arrays:
            report = json.loads(str(arrays["report"]))
            updates = []
            for index in range(sum(key.startswith("update/") for key in arrays)):
                site, weight = json.loads(str(arrays[f"update/{index}"]))
                updates.append(ClientUpdate(site, arrays[f"delta/{index}"], weight))
            parameters: Float32 = arrays["parameters"]
        report["trained"] = tuple(report["trained"])
        report["histograms"] = {site: tuple(cells) for site, cells in report["histograms"].items()}
        on_round(RoundReport(**report), parameters, updates)
        path.unlink()
        return parameters

    def finished(self) -> dict[str, object] | None:
        """How the ServerApp ended, once it has."""
        path = self.folder / _FINISH
        if not path.is_file():
            return None
        value: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return value
