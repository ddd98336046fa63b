"""The heart disease experiment across a coordinator and four hospitals that are apart.

    python experiments/federation/run.py            # five hardened containers on an internal network: make federation
    python experiments/federation/run.py --local    # the same five as plain processes: make federation-local
    python experiments/federation/run.py --files DEMO    # only the four hospitals' files

Further words override the experiment's config, such as federation.num_rounds=3.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from engine import ROOT, NoEngine, build, find, say
from parties import Parties, Processes

SITES = ("cleveland", "hungary", "switzerland", "va")
TABLE = ROOT / "fedkit/data/builtin/heart_disease.csv"
_SITE_FILE = """\
# fedkit client start {folder}/site.yaml
# {site}: what this hospital has, what it allows, what it gives.
site: {site}
data:
  heart_disease:
    declaration: heart_disease
    source: {{kind: csv, path: {folder}/heart.csv}}
    records: {records}     # as published
    unit: record
    max_epsilon: 4.0       # for all runs together: one run of this experiment, and no second
    delta: 1.0e-5
    models: [logistic]
    strategies: [fedavg]
    policy:
      purposes: [heart-disease-research]
      studies: [none]
      submitters: any
      release: [updates, private_metrics]
      approval: automatic
      max_rounds: 100
"""


def split(demo: Path, seen_as: str) -> None:
    """Write every hospital's own table, which has no column of sites, and its site.yaml.

    Args:
        seen_as: how the hospital sees its folder, with SITE in the place of its name.
    """
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in rows[0] if column != "site"]
    for site in SITES:
        own = [row for row in rows if row["site"] == site]
        place = demo / site
        place.mkdir(parents=True, exist_ok=True)
        with (place / "heart.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(own)
        text = _SITE_FILE.format(site=site, folder=seen_as.replace("SITE", site), records=len(own))
        (place / "site.yaml").write_text(text, encoding="utf-8")
    # The containers' user is none of this host's; the table is public.
    for path in (demo, *demo.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def experiment(parties: Parties, overrides: Sequence[str], runs: Path) -> Path:
    """From nothing to a run's folder.

    Raises:
        subprocess.CalledProcessError: a command failed.
        TimeoutError: a party does not answer.
        RuntimeError: a party has ended.
    """
    parties.make_federation()
    parties.start_coordinator()
    say("the coordinator answers")
    for site in SITES:
        parties.join_and_start(site, parties.invitation(site))
        say(f"{site} has joined")
    for site in SITES:
        parties.wait_for(site)
    say("all sites are connected")
    words = ("run", "heart_disease", *overrides, "--sites", ",".join(SITES), "--detach", "--json")
    run = json.loads(parties.lead(*words))["run"]
    say(f"{run} is submitted")
    parties.lead("watch", run, show=True)
    place = runs / run
    parties.fetch(run, place)
    return place


def show(place: Path) -> int:
    """Print the results; returns the exit status."""
    from rich.console import Console

    from fedkit.reporting.reader import read_run
    from fedkit.reporting.terminal import closing_table

    view = read_run(place)
    Console().print(closing_table(view))
    print(f"Report: {place / 'report.html'}\nModel: {place / 'model.safetensors'}")
    missing = [name for name in ("model.safetensors", "report.html", "result.json") if not (place / name).is_file()]
    if missing:
        say(f"federation: the run left no {', '.join(missing)}")
    return 1 if missing or view.outcome != "complete" else 0


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit status: 0 a complete run, 1 anything else, 2 no engine, 130 interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="plain processes")
    parser.add_argument("--files", type=Path, metavar="DEMO", help="only write the hospitals' files, for containers")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run's folder goes")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    told = parser.parse_args(arguments)
    if told.files:
        split(told.files, "/data")
        return 0
    # Whoever ends this script ends what it started.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)), signal.getsignal(signal.SIGINT)
    demo = Path(tempfile.mkdtemp(prefix="fedkit-demo-"))
    parties: Parties | None = None
    began = time.monotonic()
    try:
        if told.local:
            parties = Processes(demo)
        else:
            from containers import Containers

            engine = build(find())
            say(f"images are ready after {time.monotonic() - began:.0f} s")
            parties = Containers(engine, demo)
        split(demo, parties.data)
        place = experiment(parties, told.overrides, told.runs)
        say(f"all of it took {time.monotonic() - began:.0f} s")
        return show(place)
    except NoEngine as error:
        say(f"federation: {error}")
        return 2
    except KeyboardInterrupt:
        say("federation: interrupted; everything is stopped and removed")
        return 130
    except (subprocess.SubprocessError, RuntimeError, TimeoutError) as error:
        output = "\n".join(
            str(part).strip() for part in (getattr(error, "stdout", ""), getattr(error, "stderr", "")) if part
        )
        say(f"federation: {error}\n{output}")
        if parties is not None:
            say(parties.logs())
        return 1
    finally:
        # A second Ctrl-C must not leave anything behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if parties is not None:
            parties.close()
        shutil.rmtree(demo, ignore_errors=True)
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
