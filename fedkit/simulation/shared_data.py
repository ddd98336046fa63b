"""Tables that several runs of one command use, each read once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from fedkit.config.experiment import DataConfig, ExperimentConfig
from fedkit.data.load import load_dataset
from fedkit.errors import FedkitError
from fedkit.types import Dataset


@dataclass
class SharedData:
    """Reads a declared table when it is first asked for, and gives the same data set ever after."""

    _read: list[tuple[DataConfig, bool, Dataset]] = field(default_factory=list)

    def __call__(self, config: DataConfig, *, private: bool) -> Dataset:
        """As :func:`fedkit.data.load.load_dataset`.

        Raises:
            DataError: anything wrong with the table; it is read again when it is asked for again.
        """
        for known, strict, dataset in self._read:
            if (known, strict) == (config, private):
                return dataset
        dataset = load_dataset(config, private=private)
        self._read.append((config, private, dataset))
        return dataset

    def read_ahead(self, config: ExperimentConfig) -> None:
        """Read what a run will ask for; what is wrong with it is that run's to say."""
        with suppress(FedkitError):
            self(config.data, private=config.privacy.mode != "none")
