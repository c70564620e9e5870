"""task=features against the same written out plainly: a forward pass, a vote of neighbours, a linear classifier."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mcl_lab.data.datasets import digits
from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.resnet import ResNet
from mcl_lab.runs.checkpoints import read
from mcl_lab.runs.folders import foreign

FEATURES = ["task=features", "trainer=cpu", "trainer.threads=1"]
K = 7


@pytest.fixture(scope="module")
def expected(lmcl_run):
    """Embeddings of all digits by each peer of `lmcl_run`, {peer: {part: (N, 8)}}."""
    (path,) = (lmcl_run / "checkpoints").iterdir()
    state = read(path)
    cohort = Cohort(
        {key: ResNet(10, block="basic", blocks=[1, 1, 1], widths=[4, 8, 8]) for key in ("a", "b")}, branches=True
    )
    cohort.load_state_dict(state["parts"]["cohort"])
    mean, std = (torch.tensor(state["data"][name]).view(3, 1, 1) for name in ("mean", "std"))
    found = {"a": {}, "b": {}}
    for part, images in digits(8)._asdict().items():
        with torch.no_grad():
            embeddings, _ = cohort.eval()((images.images / 255 - mean) / std)
        for key, stages in zip(found, embeddings, strict=True):
            found[key][part] = stages[-1].numpy()
    return found


def neighbours_accuracy(train, train_labels, test, test_labels, k):
    """By brute force, one image after the other."""
    right = 0
    for embedding, label in zip(test.astype(float), test_labels, strict=True):
        cosines = [row @ embedding / np.linalg.norm(row) / np.linalg.norm(embedding) for row in train.astype(float)]
        votes = np.zeros(10)
        for place in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
            votes[train_labels[place]] += np.exp(cosines[place] / 0.07)
        right += votes.argmax() == label
    return 100 * right / len(test)


def linear_accuracy(train, train_labels, test, test_labels, c):
    mean, std = train.mean(0), train.std(0)
    probe = LogisticRegression(C=c, max_iter=5000).fit((train - mean) / std, train_labels)
    return 100 * (probe.predict((test - mean) / std) == test_labels).mean()


def test_features_of_the_runs_own_data(call, lmcl_run, expected, tmp_path):
    words = [f"task.checkpoint={lmcl_run}", "task.folder=home", f"task.k={K}", "task.probe_c=0.5", "task.format=json"]
    ended = call(*FEATURES, *words)
    assert (ended.status, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert (told["dataset"], told["train_images"], told["test_images"], told["k"]) == ("digits", 1437, 360, K)
    scored = json.loads(call("task=evaluate", f"task.checkpoint={lmcl_run}", "trainer=cpu", "task.format=json").out)
    splits = digits(8)
    labels = {part: images.labels.numpy() for part, images in splits._asdict().items()}
    for peer, row in told["peers"].items():
        assert (row["file"], row["network"], row["width"]) == (f"{peer}-resnet8-digits.npz", "resnet8", 8)
        with np.load(tmp_path / "home" / row["file"], allow_pickle=False) as arrays:
            assert set(arrays) == {"train_embeddings", "train_labels", "test_embeddings", "test_labels", "classes"}
            assert arrays["classes"].tolist() == list("0123456789")
            for part in ("train", "test"):
                assert arrays[f"{part}_embeddings"].dtype == np.float32
                assert (arrays[f"{part}_labels"] == labels[part]).all()
                np.testing.assert_allclose(arrays[f"{part}_embeddings"], expected[peer][part], rtol=1e-5, atol=1e-5)
        four = expected[peer]["train"], labels["train"], expected[peer]["test"], labels["test"]
        one_image = 100 / 360 + 1e-9  # may fall on either side by rounding
        assert abs(row["knn"] - neighbours_accuracy(*four, K)) <= one_image
        assert abs(row["linear_probe"] - linear_accuracy(*four, 0.5)) <= one_image
        assert row["own_head"] == pytest.approx(scored["top1"][peer]["own_head"])


OTHER = ["data=imagefolder", "data.root=images", "data.images.size=8", "data.name='my birds'"]  # of `other_images`


def test_features_of_other_images(call, own_copy, lmcl_run, other_images):
    folder = own_copy(lmcl_run)
    ended = call(*FEATURES, f"task.checkpoint={folder}", *OTHER, "task.peer=b", "task.k=5")
    assert (ended.status, ended.err) == (0, "")
    (row,) = [line.split() for line in ended.out.splitlines() if "b: resnet8" in line]
    # and no accuracy of the own head, which knows other classes
    assert row == ["b:", "resnet8", "b-resnet8-my-birds.npz", "8", "100.00", "100.00"]
    with np.load(folder / "features" / "b-resnet8-my-birds.npz") as arrays:
        assert arrays["classes"].tolist() == ["dark", "light"] and arrays["test_embeddings"].shape == (24, 8)
    assert foreign(folder) == []  # it counts as a run still


def test_features_that_cannot_be(call, own_copy, lmcl_run, other_images, tmp_path):
    folder = own_copy(lmcl_run)
    words = [*FEATURES, f"task.checkpoint={folder}", "task.peer=a"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a-resnet8-digits.npz").write_text("precious")
    for more, line in (
        ([*OTHER, "task.k=25"], "task.k: must be at most 24, the number of training images, not 25"),
        (["task.peer=c"], "task.peer: "),
        (["task.folder=home"], "task.folder: home has a file a-resnet8-digits.npz already"),
        (["data=imagefolder", "data.root=nowhere"], "data.root: there is no folder nowhere"),
    ):
        ended = call(*words, *more)
        assert (ended.status, ended.out) == (2, "") and ended.err.count("\n") == 1
        assert ended.err.startswith(f"mcl_lab: error: {line}")
    assert (tmp_path / "home" / "a-resnet8-digits.npz").read_text() == "precious"
    assert not (folder / "features").exists()


def test_a_probe_that_was_stopped_early_says_so(call, own_copy, lmcl_run):
    ended = call(*FEATURES, f"task.checkpoint={own_copy(lmcl_run)}", "task.peer=a", "task.probe_iterations=2")
    assert ended.status == 0 and "digits" in ended.out
    assert ended.err.startswith("mcl_lab: a: resnet8: the linear probe has not converged")
    assert ended.err.count("\n") == 1
