"""`flowbind fit | validate | test`: LightningCLI on a recipe, with a run folder to resume from."""

import json
import os
import traceback
from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Never

import yaml
from jsonargparse import set_loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from yaml import YAMLError

from flowbind.cli.check import check_recipe, find_class, load_yaml
from flowbind.cli.keys import RESUME
from flowbind.cli.loggers import placed
from flowbind.cli.options import DRY_RUN, HELP_ALL, Option, split
from flowbind.cli.overrides import check_overrides, dump, merge, names_below
from flowbind.cli.remarks import quiet
from flowbind.cli.trainer import check_readable, check_trainer
from flowbind.cli.wording import explain, plain, unknown
from flowbind.evaluation.evaluation import EvaluationConfig
from flowbind.lock import alone_in
from flowbind.method import Method
from flowbind.progress import say
from flowbind.train.callbacks import NO_STEPS, Begin, Steps, is_trained
from flowbind.train.checkpoints import (
    Checkpoints,
    check_checkpoint,
    drop_old,
    latest_intact,
    read_checkpoint,
    step_of,
)
from flowbind.train.curves import Curves, Picture
from flowbind.train.deciding import settings_of
from flowbind.train.pace import Pace
from flowbind.train.run_folder import (
    CHECKPOINTS,
    CURVES,
    MODEL,
    SAMPLES,
    RunFolder,
    Start,
)
from flowbind.train.samples import Samples
from flowbind.train.summary import DryRun, Summary
from flowbind.train.training import Training, TrainingConfig
from flowbind.trainer import Connected

KEYS = (
    "model",
    "training",
    "evaluation",
    "data",
    "trainer",
    "seed_everything",
    "ckpt_path",
    "verbose",
    "weights_only",
    "resume",
    "checkpoints",
)
MODE = "flowbind"
LARGEST_SEED = 2**32 - 1  # that numpy takes

# Parts of Lightning that a recipe chooses.
CHOSEN_PARTS = (
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.plugins",
    "lightning.fabric.plugins",
)

# Variable with the checkpoint that a run begins from, for the processes that the first one starts.
CHOSEN = "FLOWBIND_CHECKPOINT"

# Gradients are summed where they lie: a copy of them less in memory, and two passes over it less
# in a step.
StrategyRegistry.register(
    "ddp",
    DDPStrategy,
    override=True,
    start_method="popen",
    gradient_as_bucket_view=True,
)

set_loader(MODE, load_yaml, exceptions=(YAMLError, ValueError))


class RecipeParser(LightningArgumentParser):
    """A parser that takes whole names alone, and raises ValueError with one line."""

    def __init__(
        self,
        *args: Any,
        others: Sequence[str] = (),
        **named: Any,
    ) -> None:
        super().__init__(*args, **named, allow_abbrev=False)
        self.others = others  # names that may be meant, besides its own

    def error(self, message: str, ex: Exception | None = None) -> Never:
        if message.startswith("unrecognized arguments"):
            names = [*self.others, *self._option_string_actions]
            raise ValueError(
                f"{unknown(message, names)}; `flowbind fit --config RECIPE --print_config` lists a "
                "recipe's keys"
            )
        raise ValueError(explain(message))

    def add_lightning_class_args(
        self,
        lightning_class: Any,
        nested_key: str,
        *args: Any,
        **named: Any,
    ) -> Any:
        """Takes a method as the model, too: `Training` is built with it."""
        if nested_key == "model":
            kinds = (Method, LightningModule)
            return self.add_subclass_arguments(
                kinds,
                nested_key,
                fail_untyped=False,
                required=True,
            )
        return super().add_lightning_class_args(
            lightning_class,
            nested_key,
            *args,
            **named,
        )


