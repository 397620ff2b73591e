"""`flowbind generate`: any sources to any targets, from the shell."""

from pathlib import Path

from flowbind.cli.parser import Parser, check_folder, named, path, whole


def run(verb: str, arguments: list[str]) -> None:
    """Generates files with a released model."""
    parser = Parser(
        verb, "Generates every target from all sources together, and prints the files it wrote."
    )
    parser.add_argument("model", help="folder of a released model, as `flowbind fit` writes it")
    parser.add_argument(
        "--from", action="append", required=True, dest="sources", metavar="NAME=VALUE",
        help="a source: a file, a folder, a pattern such as 'image=dir/*.png', a literal such as text=\"a red torus\", or "
        "@FILE: a list with one of these a line, a manifest (.jsonl) or a table (.csv, .tsv); several of one NAME make a "
        "batch, several NAMEs are used together",
    )  # fmt: skip
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="NAME",
        help="a target; may be given several times",
    )
    parser.add_argument("--out", required=True, type=path, help="folder that receives the files")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of everything that is drawn")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files that are there already"
    )
    parser.add_argument("--batch", type=whole(1), default=256, help="samples generated at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    model_folder = next((word for word in arguments if (Path(word) / "model.json").is_file()), None)
    if model_folder is None:
        parser.epilog = (
            "A model's own options, such as its solver's steps: flowbind generate MODEL --help"
        )
        options, _ = parser.parse_known_args(arguments)  # there is no model: that is told below
    else:
        from flowbind.cli.sampling import add_choices, chosen
        from flowbind.release import sampling_of

        choices = add_choices(parser, *sampling_of(model_folder))
        options = parser.parse_args(arguments)

    given = [named("--from", source) for source in options.sources]
    check_folder(options.out)

    from flowbind.cli.names import refuse_existing, stems
    from flowbind.cli.sources import expand
    from flowbind.generation import find_device
    from flowbind.progress import track
    from flowbind.readers import check_readers
    from flowbind.registry import installed
    from flowbind.release import load
    from flowbind.samples import together

    model = load(options.model, find_device(options.device))
    sampling = chosen(options, choices)
    model.method.choose(model.sampling, **sampling)
    model.check_direction([name for name, _ in given], options.to)
    lists: dict[str, list[str | Path]] = {}
    for name, value in given:
        modality = model.modality(name)
        lists.setdefault(name, []).extend(
            expand(value, modality, name, {*model.modalities, *installed("modalities")})
        )
    targets = {name: model.modality(name) for name in options.to}
    for name in {**lists, **targets}:
        model.modality(name).check_libraries()
    for name, samples in lists.items():
        check_readers(name, model.modality(name), samples, "--from")
    sources = together(lists)
    count = len(next(iter(sources.values())))
    files = {
        name: [options.out / f"{stem}.{name}{target.suffixes[0]}" for stem in stems(sources)]
        for name, target in targets.items()
    }
    if not options.overwrite:
        refuse_existing([file for column in files.values() for file in column])

    starts = range(0, count, options.batch)
    for start in track(starts, "generating") if len(starts) > 1 else starts:
        part = {name: samples[start : start + options.batch] for name, samples in sources.items()}
        made = model.generate(part, list(targets), seed=options.seed, first=start, **sampling)
        options.out.mkdir(parents=True, exist_ok=True)  # a mistake leaves nothing behind
        for name, raws in made.items():
            for file, raw in zip(files[name][start : start + options.batch], raws, strict=True):
                targets[name].write(raw, file)
                print(file)
