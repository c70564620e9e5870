"""What stands beside the keys of a YAML file."""

from mcl_lab.terminal.yaml_comments import Entry, entries


def test_keys_of_a_file_with_their_comments(tmp_path):
    text = """# What it is.
defaults: [other]
a: "#1"                # in quotes
b: [1, 2]
node:   # made by
  _target_: x.Y  # unseen
  deep: {c: 3}  # flow,
  rest: ???
"""
    (tmp_path / "file.yaml").write_text(text)
    assert list(entries(tmp_path / "file.yaml")) == [
        Entry("a", '"#1"', "in quotes"),
        Entry("b", "[1, 2]", ""),
        Entry("node", "x.Y", "made by", is_node=True),
        Entry("node.deep", "{c: 3}", "flow"),
        Entry("node.rest", "???", ""),
    ]