class RecipeCLI(LightningCLI):
    """LightningCLI with flowbind's run folder.

    `trainer.default_root_dir` holds config, curves, checkpoints and the model.
    """

    trainer: Connected[object]

    def __init__(
        self,
        recipes: Sequence[Path],
        options: Sequence[Option],
        verb: str | None = None,
        others: Sequence[str] = (),
        dry_run: bool = False,
    ) -> None:
        """
        Args:
            recipes: Files, a later one over the earlier ones.
            options: Options that override them.
            verb: Verb that runs; None builds model, data and trainer and runs nothing.
            others: Options that the command has besides a recipe's keys.
            dry_run: Whether `fit` ends after a few steps, of which nothing is kept.

        Raises:
            ValueError: an error in a recipe or an option; one line that says what is allowed.
        """
        self.verb = verb
        self.dry_run = dry_run
        # On the run folder, for as long as this process has it.
        self.locks = ExitStack()

        checked = [check_recipe(path, KEYS, Trainer) for path in recipes]
        merged = merge(checked)
        options = check_overrides(options, merged, Trainer)
        options = self._place_loggers(merged, options)
        model = merged.get("model") or {}
        name = model.get("class_path")
        self.is_method = name is None or issubclass(find_class(name, "model"), Method)

        arguments = [f"--config={dump(merged)}", *map(str, options)]
        if verb:
            arguments.insert(0, verb)
        super().__init__(
            args=arguments,
            run=verb is not None,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=RecipeParser,
            parser_kwargs={
                "parser_mode": MODE,
                "prog": "flowbind",
                "others": [*others, *names_below(merged)],
            },
            save_config_callback=None,  # the run folder keeps it
            seed_everything_default=0,
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            trainer_defaults={
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
        )

    def _place_loggers(
        self,
        recipe: dict[str, Any],
        options: Sequence[Option],
    ) -> list[Option]:
        """Names loggers by their classes, in a recipe and in options, which are returned."""
        trainer = recipe.get("trainer") or {}
        folder = trainer.get("default_root_dir") or "."
        for option in options:
            if option.name == "--trainer.default_root_dir":
                folder = option.value or folder
        if trainer.get("logger") is not None:
            trainer["logger"] = placed(trainer["logger"], Path(folder))

        placed_options = []
        for option in options:
            if option.name in ("--trainer.logger", "--trainer.logger+"):
                value = placed(yaml.safe_load(option.value or ""), Path(folder))
                option = Option(option.name, json.dumps(value))
            placed_options.append(option)
        return placed_options

    # Lightning asks the instance, and declares it static.
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that runs.

        With a parser for each of the four, the command line would take twice as long to read.
        """
        subcommands = LightningCLI.subcommands()
        return {verb: subcommands[verb] for verb in subcommands if verb == self.verb}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(parser, RecipeParser)  # as `__init__` asks for
        assert isinstance(args, list)
        for verb, subparser in getattr(self, "_subcommand_parsers", {}).items():
            subparser.prog = f"flowbind {verb}"
            subparser.others = parser.others
        self.config = parser.parse_args(args)

    def _set_seed(self) -> None:
        """Sets it, after a look at values that parsers take and nothing else does."""
        seed = self._get(self.config, "seed_everything")
        if type(seed) is int and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(
                f"seed_everything must be from 0 to {LARGEST_SEED}, not {seed}"
            )
        if self._get(self.config, "ckpt_path") == "":
            raise ValueError(
                "ckpt_path is empty; give the path of a checkpoint, or leave it out"
            )
        super()._set_seed()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
            if isinstance(self.model, Method):
                config = self.config_init
                settings = config[self.subcommand] if self.subcommand else config
                self.model = Training(
                    self.model,
                    settings.training,
                    settings.evaluation,
                )
        except ImportError as error:  # of a logger, say, whose package is not there
            raise ValueError(plain(error)) from error
        except ValueError as error:
            raise ValueError(explain(str(error))) from error

    def _parse_ckpt_path(self) -> None:
        """Leaves the checkpoint alone: it is compared with the recipe, which says the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.is_method:
            parser.add_class_arguments(TrainingConfig, "training")
            parser.add_class_arguments(EvaluationConfig, "evaluation")

        parser.add_class_arguments(
            Checkpoints,
            "checkpoints",
            instantiate=False,
            skip={"folder"},
        )
        parser.add_argument(
            f"--{RESUME.name}",
            choices=["auto", "never"],
            default=RESUME.default,
            help=RESUME.about,
        )

        # A run's config.yaml is a recipe for every verb, also for those that run nothing.
        if self.verb is None:
            for key in ("ckpt_path", "weights_only", "verbose"):
                parser.add_argument(f"--{key}", help=SUPPRESS)

    @property
    def settings(self) -> Any:
        """The parsed configuration of the verb that runs."""
        if not self.subcommand:
            return self.config
        return self.config[self.subcommand]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.trainer.default_root_dir)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = self._get(self.config_init, "trainer")
        folder = Path(trainer.get("default_root_dir") or ".")
        is_fit = self.subcommand == "fit"

        first: list[Callback] = []
        last: list[Callback] = []
        if is_fit:
            loggers = self._take_loggers(trainer, folder)
        if is_fit and self.dry_run:
            first += self._only_look(trainer, folder)
        # A smoke run keeps nothing.
        elif is_fit and not trainer.get("fast_dev_run"):
            first.append(self._summary(trainer, folder))
            first.append(Begin(self._claim, loggers, self.resolved()))
            first.append(Pace())
            if isinstance(trainer["logger"], Curves):
                last.append(Picture(trainer["logger"], folder))
            if self._sample_rows:
                last.append(Samples(folder / SAMPLES, self._sample_rows))
            if trainer.get("enable_checkpointing") is not False:
                last.append(
                    Checkpoints(folder / CHECKPOINTS, **vars(self.settings.checkpoints))
                )
        if not is_fit and trainer.get("logger") is None:
            trainer["logger"] = False

        callbacks = trainer.get("callbacks") or []
        if isinstance(callbacks, Callback):  # one may stand without a list
            callbacks = [callbacks]
        trainer["callbacks"] = [*first, *callbacks, *last]
        return super().instantiate_trainer(**kwargs)

    @property
    def _sample_rows(self) -> int:
        """Rows of the picture of samples; 0 for none."""
        return self.settings.training.samples if self.is_method else 0

    def _summary(self, trainer: Any, folder: Path) -> Summary:
        keep = self.settings.checkpoints.keep
        if trainer.get("enable_checkpointing") is False:
            keep = 0
        return Summary(folder, lambda: self.start.checkpoint, keep)

    def _only_look(self, trainer: Any, folder: Path) -> list[Callback]:
        """What a dry run does; the trainer is set so that nothing is written."""
        summary = self._summary(trainer, folder)
        trainer["logger"] = False
        trainer["enable_checkpointing"] = False
        trainer["enable_progress_bar"] = False
        trainer["limit_val_batches"] = 1
        return [summary, DryRun(summary, self._sample_rows)]

    def _take_loggers(self, trainer: Any, folder: Path) -> list[Logger]:
        """The loggers that a recipe chose, which wait for the first step; the curves stay alone."""
        chosen = trainer.get("logger")
        trainer["logger"] = False
        if chosen is False:
            return []
        trainer["logger"] = Curves(folder, name=CURVES)
        if chosen in (None, True):
            return []
        return [chosen] if isinstance(chosen, Logger) else list(chosen)

    def _instantiate_trainer(
        self,
        config: dict[str, Any],
        callbacks: list[Callback],
    ) -> Trainer:
        check_trainer(config)
        has_bar = any(
            isinstance(callback, ProgressBar) for callback in config["callbacks"]
        )
        shows_bar = config.get("enable_progress_bar") is not False
        if shows_bar and not has_bar:
            callbacks = [*callbacks, Steps()]
        return super()._instantiate_trainer(config, callbacks)

    @property
    def run_folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.folder)

    def resolved(self, with_nulls: bool = False) -> dict[str, Any]:
        """The recipe with every default and override, as JSON; nulls only where asked for."""
        config = json.loads(
            self.parser.dump(
                self.config,
                format="json",
                skip_none=not with_nulls,
                skip_validation=True,
            )
        )
        return config.get(self.subcommand, config)

    def before_fit(self) -> None:
        if self.trainer.max_steps < 1:
            raise ValueError(NO_STEPS)

        ckpt_path = self.settings.ckpt_path
        if self.trainer.fast_dev_run:
            if ckpt_path is not None:
                check_checkpoint(Path(ckpt_path))
            return

        self.start = self._together(self._begin)
        checkpoint = self.start.checkpoint
        self.config_init.fit.ckpt_path = checkpoint and str(checkpoint)

    def _begin(self) -> Start:
        """How the run begins; nothing in its folder changes before the first step.

        On the first process alone.

        Raises:
            SystemExit: no step is left to make.
            ValueError, OSError: the folder, or what it holds, does not allow it.
        """
        folder = self.run_folder
        folder.check()
        self._lock_folder()
        if hasattr(self.model, "check_export"):
            self.model.check_export(self.folder)

        ckpt_path = self.settings.ckpt_path
        resumes = self.settings.resume == "auto"
        self.decides = settings_of(self.resolved(), self.model, self.datamodule)
        given = ckpt_path and Path(ckpt_path)
        start = folder.plan(self.decides, resumes, given)

        if start.trained:
            if self._export.exists():
                say(f"{self.folder}: trained already; `--resume never` trains again")
                raise SystemExit(0)
            start = start._replace(checkpoint=latest_intact(folder.checkpoints))

        if start.checkpoint:
            step = step_of(start.checkpoint)
            steps = self.trainer.max_steps
            if step > steps:
                raise ValueError(
                    f"{start.checkpoint}: has made {step} steps, more than trainer.max_steps, "
                    f"which is {steps}; raise that"
                )
            if step == steps and self.dry_run:
                say(f"{self.folder}: no step is left of {steps}")
                raise SystemExit(0)
            if step == steps:
                self._finish(start)
            check_readable(start.checkpoint, self.trainer.strategy)
        return start

    @property
    def _export(self) -> Path:
        """Where the module writes what was trained."""
        export = getattr(self.model, "export", None)
        return Path(export or self.folder / MODEL)

    def _finish(self, start: Start) -> None:
        """Writes what was trained from a checkpoint that has made all steps, and ends."""
        start = self._claim_folder(start)
        assert start.checkpoint is not None  # that has made all steps
        self.run_folder.adopt(start.checkpoint)
        drop_old(self.run_folder.checkpoints, self.settings.checkpoints.keep)
        if hasattr(self.model, "export_checkpoint"):
            self.model.export_checkpoint(
                read_checkpoint(start.checkpoint),
                self._export,
            )

        self.run_folder.finish()
        say(
            f"{self.folder}: no step is left of {self.trainer.max_steps}; wrote {self._export} "
            f"from {start.checkpoint}"
        )
        raise SystemExit(0)

    def _claim(self) -> None:
        """Takes the folder at the first step.

        The curves of a run that is resumed are counted on, those of another begin at 0.
        """
        curves = [
            logger for logger in self.trainer.loggers if isinstance(logger, Curves)
        ]
        numbers = [logger.version for logger in curves]  # next to what is there now
        checkpoint = self.start.checkpoint
        is_here = checkpoint and checkpoint.parent == self.run_folder.checkpoints

        self._claim_folder(self.start)
        for logger, number in zip(curves, numbers, strict=True):
            is_continued = self.start.same or is_here
            logger.begin(number if is_continued else 0)

    def _lock_folder(self) -> None:
        """Reserves the folder for this process, once it is there."""
        if self.folder.is_dir():
            self.locks.enter_context(alone_in(self.folder, "training"))

    def _claim_folder(self, start: Start) -> Start:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_folder()

        # How it began stands in the record, and is not done again.
        config = self.settings.clone()
        config.ckpt_path = None
        config.resume = "auto"
        parser = self._parser(self.subcommand)
        recipe = parser.dump(
            config,
            format="yaml",
            skip_none=False,
            skip_validation=True,
        )
        return self.run_folder.claim(start, self.decides, recipe)

    def _together(self, decide: Callable[[], Start]) -> Start:
        """What the first process decides about the run folder, made known to all.

        It is decided once, before anything in the folder changes. Processes that Lightning starts
        itself begin when the first has decided; those of torchrun and SLURM begin together.
        """
        strategy = self.trainer.strategy
        if isinstance(
            getattr(strategy, "cluster_environment", None),
            LightningEnvironment | None,
        ):
            if self.trainer.is_global_zero:
                start = decide()
                os.environ[CHOSEN] = str(start.checkpoint or "")
                return start
            chosen = os.environ[CHOSEN]
            return Start(Path(chosen) if chosen else None)

        strategy.setup_environment()
        decided: Start | None = None
        stop: BaseException | None = None
        if self.trainer.is_global_zero:
            try:
                decided = decide()
            except (SystemExit, ValueError, OSError) as reason:
                stop = reason

        # None may wait for the first in vain; that one says why it stops.
        decided, stopped = strategy.broadcast((decided, stop is not None))
        if stopped:
            raise stop or SystemExit(0)
        assert decided is not None  # the first process did not stop
        return decided

    def after_fit(self) -> None:
        trainer = self.trainer
        if self.dry_run or trainer.interrupted or not trainer.is_global_zero:
            return

        if trainer.fast_dev_run:
            say(
                f"fast_dev_run: {trainer.global_step} steps were made, of which nothing is kept"
            )
        elif is_trained(trainer):
            self.run_folder.finish()
        else:
            self._say_what_remains()

    def _say_what_remains(self) -> None:
        """A line on the steps that are left, and what can be done with those that were made."""
        step = self.trainer.global_step
        steps = self.trainer.max_steps
        has_checkpoints = any(
            isinstance(c, Checkpoints) for c in self.trainer.callbacks
        )

        hint = "no checkpoint of them is kept"
        if step > 0 and has_checkpoints:
            hint = (
                "the same command resumes from there, "
                f"`flowbind export {self.folder} --out DIR` releases the model as it is"
            )
        say(
            f"{self.folder}: ended after {step} of {steps} steps, {steps - step} remain; {hint}"
        )

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with self.locks:
                super()._run_subcommand(subcommand)
        except SystemExit:  # how Lightning ends on Ctrl-C
            if not self.trainer.interrupted:
                raise

            signals = []
            for callback in self.trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoints) and callback.signal:
                    signals.append(callback.signal)
            raise KeyboardInterrupt(*signals) from None

    def _trained(self) -> None:
        """Chooses the checkpoint to validate or test, the newest intact one if none is given."""
        settings = self.config_init[self.subcommand]
        if settings.ckpt_path:
            path: Path | None = Path(settings.ckpt_path)
            check_checkpoint(Path(settings.ckpt_path))
        else:
            # Has been read, and is intact.
            path = latest_intact(self.run_folder.checkpoints)

        if path is None:
            raise FileNotFoundError(
                f"{self.run_folder.checkpoints}: no whole checkpoint; run `flowbind fit` with this "
                "recipe, or give --ckpt_path"
            )
        check_readable(path, self.trainer.strategy)
        settings.ckpt_path = str(path)

    before_validate = _trained

    def before_test(self) -> None:
        if not is_overridden("test_step", self.model):
            raise ValueError(
                f"{type(self.model).__name__} has nothing to test; `flowbind validate` gives the "
                "loss on the validation samples"
            )

        self._trained()
        if isinstance(self.model, Training):
            checkpoint = Path(self.config_init.test.ckpt_path)
            recipe = self.resolved(with_nulls=True)  # as config.yaml has them
            recipe["evaluation"]["sampling"] = asdict(self.model.sampling)
            usual = asdict(EvaluationConfig()) | {
                "sampling": asdict(self.model.method.Sampling())
            }
            self.model.quick_look = self.run_folder.quick_look(
                checkpoint,
                recipe,
                usual,
            )


