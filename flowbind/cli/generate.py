"""`flowbind generate`: any sources to any targets, from the shell."""

import glob
import os
from pathlib import Path

from flowbind.cli.parser import Parser, named
from flowbind.regular import read_regular


def run(verb: str, arguments: list[str]) -> None:
    """Generates files with a released model."""
    parser = Parser(verb, "Generates every target from all sources together, and prints the files it wrote.")
    parser.add_argument("model", help="folder of a released model, as `flowbind fit` writes it")
    parser.add_argument(
        "--from", action="append", required=True, dest="sources", metavar="NAME=VALUE",
        help="a source: a file, a folder, a pattern such as 'image=dir/*.png', a literal such as text=\"a red torus\", or "
        "@FILE with one of these a line; several of one NAME make a batch, several NAMEs are used together",
    )  # fmt: skip
    parser.add_argument(
        "--to", action="append", required=True, metavar="NAME", help="a target; may be given several times"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the files")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--steps", type=int, default=10, help="solver steps a leg")
    parser.add_argument("--source-steps", type=int, help="solver steps of the source leg, if not --steps")
    parser.add_argument("--method", default="euler", help="euler, midpoint, rk4 or dopri5")
    parser.add_argument(
        "--variety", type=float, default=0.0, help="noise added to the shared latent, in units of the training noise"
    )
    parser.add_argument("--batch", type=int, default=256, help="samples generated at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    options = parser.parse_args(arguments)

    given = [named("--from", source) for source in options.sources]

    from flowbind.progress import track
    from flowbind.release import load

    model = load(options.model, options.device)
    sources: dict[str, list[str | Path]] = {}
    for name, value in given:
        sources.setdefault(name, []).extend(expand(value, model.modality(name), name))
    targets = {name: model.modality(name) for name in options.to}
    count = max(map(len, sources.values()))
    if any(len(samples) not in (1, count) for samples in sources.values()):
        said = ", ".join(f"{name} {len(samples)}" for name, samples in sources.items())
        raise ValueError(f"sources must have equally many samples (or one, used with all), not {said}")
    sources = {name: samples * (count // len(samples)) for name, samples in sources.items()}
    names = file_names(sources)
    steps = (options.source_steps or options.steps, options.steps)
    starts = range(0, count, options.batch)
    for start in track(starts, "generating") if len(starts) > 1 else starts:
        part = {name: samples[start : start + options.batch] for name, samples in sources.items()}
        made = model.generate(part, list(targets), steps, options.method, options.variety, options.seed, first=start)
        options.out.mkdir(parents=True, exist_ok=True)  # a mistake leaves nothing behind
        for name, raws in made.items():
            for stem, raw in zip(names[start:], raws, strict=False):
                path = options.out / f"{stem}.{name}{targets[name].suffixes[0]}"
                targets[name].write(raw, path)
                print(path)


def expand(value: str, modality, name: str) -> list[str | Path]:
    """The samples that one `--from` stands for: `@list`, a folder, a pattern, a file, or a literal.

    Raises:
        ValueError: it stands for nothing.
    """
    if value.startswith("@") and os.path.isfile(value[1:]):
        try:
            lines = read_regular(value[1:]).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{value[1:]}: not UTF-8 ({error.reason}); save it as UTF-8") from None
        if nested := [line for line in lines if line.strip().startswith("@")]:
            raise ValueError(f"{value[1:]}: a list that names another, '{nested[0].strip()}'; give both with --from")
        return [sample for line in lines if line.strip() for sample in expand(line.strip(), modality, name)]
    path = Path(value)
    if os.path.isdir(value):  # unlike pathlib, at peace with words that no file can be named after
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in modality.suffixes)
    elif os.path.isfile(value):
        found = [path]
    elif modality.literal:
        return [value]
    else:
        found = sorted(map(Path, glob.glob(value, recursive=True)))
    if not found:
        raise ValueError(
            f"--from {name}={value}: no such file; give a file, a folder or a pattern with {', '.join(modality.suffixes)}"
        )
    return found


def file_names(sources: dict[str, list]) -> list[str]:
    """A clear, unique stem for each sample: its number, and the stems of its files or the words of its literals."""
    count = len(next(iter(sources.values())))
    stems = []
    for index in range(count):
        words = [s.stem if isinstance(s, Path) else s for s in (samples[index] for samples in sources.values())]
        plain = "+".join("-".join("".join(c if c.isalnum() else " " for c in word).split())[:40] for word in words)
        stems.append(f"{index:0{len(str(count - 1))}d}-{plain}" if count > 1 else plain)
    return stems
