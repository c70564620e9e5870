"""A setting that came later is in the run key, except at the value that means what was before: no stored run is orphaned."""

import dataclasses
import textwrap

import pytest
from omegaconf import OmegaConf

from mcl_lab.config import schema
from mcl_lab.config.check import check
from mcl_lab.config.compose import compose, defaults_for
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import plain
from mcl_lab.config.schema import add_defaults
from mcl_lab.config.signatures import later_arguments
from mcl_lab.config.targets import offered
from mcl_lab.errors import InputError

BEFORE = """
from typing import Annotated
class Term:
    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0): ...
class Net:
    def __init__(self, num_classes: int, depth: int): ...
class Crop:
    def __init__(self, padding: int): ...
def images(root: str): ...
class Optimizer:
    def __init__(self, params, lr: float): ...
class Schedule:
    def __init__(self, optimizer, epochs: int): ...
"""
AFTER = """
from dataclasses import dataclass
from typing import Annotated, Literal
class Base:
    def __init__(self, weight: Annotated[float, ">= 0"] = 1.0, smoothing: Annotated[float, "[0, 1)", "later"] = 0.0): ...
class Term(Base): ...
class Net:
    def __init__(self, num_classes: int, depth: int, *, gate: Annotated[Literal["on", "later"], "later"] | None = None): ...
@dataclass
class Crop:
    padding: int
    sides: "Annotated[tuple[int, int], '>= 0', 'later']" = (1, 2)
def images(root: str, whole: Annotated[bool, "later"] = True, kind: Literal["later"] = "later"): ...
class Optimizer:
    def __init__(self, params, lr: float, clip: Annotated[int, "later", "> 0"] | None = 1): ...
class Schedule:
    def __init__(self, optimizer, epochs: int, cycles: Annotated[int, "later"] = 1): ...
"""
OWN = OmegaConf.create(
    {
        "pair": {"peers": {name: {"name": "net", "_target_": "own.Net", "depth": 2} for name in "ab"}},
        "loss": {"term": {"_target_": "own.Term", "weight": 1.0}},
        "data": {"images": {"_target_": "own.images"}, "augmentation": {"_target_": "own.Crop", "padding": 4}},
        "optimizer": {"_target_": "own.Optimizer", "lr": 0.1},
        "schedule": {"_target_": "own.Schedule"},
    }
)
LATER = [  # key, values that mean what was before, values that do not
    ("loss.term.smoothing", [0.0, 0], [0.1, False]),
    ("pair.peers.b.gate", [None], ["on", "later"]),
    ("data.augmentation.sides", [[1, 2], [1.0, 2.0]], [[2, 1], [1], None]),
    ("data.images.whole", [True], [False, 1]),
    ("optimizer.clip", [1, 1.0], [2, None, True]),
    ("schedule.cycles", [1], [3]),
]


