"""The ClientApp of a site in ``federation=flower``: the resolved config comes with the run, the site with the node.

In this version the config that arrives decides which file or query is read at the site and how much noise is added:
whoever starts a run decides what it releases. ``federation=flower`` therefore runs on loopback only.
"""

from __future__ import annotations

import json
from dataclasses import replace

from flwr.app import Context

from fedkit.config.serialize import from_dict
from fedkit.data.load import load_dataset
from fedkit.federation.client import make_client_app
from fedkit.federation.site import SiteRuntime
from fedkit.models import build
from fedkit.training.plan import local_plans


def load(context: Context) -> SiteRuntime:
    """Read this site's records and make its plan; nothing of another site is kept.

    Raises:
        FedkitError: the config or the data is refused.
    """
    config = from_dict(json.loads(str(context.run_config["fedkit-config"])))
    name = bytes.fromhex(str(context.node_config["site-hex"])).decode()
    whole = load_dataset(config.data, private=config.privacy.mode != "none")
    dataset = replace(whole, sites=tuple(site for site in whole.sites if site.name == name))
    local = local_plans(config, dataset)
    return SiteRuntime(
        model=build(config.model, dataset.input_shape, dataset.task.num_outputs, config.seed),
        task=dataset.task,
        seed=config.seed,
        sites={site.name: site for site in dataset.sites},
        plans=local.sites,
        evaluates=frozenset(local.tested),
        specs=local.specs,
        # The loopback simulation: no ledger, exact metrics. A deployed site leaves this out.
        exact=True,
    )


app = make_client_app(load)
