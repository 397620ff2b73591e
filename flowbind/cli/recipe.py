"""`flowbind fit | validate | test`: LightningCLI on a recipe, with a run folder that can be resumed."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from yaml import YAMLError

from flowbind.atomic import replacing
from flowbind.cli.check import check_recipe, load_yaml
from flowbind.cli.options import Option, split
from flowbind.cli.overrides import check_overrides, merge, names_below
from flowbind.cli.trainer import check_trainer
from flowbind.cli.wording import explain, plain, unknown
from flowbind.codec import digest
from flowbind.progress import say
from flowbind.train.callbacks import Steps
from flowbind.train.checkpoints import Checkpoints, fault, has_manifest, newest

KEYS = (
    "model",
    "data",
    "trainer",
    "seed_everything",
    "ckpt_path",
    "verbose",
    "weights_only",
    "resume",
    "checkpoints",
)
NEUTRAL = (("model", "evaluation"), ("data", "workers"), ("data", "device_resident"))  # no other run for that
MODE = "flowbind"
LARGEST_SEED = 2**32 - 1  # of numpy
RUN, CHECKPOINTS = "run.json", "checkpoints"

# Gradients are summed where they lie: a copy of them less in memory, and two passes over it less in a step.
StrategyRegistry.register("ddp", DDPStrategy, override=True, start_method="popen", gradient_as_bucket_view=True)

set_loader(MODE, load_yaml, exceptions=(YAMLError, ValueError))


class RecipeParser(LightningArgumentParser):
    """A parser that takes whole names alone, and raises ValueError with one line."""

    def __init__(self, *args: Any, others: Sequence[str] = (), **named: Any) -> None:
        super().__init__(*args, **named, allow_abbrev=False)
        self.others = others  # names that may be meant, besides its own

    def error(self, message: str, ex: Exception | None = None) -> None:
        if message.startswith("unrecognized arguments"):
            names = [*self.others, *self._option_string_actions]
            raise ValueError(f"{unknown(message, names)}; `flowbind fit --help` lists a recipe's keys")
        raise ValueError(explain(message))


class RunConfig(SaveConfigCallback):
    """Keeps the resolved recipe that a run was trained with as `config.yaml` in its folder."""

    def save_config(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == "fit":
            with replacing(Path(trainer.default_root_dir) / "config.yaml") as partial:
                self.parser.save(self.config, partial, skip_none=False, overwrite=True, multifile=False)


class RecipeCLI(LightningCLI):
    """LightningCLI with flowbind's run folder: `trainer.default_root_dir` holds config, curves, checkpoints and the model."""

    def __init__(
        self,
        recipes: Sequence[Path],
        options: Sequence[Option],
        verb: str | None = None,
        others: Sequence[str] = (),
    ) -> None:
        """
        Args:
            recipes: files, a later one over the earlier ones.
            options: that override them.
            verb: that runs; None builds model, data and trainer and runs nothing.
            others: options that the command has besides a recipe's keys.

        Raises:
            ValueError: a mistake in a recipe or an option; one line that says what is allowed.
        """
        self.verb = verb
        merged = merge([check_recipe(path, KEYS, Trainer) for path in recipes])
        options = check_overrides(options, merged, Trainer)
        super().__init__(
            args=[*filter(None, [verb]), *(f"--config={path}" for path in recipes), *map(str, options)],
            run=verb is not None,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=RecipeParser,
            parser_kwargs={"parser_mode": MODE, "prog": "flowbind", "others": [*others, *names_below(merged)]},
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            trainer_defaults={
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
        )

    def subcommands(self) -> dict[str, set[str]]:
        """The one that runs: with a parser for each of the four, the command line would take twice as long to read."""
        return {verb: skipped for verb, skipped in LightningCLI.subcommands().items() if verb == self.verb}

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        for verb, own in getattr(self, "_subcommand_parsers", {}).items():
            own.prog, own.others = f"flowbind {verb}", parser.others
        self.config = parser.parse_args(args)

    def _set_seed(self) -> None:
        """Sets it, after a look at values that parsers take and nothing else does."""
        seed = self._get(self.config, "seed_everything")
        if type(seed) is int and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seed_everything must be from 0 to {LARGEST_SEED}, not {seed}")
        if self._get(self.config, "ckpt_path") == "":
            raise ValueError("ckpt_path is empty; give the path of a checkpoint, or leave it out")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ImportError as error:  # of a logger, say, whose package is not there
            raise ValueError(plain(error)) from error
        except ValueError as error:
            raise ValueError(explain(str(error))) from error

    def _parse_ckpt_path(self) -> None:
        """Leaves the checkpoint alone: the recipe says what the model is, and the checkpoint is compared with it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--resume",
            choices=["auto", "never"],
            default="auto",
            help="auto: go on from the run folder's newest whole checkpoint of this very recipe, and do nothing if it is "
            "trained already; never: train from the beginning.",
        )
        parser.add_argument("--checkpoints.every", type=int, default=500, help="steps between two checkpoints")
        parser.add_argument(
            "--checkpoints.minutes", type=float, help="minutes between two checkpoints, instead of `every` steps"
        )
        parser.add_argument("--checkpoints.keep", type=int, default=2, help="checkpoints that stay, at least")

    @property
    def settings(self) -> Any:
        """The parsed configuration of the verb that runs."""
        return self.config[self.subcommand] if self.subcommand else self.config

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.trainer.default_root_dir)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = Path(self._get(self.config_init, "trainer.default_root_dir") or ".")
        extra: list[Callback] = []
        trainer = self._get(self.config_init, "trainer")
        if self.subcommand == "fit" and trainer.get("enable_checkpointing") is not False:
            extra.append(Checkpoints(folder / CHECKPOINTS, **vars(self.settings.checkpoints)))
        if trainer.get("logger") is None:
            trainer["logger"] = CSVLogger(folder, name="curves") if self.subcommand == "fit" else False
        callbacks = trainer.get("callbacks") or []
        trainer["callbacks"] = [*(callbacks if isinstance(callbacks, list) else [callbacks]), *extra]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        check_trainer(config)
        own = any(isinstance(callback, ProgressBar) for callback in config["callbacks"])
        shown = config.get("enable_progress_bar") is not False
        return super()._instantiate_trainer(config, [*callbacks, *([Steps()] if shown and not own else [])])

    def key(self) -> str:
        """What decides the trained weights: recipe and data. A run of equal key is the same run."""
        config = json.loads(self.parser.dump(self.config, format="json", skip_validation=True))
        config = config.get("fit", config)
        for part, key in NEUTRAL:
            config[part].get("init_args", {}).pop(key, None)
        trainer = {
            k: v
            for k, v in config["trainer"].items()
            if k in ("max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")
        }
        inputs = [digest(path) for path in self.datamodule.inputs(self.model)]
        decides = [config["seed_everything"], config["model"], config["data"], trainer, inputs]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def before_fit(self) -> None:
        if self.settings.ckpt_path is not None:
            check_checkpoint(Path(self.settings.ckpt_path))
        else:
            self.config_init.fit.ckpt_path = self._together(self._go_on)
        if self.trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._state(self.key(), "training")

    def _together(self, decide: Callable[[], str | None]) -> str | None:
        """What the first process decides about the run folder, told to all: decided once, before anything in it changes.

        Processes that Lightning starts itself begin when the first has decided; those of torchrun and SLURM begin together.
        """
        strategy = self.trainer.strategy
        if isinstance(getattr(strategy, "cluster_environment", None), LightningEnvironment | None):
            return decide() if self.trainer.is_global_zero else self._newest()
        strategy.setup_environment()
        path = stop = None
        if self.trainer.is_global_zero:
            try:
                path = decide()
            except (SystemExit, ValueError, OSError) as reason:
                stop = reason
        path, stopped = strategy.broadcast((path, stop is not None))
        if stopped:  # none may wait for the first in vain; that says why
            raise stop or SystemExit(0)
        return path

    def _newest(self) -> str | None:
        path = newest(self.folder / CHECKPOINTS) if self.settings.resume == "auto" else None
        return path and str(path)

    def _go_on(self) -> str | None:
        """The checkpoint to go on from, if the run folder has one of this very run; another run's are put aside.

        Raises:
            SystemExit: the run is finished.
            ValueError: what the folder holds cannot be told.
        """
        checkpoints = self.folder / CHECKPOINTS
        key, state = self._held()
        if key == self.key() and self.settings.resume == "auto":
            if state == "trained":
                say(f"{self.folder}: trained already; `--resume never` trains again")
                raise SystemExit(0)
            path = self._newest()
            if path:
                say(f"{self.folder}: going on from {path}")
            return path
        if checkpoints.is_dir():
            kept = aside(checkpoints)
            say(f"{self.folder}: another run's checkpoints are kept in {kept}")
        return None

    def _held(self) -> tuple[str | None, str | None]:
        """Key and state of the run that the folder holds; None if there is none."""
        path = self.folder / RUN
        if not path.is_file():
            return None, None
        try:
            held = json.loads(path.read_text())
            return held["key"], held["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({type(error).__name__}); remove it to train from the beginning, which puts the "
                "checkpoints aside, or go on from one of them by --ckpt_path"
            ) from None

    def after_fit(self) -> None:
        if not self.trainer.interrupted:
            self._state(self.key(), "trained")

    def _state(self, key: str, state: str) -> None:
        if self.trainer.is_global_zero:
            with replacing(self.folder / RUN) as partial:
                partial.write_text(json.dumps({"key": key, "state": state}))

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:  # how Lightning ends on Ctrl-C
            if self.trainer.interrupted:
                numbers = [c.signal for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints)]
                raise KeyboardInterrupt(*filter(None, numbers)) from None
            raise

    def _trained(self) -> None:
        settings = self.config_init[self.subcommand]
        if settings.ckpt_path:
            check_checkpoint(Path(settings.ckpt_path))
            return
        path = newest(self.folder / CHECKPOINTS)  # read whole, and found so
        if path is None:
            raise FileNotFoundError(
                f"{self.folder / CHECKPOINTS}: no whole checkpoint; run `flowbind fit` with this recipe, or give --ckpt_path"
            )
        settings.ckpt_path = str(path)

    before_validate = before_test = _trained


def aside(folder: Path) -> Path:
    """Renames a folder to the first free `NAME.1`, `NAME.2`, ... Returns the new path."""
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(kept)


def check_checkpoint(path: Path) -> None:
    """Refuses what is no checkpoint. It is read with weights only: no code in it runs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint; run `flowbind fit` with this recipe, or give --ckpt_path")
    if has_manifest(path):
        why = fault(path)
    elif path.is_dir():  # one that a strategy spread over files
        why = None
    else:
        try:
            known = "state_dict" in torch.load(path, map_location="meta", weights_only=True, mmap=True)
        except Exception:  # whatever the reader of archives and pickles says
            known = False
        why = None if known else "it cannot be read"
    if why:
        raise ValueError(f"{path}: not a checkpoint, or a damaged one ({why}); give one that `flowbind fit` wrote")


REMARKS = (
    ".*does not have many workers.*",  # batches are gathered from memory maps; workers only slow that down
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*callbacks used to create the checkpoint need to be provided.*",  # measuring saves no checkpoint
    ".*in eval mode at the start of training.*",  # flows that a bound model takes over
    ".*IterableDataset. has .__len__. defined.*",  # a codec's batches: their number is right
    ".*isinstance.treespec, LeafSpec.*",  # between Lightning 2.6 and torch 2.13
)


# Where Lightning tells what nobody asked for: which devices there are, that a loop ended, where it started from. Whatever it
# tells elsewhere (profilers, early stopping, time limits) was asked for in the recipe.
CHATTY = ("accelerator_connector", "call", "callback_connector", "checkpoint_connector", "distributed", "fit_loop")
CHATTY += ("logger_connector", "seed", "setup", "signal_connector", "trainer")


class Remarks(logging.Handler):
    """Prints what Lightning logs as flowbind prints its own lines, above a bar if there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.module not in CHATTY

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage().strip())


def quiet() -> None:
    """Silences remarks of libraries that do not concern flowbind's users."""
    # Lightning 2.6 still calls what jsonargparse 4.53 deprecates; that is between the two of them.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for library in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(library)
        logger.handlers = [Remarks()]
        logger.propagate = False
        logger.setLevel(logging.INFO)
    for remark in REMARKS:
        warnings.filterwarnings("ignore", remark)


def build(arguments: Sequence[str], others: Sequence[str] = ()) -> RecipeCLI:
    """What recipes describe (model, data, trainer), with nothing run and nothing written: for verbs of flowbind's own.

    Args:
        arguments: `--config` and options that override its keys.
        others: options that the verb has besides.
    """
    quiet()
    recipes, options = split("encode", arguments)
    nothing = [Option("--trainer.logger", "false"), Option("--trainer.enable_checkpointing", "false")]
    with _mistakes():
        return RecipeCLI(recipes, [*options, *nothing], others=others)


def run_recipe(verb: str, recipes: Sequence[Path], options: Sequence[Option]) -> None:
    """Runs one of Lightning's verbs on recipes."""
    quiet()
    with _mistakes():
        RecipeCLI(recipes, options, verb)


@contextmanager
def _mistakes() -> Iterator[None]:
    """Turns what Lightning raises of settings that cannot be into ValueError, in one line."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(plain(error)) from error