@pytest.fixture
def own(tmp_path_factory, monkeypatch):
    """Makes a package `own` of the given source importable, in place of one that was before; returns a config of it."""
    monkeypatch.setenv("MCL_LAB_PLUGINS", "own")

    def install(source):
        folder = tmp_path_factory.mktemp("own")
        (folder / "own.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(folder)
        return changed(compose(["loss=baseline"]), OWN)

    return install


def changed(config, others):
    tree = OmegaConf.create(plain(config))
    for name in ("optimizer", "schedule"):
        tree[name] = {}
    for peers_or_images in (tree.pair.peers.a, tree.pair.peers.b, tree.data.images, tree.data.augmentation):
        peers_or_images.clear()
    return OmegaConf.merge(tree, others)


def with_value(config, key, value):
    config = config.copy()
    OmegaConf.update(config, key, value, force_add=True)
    return config


@pytest.mark.parametrize(("key", "neutral", "others"), LATER)
def test_a_later_argument_is_in_the_key_except_at_what_was_before(own, key, neutral, others):
    stored = identity_of(own(BEFORE))
    config = own(AFTER)
    assert identity_of(config).run_key == stored.run_key
    for value in neutral:
        identity = identity_of(with_value(config, key, value))
        assert (identity.run_key, identity.recipe, identity.name) == (stored.run_key, stored.recipe, stored.name)
        assert identity.kind == "homogeneous"
    keys = {identity_of(with_value(config, key, value)).run_key for value in others}
    assert len(keys) == len(others) and stored.run_key not in keys


def test_an_argument_without_the_mark_is_in_the_key_at_every_value(own):
    config = own(AFTER)
    for key, default in (("data.images.kind", "later"), ("loss.term.weight", 1.0)):
        without = config.copy()
        parent, _, name = key.rpartition(".")
        OmegaConf.select(without, parent).pop(name, None)
        assert identity_of(with_value(config, key, default)).run_key != identity_of(without).run_key


def test_a_later_argument_is_checked_like_any_other(own):
    config = own(AFTER)
    check(config)
    for key, wrong in (("loss.term.smoothing", 1), ("optimizer.clip", 0), ("pair.peers.b.gate", "off")):
        with pytest.raises(InputError) as caught:
            check(with_value(config, key, wrong))
        assert caught.value.key == key


@pytest.mark.parametrize("source", [None, "def broken(:", "\0"])
def test_a_class_that_cannot_be_read_does_not_keep_from_a_key(own, source):
    config = own("" if source is None else source)
    if source is None:
        config.loss.term._target_ = "nowhere_to_be_found.Term"
    assert identity_of(config).run_key
    with pytest.raises(InputError, match="_target_"):
        check(config)


@pytest.mark.parametrize("target", [3, None, ["x"], "", "x", "a..b", "__main__.x", "os.system", ".own.Term"])
def test_nor_does_a_target_that_is_none(target):
    config = compose(["loss=baseline"])
    assert identity_of(with_value(config, "loss.classification._target_", target)).run_key


def test_every_mark_in_the_package_is_at_a_plain_default():
    """One that is none would be in the key at its default."""
    marked = {}
    for place in ("data.images", "data.augmentation", "pair.peers.*", "loss.*", "loss.weight_network", "schedule"):
        for target in offered(place):
            marked |= {f"{target}.{name}": value for name, value in later_arguments(target).items()}
    assert marked == {"mcl_lab.data.datasets.imagefolder.unreadable": "refuse"}


@pytest.fixture
def later_field(monkeypatch):
    """Adds a field with a default to a section."""

    def add(section, name, annotation, default):
        field = (name, annotation, dataclasses.field(default=default))
        base = schema.SECTIONS.get(section, schema.Network)
        extended = dataclasses.make_dataclass(base.__name__, [field], bases=(base,), kw_only=True)
        monkeypatch.setattr(schema, base.__name__, extended)
        if section in schema.SECTIONS:
            monkeypatch.setitem(schema.SECTIONS, section, extended)

    return add


@pytest.mark.parametrize(
    ("section", "place", "neutral", "other"),
    [
        ("trainer", "trainer", [0.0, 0], 0.999),
        ("data", "data", [0.0, 0], 0.5),
        ("loss", "loss", [0.0], 0.5),
        ("peer", "pair.peers.a", [0.0], 0.5),
    ],
)
def test_a_later_key_of_a_section_is_in_the_key_except_at_what_was_before(later_field, section, place, neutral, other):
    stored = compose([])
    key = identity_of(stored).run_key
    later_field(section, "ema", 'Annotated[float, "[0, 1)"]', 0.0)
    for value in neutral:
        config = with_value(OmegaConf.create(plain(stored)), f"{place}.ema", value)
        check(config)
        assert identity_of(config).run_key == key
    assert identity_of(with_value(config, f"{place}.ema", other)).run_key != key
    with pytest.raises(InputError, match="ema: must be a number in"):
        check(with_value(config, f"{place}.ema", 1))


@pytest.mark.parametrize("section", ["trainer", "data", "loss"])
def test_a_config_that_lacks_a_later_key_gets_what_was_before(later_field, section):
    stored = OmegaConf.create(plain(compose([])))
    key = identity_of(stored).run_key
    later_field(section, "ema", 'Annotated[float, "[0, 1)"]', 0.0)
    check(stored)
    assert add_defaults(stored)[section].ema == 0.0 and identity_of(stored).run_key == key


def test_what_a_section_says_beside_the_key_is_in_none(later_field):
    assert schema.deciding(schema.Trainer) == ["epochs", "max_steps", "precision", "channels_last"]
    assert schema.beside(schema.Data) == {"root"}
    assert not schema.deciding(schema.Tracking) and not schema.later(schema.Trainer)


def test_what_is_told_apart_by_a_later_argument():
    base = compose(["data=imagefolder", "data.root=x"])
    skip = compose(["data=imagefolder", "data.root=x", "data.images.unreadable=skip"])
    assert "unreadable" not in identity_of(base).deciding["data"]["images"]
    assert identity_of(skip).deciding["data"]["images"]["unreadable"] == "skip"
    assert identity_of(defaults_for(skip)).run_key == identity_of(base).run_key