def build(arguments: Sequence[str], others: Sequence[str] = ()) -> RecipeCLI:
    """What recipes describe (model, data, trainer), for verbs of flowbind's own.

    Nothing is run, and nothing written.

    Args:
        arguments: `--config` and options that override its keys.
        others: Options that the verb has besides.
    """
    quiet()
    recipes, options = split("encode", arguments)
    nothing = [
        Option("--trainer.logger", "false"),
        Option("--trainer.enable_checkpointing", "false"),
    ]
    with _errors_of_recipes():
        return RecipeCLI(recipes, [*options, *nothing], others=others)


def run_recipe(
    verb: str,
    recipes: Sequence[Path],
    options: Sequence[Option],
    dry_run: bool = False,
) -> None:
    """Runs one of Lightning's verbs on recipes."""
    quiet()
    with _errors_of_recipes():
        RecipeCLI(recipes, options, verb, others=[HELP_ALL, DRY_RUN], dry_run=dry_run)


@contextmanager
def _errors_of_recipes() -> Iterator[None]:
    """Turns what Lightning raises of settings that cannot be into ValueError, in one line."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(plain(error)) from error
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        part = chosen_part(error)
        if part is None:
            raise
        raise ValueError(f"{part}: {plain(error)}") from error


def chosen_part(error: Exception) -> str | None:
    """The part of Lightning that a recipe chose and that raised an error; None for any other.
    A callback that watches a metric which nobody logs is an error in a recipe, not a fault of
    whatever runs it.
    """
    innermost = ""  # of flowbind's and Lightning's modules on the traceback
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("flowbind", "lightning.")):
            innermost = module
    return innermost if innermost.startswith(CHOSEN_PARTS) else None
