"""The command reference, from the command line itself: `python -m scripts.command_reference > docs/commands.md`."""

import sys
from collections.abc import Iterator

import click

from scripts.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_WRONG_INPUT, JOB_COMMANDS, main

INTRODUCTION = f"""\
# Commands

What `tuneserve COMMAND --help` says, for every command.

- RECIPE is a YAML file, and KEY=VALUE changes a setting of it: `train.epochs=1` ([all settings](recipe.md)).
- People's output, progress and logs go to stderr. `--json` prints exactly one JSON object on stdout.
- A command ends with 0 (done), {EXIT_FAILED} (the job failed), {EXIT_WRONG_INPUT} (the input was wrong) or \
{EXIT_INTERRUPTED} (interrupted; it says how to go on).
- As a Ray job, `tuneserve submit -- COMMAND`, run: {", ".join(f"`{name}`" for name in JOB_COMMANDS)}.
- What keeps state takes `--storage PLACE`, a folder or URL for data, checkpoints and results, and `--mlflow-uri URI`;
  [where state lives](how-it-works.md#where-state-lives) says what holds without them.
- Completion: `eval "$(_TUNESERVE_COMPLETE=bash_source tuneserve)"`, or `zsh_source`, `fish_source`.
"""

_TOLD_ONCE = {"--json", "--help", "--storage", "--mlflow-uri"}
"""Options of all commands, or of most."""


def reference() -> str:
    """The page `docs/commands.md`."""
    return "\n".join([INTRODUCTION, *_commands(main, "tuneserve")]).rstrip() + "\n"


def _commands(group: click.Group, path: str) -> Iterator[str]:
    """A section for each command, in the order in which they are defined."""
    for name, command in group.commands.items():
        called = f"{path} {name}"
        if isinstance(command, click.Group):
            yield from _commands(command, called)
        else:
            yield from _section(command, called)


def _section(command: click.Command, called: str) -> Iterator[str]:
    context = click.Context(command)
    yield f"## `{called}`\n"
    yield f"```text\n{' '.join([called, *command.collect_usage_pieces(context)])}\n```\n"
    yield f"{_one_line(command.help or '')}\n"
    options = [option for option in command.params if isinstance(option, click.Option)]
    options = [option for option in options if not _TOLD_ONCE.intersection(option.opts)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield "| option | |"
        yield "| --- | --- |"
        yield from (f"| `{_cell(option.removesuffix(' RANGE'))}` | {_cell(meaning)} |" for option, meaning in records)
        yield ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
