"""task=export and mcl_lab.load: each file computes what the trained network does, and no file can do anything else."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
from PIL import Image
from training_runs import ALONE, BASELINE, RUN, only_folder

import mcl_lab
from mcl_lab import cli
from mcl_lab.assembly.learners import build_network
from mcl_lab.config.compose import compose
from mcl_lab.data.datasets import digits
from mcl_lab.export import programs
from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.networks.resnet import ResNet
from mcl_lab.runs.checkpoints import read
from mcl_lab.runs.folders import foreign

EXPORT = ["task=export", "trainer.threads=1"]
PEERS = ("a", "b")


@pytest.fixture(scope="module")
def exported(lmcl_run, tmp_path_factory):
    """(the folder home/ with all files of `lmcl_run`, what the task told); not to be changed."""
    home, out = tmp_path_factory.mktemp("elsewhere") / "home", io.StringIO()
    words = [*EXPORT, f"task.checkpoint={lmcl_run}", f"task.folder={home}", "task.images=null", "task.format=json"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(sys, "argv", [str(RUN), *words])
        assert cli.main(words) == 0
    return home, json.loads(out.getvalue())


@pytest.fixture(scope="module")
def images():
    """All test images of the runs, (360, 3, 8, 8) in [0, 1]."""
    return digits(8).test.images.float() / 255


@pytest.fixture(scope="module")
def trained(lmcl_run, images):
    """(embeddings, logits) of each peer on `images`, by the cohort with its branches, put together by hand."""
    (path,) = (lmcl_run / "checkpoints").iterdir()
    state = read(path)
    nodes = {key: ResNet(10, block="basic", blocks=[1, 1, 1], widths=[4, 8, 8]) for key in PEERS}
    cohort = Cohort(nodes, branches=True)
    cohort.load_state_dict(state["parts"]["cohort"])
    mean, std = (torch.tensor(state["data"][name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        embeddings, logits = cohort.eval()((images - mean) / std)
    return {key: (embeddings[i][-1], logits[i][-1]) for i, key in enumerate(PEERS)}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("peer", PEERS)
def test_each_file_computes_the_trained_networks_logits(peer, exported, trained, images):
    home, _ = exported
    expected_embeddings, expected = trained[peer]
    for path in (home / f"{peer}-resnet8.json", home / f"{peer}-resnet8.safetensors"):
        network = mcl_lab.load(path)
        with torch.no_grad():
            close(network(images), expected)
            close(network.embeddings(images), expected_embeddings)
    session = onnxruntime.InferenceSession(home / f"{peer}-resnet8.onnx")
    program = torch.export.load(home / f"{peer}-resnet8.pt2").module()
    for few in (1, 360):  # any number of images
        (logits,) = session.run(["logits"], {"images": images[:few].numpy()})
        close(torch.from_numpy(logits), expected[:few])
        close(program(images[:few]).detach(), expected[:few])


def test_what_is_told_is_what_task_evaluate_says(exported, lmcl_run, call):
    home, told = exported
    scored = json.loads(call("task=evaluate", f"task.checkpoint={lmcl_run}", "trainer=cpu", "task.format=json").out)
    assert (told["folder"], told["images"], told["compared_on"]) == (str(home), 360, "360 test images of digits")
    assert [row["file"] for row in told["files"] if row["peer"] == "b"] == [
        None, "b-resnet8.safetensors", "b-resnet8.onnx", "b-resnet8.pt2"
    ]  # fmt: skip
    for row in told["files"]:
        assert row["top1"] == scored["top1"][row["peer"]]["own_head"]
        if row["file"]:
            assert row["bytes"] == (home / row["file"]).stat().st_size and 0 <= row["max_difference"] < 1e-5


def test_the_card_says_what_the_network_is_and_nothing_of_this_machine(exported, lmcl_run):
    home, _ = exported
    result = json.loads((lmcl_run / "result.json").read_text())
    card = json.loads((home / "a-resnet8.json").read_text())
    assert card["network"] == result["peers"]["a"]["config"]
    assert (card["classes"], card["num_classes"], card["image_size"]) == (list("0123456789"), 10, [8, 8])
    assert card["run"]["key"] == result["run_key"] and card["run"]["name"] == lmcl_run.name
    assert card["figures"]["own_head_last_epoch"] == result["peers"]["a"]["own_head_last_epoch"]
    assert card["trained_in"]["git_commit"] == result["environment"]["git_commit"]
    assert "[0, 1]" in card["input"]
    assert card["sha256"] == {
        f"a-resnet8.{kind}": hashlib.sha256((home / f"a-resnet8.{kind}").read_bytes()).hexdigest()
        for kind in ("safetensors", "onnx", "pt2")
    }
    for path in home.iterdir():
        assert str(RUN.parent).encode() not in path.read_bytes()


def test_the_pt2_program_runs_without_mcl_lab(exported, trained, images, tmp_path):
    home, _ = exported
    known = {"images": images[:7].clone(), "logits": trained["a"][1][:7].clone()}
    safetensors.torch.save_file(known, tmp_path / "x")
    code = (
        "import sys; sys.modules['mcl_lab'] = None\n"  # to import it raises ImportError
        "import torch, safetensors.torch\n"
        "program, known = torch.export.load(sys.argv[1]).module(), safetensors.torch.load_file('x')\n"
        "print(float((program(known['images']) - known['logits']).abs().max()) < 1e-5)\n"
    )
    command = [sys.executable, "-I", "-c", code, str(home / "a-resnet8.pt2")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_load_from_wherever_is_the_same(exported, lmcl_run, images):
    home, _ = exported
    (checkpoint,) = (lmcl_run / "checkpoints").iterdir()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    networks = [
        mcl_lab.load(lmcl_run, peer="b"),
        mcl_lab.load(str(checkpoint), "b"),
        mcl_lab.load(home / "b-resnet8.json", peer="b"),
        mcl_lab.load(home / "b-resnet8.safetensors"),
    ]
    assert torch.rand(1) == expected  # the caller's random numbers are left alone
    for network in networks:
        assert isinstance(network, PortableNetwork) and not network.training
        assert network.classes == tuple("0123456789") and network.mean.shape == network.std.shape == (3, 1, 1)
        assert network(images).equal(networks[0](images))
        assert network.embeddings(images).shape == (360, 8)
    with pytest.raises(ValueError, match="divide bytes by 255"):
        networks[0](torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_load_says_what_is_wrong(exported, lmcl_run, tmp_path, monkeypatch):
    home, _ = exported
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    shutil.copy(home / "a-resnet8.safetensors", "alone.safetensors")
    for path, peer, words in (
        ("nowhere", None, "there is no nowhere"),
        ("empty", None, "empty has no config.yaml"),
        ("nowhere.json", None, "nowhere.json: card: is missing or damaged"),
        ("alone.safetensors", None, "alone.json: card: is missing or damaged"),
        (lmcl_run, None, "has the peers a, b; say which: peer='a'"),
        (lmcl_run, "c", "has no peer c; it has a, b"),
        (home / "a-resnet8.json", "b", "peer: is 'a', not 'b'"),
    ):
        with pytest.raises(ValueError) as raised:
            mcl_lab.load(path, peer)
        assert words in str(raised.value) and "\n" not in str(raised.value)


def test_importing_mcl_lab_imports_no_torch():
    code = (
        "import sys, mcl_lab; mcl_lab.load; print({'torch', 'hydra', 'mlflow', 'mcl_lab.tasks'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=RUN.parent, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def changed(**values):
    return lambda card, weights: (card | values, weights)


def network(**values):
    return lambda card, weights: (card | {"network": card["network"] | values}, weights)


def with_weights(change):
    """Other weights, and their checksum in the card."""

    def edit(card, weights):
        other = change(weights)
        return card | {"sha256": {card["weights"]: hashlib.sha256(other).hexdigest()}}, other

    return edit


HOSTILE = {
    "a program": (network(_target_="os.system", command="touch hacked"), "os.system is not allowed"),
    "a program below": (network(x={"_target_": "os.system"}), "os.system is not allowed"),
    "PyTorch's loader": (network(_target_="torch.hub.load"), "torch.hub.load is not allowed"),
    "our launcher": (network(_target_="mcl_lab.launch.queue.run_command"), "is not allowed"),
    "a download": (network(_target_="mcl_lab.data.datasets.cifar100", root="x"), "is not allowed here"),
    "pretrained weights": (network(_target_="torchvision.models.resnet18"), "is no network"),
    "no network": (network(_target_="mcl_lab.networks.portable.PortableNetwork"), "network"),
    "a package that is not named": (network(_target_="mine.nets.Plain"), "MCL_LAB_PLUGINS"),
    "no target": (changed(network={"name": "x"}), "_target_"),
    "an interpolation": (network(name="${oc.env:HOME}"), "interpolation"),
    "an argument too many": (network(x=3), "no such setting"),
    "a number of the program's": (network(num_classes=10), "set by the program"),
    "widths of text": (network(widths="x"), "widths"),
    "a network in a list": (changed(network=[1]), "network: must be a mapping"),
    "weights above": (changed(weights="../a-resnet8.safetensors"), "beside the card"),
    "weights anywhere": (changed(weights="/etc/passwd.safetensors"), "beside the card"),
    "a checkpoint for weights": (changed(weights="a-resnet8.pt"), "beside the card"),
    "weights of no name": (changed(weights="\0.safetensors"), "beside the card"),
    "weights that are not there": (changed(weights="b.safetensors"), "cannot read"),
    "no weights": (changed(weights=None), "beside the card"),
    "another checksum": (changed(sha256={"a-resnet8.safetensors": "0" * 64}), "damaged"),
    "no checksum": (changed(sha256={}), "damaged"),
    "a bit flipped": (lambda card, weights: (card, weights[:-1] + bytes([weights[-1] ^ 1])), "damaged"),
    "cut weights": (with_weights(lambda weights: weights[:-8]), "does not hold the weights"),
    "empty weights": (with_weights(lambda weights: b""), "does not hold the weights"),
    "a pickle": (with_weights(lambda weights: b"cos\nsystem\n(S'touch hacked'\ntR."), "does not hold the weights"),
    "other weights": (
        with_weights(lambda weights: safetensors.torch.save({"x": torch.ones(2)})), "does not hold the weights"
    ),
    "a class more": (changed(num_classes=11), "num_classes: is 11"),
    "a class less, everywhere": (changed(classes=list("012345678"), num_classes=9), "does not hold the weights"),
    "classes of numbers": (changed(classes=list(range(10))), "classes: must be a list of strings"),
    "std of zeros": (changed(std=[0, 0, 0]), "std"),
    "mean of two": (changed(mean=[0.5, 0.5]), "mean"),
    "mean of NaN": (changed(mean=[float("nan")] * 3), "mean"),
    "newer": (changed(format=99), "newer mcl_lab"),
    "format of text": (changed(format="1"), "format"),
    "nothing": (lambda card, weights: ({}, weights), "beside the card"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_card_is_refused(kind, exported, tmp_path, monkeypatch):
    home, _ = exported
    monkeypatch.chdir(tmp_path)
    edit, words = HOSTILE[kind]
    card = json.loads((home / "a-resnet8.json").read_text())
    card, weights = edit(card, (home / "a-resnet8.safetensors").read_bytes())
    Path("a-resnet8.json").write_text(json.dumps(card))
    Path("a-resnet8.safetensors").write_bytes(weights)
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError) as raised:
        mcl_lab.load("a-resnet8.json")
    message = str(raised.value)
    assert message.startswith("a-resnet8.json: ") and words in message and "\n" not in message
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00", "9" * 5000])
def test_what_is_no_card_is_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="is missing or damaged"):
        mcl_lab.load(tmp_path / "a.json")


def test_an_export_in_the_run_folder_takes_the_place_of_the_one_before(call, own_copy, baseline_run):
    folder = own_copy(baseline_run)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = call(*EXPORT, f"task.checkpoint={folder}", "task.formats=[safetensors]", "task.images=100")
    assert (ended.status, ended.err) == (0, "") and "100 of 360 test images of digits" in " ".join(ended.out.split())
    names = {path.name for path in (folder / "export").iterdir()}
    assert names == {f"{peer}-resnet8.{kind}" for peer in PEERS for kind in ("json", "safetensors")}
    assert call(*EXPORT, f"task.checkpoint={folder}", "task.formats=[pt2]", "task.peer=a", "task.images=0").status == 0
    names = {path.name for path in (folder / "export").iterdir()}
    assert names == {"a-resnet8.json", "a-resnet8.pt2", "b-resnet8.json", "b-resnet8.safetensors"}
    assert {path: path.read_bytes() for path in before} == before
    assert foreign(folder) == []  # it counts as a run still
    for path in before:
        if path.name not in ("config.yaml", "run.lock"):
            path.unlink()
    assert call("task=clean", "task.delete=true").status == 0 and (folder / "export" / "a-resnet8.pt2").exists()


def test_a_run_that_is_not_finished(call, interrupted_run, tmp_path):
    """Its newest checkpoint, and no figures: they would be of other weights."""
    words = ["task.folder=home", "task.formats=[safetensors]", "task.peer=a"]
    assert call(*EXPORT, f"task.checkpoint={interrupted_run}", *words).status == 0
    assert json.loads((tmp_path / "home" / "a-resnet8.json").read_text())["figures"] is None
    *_, newest = sorted((interrupted_run / "checkpoints").iterdir())
    images = torch.rand(2, 3, 8, 8)
    assert mcl_lab.load("home/a-resnet8.json")(images).equal(mcl_lab.load(newest, "a")(images))


def test_nothing_else_is_replaced(call, own_copy, baseline_run, tmp_path):
    folder, elsewhere = own_copy(baseline_run), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a-resnet8.onnx").write_text("precious")
    (folder / "export").symlink_to(elsewhere)
    for words, reason in (
        ([f"task.folder={elsewhere}"], "has a file a-resnet8.onnx already"),
        ([f"task.folder={folder / 'config.yaml'}"], "is no folder"),
        ([f"task.folder={folder / 'config.yaml' / 'x'}"], "cannot make the folder"),
        ([], "is no folder"),
    ):
        words = [*words, "task.formats=[safetensors]", "task.images=0"]
        ended = call(*EXPORT, f"task.checkpoint={folder}", *words)
        assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
        assert ended.err.startswith("mcl_lab: error: task.folder: ") and reason in ended.err
    assert [path.read_text() for path in elsewhere.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task.peer=c"], "task.peer: "),
        (["task.formats=[]"], "task.formats: needs one of safetensors, onnx, pt2"),
        (["data=cifar100", "data.root=nowhere"], "data.root: "),
    ],
)
def test_wrong_settings(words, line, call, own_copy, baseline_run, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    folder = own_copy(baseline_run)
    ended = call(*EXPORT, f"task.checkpoint={folder}", *words)
    assert (ended.status, ended.out) == (2, "") and ended.err.startswith(f"mcl_lab: error: {line}")
    assert ended.err.count("\n") == 1 and not (folder / "export").exists()


def test_packages_that_are_missing(call, own_copy, baseline_run, monkeypatch):
    folder, there = own_copy(baseline_run), programs.importlib.util.find_spec
    words = [*EXPORT, f"task.checkpoint={folder}", "task.peer=a", "task.images=0"]
    missing = "onnxruntime"
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None if name == missing else there(name))
    ended = call(*words, "task.formats=[onnx]")
    assert ended.status == 0 and "a-resnet8.onnx" in ended.out
    assert ended.err == "mcl_lab: a-resnet8.onnx was not run, without onnxruntime: pip install onnxruntime\n"
    missing = "onnxscript"
    ended = call(*words)
    assert ended.status == 0 and "a-resnet8.pt2" in ended.out and "onnx" not in ended.out
    assert ended.err == "mcl_lab: left out: onnx needs onnxscript: pip install -c constraints.txt -e '.[export]'\n"
    ended = call(*words, "task.formats=[safetensors,onnx,pt2]")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "mcl_lab: error: task.formats: onnx needs onnxscript: pip install -c constraints.txt -e '.[export]'; "
        "or without: task.formats=[safetensors,pt2]\n"
    )


def test_a_file_that_computes_something_else_is_not_written(call, own_copy, baseline_run, monkeypatch):
    folder, right = own_copy(baseline_run), programs.run_pt2
    monkeypatch.setattr(
        "mcl_lab.export.comparison.run_pt2", lambda content: lambda images: right(content)(images) + 0.1
    )
    ended = call(*EXPORT, f"task.checkpoint={folder}", "task.formats=[safetensors,pt2]", "task.images=0")
    assert ended.status == 1 and "a-resnet8.pt2 computes other logits" in ended.err and ended.err.count("\n") == 1
    assert not (folder / "export").exists()


def test_odd_classes_and_images_that_are_gone(call, tmp_path):
    classes = sorted(["<b>&'\"", "köpek 犬", os.fsdecode(b"caf\xe9"), "a\u202eb"])
    for part in ("train", "test"):
        for grey, name in enumerate(classes):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(4):
                path = tmp_path / "images" / part / name / f"{number}.png"
                Image.new("RGB", (8, 8), (60 * grey, grey, number)).save(path)
    data = ["data=imagefolder", "data.root=images", "data.images.size=8", "data.batch_size=8"]
    alone = [word for word in ALONE if not word.startswith("data.")]
    assert call(*alone, *data, "tracking=none").status == 0
    folder = only_folder(tmp_path)
    shutil.rmtree(tmp_path / "images")
    ended = call(*EXPORT, f"task.checkpoint={folder}", "task.folder=home", "task.formats=[safetensors]")
    assert ended.status == 0 and "64 images of noise, 8 x 8" in " ".join(ended.out.split())
    assert ended.err.startswith("mcl_lab: compared on noise, as the test images cannot be had: data.root: ")
    assert mcl_lab.load("home/a-resnet8.json").classes == mcl_lab.load(folder).classes == tuple(classes)


def test_a_heterogeneous_pair(call, tmp_path):
    peers = ["pair=resnet8", "network@pair.peers.b=wrn_16_2", "pair.peers.b.depth=10", "pair.peers.b.widen_factor=1"]
    words = [word for word in BASELINE if "peers" not in word]
    assert call(*words, *peers, "trainer.max_steps=1", "tracking=none").status == 0
    folder = only_folder(tmp_path)
    ended = call(*EXPORT, f"task.checkpoint={folder}", "task.formats=[safetensors,pt2]")
    assert (ended.status, ended.err) == (0, "")
    assert sorted(path.name for path in (folder / "export").iterdir()) == [
        f"{stem}.{kind}" for stem in ("a-resnet8", "b-wrn_16_2") for kind in ("json", "pt2", "safetensors")
    ]
    images = torch.rand(3, 3, 8, 8)
    widths = {"a-resnet8": 64, "b-wrn_16_2": 64}
    for stem, width in widths.items():
        network = mcl_lab.load(folder / "export" / f"{stem}.json")
        assert network.embeddings(images).shape == (3, width)
        close(torch.export.load(folder / "export" / f"{stem}.pt2").module()(images), network(images))


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["resnet32", "resnet110", "wrn_16_2", "shufflenetv2_1x", "hcgnet_a1", "torchvision_resnet18"]
)
def test_every_family_as_onnx_and_pt2(name):
    """Shipped networks, with statistics of BatchNorm and gains that are not those they begin with."""
    torch.manual_seed(0)
    node = compose(["pair=single/resnet8", f"network@pair.peers.a={name}"]).pair.peers.a
    inner = build_network(node, "a", 7)
    portable = PortableNetwork(inner, classes=list("abcdefg"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    for module in portable.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    portable.eval()
    program = programs.traced(portable, (32, 32))
    files = {programs.run_onnx: programs.onnx_of(program), programs.run_pt2: programs.pt2_of(program)}
    images = torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        expected = portable(images)
        scale = expected.abs().max()
        for load_back, content in files.items():
            computing = load_back(content)
            for few in (1, 5):
                difference = (computing(images[:few]) - expected[:few]).abs().max()
                assert difference < 1e-5 * max(1, scale), (load_back.__name__, difference, scale)
