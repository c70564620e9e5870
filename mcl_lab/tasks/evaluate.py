"""task=evaluate: score the networks of a run on a data set."""

from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf

from mcl_lab.assembly.data import evaluation_batches
from mcl_lab.assembly.device import device_of, use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.restore import read_trained, restore, test_images
from mcl_lab.config.schema import Trainer, deciding
from mcl_lab.terminal.accuracies import show_accuracies
from mcl_lab.terminal.output import put_out
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
    cohort, objective, *_ = build_learners(run, len(facts.classes), device, images.images.shape[-2:], trained=True)
    restore(trained, "cohort", cohort)
    restore(trained, "objective", objective)
    batches = evaluation_batches(
        images.to(device), facts, batch_size=run.data.batch_size, channels_last=run.trainer.channels_last
    )
    accuracies = accuracies_of(cohort, objective.ensembles, batches, beside=[objective])
    told = {"dataset": data.name, "images": len(images), **accuracies}
    networks = {peer: node.name for peer, node in run.pair.peers.items()}
    put_out(format, told, lambda console: show_accuracies(console, told, networks))
