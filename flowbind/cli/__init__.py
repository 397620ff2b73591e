"""The command line: verbs are imported when they run, so that `--help` costs nothing."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import NoReturn

from flowbind.progress import is_first_process, leave_closed_terminal

VERBS = {
    "prepare": (
        "flowbind.cli.prepare",
        "a dataset on disk (or the embedded world) -> manifest and files",
    ),
    "encode": (
        "flowbind.cli.encode",
        "manifest -> latent store, on any number of devices, resumable",
    ),
    "fit": ("flowbind.cli.fit", "train what a recipe describes: a model, or a codec"),
    "export": (
        "flowbind.cli.export",
        "what a run has trained so far -> a released model",
    ),
    "validate": ("flowbind.cli.fit", "the validation loss of a trained model"),
    "test": (
        "flowbind.cli.fit",
        "measure every direction; writes metrics.json, metrics.md and report.html",
    ),
    "generate": (
        "flowbind.cli.generate",
        "any sources -> any targets, with a released model",
    ),
    "demo": (
        "flowbind.cli.demo",
        "a page on which a released model is tried, in a browser",
    ),
    "import-official": (
        "flowbind.cli.import_official",
        "what the method's authors released -> a released model",
    ),
    "push": (
        "flowbind.cli.push",
        "a released model -> a repository of the Hugging Face hub, with a card",
    ),
    "pack": ("flowbind.cli.push", "a released model -> one file, with a card"),
    "verify": (
        "flowbind.cli.verify",
        "latent stores and released models, byte for byte",
    ),
    "data": (
        "flowbind.cli.data",
        "what manifests hold: counts, labels, sizes, duplicates, a contact sheet",
    ),
    "recipes": (
        "flowbind.cli.recipes",
        "flowbind's own recipes: a list, a copy, what a key is for",
    ),
    "info": (
        "flowbind.cli.info",
        "what a released model, a latent store or a manifest holds",
    ),
    "plugins": ("flowbind.cli.plugins", "what is installed, from which package"),
    "doctor": (
        "flowbind.cli.doctor",
        "what this machine has for flowbind; text to paste into an issue",
    ),
}

HELP = """usage: flowbind VERB ...

Any-to-any generation: every modality tied to one shared latent by its own flow.

verbs:
{verbs}

Start with:
  flowbind prepare shapes --out data/shapes
  flowbind encode --config recipes/shapes.yaml
  flowbind fit --config recipes/shapes.yaml
  flowbind test --config recipes/shapes.yaml

`flowbind VERB --help` tells more.
"""

# What to use instead of verbs that Lightning has, or flowbind had.
INSTEAD = {
    "predict": "to generate with a trained model, use `flowbind generate`",
    "modalities": "it is `flowbind plugins` now",
}

# Exit codes; those of signals are 128 and the signal's number.
FAULT = 1  # of flowbind: a traceback, to be reported
MISTAKE = 2  # of a person, or of a file or machine: one line that says what to do
SIGNALLED = 128


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb. A person's error is one line on standard error and exit code 2.

    Ctrl-C, SIGTERM and a closed terminal end any verb, with exit codes 130, 143 and 129; training
    saves first, and on SIGUSR1, too, which is 138. A fault of flowbind's own is a traceback, a line
    that asks to report it, and exit code 1.

    Args:
        arguments: Verb and its options; the process's own if None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"flowbind {version('flowbind')}")
        return

    asked: list[int] = []
    try:
        with _ending_when_asked(asked):
            _run(arguments)
        sys.stdout.flush()  # so that a reader who left is noticed here
    except KeyboardInterrupt as stop:
        number = next(iter([*stop.args, *asked]), signal.SIGINT)
        _stop("interrupted; run the same command again to resume", SIGNALLED + number)
    except BrokenPipeError:
        _leave_quietly()
    except MemoryError as error:
        # What was read, where that is known.
        sample = str(error).strip().splitlines()[-1:]
        line = ": ".join([*sample, NO_MEMORY])
        _stop(line, MISTAKE)
    except OSError as error:
        line = str(error)
        if error.filename:
            line = f"{error.filename}: {error.strerror}"
        _stop(line, MISTAKE)
    except ValueError as error:
        _stop(str(error), MISTAKE)
    except Exception as error:
        if any(words in str(error) for words in ALLOCATORS):
            _stop(NO_MEMORY, MISTAKE)
        _let_the_first_speak(FAULT)
        traceback.print_exc()
        kind = type(error).__name__
        _stop(FAULTY.format(kind=kind), FAULT)


# They end a verb as Ctrl-C does: `kill`, and a terminal that is closed.
ENDS = (signal.SIGTERM, signal.SIGHUP)
# Of several processes on one machine, the first started the others.
PARENT = os.getppid()
PATIENCE = 50  # tenths of a second that the others leave it
NO_MEMORY = "not enough memory; give smaller files, or a smaller batch"
# Words of torch's allocators, whose errors have no class of their own.
ALLOCATORS = ("out of memory", "can't allocate memory")
FAULTY = (
    "{kind}: an error that flowbind should not make; please report it, with the lines above and "
    "the command. What was written before it is whole"
)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = []
    for verb, (_, about) in VERBS.items():
        lines.append(f"  {verb:{width}}  {about}")
    return HELP.format(verbs="\n".join(lines))


def _run(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb not in VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        names = ", ".join(VERBS)
        hint = INSTEAD.get(verb, f"{guess}allowed: {names}")
        raise ValueError(f"no verb '{verb}'; {hint}")

    module, _ = VERBS[verb]
    import_module(module).run(verb, rest)


@contextmanager
def _ending_when_asked(asked: list[int]) -> Iterator[None]:
    """Makes `ENDS` end a verb as Ctrl-C does, so that what it has begun is cleared away.

    Lightning takes note of SIGTERM, and goes on to the end of what it does but in training, which
    has a way of its own. What this process was told to ignore, as `nohup` does, it ignores.

    Args:
        asked: List to which the signal is added when it comes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in ENDS if signal.getsignal(n) is signal.SIG_DFL]
    if not is_main or not numbers:
        yield
        return

    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker, which has nothing to clear away
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        leave_closed_terminal()
        asked.append(number)
        raise KeyboardInterrupt(number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _leave_quietly() -> NoReturn:
    """Ends as a program does that SIGPIPE ends: whoever read the output went away."""
    # Or Python complains on its way out.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    raise SystemExit(SIGNALLED + signal.SIGPIPE)


def _let_the_first_speak(code: int) -> None:
    """Of processes that work together, the others wait before they say what is wrong.

    An error that all of them have, the first one reports. Then it is gone, if it started the
    others, or what started them all ends them; only what the others alone have they report.

    Raises:
        SystemExit: the first is gone.
    """
    if is_first_process():
        return

    for _ in range(PATIENCE):
        if os.getppid() != PARENT:
            raise SystemExit(code)
        time.sleep(0.1)


def _stop(message: str, code: int) -> NoReturn:
    """Prints one line and ends."""
    if code == MISTAKE:
        _let_the_first_speak(code)
    # Names of files may steer a terminal.
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    print(f"flowbind: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)
