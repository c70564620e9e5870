"""Which targets are allowed, and signatures from source against `inspect` on the imported thing."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mcl_lab
from mcl_lab.config.signatures import signature_of
from mcl_lab.config.targets import check_target, offered
from mcl_lab.errors import InputError


def allowed(key, target):
    try:
        check_target(key, target)
    except InputError as error:
        assert error.key == f"{key}._target_"
        return False
    return True


OF_TORCH = ["torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "torch.nn.Linear", "torchvision.models.resnet18"]


@pytest.mark.parametrize(
    ("key", "targets"),
    [
        ("optimizer", OF_TORCH[:1]),
        ("schedule", OF_TORCH[1:2]),
        ("loss.mine", OF_TORCH[2:3]),
        ("pair.peers.a", OF_TORCH[3:]),
        ("loss.mine.inner", OF_TORCH),
        ("loss.weight_network", []),
        ("loss.meta_event", []),
        ("data.images", []),
        ("data.augmentation", []),
        ("task", []),
    ],
)
def test_each_place_has_its_own_packages_of_torch(key, targets):
    assert [target for target in OF_TORCH if allowed(key, target)] == targets


def test_a_wrong_place_recommends_no_package_of_another():
    with pytest.raises(InputError, match="torch.nn; those of the packages listed in") as caught:
        check_target("loss.classification", "torch.optim.SGD")
    assert "torch.optim," not in str(caught.value) and "torchvision" not in str(caught.value)


TERMS = [
    "losses.aggregation.Aggregator",
    "losses.classification.Classification",
    "losses.distillation.EnsembleDistillation",
    "losses.distillation.LogitDistillation",
    "losses.distillation.MutualLearning",
    "losses.mutual_contrastive.LastLayerContrastiveLearning",
    "losses.mutual_contrastive.MutualContrastiveLearning",
]
NETWORKS = [
    "networks.hcgnet.HCGNet",
    "networks.resnet.ResNet",
    "networks.shufflenet_v2.ShuffleNetV2",
    "networks.torchvision_backbone.TorchvisionBackbone",
    "networks.wide_resnet.WideResNet",
]
DATA_SETS = [f"data.datasets.{name}" for name in ("cifar10", "cifar100", "digits", "imagefolder")]
TASKS = "benchmark clean evaluate export features list report reproduce summary sweep sync train".split()


def test_of_our_own_code_exactly_what_is_meant_for_a_place_is_allowed_there():
    """Of all classes and functions that there are in the package."""
    meant = {
        "task": [f"tasks.{name}.{name}" for name in TASKS],
        "data.images": DATA_SETS,
        "data.augmentation": ["data.augmentation.CropFlip"],
        "pair.peers.a": NETWORKS,
        "loss.classification": TERMS,
        "loss.anything": TERMS,
        "loss.weight_network": ["meta.weight_network.WeightNetwork"],
        "loss.meta_event": ["meta.event.MetaEvent"],
        "optimizer": [],
        "schedule": ["training.schedules.Cosine", "training.schedules.MultiStep"],
        "data.augmentation.deep.0": [],
        "elsewhere": [],
    }
    everything = []
    for path in sorted(Path(mcl_lab.__file__).parent.rglob("*.py")):
        module = ".".join(path.relative_to(Path(mcl_lab.__file__).parents[1]).with_suffix("").parts)
        defined = (ast.ClassDef, ast.FunctionDef)
        names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, defined)]
        everything += [f"{module}.{name}" for name in names]
    assert len(everything) > 500
    for key, targets in meant.items():
        found = [target.removeprefix("mcl_lab.") for target in everything if allowed(key, target)]
        assert sorted(found) == sorted(targets), key


def test_what_is_offered_is_there():
    modules = [ast.parse(path.read_text()) for path in Path(mcl_lab.__file__).parent.rglob("*.py")]
    assigned = [node for module in modules for node in module.body if isinstance(node, ast.Assign)]
    lists = [ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "OFFERED"]
    places = {place for found in lists for place in found}
    assert places >= {"loss.weight_network", "loss.meta_event", "data.images"}
    for place in [*sorted(places), "task"]:
        assert offered(place)
        for target in offered(place):
            signature_of(place, target)


def test_what_is_named_in_the_wrong_place_is_told_what_is_right():
    with pytest.raises(InputError, match="not allowed here; .*WeightNetwork.*MCL_LAB_PLUGINS") as caught:
        check_target("loss.weight_network", "mcl_lab.losses.classification.Classification")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "eval", "", 3, None, ["torch.nn.Linear"], "torch.load", "torch.hub.load",
        "torch.nn", "torch.optim.swa_utils.AveragedModel", "torch.nn.utils.clip_grad_norm_", "torch.nn.functional.relu",
        "torch.optim.SGD.__init__.__globals__", "torch.nn._reduction", "torchvision.models._utils", "torch.nn.Linear ",
        "torchvision.models.resnet.resnet18", "mcl_lab.data.datasets._cifar", "mcl_lab.__init__.x", "mcl_labx.a.b",
        "mcl_lab.tasks.clean.clean", "mcl_lab..errors", ".mcl_lab.errors", "hydra.utils.get_class", "stand_in.Head",
        "hydra_plugins.other.Launcher", "${oc.env:HOME}", "mcl_lab.a\nb",
    ],
)  # fmt: skip
def test_not_allowed(target):
    assert not allowed("loss.classification", target)


def test_tasks_are_for_the_task():
    assert allowed("task", "mcl_lab.tasks.train.train")
    assert not allowed("task", "mcl_lab.networks.resnet.ResNet")
    assert not allowed("task", "torch.optim.SGD")
    assert not allowed("task", "mcl_lab.tasks.sync.Known")


def test_hydra_takes_its_own_plugins_and_ours():
    assert allowed("hydra.launcher", "hydra._internal.core_plugins.basic_launcher.BasicLauncher")
    assert allowed("hydra.launcher", "mcl_lab.launch.slurm.SlurmLauncher")
    assert not allowed("hydra.launcher", "mcl_lab.launch.queue.run_command")
    assert not allowed("hydra.callbacks.x", "hydra._internal.core_plugins.file_config_source.os.system")
    assert not allowed("hydra.callbacks.x", "torch.nn.Linear")
    assert not allowed("hydra.launcher", "hydra_plugins.other.Launcher")
    assert not allowed("hydra.callbacks.x", "os.system")


def test_plugins_come_from_the_environment(monkeypatch):
    assert not allowed("loss.x", "stand_in.Head")
    monkeypatch.setenv("MCL_LAB_PLUGINS", "other,stand_in")
    assert allowed("loss.x", "stand_in.Head") and allowed("task", "stand_in.task")
    assert not allowed("loss.x", "stand_in._private")


@pytest.mark.parametrize(
    "target",
    [
        "stand_in.Head", "stand_in.OfPairs", "stand_in.Child", "stand_in.Thing", "stand_in.deeper.Renamed",
        "stand_in.anything", "stand_in.sizes",
        "mcl_lab.networks.resnet.ResNet", "mcl_lab.losses.mutual_contrastive.MutualContrastiveLearning",
        "torch.optim.SGD", "torch.optim.AdamW", "torch.optim.RMSprop", "torch.optim.lr_scheduler.OneCycleLR",
        "torch.nn.Conv2d", "torch.nn.GELU", "torch.nn.CrossEntropyLoss",
    ],
)  # fmt: skip
def test_signature_is_what_inspect_says(stand_in, target):
    module, _, name = target.rpartition(".")
    theirs = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    named = [p for p in theirs if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    ours = signature_of("x", target)
    assert set(ours.parameters) == {p.name for p in named}
    assert ours.required == {p.name for p in named if p.default is p.empty}
    assert ours.accepts_any == any(p.kind is p.VAR_KEYWORD for p in theirs)


def test_class_attributes_are_inherited(stand_in):
    assert signature_of("x", "stand_in.OfPairs").attributes == {"min_peers": 3}
    assert signature_of("x", "stand_in.NeedsHead").attributes == {"requires": ("head",)}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torch.optim.SDG", "did you mean torch.optim.SGD?"),
        ("mcl_lab.networks.resnet.ResNett", "did you mean mcl_lab.networks.resnet.ResNet?"),
        ("mcl_lab.networks.resnett.ResNet", "did you mean mcl_lab.networks.resnet.ResNet?"),
        ("mcl_lab.nowhere.at.all", "does not exist"),
        ("torch.nn.functional", "does not exist"),
        ("torch.nn.os", "does not exist"),
        ("torch.optim.sgd", "did you mean torch.optim.SGD?"),
        ("torch.nn.factory_kwargs", "is not a class"),
        ("stand_in.loads", "is not a class"),
        ("stand_in.imported", "does not exist"),
        ("not_on_the_path.nets.Plain", "there is no package not_on_the_path"),
    ],
)
def test_what_is_not_there(stand_in, target, words):
    with pytest.raises(InputError) as caught:
        signature_of("optimizer", target)
    assert caught.value.key == "optimizer._target_" and words in str(caught.value)


def test_nothing_is_imported(stand_in):
    code = (
        "import sys; from mcl_lab.config.signatures import signature_of\n"
        "for target in ('stand_in.Child', 'torch.optim.SGD', 'torch.nn.Linear', 'torchvision.models.resnet18'):\n"
        "    signature_of('x', target)\n"
        "print([name for name in ('stand_in', 'torch', 'torchvision') if name in sys.modules])"
    )
    paths = [str(stand_in), *filter(None, sys.path)]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path = {paths!r} + sys.path\n{code}"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
