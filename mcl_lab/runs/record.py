"""What is written down of a run besides its epochs: for the journal when it begins, in result.json when it ends."""

import json
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.compose import defaults_for
from mcl_lab.config.differences import changes
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import leaves, plain
from mcl_lab.runs.result import FINAL, final_metrics


def record_of(config: DictConfig, folder: Path) -> dict:
    """The journal's record: names, tags, and as parameters what a person compares runs by: pair, loss, dataset, seed, and
    what of the run key differs from the defaults of the chosen options. The tags hold what the report goes by, so that a run
    in MLflow needs no file."""
    identity = identity_of(config)
    tags = {
        "pair": identity.pair,
        "kind": identity.kind,
        "loss": str(config.loss.name),
        "dataset": str(config.data.name),
        "seed": str(config.seed),
        "recipe_key": identity.recipe_key,
        "repeat_key": identity.repeat_key,
        "recipe": json.dumps(dict(leaves(identity.recipe))),
        "peers": json.dumps(identity.peers),
    }
    changed = changes(identity_of(defaults_for(config)).deciding, identity.deciding)
    changed.pop("seed", None)
    return {
        "run_key": identity.run_key,
        "name": folder.name,
        "params": {name: tags[name] for name in ("pair", "loss", "dataset", "seed")} | changed,
        "tags": tags,
    }


def result_of(config: DictConfig, records: list[dict], environments: list[dict], weights: str) -> dict:
    """The content of result.json. environments: see provenance.py. weights: the checksum of the final networks."""
    *earlier, environment = environments
    identity = identity_of(config)
    peers = plain(config)["pair"]["peers"]
    final = final_metrics(records, sorted(peers))
    return {
        "run_key": identity.run_key,
        "recipe_key": identity.recipe_key,
        "pair": identity.pair,
        "kind": identity.kind,
        "loss": config.loss.name,
        "dataset": config.data.name,
        "seed": config.seed,
        "epochs": len(records),
        "steps": records[-1]["step"],
        "peers": {key: {"network": peers[key]["name"], **final[key], "config": peers[key]} for key in sorted(peers)},
        "final": {f"{FINAL}{key}/{name}": value for key in final for name, value in final[key].items()},
        "weights": weights,
        "environment": environment,
        **({"earlier_environments": earlier} if earlier else {}),
    }
