"""What a sweep was started with, held against what it is continued with."""

import json

from common.errors import InputError
from common.pinned_data import prepared_rows
from common.recipe import Recipe
from common.row_changes import row_changes
from tune.study import StudySearch


def refuse_changes(search: StudySearch, recipe: Recipe, data_digest: str, storage: str) -> None:
    """Raises `InputError` with what differs, when the study was started with something else; else remembers it.

    What became of the rows is said where `storage` holds those of both digests.
    """
    known = search.study.user_attrs
    now = {"recipe": _searched(recipe), "data": data_digest}
    name = search.study.study_name
    way_out = "Start a new sweep (without --resume), or go back to"
    if known.get("recipe", now["recipe"]) != now["recipe"]:
        changes = differences(json.loads(known["recipe"]), json.loads(now["recipe"]))
        lines = "\n".join(f"  {change}" for change in changes)
        raise InputError(f"sweep {name} was started with another recipe:\n{lines}\n{way_out} these settings.")
    if known.get("data", data_digest) != data_digest:
        before, now_there = (prepared_rows(digest, storage) for digest in (known["data"], data_digest))
        changes = row_changes(before, now_there) if before and now_there else []
        lines = "".join(f"  {change}\n" for change in changes)
        raise InputError(
            f"sweep {name} was started with other data: the rows' digest was {known['data'][:16]} and is "
            f"{data_digest[:16]}.\n{lines}{way_out} the data it was started with."
        )
    for what, value in now.items():
        if what not in known:
            search.study.set_user_attr(what, value)


def differences(before: object, after: object, name: str = "") -> list[str]:
    """One `section.setting: before -> after` for each setting in which two documents differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = dict.fromkeys([*before, *after])
        return [
            change
            for key in names
            for change in differences(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if before == after else [f"{name}: {json.dumps(before)} -> {json.dumps(after)}"]


def _searched(recipe: Recipe) -> str:
    """The parts of a recipe that a sweep's results depend on; more trials, time, nodes or logging are allowed."""
    return recipe.model_dump_json(
        by_alias=True,
        include={
            "model": True,
            "train": True,
            "search": {"space", "metric", "scheduler", "seed", "warm_start"},
        },
        exclude={"train": {"placement", "logging_steps"}},
    )
