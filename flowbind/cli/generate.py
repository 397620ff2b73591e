"""`flowbind generate`: any sources to any targets, from the shell."""

import argparse
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbind.cli.parser import Parser, check_folder, named, path, real, whole
from flowbind.data.remote import brought

if TYPE_CHECKING:
    from flowbind.cli.batch import Listed, Results
    from flowbind.exhibit import Preview
    from flowbind.generation import Model

STRIP = "strip.png"  # all pictures of an interpolation in one

NO_MODEL = (
    "{}: no such folder; a released model is a folder with model.json and model.safetensors: "
    "`make quickstart` trains one, a release of flowbind has that one as flowbind-shapes.zip to be "
    "unpacked, and hf:OWNER/NAME gets one from the hub"
)

Samples = Sequence[str | Path]  # literals and files


def run(verb: str, arguments: list[str]) -> None:
    """Generates files with a released model."""
    parser = _parser(verb)
    options, choices = _read(parser, arguments)
    _check_together(options, parser.values)
    named_sources, batch_file = _split(options.sources)
    named_terms = {
        "plus": [named("--plus", term) for term in options.plus],
        "minus": [named("--minus", term) for term in options.minus],
    }
    named_masks = [named("--mask", mask) for mask in options.masks]
    weights = dict(_weight(word) for word in options.weights)
    check_folder(options.out)
    if not Path(options.model).exists():
        raise FileNotFoundError(NO_MODEL.format(options.model))

    from flowbind.cli.batch import read_batch
    from flowbind.cli.sampling import chosen
    from flowbind.generation import find_device
    from flowbind.release import load

    model = load(options.model, find_device(options.device))
    sampling = chosen(options, choices)
    listed = read_batch(batch_file, model, options.to) if batch_file else None
    names = [name for name, _ in named_sources]
    if listed:
        names += _not_named(listed, names)
    source_names = list(dict.fromkeys(names))
    model.check_direction(source_names, options.to)
    model.check_weights(weights, source_names)
    masked = [name for name, _ in named_masks]
    complete = model.choose(source_names, options.to, masked, **sampling)
    term_names = [name for name, _ in chain(*named_terms.values())]
    model.check_terms(term_names, source_names, options.to)
    if options.interpolate:
        model.check_linear("--interpolate")
    if options.restandardize:
        model.check_linear("--restandardize")

    targets = {name: model.modality(name) for name in options.to}
    of_batch = listed.sources if listed else {}
    sources = _sources(model, named_sources, options.to, of_batch)
    terms = {}
    for side, pairs in named_terms.items():
        terms[side] = _terms(model, side, pairs, sources)
    masks = _masks(model, named_masks, sources)

    stem_of_sample = listed.stems if listed else _stems(options, sources, terms)
    files = {}
    for name, target in targets.items():
        ending = f".{name}{target.suffixes[0]}"
        files[name] = [options.out / f"{stem}{ending}" for stem in stem_of_sample]
    strip = options.out / STRIP
    results = _results(model, listed, options, complete, files) if listed else None
    work = _work(options, len(stem_of_sample), files, strip, results)

    if options.interpolate:
        parts = _interpolate(model, sources, work, options, sampling)
    else:
        parts = _generate(
            model,
            sources,
            terms,
            masks,
            weights,
            work,
            options,
            sampling,
        )
    previews: dict[str, list[Preview]] = {name: [] for name in targets}
    with closing(results) if results else nullcontext():
        for rows, generated in parts:
            # An error before this leaves nothing behind.
            options.out.mkdir(parents=True, exist_ok=True)
            if results:
                results.begin()
            for name, raws in generated.items():
                for file, raw in zip(files[name][rows], raws, strict=True):
                    targets[name].write(raw, file)
                    print(file)
                if options.interpolate:
                    previews[name] += map(targets[name].preview, raws)
            if results:
                results.record(rows)

    if options.interpolate:
        _write_strip(previews, strip)


