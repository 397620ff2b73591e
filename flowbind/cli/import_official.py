"""`flowbind import-official`: the authors' released checkpoint as a released model of flowbind."""

from pathlib import Path

from flowbind.cli.parser import Parser, named, path


def run(verb: str, arguments: list[str]) -> None:
    """Turns the authors' files into a released model's folder."""
    options = _parser(verb).parse_args(arguments)

    means = dict(named("--mean", word) for word in options.mean)
    stds = dict(named("--std", word) for word in options.std)
    for name in sorted(means.keys() ^ stds.keys()):
        raise ValueError(f"'{name}' needs both --mean and --std")

    from flowbind.cli.recipe import build
    from flowbind.methods.flowbind.official import read_official
    from flowbind.progress import say
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
        "Turns the checkpoint that FlowBind's authors released into a folder "
        "that `flowbind` loads.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=path,
        help="their model.pth; read with weights only",
    )
    parser.add_argument(
        "--config",
        required=True,
        type=path,
        help="their config.json",
    )
    for statistic, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{statistic}",
            action="append",
            required=True,
            metavar="NAME=FILE",
            help=f"{what} of a modality's latents (.npy, .pt or .safetensors); "
            "once for each modality",
        )
    parser.add_argument(
        "--recipe",
        default="recipes/flowbind/published.yaml",
        help="the recipe that names the modalities and their codecs",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=path,
        help="folder that receives the model",
    )
    return parser
