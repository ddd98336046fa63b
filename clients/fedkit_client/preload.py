"""What the zygote imports, so that a child need not: everything that answering a message uses, and nothing of CUDA."""

from __future__ import annotations


def preload() -> None:
    """Import it all; computes nothing, so that no pool of threads exists when a child is forked."""
    import duckdb  # noqa: F401
    import numpy  # noqa: F401
    import sqlalchemy  # noqa: F401
    import torch
    import torch.func

    import fedkit_client.answers
    import fedkit_client.gatekeeper  # noqa: F401
    from fedkit.privacy.calibration import noise_multiplier_for
    from fedkit.privacy.dp_sgd import check_module

    # Looks at a module's kinds and runs none of it; what it needs is imported with it.
    check_module(torch.nn.Linear(1, 1))

    # The accountant's own imports; what is calibrated here is nobody's plan.
    noise_multiplier_for(1.0, 1e-5, 0.1, 1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError("an import has opened CUDA, which no fork survives")
