"""A recipe, the leaves of a config that decide a run's numbers besides pair, loss and seed, in words."""

from collections.abc import Mapping, Sequence

from mcl_lab.results.published import PAPER

Recipe = Mapping[str, object]


def describe(dataset: str, recipe: Recipe) -> str:
    """`cifar100, 300 epochs, batch 128, SGD lr 0.1, Cosine`."""
    words = [
        dataset,
        "1 epoch" if recipe.get("trainer.epochs") == 1 else f"{recipe.get('trainer.epochs')} epochs",
        f"batch {recipe.get('data.batch_size')}",
        f"{_last(recipe.get('optimizer._target_'))} lr {recipe.get('optimizer.lr')}",
        _last(recipe.get("schedule._target_")),
    ]
    if recipe.get("trainer.max_steps") is not None:
        words.insert(2, f"at most {recipe['trainer.max_steps']} steps")
    validation = recipe.get("data.validation")
    if isinstance(validation, int | float) and validation:
        words.append(f"{100 * validation:g} % of the training images held out")
    if recipe.get("data.images.limit") is not None:
        words.insert(1, f"at most {recipe['data.images.limit']} training images a class")
    return ", ".join(words)


def apart_from_paper(recipe: Recipe) -> list[str]:
    """What of the published recipe is different here: `trainer.epochs 40, not 300`; the data set itself aside."""
    changed = []
    for section in ("data", "optimizer", "schedule", "trainer"):
        keys = [key for key in PAPER if key.startswith(f"{section}.")]
        target = f"{section}._target_"
        if target in PAPER and recipe.get(target) != PAPER[target]:  # of another class, other arguments
            changed.append(f"{section} {_last(recipe.get(target))}, not {_last(PAPER[target])}")
            continue
        changed += [
            f"{key} {_value(recipe.get(key))}, not {_value(PAPER[key])}"
            for key in keys
            if recipe.get(key) != PAPER[key]
        ]
    return changed


def told_apart(recipes: Sequence[Recipe]) -> list[str]:
    """For each of several recipes, the leaves by which they differ: `data.images.size=8`."""
    keys = sorted(set().union(*recipes))
    different = [key for key in keys if any(recipe.get(key) != recipes[0].get(key) for recipe in recipes)]
    return [", ".join(f"{key}={_value(recipe.get(key))}" for key in different) for recipe in recipes]


def _last(target: object) -> str:
    return str(target).rpartition(".")[2]


def _value(value: object) -> str:
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
