"""`flowbind generate`: any sources to any targets, from the shell."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from flowbind.cli.parser import Parser, check_folder, named, path, whole

if TYPE_CHECKING:
    from flowbind.generation import Model


def run(verb: str, arguments: list[str]) -> None:
    """Generates files with a released model."""
    options, choices = _read(_parser(verb), arguments)
    named_sources = [named("--from", source) for source in options.sources]
    check_folder(options.out)

    from flowbind.cli.names import numbered, refuse_existing, stems
    from flowbind.cli.sampling import chosen
    from flowbind.generation import find_device
    from flowbind.progress import track
    from flowbind.release import load

    model = load(options.model, find_device(options.device))
    sampling = chosen(options, choices)
    model.method.choose(model.sampling, **sampling)
    source_names = [name for name, _ in named_sources]
    model.check_direction(source_names, options.to)
    targets = {name: model.modality(name) for name in options.to}
    sources = _sources(model, named_sources, options.to)

    stem_of_sample = stems(sources) if sources else numbered("sample", options.count)
    files = {}
    for name, target in targets.items():
        ending = f".{name}{target.suffixes[0]}"
        files[name] = [options.out / f"{stem}{ending}" for stem in stem_of_sample]
    if not options.overwrite:
        refuse_existing(list(chain.from_iterable(files.values())))

    starts = range(0, len(stem_of_sample), options.batch)
    if len(starts) > 1:
        starts = track(starts, "generating")
    for start in starts:
        rows = slice(start, start + options.batch)
        batch = {name: samples[rows] for name, samples in sources.items()}
        generated = model.generate(
            batch,
            list(targets),
            count=len(stem_of_sample[rows]),
            seed=options.seed,
            first=start,
            **sampling,
        )

        # An error before this leaves nothing behind.
        options.out.mkdir(parents=True, exist_ok=True)
        for name, raws in generated.items():
            for file, raw in zip(files[name][rows], raws, strict=True):
                targets[name].write(raw, file)
                print(file)


def _parser(verb: str) -> Parser:
    """The verb's options but those of a model."""
    parser = Parser(
        verb,
        "Generates every target from all sources together, and prints the files it wrote.",
    )
    parser.add_argument(
        "model",
        help="folder of a released model, as `flowbind fit` writes it",
    )
    parser.add_argument(
        "--from",
        action="append",
        default=[],
        dest="sources",
        metavar="NAME=VALUE",
        help="a source: a file, a folder, a pattern such as 'image=dir/*.png', a literal such as "
        'text="a red torus", or @FILE: a list with one of these a line, a manifest (.jsonl) or a '
        "table (.csv, .tsv); several of one NAME make a batch, several NAMEs are used together; a "
        "method that makes something of noise alone needs none",
    )
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="NAME",
        help="a target; may be given several times",
    )
    _add_output(parser)
    return parser


def _add_output(parser: Parser) -> None:
    """Where it goes, and how."""
    parser.add_argument(
        "--out",
        required=True,
        type=path,
        help="folder that receives the files",
    )
    parser.add_argument(
        "--count",
        type=whole(1),
        default=1,
        help="samples to make where there is no source",
    )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        help="seed of everything that is drawn",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that are there already",
    )
    parser.add_argument(
        "--batch",
        type=whole(1),
        default=256,
        help="samples generated at a time",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def _read(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the options, with those of the model that is among the arguments.

    Returns:
        The options, and the names of those that are the model's choices.
    """
    folders = [word for word in arguments if (Path(word) / "model.json").is_file()]
    if not folders:
        parser.epilog = "A model's own options, such as its solver's steps: flowbind generate MODEL --help"
        options, _ = parser.parse_known_args(arguments)
        return options, []  # loading says that there is no model

    from flowbind.cli.sampling import add_choices
    from flowbind.release import sampling_of

    choices = add_choices(parser, *sampling_of(folders[0]))
    return parser.parse_args(arguments), choices


def _sources(
    model: "Model",
    named_sources: Sequence[tuple[str, str]],
    targets: Sequence[str],
) -> Mapping[str, Sequence[str | Path]]:
    """Literals and files by modality, as many of each: looked at before anything is generated.

    Args:
        model: Model that generates from them.
        named_sources: Modality and value of each `--from`.
        targets: Modalities to generate, whose libraries are looked for as well.
    """
    from flowbind.cli.sources import expand
    from flowbind.readers import check_readers
    from flowbind.registry import installed
    from flowbind.samples import together

    known = {*model.modalities, *installed("modalities")}
    lists: dict[str, list[str | Path]] = {}
    for name, value in named_sources:
        samples = expand(value, model.modality(name), name, known)
        lists.setdefault(name, []).extend(samples)

    for name in dict.fromkeys([*lists, *targets]):
        model.modality(name).check_libraries()
    for name, samples in lists.items():
        check_readers(name, model.modality(name), samples, "--from")
    return together(lists) if lists else {}
