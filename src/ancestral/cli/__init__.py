"""The command line: ``ancestral COMMAND …``. Each command is a thin module, loaded when it is called.

Nothing here imports torch before the arguments are understood, so that help and mistakes are answered
at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys

from ancestral import __version__
from ancestral._internal import checks
from ancestral.cli import peers, threads
from ancestral.cli.console import any_character

COMMANDS = {
    "train": "train a model on data, into a run folder; or resume a run",
    "sample": "draw samples from a run, as a picture or an array",
    "evaluate": "the ELBO of a run on held-out data, split into its terms, with error bars",
    "score": "a bound on log p(x) of each example, from the most to the least likely",
    "reconstruct": "examples beside what a run's latents keep of them",
    "interpolate": "from one example to another through a run's latents",
    "compare": "train VAE, hierarchical VAE and DDPM on the same data and put them side by side",
    "report": "what is known of a run or a comparison, on one page to look at",
    "data": "what a source of data holds, and what would be done with it",
    "info": "what a run is and how far it has come",
    "recipe": "list the recorded results, or train one of them again",
    "bench": "how fast this machine is, how fast a model trains on it, and what bounds it",
}

_HELP = """usage: ancestral COMMAND [options]

Markov chains of latents with an ELBO: VAEs, hierarchical VAEs and DDPMs as one family.

commands:
{commands}

options:
  -h, --help   show this message; ancestral COMMAND --help shows a command's own
  --version    show the version

example:
  ancestral train vae --data digits --out runs/vae
  ancestral sample runs/vae --n 64 --out grid.png
  ancestral evaluate runs/vae
"""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Of a disk or a quota."""
_MEMORY = "out of memory. Use a smaller --batch-size, fewer samples or a smaller model."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure, 2 for a mistake, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with any_character():
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except (ValueError, FloatingPointError) as error:
        return _fail(str(error), 2)
    except BrokenPipeError:
        # Whoever read our output has left.
        _drop_output()
        return 1
    except OSError as error:
        return _fail(_os_message(error), 1)
    except MemoryError:
        return _fail(_MEMORY, 1)
    except RuntimeError as error:
        # Divergence and full memory are the user's to mend; any other one is a defect and shows itself.
        if type(error).__name__ == "RunDiverged":
            return _fail(str(error), 1)
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            return _fail(_MEMORY, 1)
        raise
    except KeyboardInterrupt:
        return _fail("interrupted.", 130)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())))
        return 0
    if arguments[0] == "--version":
        print(f"ancestral {__version__}")
        return 0
    _check_command(arguments[0])
    threads.start()
    module = importlib.import_module(f"ancestral.cli.{arguments[0]}")
    module.run(arguments[1:])
    sys.stdout.flush()
    return 0


def _check_command(name: str) -> None:
    meant = peers.meant(name, peers.COMMANDS, COMMANDS)
    if meant is not None:
        allowed = ", ".join(COMMANDS)
        raise ValueError(f"the command is {name!r}; it must be one of {allowed}. Use ancestral {meant}.")
    checks.one_of("the command", name, COMMANDS)


def _drop_output() -> None:
    """What is still buffered must not fail again at exit."""
    with contextlib.suppress(OSError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    print(f"ancestral: {message}", file=sys.stderr)
    return status


def _os_message(error: OSError) -> str:
    where = error.filename
    if where is None and error.errno in _FULL:
        # All files that are written name themselves in their errors.
        _drop_output()
        where = "standard output"
    named = f"{os.fsdecode(where)}: " if where else ""
    return f"{named}{error.strerror or error}. Nothing that was complete before is lost."
