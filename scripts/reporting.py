"""`tuneserve report`: which sweep is meant, and where its report goes."""

from pathlib import Path

from common.errors import InputError
from common.location import is_url, join
from common.storage import write_bytes
from scripts.display import say, step
from scripts.job import run_ids, storage_location
from scripts.steps import Result
from tune.report import make_report
from tune.stored_sweep import load_sweep

PAGE = "index.html"
_SWEEP = "-sweep-"


def report(sweep: str, *, storage: str | None = None, out: str | None = None) -> Result:
    """Writes the report of a sweep, finished or not; needs no cluster and changes nothing but its own folder.

    Raises:
        InputError: when there is no such sweep, or nothing to report of it yet.
    """
    place = storage_location(storage)
    sweep_id = find_sweep(place, sweep)
    runs = join(place, "runs")
    found = load_sweep(runs, sweep_id)
    step(f"Report of {sweep_id}")
    made = make_report(found)
    folder = _absolute(out) if out else join(runs, sweep_id, "report")
    for name, png in made.pngs.items():
        write_bytes(join(folder, f"{name}.png"), png)
    write_bytes(join(folder, PAGE), made.page.encode())
    for name, reason in made.missing.items():
        say(f"  no {name.replace('_', ' ')}: {reason}")
    say(f"  open {join(folder, PAGE)} in a browser; {len(made.pngs)} figures are beside it")
    best = found.winner
    return {
        "report": join(folder, PAGE),
        "figures": [join(folder, f"{name}.png") for name in made.pngs],
        "missing": dict(made.missing),
        "sweep_id": sweep_id,
        "finished": found.is_finished,
        "best": {"number": best.number, "params": best.params, "metrics": best.metrics} if best else None,
    }


def find_sweep(storage: str, named: str) -> str:
    """The id of the sweep that is meant: by its id, by the only beginning of one, or by a recipe's name for its newest.

    Raises:
        InputError: when it is none or several.
    """
    sweeps = [run for run in run_ids(storage) if _SWEEP in run]
    of_recipe = [run for run in sweeps if run.rpartition(_SWEEP)[0] == named]
    matches = [named] if named in sweeps else of_recipe[-1:] or [run for run in sweeps if run.startswith(named)]
    if len(matches) == 1:
        return matches[0]
    folder = join(storage, "runs")
    if not sweeps:
        raise InputError(f"there is no sweep in {folder}; make one with tuneserve sweep, or name another --storage")
    if matches:
        raise InputError(f"{named!r} begins the names of several sweeps; choose one: {', '.join(matches)}")
    raise InputError(f"no sweep in {folder} is called {named!r}; there are: {', '.join(sweeps)}")


def _absolute(out: str) -> str:
    return out if is_url(out) else str(Path(out).expanduser().absolute())
