"""`flowbind push` and `flowbind pack`: a released model to the hub, or as one file, with its card."""

import re

from flowbind.cli.parser import Parser, check_folder, path

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def run(verb: str, arguments: list[str]) -> None:
    """Gives a model away."""
    options = _parser(verb).parse_args(arguments)
    if verb == "push" and not REPOSITORY.fullmatch(options.repository):
        raise ValueError(
            f"push: '{options.repository}' is no repository; it is OWNER/NAME"
        )

    if verb == "pack":
        check_folder(options.file.parent)
        if options.file.suffix != ".zip":
            raise ValueError(
                f"pack: {options.file} is no name of an archive; end it in .zip"
            )

    from flowbind.card import write_card
    from flowbind.progress import say
    from flowbind.sharing import files_of, pack, push

    reference = options.file.stem if verb == "pack" else f"hf:{options.repository}"
    card = write_card(options.model, reference, options.run, options.license)
    contents = files_of(options.model, card)

    if verb == "pack":
        pack(contents, options.file.stem, options.file)
        say(f"wrote {options.file} ({options.file.stat().st_size / 1e6:.1f} MB)")
        return

    commit = push(contents, options.repository, options.private)
    say(f"pushed {len(contents)} files; load it with flowbind.load, or generate with")
    print(f"{reference}@{commit}")


def _parser(verb: str) -> Parser:
    about = {
        "push": "Brings a released model to a repository of the Hugging Face hub, with a card, and "
        "prints the name by which `flowbind.load` and `flowbind generate` get it.",
        "pack": "Writes a released model with its card as one zip archive; unpacked, it is a model.",
    }

    parser = Parser(verb, about[verb])
    parser.add_argument("model", type=path, help="folder of a released model")
    if verb == "push":
        parser.add_argument(
            "repository", metavar="OWNER/NAME", help="repository of the hub"
        )
        parser.add_argument(
            "--private",
            action="store_true",
            help="a repository that is made now is for its owner alone",
        )
    else:
        parser.add_argument(
            "file", type=path, help="archive to write, such as shapes.zip"
        )

    parser.add_argument(
        "--run",
        type=path,
        metavar="FOLDER",
        help="run folder, whose metrics and gallery the card shows; without one, the folder around "
        "the model",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="licence of the model as the hub calls it, such as apache-2.0; what came along keeps "
        "its own",
    )
    return parser
