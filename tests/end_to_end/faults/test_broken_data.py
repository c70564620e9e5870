"""Data sets with bad content, through run.py: a refusal in one line, or a count and a list of what was left out."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from training_runs import BASELINE, LMCL, RUN, assert_same_run, end, fork, main_in, only_folder, start

from mcl_lab import cli

NAMES = [  # of classes and files
    "中文", "عربي", "🙂", "two words", "a\nnew line", "a\ttab", "\x1b[31mred\x07", "'\"`", "$HOME ${seed}", "{}%s%d",
    r"\_^~&#%", "bytes\udcff\udcfe", "‮turned", "-dash",
]  # fmt: skip


def images_in(root, names, train=6, test=2) -> list[str]:
    """The words of a run on images of these classes, which are made."""
    for part, count in (("train", train), ("test", test)):
        for place, name in enumerate(names):
            folder = Path(root, part, name)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (10 * place, number, 3 * place + number)).save(folder / f"{number}{name}.png")
    return [f"data.root={root}", "data=imagefolder", "data.images.size=8", "data.batch_size=8", "tracking=none"]


def without_data(words) -> list[str]:
    kept = [word for word in words if not word.startswith(("data.", "experiment="))]
    return [*kept, "trainer=cpu", "trainer.threads=1"]


def words_of(root, names=("cats", "dogs"), recipe=BASELINE, **counts) -> list[str]:
    network = ["pair=resnet8", *without_data(recipe)]
    return [*network, *images_in(root, names, **counts)]


def ended(cwd, *arguments) -> tuple[int, str]:
    """Of run.py in a process of its own: exit status and output, which holds no control character."""
    output = Path(cwd, "output.txt")
    output.unlink(missing_ok=True)
    status = fork(main_in, cwd, list(arguments))
    text = output.read_bytes().decode()
    assert "Traceback" not in text
    assert not [letter for letter in text if letter != "\n" and not letter.isprintable()]
    return status, text


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """refused(*arguments): the one line with which run.py refuses, nothing written."""
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", [str(RUN), *arguments])
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        status = cli.main(list(arguments))
        out, err = capfd.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1) and sorted(tmp_path.rglob("*")) == before
        assert not [letter for letter in err[:-1] if not letter.isprintable()]
        return err.removeprefix("mcl_lab: error: ")

    return refuse


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Classes of every name, with a file of a fault beside their images: (words, what cannot be read of each part)."""
    root = tmp_path_factory.mktemp("spoilt")
    words = words_of(root, NAMES, recipe=LMCL)
    faults = {"train": [], "test": []}
    for place, name in enumerate(NAMES):
        for part in faults:
            folder = root / part / name
            bad = folder / f"bad{name}.jpg"
            match place % 7:
                case 0:
                    bad.write_text("text")
                case 1:
                    os.mkfifo(bad)
                case 2:
                    bad.symlink_to("nowhere")
                case 3:
                    Image.new("F", (8, 8)).save(bad := folder / f"bad{name}.tif")
                case 4:
                    bad.write_bytes(b"")
                case 5:
                    good = next(iter(folder.iterdir()))
                    bad.write_bytes(good.read_bytes()[:45])
                case 6:
                    bad.symlink_to(bad.name)
            faults[part].append(bad)
            (folder / "loop").symlink_to("..")
    # What Pillow and libtiff would warn of themselves.
    Image.new("RGB", (8, 8)).save(root / "train/-dash/exif.jpg", exif=b"Exif\0\0garbage")
    Image.effect_noise((64, 64), 50).save(damaged := root / "test/-dash/damaged.tif", compression="tiff_lzw")
    content = bytearray(damaged.read_bytes())
    content[100:200] = b"\xff" * 100
    damaged.write_bytes(content)
    faults["test"].append(damaged)
    return words, faults