def _generate(
    model: "Model",
    sources: Mapping[str, Samples],
    terms: Mapping[str, Sequence[tuple[str, Samples]]],
    masks: Mapping[str, Samples],
    weights: Mapping[str, float],
    work: Sequence[slice],
    options: argparse.Namespace,
    sampling: Mapping[str, Any],
) -> Iterator[tuple[slice, dict[str, list[Any]]]]:
    """Generates part after part: the rows of each, and its raw samples by target."""
    for rows in _tracked(work):
        batch = {name: samples[rows] for name, samples in sources.items()}
        terms_of: dict[str, list[dict[str, Samples]]] = {}
        for side, pairs in terms.items():
            terms_of[side] = []
            for name, samples in pairs:
                terms_of[side].append({name: _of_rows(samples, rows)})
        masks_of = {name: _of_rows(files, rows) for name, files in masks.items()}

        generated = model.generate(
            batch,
            options.to,
            **terms_of,
            strength=options.strength,
            restandardize=options.restandardize,
            weights=weights,
            mask=masks_of,
            count=None if sources else rows.stop - rows.start,
            seed=options.seed,
            first=rows.start,
            **sampling,
        )
        yield rows, generated


def _of_rows(samples: Samples, rows: slice) -> Samples:
    """Those of some rows; one is that of all."""
    return samples if len(samples) == 1 else samples[rows]


def _interpolate(
    model: "Model",
    sources: Mapping[str, Samples],
    work: Sequence[slice],
    options: argparse.Namespace,
    sampling: Mapping[str, Any],
) -> Iterator[tuple[slice, dict[str, list[Any]]]]:
    """The same between two samples."""
    last = options.interpolate - 1
    shares = [number / last for number in range(options.interpolate)]
    for rows in _tracked(work):
        generated = model.interpolate(
            sources,
            options.to,
            shares[rows],
            restandardize=options.restandardize,
            seed=options.seed,
            **sampling,
        )
        yield rows, generated


def _work(
    options: argparse.Namespace,
    count: int,
    files: Mapping[str, Sequence[Path]],
    strip: Path,
    results: "Results | None",
) -> list[slice]:
    """The rows of each part of the work that is still to be done.

    Raises:
        ValueError: something else is in the place of a file.
    """
    from flowbind.cli.names import refuse_existing
    from flowbind.progress import say

    starts = range(0, count, options.batch)
    parts = [slice(start, min(start + options.batch, count)) for start in starts]
    in_place = [*chain.from_iterable(files.values())]
    if options.interpolate:
        in_place.append(strip)

    if results and not options.overwrite:
        done = count
        parts = results.left(parts)
        for rows in parts:
            done -= rows.stop - rows.start
        if done:
            say(f"{options.out}: {done} of {count} samples are there already")
        in_place = results.unexpected(parts)
    if not options.overwrite:
        refuse_existing(in_place)
    return parts


def _results(
    model: "Model",
    listed: "Listed",
    options: argparse.Namespace,
    sampling: Any,
    files: Mapping[str, Sequence[Path]],
) -> "Results":
    """The results of a batch: what is there, and what decides them."""
    from flowbind.cli.batch import Results, lines_of, settings_of

    suffixes = {name: model.modality(name).suffixes[0] for name in options.to}
    words = {
        "to": options.to,
        "from": options.sources,
        "weight": options.weights,
        "plus": options.plus,
        "minus": options.minus,
        "mask": options.masks,
        "strength": options.strength,
        "restandardize": options.restandardize,
        "batch": options.batch,
    }
    return Results(
        options.out,
        lines_of(listed, suffixes, options.out),
        settings_of(model, options.model, options.seed, sampling, words),
        list(zip(*files.values(), strict=True)),
    )


def _tracked(work: Sequence[slice]) -> Iterable[slice]:
    """The parts of the work, whose progress is shown where there are several."""
    from flowbind.progress import track

    return track(work, "generating") if len(work) > 1 else work


def _split(sources: Sequence[str]) -> tuple[list[tuple[str, str]], Path | None]:
    """Modality and value of each `--from`, and the one file that says the modalities itself.

    Raises:
        ValueError: two such files, or what is neither; one line.
    """
    files = [source for source in sources if source.startswith("@")]
    if len(files) > 1:
        raise ValueError(
            f"--from {files[0]} and --from {files[1]}: one file lists a batch; give one"
        )
    pairs = [named("--from", word) for word in sources if not word.startswith("@")]
    return pairs, brought(files[0][1:]) if files else None


