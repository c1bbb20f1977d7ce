"""The command line. Here is what happens before and after a verb; the verbs themselves are in ``commands``.

A verb's own module is imported when the verb is called, so that ``perdure --help`` does not wait for a database driver.
"""

import sys

from perdure.cli import exits
from perdure.cli.commands import app
from perdure.cli.ending import leave, silence_output
from perdure.cli.verb import OutputClosed
from perdure.collector import collect_seldom


def main() -> None:
    """Run ``perdure`` with the process's arguments, and end the process with the verb's exit status."""
    collect_seldom()
    leave(status_of(sys.argv[1:]))


def status_of(arguments: list[str]) -> int:
    """Run one command and return its exit status; what went wrong is said on standard error."""
    import typer

    try:
        status = typer.main.get_command(app).main(arguments, prog_name="perdure", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else exits.DONE
    except (BrokenPipeError, OutputClosed):
        # Whoever read our output has seen enough, as in `perdure history last | head`.
        silence_output()
        return exits.BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return exits.INTERRUPTED
    except Exception as error:
        from perdure.cli.sentences import explain

        status, sentence = explain(error)
        print(f"perdure: {sentence}", file=sys.stderr)
        return status