def test_bad_images_under_any_names_are_left_out_and_listed(spoilt, tmp_path):
    words, faults = spoilt
    words = [*words, "data.images.unreadable=skip", "data.batch_size=85", "trainer.epochs=1"]
    status, text = ended(tmp_path, *words)
    assert status == 0, text
    train, test, others, told = text.splitlines()[:4]
    assert "it repeats images" in others and text.splitlines()[4].split() == ["a:", "resnet8", "b:", "resnet8"]
    assert told.startswith("imagefolder: ") and f" INFO {told}\n" in (only_folder(tmp_path) / "run.log").read_text(
        "utf-8"
    )
    total = 6 * len(NAMES) + 1
    assert train.startswith(f"{len(NAMES)} of {total + len(NAMES)} train images cannot be read and are left out: ")
    assert test.startswith(f"{len(NAMES) + 1} of {3 * len(NAMES) + 1} test images cannot be read and are left out: ")
    assert "?[31mred?/bad?[31mred?.jpg: Too many levels of symbolic links; " in train and train.endswith(" and 9 more")

    folder = only_folder(tmp_path)
    lines = (folder / "run.log").read_text(encoding="utf-8").splitlines()
    assert train in "\n".join(lines) and test in "\n".join(lines)
    listed = [line.partition("left out: ")[2] for line in lines if " INFO left out: " in line]
    assert len(listed) == sum(map(len, faults.values())) == len(set(listed))
    for reason, count in (("is no regular file", 4), ("floating-point", 4), ("is empty", 4), ("No such file", 4)):
        assert sum(reason in line for line in listed) == count, reason
    assert all(
        any(name in line for line in listed) for name in ("中文", "عربي", "🙂", "two words", "${seed}", r"\_^~&#%")
    )
    assert not [letter for line in lines for letter in line if not letter.isprintable()]
    assert (folder / "result.json").read_text(encoding="utf-8")

    status, text = ended(tmp_path, "task=evaluate", f"task.checkpoint={folder}", "trainer=cpu")
    assert status == 0 and f"mcl_lab: {test}" in text and f"{2 * len(NAMES)} images" in " ".join(text.split())


def test_what_was_left_out_is_said_on_stderr_and_no_report_obeys_a_name(call, spoilt, tmp_path):
    """One line a part; what is printed to be kept, JSON and tables, stays free of it."""

    def said(ended):
        assert ended.status == 0, ended.err
        assert not [letter for letter in ended.out + ended.err if letter != "\n" and not letter.isprintable()]
        return ended.out, ended.err

    words = [word for word in spoilt[0] if not word.startswith("loss.")] + ["loss=baseline"]
    words += ["data.images.unreadable=skip", "data.batch_size=85", "trainer.epochs=1"]
    # In a process of its own: pytest keeps what is logged here, and xdist cannot pass such names on.
    out, err = said(end(start(words, tmp_path)))
    assert [line.split(" images ")[0] for line in err.splitlines()] == ["14 of 99 train", "15 of 43 test"]
    assert "left out" not in out
    folder = only_folder(tmp_path)
    out, err = said(call("task=evaluate", f"task.checkpoint={folder}", "trainer=cpu", "task.format=json"))
    assert json.loads(out)["images"] == 28
    assert err.count("\n") == 1 and err.startswith("mcl_lab: 15 of 43 test images cannot be read and are left out: ")
    for format in ("table", "markdown", "csv", "latex"):
        assert "imagefolder" in said(call("task=report", "task.source=folders", f"task.format={format}"))[0]


def test_bad_images_are_refused_otherwise(spoilt, refused):
    line = refused(*spoilt[0])
    assert line.startswith("data.images.train: 14 of 99 images in ") and "?[31mred?/bad?[31mred?.jpg: " in line
    assert "data.images.unreadable=skip" in line and "and 9 more" in line


def test_the_setting_is_one_of_two(spoilt, refused):
    line = refused(*spoilt[0], "data.images.unreadable=ignore")
    assert line.startswith("data.images.unreadable: ") and "refuse" in line and "skip" in line