def _not_named(listed: "Listed", names: Collection[str]) -> list[str]:
    """The modalities of a batch's file, none of which another option may name.

    Raises:
        ValueError: one does; one line.
    """
    for name in names:
        if name in listed.sources:
            raise ValueError(
                f"--from {name}=... is in the batch's file as well; give one"
            )
    return list(listed.sources)


def _write_strip(previews: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Writes all pictures in one, a line for each target that is shown as a picture."""
    from flowbind.evaluation import strip
    from flowbind.evaluation.gallery import save

    lines = []
    for shown in previews.values():
        if not any(isinstance(preview, str) for preview in shown):
            lines.append(shown)
    if lines:
        save(strip.compose(lines), path)
        print(path)


def _stems(
    options: argparse.Namespace,
    sources: Mapping[str, Samples],
    terms: Mapping[str, Sequence[tuple[str, Samples]]],
) -> list[str]:
    """A stem for the files of each sample."""
    from flowbind.cli.names import along, numbered, stems

    if options.interpolate:
        return numbered(along(sources), options.interpolate)
    if not sources:
        return numbered("sample", options.count)
    return stems(sources, terms)


def _parser(verb: str) -> Parser:
    """The verb's options but those of a model."""
    parser = Parser(
        verb,
        "Generates every target from all sources together, and prints the files it wrote.",
    )
    parser.add_argument(
        "model",
        help="folder of a released model, as `flowbind fit` writes it, or hf:OWNER/NAME[@REVISION]",
    )
    parser.add_argument(
        "--from",
        action="append",
        default=[],
        dest="sources",
        metavar="NAME=VALUE",
        help="a source: a file, a folder, a pattern such as 'image=dir/*.png', a literal such as "
        'text="a red torus", or @FILE: a list with one of these a line, a manifest (.jsonl) or a '
        "table (.csv, .tsv); several of one NAME make a batch, several NAMEs are used together; "
        "@FILE without a NAME is a batch, of all modalities that a manifest or a table's columns "
        "name, targets apart; files and lists may be addresses such as s3://bucket/list.csv; a "
        "method that makes something of noise alone needs none",
    )
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="NAME",
        help="a target; may be given several times",
    )
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        dest="masks",
        metavar="NAME=FILE",
        help="which part of a source that is a target too is unknown and made anew, white in a "
        "picture; one for all of a batch or as many",
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        dest="weights",
        metavar="NAME=NUMBER",
        help="how much a source counts beside the others, 1 where nothing is said",
    )
    _add_arithmetic(parser)
    _add_output(parser)
    return parser


def _add_arithmetic(parser: Parser) -> None:
    """What may be done with the states from which flows begin."""
    for flag, what in (("--plus", "added to"), ("--minus", "taken away from")):
        parser.add_argument(
            flag,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"what is {what} every source, such as text=blue: as for --from, one sample for "
            "all of a batch or as many; may be given several times",
        )
    parser.add_argument(
        "--strength",
        type=real(),
        default=1.0,
        help="factor of what is added and taken away",
    )
    parser.add_argument(
        "--interpolate",
        type=whole(2),
        metavar="N",
        help=f"N results from one sample to another, both among them, and {STRIP} where they can "
        "be shown; of one NAME two samples, of others one or two",
    )
    parser.add_argument(
        "--restandardize",
        action="store_true",
        help="bring the state of each source, after these, to mean 0 and standard deviation 1 as "
        "a whole",
    )


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


def _check_together(options: argparse.Namespace, given: Collection[str]) -> None:
    """Refuses options that do not go together.

    Args:
        options: The options.
        given: Names of those that were given.

    Raises:
        ValueError: one line that says which.
    """
    has_terms = options.plus or options.minus
    if "strength" in given and not has_terms:
        raise ValueError(
            "--strength is that of --plus and --minus; give one of them as well"
        )
    if not options.interpolate:
        if "count" in given and options.sources:
            raise ValueError(
                "--count is the number of samples where there is no source; leave it out, or --from"
            )
        return

    if has_terms:
        raise ValueError(
            "--interpolate goes between two sources as they are; leave out --plus and --minus"
        )
    if "count" in given:
        raise ValueError("--interpolate N says how many there are; leave out --count")
    if options.masks:
        raise ValueError(
            "--interpolate goes between two whole sources; leave out --mask"
        )
    if any(source.startswith("@") for source in options.sources):
        raise ValueError(
            "--interpolate goes between two samples; give them as NAME=VALUE, not as a batch's file"
        )
    if options.weights:
        raise ValueError(
            "--interpolate takes its sources as they are; leave out --weight"
        )
    if not options.sources:
        raise ValueError(
            "--interpolate goes between two sources; give them with --from"
        )


