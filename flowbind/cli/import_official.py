"""`flowbind import-official`: the authors' release, or their checkpoint alone, as a released model."""

import argparse
import shutil
from pathlib import Path

from flowbind.cli.parser import Parser, check_folder, named, path
from flowbind.progress import say

LAYOUT = "recipes/flowbind/official.json"
# What comes in parts, where it is not a release as a whole.
PARTS = ("checkpoint", "config", "mean", "std")


def run(verb: str, arguments: list[str]) -> None:
    """Turns the authors' files into a released model's folder."""
    options = _parser(verb).parse_args(arguments)

    parts = [part for part in PARTS if getattr(options, part)]
    if options.hub and options.source:
        raise ValueError("give --from-hub or --from, not both")

    if options.hub or options.source:
        if parts:
            raise ValueError(
                f"--{parts[0]} is for a checkpoint alone; leave it out, or --from and --from-hub"
            )
        _import_release(options)
        return

    absent = [part for part in PARTS if part not in parts]
    if absent:
        raise ValueError(
            "give the release with --from-hub OWNER/NAME or --from FOLDER; of a checkpoint alone "
            f"--{absent[0]} is missing"
        )
    _import_checkpoint(options)


def _import_release(options: argparse.Namespace) -> None:
    """The release as a whole, with what makes raw samples."""
    from flowbind.methods.flowbind import official_release as release
    from flowbind.methods.flowbind.official import read_official
    from flowbind.release import check_folder as check_model
    from flowbind.release import save
    from flowbind.shipped import locate

    check_folder(options.out)
    check_model(options.out)

    layout = release.read_layout(locate(options.layout))
    source = options.source
    if source is None:
        source = release.fetch(options.hub, options.revision, layout)
    elif not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    release.check_files(source, layout)

    work = options.out.with_name(options.out.name + ".converting")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        statistics = release.statistics_of(source, options.statistics, layout, work)
        modalities = release.modalities_of(source, layout, work)
        official = read_official(
            source / layout.checkpoint,
            source / layout.config,
            modalities,
            statistics,
        )
        # The files that were converted go; they lie in the model.
        save(official, options.out, tell_copies=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"wrote the released model {options.out}")


def _import_checkpoint(options: argparse.Namespace) -> None:
    """The checkpoint alone, with the codecs of a recipe."""
    means = dict(named("--mean", word) for word in options.mean)
    stds = dict(named("--std", word) for word in options.std)
    for name in sorted(means.keys() ^ stds.keys()):
        raise ValueError(f"'{name}' needs both --mean and --std")

    from flowbind.cli.recipe import build
    from flowbind.methods.flowbind.official import read_official
    from flowbind.release import save

    model = build(["--config", options.recipe]).model
    if not hasattr(model, "modalities"):
        raise ValueError(
            f"{options.recipe}: a {type(model).__name__} has no modalities; give the recipe of a "
            "model"
        )

    statistics = {name: (Path(means[name]), Path(stds[name])) for name in means}
    official = read_official(
        options.checkpoint,
        options.config,
        model.modalities,
        statistics,
    )
    save(official, options.out)
    say(f"wrote the released model {options.out}")


def _parser(verb: str) -> Parser:
    parser = Parser(
        verb,
        "Turns what FlowBind's authors released into a folder that `flowbind` loads: all of it, "
        "from the hub or a folder, or the checkpoint of the flows alone.",
    )
    _add_release(parser)
    _add_checkpoint(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=path,
        help="folder that receives the model",
    )
    return parser


def _add_release(parser: Parser) -> None:
    """The options of a whole release."""
    whole = parser.add_argument_group("the whole release")
    whole.add_argument(
        "--from-hub",
        dest="hub",
        metavar="OWNER/NAME",
        help="repository of the release, such as yeonwoo378/flowbind",
    )
    whole.add_argument(
        "--revision",
        default="main",
        help="branch, tag or commit of that repository",
    )
    whole.add_argument(
        "--from",
        dest="source",
        type=path,
        metavar="FOLDER",
        help="folder that holds the files of the release instead",
    )
    whole.add_argument(
        "--statistics",
        type=path,
        metavar="FOLDER",
        help="folder of the six files of means and standard deviations, `samples` of the authors' "
        "code repository; without one, the release's own, or else that repository is asked",
    )
    whole.add_argument(
        "--layout",
        default=LAYOUT,
        help="JSON file that says what each file is, and which codecs generate",
    )


def _add_checkpoint(parser: Parser) -> None:
    """The options of a checkpoint without the rest."""
    alone = parser.add_argument_group("the checkpoint alone")
    alone.add_argument(
        "--checkpoint",
        type=path,
        help="their model.pth; read with weights only",
    )
    alone.add_argument("--config", type=path, help="their config.json")
    for statistic, what in (("mean", "mean"), ("std", "standard deviation")):
        alone.add_argument(
            f"--{statistic}",
            action="append",
            metavar="NAME=FILE",
            help=f"{what} of a modality's latents (.npy, .pt or .safetensors); "
            "once for each modality",
        )
    alone.add_argument(
        "--recipe",
        default="recipes/flowbind/published.yaml",
        help="the recipe that names the modalities and their codecs",
    )
