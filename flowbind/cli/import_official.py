"""`flowbind import-official`: the authors' released checkpoint as a released model of flowbind."""

from pathlib import Path

from flowbind.cli.parser import Parser


def run(verb: str, arguments: list[str]) -> None:
    """Turns the authors' files into a released model's folder."""
    parser = Parser(verb, "Turns the checkpoint that FlowBind's authors released into a folder that `flowbind` loads.")
    parser.add_argument("--checkpoint", required=True, type=Path, help="their model.pth; read with weights only")
    parser.add_argument("--config", required=True, type=Path, help="their config.json")
    for statistic, what in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{statistic}", action="append", required=True, metavar="NAME=FILE",
            help=f"{what} of a modality's latents (.npy, .pt or .safetensors); once for each modality",
        )  # fmt: skip
    parser.add_argument(
        "--recipe", default="recipes/flowbind_paper.yaml", help="the recipe that names the modalities and their codecs"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder that receives the model")
    options = parser.parse_args(arguments)
    means, stds = _files(options.mean), _files(options.std)
    for name in means.keys() ^ stds.keys():
        raise ValueError(f"'{name}' needs both --mean and --std")

    from flowbind.cli.recipe import RecipeCLI, quiet, read_recipes
    from flowbind.official import read_official
    from flowbind.progress import say
    from flowbind.release import save

    quiet()
    recipe = ["--config", options.recipe]
    read_recipes(recipe)
    modalities = RecipeCLI(
        [*recipe, "--trainer.logger=false", "--trainer.enable_checkpointing=false"], run=False
    ).model.modalities
    statistics = {name: (path, stds[name]) for name, path in means.items()}
    save(read_official(options.checkpoint, options.config, modalities, statistics), options.out)
    say(f"wrote the released model {options.out}")


def _files(given: list[str]) -> dict[str, Path]:
    found = {}
    for pair in given:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise ValueError(f"--mean and --std take NAME=FILE, not '{pair}'")
        found[name] = Path(path)
    return found
