"""The command line. Verbs are found by name and imported when they run, so that `--help` costs nothing."""

import signal
import sys
from importlib import import_module

VERBS = {
    "prepare": ("flowbind.cli.prepare", "a dataset on disk (or the embedded world) -> manifest and files"),
    "encode": ("flowbind.cli.encode", "manifest -> latent store, on any number of devices, resumable"),
    "fit": ("flowbind.cli.recipe", "train what a recipe describes: a model, or a codec"),
    "validate": ("flowbind.cli.recipe", "the validation loss of a trained model"),
    "test": ("flowbind.cli.recipe", "measure every direction; writes metrics.json, metrics.md and a gallery"),
    "predict": ("flowbind.cli.recipe", "Lightning's prediction loop on a recipe"),
    "generate": ("flowbind.cli.generate", "any sources -> any targets, with a released model"),
    "import-official": ("flowbind.cli.import_official", "the authors' released checkpoint -> a released model"),
    "verify": ("flowbind.cli.verify", "latent stores and released models, byte for byte"),
    "modalities": ("flowbind.cli.modalities", "what is installed, from which package"),
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

MISTAKE, SIGNALLED = 2, 128  # a signal's number is added


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb. A person's mistake is one line on standard error and exit code 2.

    Ctrl-C is exit code 130; SIGTERM and SIGUSR1, on which training saves, are 143 and 138.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print(HELP.format(verbs="\n".join(f"  {verb:{width}}  {about}" for verb, (_, about) in VERBS.items())))
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"flowbind {version('flowbind')}")
        return
    try:
        _run(arguments)
    except KeyboardInterrupt as stop:
        number = next(iter(stop.args), signal.SIGINT)
        _stop("interrupted; run the same command again to go on", SIGNALLED + number)
    except BrokenPipeError:
        sys.stderr.close()
    except MemoryError:
        _stop("not enough memory; give smaller files, or a smaller batch", MISTAKE)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error), MISTAKE)
    except ValueError as error:
        _stop(str(error), MISTAKE)


def _run(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb not in VERBS:
        import difflib

        close = difflib.get_close_matches(verb, VERBS, n=1)
        guess = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(f"no verb '{verb}'; {guess}allowed: {', '.join(VERBS)}")
    import_module(VERBS[verb][0]).run(verb, rest)


def _stop(message: str, code: int) -> None:
    line = "".join(
        c if c.isprintable() else "?" for c in " ".join(message.split())
    )  # names of files may steer a terminal
    print(f"flowbind: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)
