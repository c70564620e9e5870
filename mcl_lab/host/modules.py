"""Where a process looks for modules: no file of the user's own may stand in for one of Python or of a library.

With a `random.py` or `mlflow.py` in the current folder, or beside run.py, `import random` would otherwise run that. As a script,

    python -P modules.py MODULE ARGUMENT...

runs a module of this package, as `python -m` would. Until the places are in order it imports only what Python has loaded by
itself.
"""

import os
import sys

HOUSE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PLUGINS_VARIABLE = "MCL_LAB_PLUGINS"


def plugins() -> set[str]:
    """The packages whose classes a config may name besides ours."""
    return {name.strip() for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name.strip()}


def libraries_first() -> None:
    """Have what lies in the folder of this package and in the current one be imported only where there is nothing else of that
    name; but plugins from there first."""
    own = [os.stat(place) for place in (HOUSE, ".") if os.path.exists(place)]  # the current one may have been deleted
    there = [place for place in sys.path if os.path.exists(place or ".")]
    places = [place for place in there if any(os.path.samestat(os.stat(place or "."), one) for one in own)]
    sys.path[:] = [place for place in sys.path if place not in places]
    from importlib.machinery import PathFinder  # now it is Python's

    class Plugins:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return PathFinder.find_spec(name, places, target) if name in plugins() else None

    class Others:  # not the last of sys.path: a file there takes the place of a folder without __init__.py, as `cuda` is
        @staticmethod
        def find_spec(name, path=None, target=None):
            return PathFinder.find_spec(name, places, target) if path is None else None

    sys.meta_path[:] = [Plugins, *sys.meta_path, Others]


def own_process(module: str, *arguments: str) -> list[str]:
    """The command line of a process that runs a module of this package, from whatever folder."""
    return [sys.executable, "-P", os.path.realpath(__file__), module, *arguments]


if __name__ == "__main__":
    sys.path.insert(0, HOUSE)
    from mcl_lab.host import modules  # this one, before any that is installed

    modules.libraries_first()
    import runpy

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