def test_leaving_out_is_another_recipe(spoilt):
    """Runs on all images and on some are not one row of a table; a setting that changes nothing changes no key."""
    from mcl_lab.config.compose import compose
    from mcl_lab.config.identity import identity_of

    plain, refuse, skip = (
        compose([*spoilt[0], *more])
        for more in (["~data.images.unreadable"], [], ["data.images.unreadable=skip"])
    )  # fmt: skip
    assert identity_of(plain).run_key == identity_of(refuse).run_key != identity_of(skip).run_key
    assert identity_of(plain).recipe_key == identity_of(refuse).recipe_key != identity_of(skip).recipe_key


def test_a_class_that_loses_all_its_images_is_refused(tmp_path, refused):
    words = words_of(tmp_path / "data")
    for file in (tmp_path / "data/train/dogs").iterdir():
        file.write_text("text")
    line = refused(*words, "data.images.unreadable=skip")
    assert line.startswith("data.images.train: 6 of 12 images in ") and "all of dogs" in line


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ("mkdir train/owls", "data.images.train", "owls; remove the folder or fill it"),
        ("mkdir test/owls", "data.images.test", "owls; remove the folder or fill it"),
        ("rm -r train/dogs test/dogs", "data.images.train", "one class only, cats"),
        ("rm -r train/dogs", "data.images.train", "one class only, cats"),
        ("cp -r test/dogs test/owls", "data.images.test", "has owls, which the training images lack"),
        ("cp -r train/dogs train/owls", "data.images.test", "lacks owls"),
        ("rm train/dogs/[1-9]*", "data.images", "class dogs has one image to train on"),
        ("rm -r test", "data.images.test", "neither a folder test nor val"),
        ("rm -r train", "data.images.train", "there is no folder"),
        ("rm -r train; touch train", "data.images.train", "there is no folder"),
        ("rm -r test/*", "data.images.test", "is empty"),
        ("rm train/*/*", "data.images.train", "holds an image"),
        ("rm -r test/dogs; ln -s /nowhere test/dogs", "data.images.test", "leads nowhere"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused_in_one_line(tmp_path, refused, change, key, words):
    arguments = [*words_of(tmp_path / "data", recipe=LMCL), "data.batch_size=4"]
    assert os.system(f"cd {tmp_path / 'data'} && {change}") == 0
    line = refused(*arguments)
    assert line.startswith(f"{key}: ") and words in line


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_that_is_cut_is_refused_in_one_line(tmp_path, refused, monkeypatch, name):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing answers: it cannot be downloaded again
    archive = tmp_path / f"{name.replace('r1', 'r-1')}-python.tar.gz"
    archive.write_bytes(b"\x1f\x8b\x08" + os.urandom(5000))
    line = refused(f"data={name}", f"data.root={tmp_path}", "tracking=none", "trainer=cpu")
    assert line.startswith(
        f"data.root: {archive} is corrupt and cannot be downloaded again; put a sound copy of https://"
    )


def at_epoch(process, cwd, number) -> Path:
    """The folder of a run that has ended that many epochs."""
    deadline = time.monotonic() + 120
    while True:
        journals = list(Path(cwd).glob("runs/*/metrics.jsonl"))
        if journals and journals[0].read_text().count("\n") >= number:
            return journals[0].parent
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def content_of(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_data_that_is_away_stops_no_run_and_no_run_begins(tmp_path):
    """The images are in memory: a run ends without its folder of data. Before it goes on they must be there."""
    words = [*words_of(tmp_path / "data"), "trainer.epochs=40"]
    data, away = tmp_path / "data", tmp_path / "away"
    (undisturbed := tmp_path / "undisturbed").mkdir()
    (disturbed := tmp_path / "disturbed").mkdir()

    process = start(words, undisturbed)
    folder = at_epoch(process, undisturbed, 1)
    process.send_signal(signal.SIGSTOP)  # so that the data are gone while it is going on
    before = (folder / "metrics.jsonl").read_text().count("\n")
    data.rename(away)
    process.send_signal(signal.SIGCONT)
    assert before < 40 and end(process).status == 0

    away.rename(data)
    process = start(words, disturbed)
    folder = at_epoch(process, disturbed, 1)
    process.send_signal(signal.SIGTERM)
    assert end(process).status == 128 + signal.SIGTERM
    data.rename(away)
    before = content_of(folder)
    for task in (words, [f"resume={folder}"], ["task=evaluate", f"task.checkpoint={folder}"]):
        status, text = ended(disturbed, *task)
        assert (status, text) == (2, f"mcl_lab: error: data.root: there is no folder {data}\n")
    assert content_of(folder) == before
    away.rename(data)
    assert ended(disturbed, *words)[0] == 0
    assert_same_run(folder, only_folder(undisturbed))


@pytest.mark.full
def test_a_run_goes_on_without_the_images_it_left_out(tmp_path):
    """The same are left out again; when one of them is mended the data are others, and that is said."""
    words = [*words_of(tmp_path / "data"), "trainer.epochs=40", "data.images.unreadable=skip"]
    good = shutil.move(tmp_path / "data/train/dogs/3dogs.png", tmp_path / "3dogs.png")
    (tmp_path / "data/train/dogs/3dogs.png").write_text("text")
    process = start(words, tmp_path)
    folder = at_epoch(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    assert end(process).status == 128 + signal.SIGTERM
    shutil.copy(good, tmp_path / "data/train/dogs/3dogs.png")
    status, text = ended(tmp_path, *words)
    assert status == 2 and "checksum" in text
    assert text.startswith("mcl_lab: error: data: is not what this run was trained on")
    (tmp_path / "data/train/dogs/3dogs.png").write_text("text")
    status, text = ended(tmp_path, f"resume={folder}")
    assert status == 0 and "1 of 12 train images cannot be read and are left out: dogs/3dogs.png: " in text


def test_other_images_of_the_same_name_are_another_run(tmp_path):
    """A finished run's figures are not shown for them; wherever its own images are by now, they are."""
    words = words_of(tmp_path / "birds")
    cars = [word.replace("birds", "cars") for word in words]
    words_of(tmp_path / "cars", train=7)
    assert ended(tmp_path, *words)[0] == 0
    folder = only_folder(tmp_path)
    status, text = ended(tmp_path, *cars)
    other = (
        f"{folder.relative_to(tmp_path)} was trained on other images of this name; name these data.name=ANOTHER_NAME"
    )
    assert (status, text) == (2, f"mcl_lab: error: data.name: {other}\n")
    for place in (shutil.copytree(tmp_path / "birds", tmp_path / "copied"), tmp_path / "gone"):
        status, text = ended(tmp_path, *words, f"data.root={place}")
        assert status == 0 and text.startswith("This run is finished.")
    assert ended(tmp_path, *cars, "data.name=cars")[0] == 0 and len(list((tmp_path / "runs").iterdir())) == 2


def test_images_that_have_changed_since_are_told_of(tmp_path):
    words = [*words_of(tmp_path / "data"), "data.validation=0.2"]
    assert ended(tmp_path, *words)[0] == 0
    evaluate = ["task=evaluate", f"task.checkpoint={only_folder(tmp_path)}"]
    status, text = ended(tmp_path, *evaluate)
    assert status == 0 and "these are not the images" not in text
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "data/test/dogs/0dogs.png")
    status, text = ended(tmp_path, *evaluate)
    assert status == 0 and f"mcl_lab: these are not the images that {only_folder(tmp_path)} was evaluated on" in text
    status, text = ended(
        tmp_path, *evaluate, "data=imagefolder", f"data.root={tmp_path / 'data'}", "data.images.size=8"
    )
    assert status == 0 and "these are not the images" not in text  # they were asked for


def test_images_on_a_read_only_disk(tmp_path):
    words = words_of(tmp_path / "data")
    os.chmod(tmp_path / "data", 0o755)
    if os.system(f"mount --bind {tmp_path / 'data'} {tmp_path / 'data'} 2> /dev/null"):
        pytest.skip("nothing can be mounted here")
    try:
        assert os.system(f"mount -o remount,ro,bind {tmp_path / 'data'}") == 0
        with pytest.raises(OSError):
            (tmp_path / "data/x").write_text("")
        assert ended(tmp_path, *words)[0] == 0
    finally:
        os.system(f"umount {tmp_path / 'data'}")
