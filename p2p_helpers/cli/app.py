"""`p2p` and its commands; errors become messages and exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import typer

from ..errors import InputWarning, P2PError, UnknownWordWarning
from ..values import first_line
from .bench import bench
from .many import batch, gallery, study
from .one import edit, export, invert, maps

app = typer.Typer(
    name="p2p",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="p2p COMMAND --help shows a command's options and examples. Exit codes: 0 done, "
    "1 an error, 2 a command that is written wrongly, 3 a batch in which jobs have errors.",
)


@app.callback()
def p2p():
    """Edit pictures by their text: change one word of a prompt and keep the picture."""


@app.command()
def check():
    """Print what this machine has, with one timed edit, in lines to paste into a question."""
    from .check import problems

    raise typer.Exit(int(problems() > 0))


for command in (edit, invert, maps, batch, gallery, export):
    app.command()(command)
app.add_typer(bench, name="bench")
app.add_typer(study, name="study")


def main(arguments: Sequence[str] | None = None):
    """Run the command line, and leave Python with its exit code."""
    warnings.showwarning = _note
    try:
        app(None if arguments is None else list(arguments), prog_name="p2p")
    except P2PError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        from ..memory import is_of_memory

        if not is_of_memory(error):
            raise
        advice = "Close other programs, or take less at once or a smaller model."
        print(f"Error: Memory has run out. {advice} ({first_line(error)})", file=sys.stderr)
        sys.exit(1)


def _note(message, category, filename, lineno, file=None, line=None):
    """Our own warnings as remarks; others as Python shows them."""
    if issubclass(category, (InputWarning, UnknownWordWarning)):
        print(f"Note: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr)
