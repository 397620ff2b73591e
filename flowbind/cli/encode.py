"""`flowbind encode`: the latent stores of a recipe's manifests."""

from flowbind.cli.options import CONFIG
from flowbind.cli.parser import Parser, whole


def run(verb: str, arguments: list[str]) -> None:
    """Encodes every split of a recipe's data, doing only what is not done yet."""
    parser = _parser(verb)
    options, rest = parser.parse_known_args(arguments)

    from flowbind.cli.recipe import build
    from flowbind.data.encoding import encode
    from flowbind.data.latents import take_out
    from flowbind.data.promise import Promises
    from flowbind.data.remote_store import fetch_for_encoding, send_store
    from flowbind.progress import say
    from flowbind.registry import did_you_mean

    recipes = [f"--config={path}" for path in options.config]
    others = [name for name in parser.options if name not in CONFIG]
    cli = build([*recipes, *rest], others)
    if not hasattr(cli.model, "method") or not hasattr(cli.datamodule, "manifests"):
        raise ValueError(
            f"{options.config[-1]}: a {type(cli.model).__name__} has no latents to encode; "
            "give the recipe of a model, or train the codec by `flowbind fit`"
        )

    method = cli.model.method
    manifests = cli.datamodule.manifests
    promises = Promises()
    for split in options.split or manifests:
        if split not in manifests:
            raise ValueError(
                f"the recipe has no split '{split}'; {did_you_mean(split, manifests)}"
            )
        folder = cli.datamodule.folder(split)
        fetch_for_encoding(folder)
        store = encode(
            method.modalities,
            manifests[split],
            folder,
            cli.trainer,
            options.skip_bad,
            options.workers,
            promises,
        )
        if cli.trainer.is_global_zero:
            send_store(folder)

        absent = [name for name in method.trained if name not in store.fields]
        if split == "train" and absent and cli.trainer.is_global_zero:
            say(f"{take_out(manifests[split], absent)}, before `flowbind fit`")


def _parser(verb: str) -> Parser:
    parser = Parser(
        verb,
        "Encodes a recipe's manifests to latent stores, resumably. "
        "Other options override the recipe's keys.",
    )

    parser.add_argument(
        "--config",
        required=True,
        action="append",
        help="the recipe; a second one may say what differs from the first",
    )
    parser.add_argument(
        "--split",
        action="append",
        help="encode only this split; may be given several times",
    )

    parser.add_argument(
        "--skip-bad",
        type=whole(0),
        default=0,
        metavar="N",
        help="leave out at most N samples that cannot be read, and list them",
    )
    parser.add_argument(
        "--workers",
        type=whole(0),
        default=0,
        help="processes that read raw samples",
    )
    return parser
