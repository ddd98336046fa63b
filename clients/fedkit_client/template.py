"""The site file that ``join`` writes: commented, and blank wherever the hospital has to decide."""

from __future__ import annotations

from pathlib import Path

from fedkit.errors import DeploymentError

_EXAMPLES = Path(__file__).with_name("examples")
_TEMPLATE = """\
# fedkit client start {file}
# This hospital's own file: what it has, what it allows, what it gives. What is not named here is refused.
# Fill in what is blank; `fedkit client start` names everything that is still missing.
site: {site}

data:
  # The name by which runs ask for the data set: rename it to the one that was agreed upon.
  NAME:
    # A declaration that fedkit ships, such as heart_disease, or a mapping as in configs/data/.
    declaration:
    # Where the rows are, such as {{kind: csv, path: table.csv}}; kinds are csv, parquet and sql.
    source:
    # Declared number of records (or patients): a round public figure at or above the true one.
    records:
    # What one unit of privacy is: record, or patient with the column of their ids in unit_column.
    unit:
    # What all runs together may ever spend on these patients. Fixed at the first start, for good. The ledger counts
    # more cautiously than a run states its cost: of 3.0, one run of epsilon 2.7 can be paid, and none of 3.0.
    max_epsilon:
    # Well below 1 / records. Fixed like max_epsilon.
    delta:
    # Lists of names, such as [logistic] and [fedavg].
    models:
    strategies:
    # Who may run what, for which purpose, and what may leave; docs/governance.md has every clause.
    policy:
      # What a run must say that it is for, such as [heart-disease-research].
      purposes:
      # Names of studies, or [none] for runs that belong to no study.
      studies:
      # any, for every operator of the federation, or a list of users.
      submitters:
      # Some of [updates, private_metrics, exact_metrics, statistics].
      release:
      # automatic, or manual: a person here approves each run.
      approval:
      # The most rounds of one run.
      max_rounds:
      # Optional: max_epsilon_per_run, min_records, min_other_sites, hours; disclose, what others are told of this.
    # unit_column: the column of patients' ids
    # site_column: the column that tells sites apart, if the table holds more than this one
    # consent: whose rows may be used, such as {{column: {{name: consent, values: ["yes"]}}}}; see docs/governance.md
    # allow_unprotected: true admits runs without privacy, which reveal what they like

# The key by which all that is stored of records is encrypted: key_file, key_env or key_command (docs/operations.md).
# Left out, it is a file beside the site's folder, made by joining: keep a copy of it, apart from copies of the folder.
# encryption: {{key_file: /etc/fedkit/{site}.key}}

# What a run may take; left out, there is no limit.
# limits: {{cpus: 2, memory: 4GiB, disk: 5GiB, bandwidth: 10MiB/s}}
# device: cpu, cuda or auto
# disclose_usage: true tells the coordinator CPU seconds and peak memory, which may depend on records
# alerts: whom the site tells of forged requests, budgets that run out and so on; see docs/operations.md
"""


def site_template(site: str, file: str = "site.yaml") -> str:
    """The file's text for a site.

    >>> "max_epsilon:\\n" in site_template("north")
    True
    """
    return _TEMPLATE.format(site=site, file=file)


def example_file(site: str) -> str:
    """A complete site file for a hospital of the built-in heart disease table.

    Raises:
        DeploymentError: FK707, there is none for this name.
    """
    found = {path.stem: path for path in sorted(_EXAMPLES.glob("*.yaml"))}
    if site not in found:
        raise DeploymentError(
            f"there is no example for {site}", code="FK707", remedy=f"name {' or '.join(found)}, or leave out --example"
        )
    return found[site].read_text(encoding="utf-8")
