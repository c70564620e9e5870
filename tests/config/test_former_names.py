"""A class that moved: a config that names it as before is accepted, gives the class of now, and has the key that it had."""

import pytest
from omegaconf import OmegaConf

from mcl_lab.config import former_names
from mcl_lab.config.check import check, check_network
from mcl_lab.config.compose import compose
from mcl_lab.config.identity import identity_of
from mcl_lab.config.multirun import compose_several
from mcl_lab.config.signatures import signature_of
from mcl_lab.config.stored import parse_config, to_yaml
from mcl_lab.errors import InputError

NOW = "mcl_lab.networks.resnet.ResNet"
TERM = "mcl_lab.losses.classification.Classification"
# The network moved twice.
NAMES = {"mcl_lab.nets.Res": "mcl_lab.models.res.ResNet", "mcl_lab.models.res.ResNet": NOW, "mcl_lab.terms.CE": TERM}
FORMER = ["mcl_lab.nets.Res", "mcl_lab.models.res.ResNet", NOW]


@pytest.fixture
def moved(monkeypatch):
    """Before the classes moved: the key that runs had, when they were named FIRST."""
    before = compose(["pair=resnet8", "loss=baseline"])
    for peer in before.pair.peers.values():
        peer._target_ = FORMER[0]
    before.loss.classification._target_ = "mcl_lab.terms.CE"
    key = identity_of(before).run_key
    text = to_yaml(before, clean=str)
    for former, now in NAMES.items():
        monkeypatch.setitem(former_names.NAMES, former, now)
    return key, text


def typed(name):
    return [
        "pair=resnet8",
        "loss=baseline",
        f"pair.peers.a._target_={name}",
        "loss.classification._target_=mcl_lab.terms.CE",
    ]


@pytest.mark.parametrize("name", FORMER)
def test_each_name_that_a_class_had_composes_to_the_one_of_now_with_the_first_key(moved, name):
    for config in (compose(typed(name)), next(compose_several([typed(name)]))):
        check(config)
        assert [peer._target_ for peer in config.pair.peers.values()] == [NOW, NOW]
        assert config.loss.classification._target_ == TERM
        assert identity_of(config).run_key == moved[0] and identity_of(config).kind == "homogeneous"


def test_a_stored_config_with_a_former_name_is_taken_up(moved, tmp_path):
    key, text = moved
    assert FORMER[0] in text and NOW not in text
    config = parse_config(text, tmp_path / "config.yaml", "resume")
    assert config.pair.peers.b._target_ == NOW and identity_of(config).run_key == key


def test_a_former_name_is_checked_by_the_signature_of_now(moved):
    with pytest.raises(InputError) as caught:
        check(compose([*typed(FORMER[0]), "pair.peers.a.blocks=5"]))
    assert caught.value.key == "pair.peers.a.blocks"


def test_a_network_by_itself_may_have_a_former_name_too(moved):
    node = OmegaConf.to_container(compose(["pair=resnet8"]).pair.peers.a)
    assert check_network("network", {**node, "_target_": FORMER[1]}) == {**node, "_target_": NOW}


def test_without_the_table_a_former_name_is_none():
    with pytest.raises(InputError, match="does not exist"):
        check(compose(typed(FORMER[1])))


def test_names_lead_to_what_is_there():
    """And no two to the same, or there were no telling which one was first."""
    assert len(set(former_names.NAMES.values())) == len(former_names.NAMES)
    for name in former_names.NAMES:
        signature_of("", former_names.name_now(name))  # raises InputError for what is not there


def test_a_name_that_leads_nowhere_is_noticed(monkeypatch):
    monkeypatch.setattr(former_names, "NAMES", {FORMER[0]: NOW})
    test_names_lead_to_what_is_there()
    monkeypatch.setitem(former_names.NAMES, FORMER[1], "mcl_lab.networks.nowhere.Network")
    with pytest.raises(InputError, match="does not exist"):
        test_names_lead_to_what_is_there()
