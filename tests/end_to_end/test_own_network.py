"""What README says about a network of one's own, done to the letter in an empty folder."""

import re
import shlex
import subprocess
import sys

from training_runs import RUN, networks, only_folder, result

README = RUN.with_name("README.md").read_text(encoding="utf-8")
TINY = [
    "pair=resnet8", "data=digits", "data.images.size=8", "data.batch_size=20",
    "trainer=cpu", "trainer.max_steps=1", "tracking=none",
]  # fmt: skip


def test_readmes_own_network_trains(tmp_path):
    section = README.partition("## A network of your own")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(python|yaml|bash)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "yaml", "bash"]
    *files, (_, command) = blocks
    for _, text in files:
        path = tmp_path / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True)
        path.write_text(text)

    line = command.strip().replace("python run.py", shlex.join([sys.executable, str(RUN)]))
    line = f"{line} {shlex.join(TINY)}"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    folder = only_folder(tmp_path)
    outcome = result(folder)
    assert (outcome["pair"], outcome["kind"], outcome["steps"]) == ("resnet8_plain", "heterogeneous", 1)
    trained = {name: value for name, value in networks(folder).items() if "peers.b." in name}
    stems = [value for name, value in trained.items() if name.endswith("network.stem.weight")]
    assert [tuple(stem.shape) for stem in stems] == [(64, 3, 3, 3)]  # the width that the YAML file says
    assert any("branches.1." in name for name in trained)

    (alone,) = re.findall(r"^baseline of plain +(.+)$", done.stdout, re.MULTILINE)
    again = subprocess.run(
        alone, shell=True, cwd=tmp_path, capture_output=True, text=True
    )  # in a shell that knows no plugin
    assert (again.returncode, again.stderr) == (0, "")
    (baseline,) = (tmp_path / "runs").glob("single-plain-baseline-*")
    assert result(baseline)["peers"]["a"]["config"] == outcome["peers"]["b"]["config"]
