"""pfl-research's SimulatedBackend in one process: one model for all users, no messages, FederatedAveraging.

pfl-research has privacy for what a user sends, by clipping and noise on its whole update, and none for a record. For
DP-SGD its local optimizer is Opacus' DPOptimizer over a GradSampleModule, wrapped once, as pfl-research allocates a
model once: per-sample gradients, clip, noise and learning rate are those of the other sides. Its batches are shuffled
slices of a fixed size (pfl-research has no Poisson sampling), as many a round as the others have lots. Users come in
turn: its random sampler would draw some of them twice for a round.

    python pfl_simulation.py FOLDER
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lines

if __name__ == "__main__":
    lines.take()
import torch
import works
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

NEVER = 10**9


class WithLoss(nn.Module):
    """What pfl-research asks of a model: a loss, and metrics that nobody looks at here."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor, eval: bool = False) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, eval: bool = False) -> dict[str, Any]:
        """None."""
        return {}


def main(folder: Path) -> None:
    """Serve turns until the pipe is closed."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus warns of its own hooks at every step
    logging.disable(logging.CRITICAL)
    if works.about(folder).private:
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer
    kept: list[tuple[works.Given, nn.Module, SimulatedBackend, PyTorchModel]] = []

    def start() -> tuple[works.Given, nn.Module, SimulatedBackend, PyTorchModel]:
        given = works.read(folder)
        work, net = given.work, given.work.model()

        def optimizer(parameters: Any, lr: float, **_: Any) -> Any:
            plain = torch.optim.SGD(parameters, lr=lr)
            if not work.private:
                return plain
            return DPOptimizer(
                plain,
                noise_multiplier=works.SIGMA,
                max_grad_norm=works.CLIP,
                expected_batch_size=work.rows // work.steps,
            )

        module = WithLoss(GradSampleModule(net) if work.private else net)
        model = PyTorchModel(module, optimizer, torch.optim.SGD(module.parameters(), lr=1.0))
        users = FederatedDataset(
            lambda site: Dataset((given.x[site], given.y[site])),
            get_user_sampler("minimize_reuse", list(range(work.sites))),
        )
        return given, net, SimulatedBackend(training_data=users, val_data=None, postprocessors=[]), model

    def turn(rounds: int) -> dict[str, float]:
        if not kept:
            kept.append(start())
        given, net, backend, model = kept[0]
        work = given.work
        net.load_state_dict(given.first)
        local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=works.RATE, local_batch_size=work.batch)
        asked = NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=NEVER, train_cohort_size=work.a_round, val_cohort_size=0
        )
        begun = time.perf_counter()
        FederatedAveraging().run(asked, backend, model, local, None, callbacks=[])
        seconds = time.perf_counter() - begun
        return {"counted": rounds, "seconds": seconds, "moved": given.moved(net.state_dict())}

    lines.serve(turn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