def _weight(word: str) -> tuple[str, float]:
    """A source and how much it counts, of an option.

    Raises:
        ValueError: not a number; one line.
    """
    name, number = named("--weight", word)
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(
            f"--weight takes NAME=NUMBER, such as image=2, not '{word}'"
        ) from None


def _terms(
    model: "Model",
    side: str,
    named_terms: Sequence[tuple[str, str]],
    sources: Mapping[str, Samples],
) -> list[tuple[str, list[str | Path]]]:
    """What is added or taken away: modalities and their samples, one or as many as sources have.

    Args:
        model: Model that generates with them.
        side: `plus` or `minus`.
        named_terms: Modality and value of each option.
        sources: Samples of the sources by modality.
    """
    from flowbind.cli.sources import expand
    from flowbind.readers import check_readers
    from flowbind.registry import installed
    from flowbind.samples import terms

    known = {*model.modalities, *installed("modalities")}
    count = max(map(len, sources.values()), default=0)
    mappings = []
    for name, value in named_terms:
        modality = model.modality(name)
        samples = expand(value, modality, name, known, flag=f"--{side}")
        modality.check_libraries()
        check_readers(name, modality, samples, f"--{side}")
        mappings.append({name: samples})
    return terms(mappings, f"--{side}", count)


def _masks(
    model: "Model",
    named_masks: Sequence[tuple[str, str]],
    sources: Mapping[str, Samples],
) -> dict[str, list[str | Path]]:
    """The files of the masks by modality, one for all samples or as many as there are.

    Raises:
        ValueError: a file that is not there, or another number.
    """
    from flowbind.samples import terms

    lists: dict[str, list[str | Path]] = {}
    for name, samples in _terms(model, "mask", named_masks, sources):
        lists.setdefault(name, []).extend(samples)
    return dict(terms(lists, "--mask", max(map(len, sources.values()), default=0)))


def _read(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the options, with those of the model that is among the arguments.

    Returns:
        The options, and the names of those that are the model's choices.
    """
    arguments = [_located(word) for word in arguments]
    # A caption may be longer than a path can be, at which pathlib would fail.
    folders = [w for w in arguments if os.path.isfile(os.path.join(w, "model.json"))]
    if not folders:
        parser.epilog = "A model's own options, such as its solver's steps: flowbind generate MODEL --help"
        options, _ = parser.parse_known_args(arguments)
        return options, []  # loading says that there is no model

    from flowbind.cli.sampling import add_choices
    from flowbind.release import sampling_of

    choices = add_choices(parser, *sampling_of(folders[0]))
    return parser.parse_args(arguments), choices


def _located(word: str) -> str:
    """An argument; of a model on the hub, the folder of its copy here."""
    if not word.startswith("hf:"):
        return word

    from flowbind.release import located

    return str(located(word))


def _sources(
    model: "Model",
    named_sources: Sequence[tuple[str, str]],
    targets: Sequence[str],
    of_batch: Mapping[str, Sequence[str | Path]],
) -> Mapping[str, Sequence[str | Path]]:
    """Literals and files by modality, as many of each: looked at before anything is generated.

    Args:
        model: Model that generates from them.
        named_sources: Modality and value of each `--from`.
        targets: Modalities to generate, whose libraries are looked for as well.
        of_batch: Literals and files that a batch's file lists.
    """
    from flowbind.cli.sources import expand
    from flowbind.readers import check_readers
    from flowbind.registry import installed
    from flowbind.samples import together

    known = {*model.modalities, *installed("modalities")}
    lists = {name: list(samples) for name, samples in of_batch.items()}
    for name, value in named_sources:
        samples = expand(value, model.modality(name), name, known)
        lists.setdefault(name, []).extend(samples)

    for name in dict.fromkeys([*lists, *targets]):
        model.modality(name).check_libraries()
    for name, samples in lists.items():
        check_readers(name, model.modality(name), samples, "--from")
    return together(lists) if lists else {}
