"""What a sweep came to, for whoever opens its run in MLflow."""

from pathlib import Path

from mcl_lab.host.files import read_json, write_atomically, write_json
from mcl_lab.results import formats
from mcl_lab.results.report import tables
from mcl_lab.results.reported_runs import once
from mcl_lab.results.selection import read_folders
from mcl_lab.runs.journal import read_record
from mcl_lab.runs.layout import SweepFolder
from mcl_lab.runs.result import HEADLINE

DESCRIPTION = "mlflow.note.content"
LONGEST = 5000  # characters of a description; MLflow cuts off longer ones


def write_table(folder: Path) -> None:
    """Write the report of the sweep in `folder` into table.md, and below the first line of its record's description.

    Baselines count that stand in the folders where the sweep's runs are. Without a run to report there is no table.
    """
    sweep = SweepFolder(folder)
    record, ledger = read_record(folder), read_json(sweep.ledger)
    if record is None or ledger is None or DESCRIPTION not in record["tags"]:
        return
    places = sorted({Path(run["folder"]).parent for run in ledger["runs"]})
    everything = once([run for place in places for run in read_folders(place)])
    keys = {run["run_key"] for run in ledger["runs"]}
    chosen = [run for run in everything if run.run_key in keys]
    if not chosen:
        return
    table = formats.markdown({HEADLINE: tables(chosen, everything, HEADLINE, "none")})
    write_atomically(sweep.table, table)
    first = record["tags"][DESCRIPTION].partition("\n")[0]
    shown = table if len(first) + len(table) < LONGEST else f"The table is in the artifact {sweep.table.name}.\n"
    record["tags"][DESCRIPTION] = f"{first}\n\n{shown}"
    write_json(sweep.record, record)
