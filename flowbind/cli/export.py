"""`flowbind export`: what a run has trained so far, as a released model or the weights of a codec or judge."""

from pathlib import Path

from flowbind.cli.parser import Parser


def run(verb: str, arguments: list[str]) -> None:
    """Releases a checkpoint of a run, whether or not that has made all its steps."""
    options = _parser(verb).parse_args(arguments)

    from flowbind.cli.recipe import build
    from flowbind.progress import say
    from flowbind.train.checkpoints import latest_intact, read_checkpoint
    from flowbind.train.run_folder import CHECKPOINTS, CONFIG

    config = options.run / CONFIG
    if not config.is_file():
        raise FileNotFoundError(
            f"{options.run}: no run folder, it has no {CONFIG}; `flowbind fit` writes one"
        )

    path = options.checkpoint or latest_intact(options.run / CHECKPOINTS)
    if path is None:
        raise FileNotFoundError(
            f"{options.run / CHECKPOINTS}: no whole checkpoint; run `flowbind fit`, or give "
            "--checkpoint"
        )

    # Weights are only read and written, whatever machine the run was made for.
    anywhere = {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "32-true",
    }
    settings = [f"--trainer.{key}={value}" for key, value in anywhere.items()]
    cli = build(["--config", str(config), "--trainer.plugins=null", *settings])
    if not hasattr(cli.model, "export_checkpoint"):
        raise ValueError(
            f"{config}: a {type(cli.model).__name__} has no weights to release"
        )

    checkpoint = read_checkpoint(path)
    cli.model.export_checkpoint(checkpoint, options.out)
    step = checkpoint["global_step"]
    say(f"wrote {options.out} from {path} (step {step} of {cli.trainer.max_steps})")


def _parser(verb: str) -> Parser:
    parser = Parser(
        verb,
        "Writes what a run has trained so far: the released model of its latest intact checkpoint, "
        "or the weights of a codec or judge. The run stays as it is, and may be resumed.",
    )
    parser.add_argument(
        "run",
        type=Path,
        help="run folder, with the config.yaml and the checkpoints of `flowbind fit`",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder that receives the model; of a codec or judge, the file",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="another checkpoint than the run's latest intact one",
    )
    return parser
