"""task=evaluate: score the networks of a run on a data set."""

import json
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf

from mcl_lab.assembly.data import evaluation_batches
from mcl_lab.assembly.device import device_of, use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.restore import read_trained, restore, test_images
from mcl_lab.config.schema import Trainer, deciding
from mcl_lab.host.screen import screen, table
from mcl_lab.training.evaluation import evaluate as accuracies_of


def evaluate(
    config: DictConfig, *, checkpoint: Annotated[str, "not empty"], format: Literal["table", "json"] = "table"
) -> None:
    """Print top-1 and top-5 accuracies (%) of every head and ensemble on the test images.

    checkpoint: a run folder, whose finished networks or newest checkpoint are taken, or a checkpoint file in one.
    The data set is the run's own, unless the command line names another (`data=...`); its images are normalised as the run's
    training images were. Raises InputError.
    """
    trained = read_trained(checkpoint)
    run, facts = trained.config, trained.facts
    computed_as = {name: run.trainer[name] for name in deciding(Trainer)}  # in the run's own precision
    run.trainer = OmegaConf.merge(config.trainer, computed_as)
    if run.trainer.precision == "tf32" and device_of(run.trainer).type == "cpu":
        run.trainer.precision = "float32"  # of which tf32 is the faster, coarser form
    device = use_device(run.trainer)
    data, images = test_images(trained, config)
    cohort, objective, *_ = build_learners(run, len(facts.classes), device, images.images.shape[-2:])
    restore(trained, "cohort", cohort)
    restore(trained, "objective", objective)
    batches = evaluation_batches(
        images.to(device), facts, batch_size=run.data.batch_size, channels_last=run.trainer.channels_last
    )
    accuracies = accuracies_of(cohort, objective.ensembles, batches, beside=[objective])
    if format == "json":
        print(json.dumps({"dataset": data.name, "images": len(images), **accuracies}, indent=2))
    else:
        shown = table(f"Test accuracy (%) on {data.name}, {len(images):,} images", ["peer", "head"], ["top-1", "top-5"])
        for peer, heads in accuracies["top1"].items():
            for head, top1 in heads.items():
                name, top5 = f"{peer}: {run.pair.peers[peer].name}", accuracies["top5"][peer][head]
                shown.add_row(name, head, f"{top1:.2f}", f"{top5:.2f}", style="bold" if head == "own_head" else None)
        screen().print(shown)
