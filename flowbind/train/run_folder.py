"""The run folder: one run, whole, with a record of what decided its weights.

    run.json        the record: what decides the weights, what it began from, `training` or
                    `trained`
    config.yaml     the recipe as it is run
    curves/  curves.png  checkpoints/  samples/  model/
    metrics*.json  metrics*.md  gallery*.png  likeness*.png  report*.html
    tensorboard/  wandb/  csv/  mlruns/  of loggers that the recipe chose
    earlier.1/      a run that was here before, with all that belongs to it

A run takes the folder at its first step and not before, so that what fails or only looks leaves it
as it was. Where the folder holds another run, all of that moves together; what is not a run's is
never touched.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flowbind import earlier
from flowbind.component import differences, flatten
from flowbind.files import check_place, digest, replacing, write_json
from flowbind.progress import say
from flowbind.train.checkpoints import (
    check_checkpoint,
    has_manifest,
    latest_intact,
    manifest_of,
    step_of,
    write_checkpoint,
    written,
)

RECORD = "run.json"
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
CURVES = "curves"
SAMPLES = "samples"
MODEL = "model"
EARLIER = "earlier"
FORMAT = 3  # of the record
RESULTS = (
    "curves.png",
    SAMPLES,
    "tensorboard",
    "wandb",
    "csv",
    "mlruns",
    "metrics.json",
    "metrics.md",
    "gallery.png",
    "report.html",
    "likeness.png",
    "metrics-*.json",
    "metrics-*.md",
    "gallery-*.png",
    "report-*.html",
    "likeness-*.png",
)
NEVER = "--resume never"
SHOWN = 3  # settings that differ, in a message
FILES = "files."  # settings that are digests of files

Settings = Mapping[str, Any]  # nested, as JSON


class Record(NamedTuple):
    """What a folder says of its run.

    Attributes:
        settings: Settings that decide the weights.
        state: `training` or `trained`; the latter when all steps are made and the model is written.
        start: Of a run that began from a checkpoint, its path as given, where it is, its SHA-256.
    """

    settings: Settings
    state: str
    start: dict[str, str] | None = None


class Start(NamedTuple):
    """How a run begins.

    Attributes:
        checkpoint: Checkpoint to resume from; None for the beginning.
        same: Whether the folder's run is this one, and resumes.
        trained: Whether it has made all its steps before.
        reason: Why another run gives place to this one, in words.
    """

    checkpoint: Path | None
    same: bool = False
    trained: bool = False
    reason: str = ""


class RunFolder:
    """A run folder.

    Args:
        path: Path of the folder; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS

    def read(self) -> Record | None:
        """The record; None if there is none.

        Raises:
            ValueError: it cannot be read, or an earlier version wrote it.
        """
        path = self.path / RECORD
        if not path.is_file():
            return None

        ways = (
            "train from the beginning by --resume never, which keeps what is there beside, or go "
            "on by --ckpt_path"
        )
        try:
            content = json.loads(path.read_text())
            if isinstance(content, dict) and "key" in content:
                raise ValueError(
                    f"{path}: written by an earlier version, whose record has no settings to "
                    f"compare: it cannot be told whether this is the same run; {ways} "
                    f"{next(iter(written(self.checkpoints)), 'PATH')}"
                )
            if content["format"] not in (2, FORMAT):
                raise ValueError(
                    f"{path}: of format {content['format']!r:.20}, this flowbind reads 2 and "
                    f"{FORMAT}; resume it with the version that wrote it, or {ways} PATH"
                )

            settings = content["settings"]
            if content["format"] != FORMAT:
                settings = earlier.settings(settings)
            return Record(settings, content["state"], content["start"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({type(error).__name__}); {ways} PATH"
            ) from None

    def holds_a_run(self) -> bool:
        """Whether a run of flowbind was here, even if its record is gone."""
        has_record = (self.path / RECORD).exists()
        return has_record or bool(written(self.checkpoints))

    def check(self) -> None:
        """Refuses a folder in which a run could not save, or only over what no run wrote.

        Raises:
            ValueError, OSError: one line that names the place.
        """
        check_place(self.path, folder=True)
        for name in (CHECKPOINTS, CURVES, MODEL):
            check_place(self.path / name, folder=True)
        for name in (RECORD, CONFIG):
            check_place(self.path / name)

        if self.holds_a_run():
            return

        for name in (CONFIG, CHECKPOINTS, CURVES, MODEL):
            path = self.path / name
            if path.exists() and (path.is_file() or any(path.iterdir())):
                raise ValueError(
                    f"{path}: is there already, and no run wrote it (there is no {RECORD}); move "
                    "it away, or choose another trainer.default_root_dir"
                )

    def plan(
        self,
        settings: Settings,
        resume: bool,
        given: Path | None,
    ) -> Start:
        """How a run with these settings begins here. Only a move that was cut short is undone.

        Args:
            settings: Settings that decide its weights.
            resume: Whether it may resume what is here.
            given: Checkpoint to begin from.

        Raises:
            ValueError, OSError: the record is damaged, or all checkpoints, or the one given.
        """
        self._undo_moves()

        try:
            record = self.read() if resume else None
        except ValueError:
            if given is None:
                raise
            record = None

        changed = differences(record.settings, settings) if record else []

        own = None if changed else record  # of a run with these settings
        if own and (given is None or self._began_from(own, given)):
            if own.state == "trained":
                return Start(None, same=True, trained=True)
            return Start(
                latest_intact(self.checkpoints) or self._start(own),
                same=True,
            )

        if given is not None:
            check_checkpoint(given)
            if own and self._is_last(given):
                return Start(given, same=True)

        if not resume:
            return Start(given, reason=NEVER)
        if record is None:
            return Start(given, reason=f"{RECORD} says nothing to compare with")

        return Start(given, reason=listed(changed) or "another checkpoint is given")

    def claim(self, start: Start, settings: Settings, config: str) -> Start:
        """Takes the folder for a run, which is about to make its first step.

        Args:
            start: How it begins.
            settings: Settings that decide its weights.
            config: Recipe as it is run, in YAML.

        Returns:
            Start, with its checkpoint where it is now.
        """
        if start.same:
            record = self.read()
            origin = record.start if record else None
        else:
            start, origin = self._make_room(start, settings)

        # First: with it the rest is a run's.
        self._write(Record(settings, "training", origin))
        head = ""
        if origin:
            head = f"# began from the checkpoint {origin['path']}\n"
        with replacing(self.path / CONFIG) as partial:
            partial.write_text(head + config, encoding="utf-8")
        return start

    def _make_room(
        self,
        start: Start,
        settings: Settings,
    ) -> tuple[Start, dict[str, str] | None]:
        """Moves another run aside.

        Returns:
            Start, with its checkpoint where it is now, and what the record says of that.
        """
        twin = None if start.checkpoint else self._same_before(settings)
        if twin:
            say(
                f"{twin} is of a run with these very settings; to resume from it instead, give it "
                "as --ckpt_path"
            )

        aside = None
        if self.holds_a_run():
            aside = self._move_aside(start)
        given = start.checkpoint
        if not given:
            return start, None

        checkpoint = given
        if aside and self._owns(given):
            checkpoint = aside / CHECKPOINTS / given.name
        origin = {
            "given": str(given.absolute()),
            "path": os.path.relpath(checkpoint, self.path),
            "sha256": identity(checkpoint),
        }
        return start._replace(checkpoint=checkpoint), origin

    def finish(self) -> None:
        """Records that all steps are made and the model is written."""
        record = self.read()
        assert record is not None  # `claim` wrote it
        self._write(record._replace(state="trained"))

    def adopt(self, checkpoint: Path) -> None:
        """Copies a checkpoint here, if it is another folder's."""
        if self._owns(checkpoint):
            return

        def copy(partial: Path) -> None:
            if checkpoint.is_dir():
                shutil.copytree(checkpoint, partial)
            else:
                shutil.copyfile(checkpoint, partial)

        write_checkpoint(copy, self.checkpoints, step_of(checkpoint))

    def quick_look(
        self,
        checkpoint: Path,
        recipe: Settings,
        usual: Settings,
    ) -> dict[str, Any]:
        """What a test does otherwise than with the run's last checkpoint and by its own recipe.

        Args:
            checkpoint: Checkpoint that is tested.
            recipe: Resolved recipe by which it is tested.
            usual: Defaults of `evaluation`, for a `config.yaml` that is older than a setting.

        Returns:
            Settings that differ, by their names, with `step` and `checkpoint`; empty if nothing
            does.
        """
        looks: dict[str, Any] = {}
        if not (self._is_last(checkpoint) and self._state() == "trained"):
            looks["step"] = step_of(checkpoint)
        if not self._owns(checkpoint):
            looks["checkpoint"] = identity(checkpoint)[:8]

        config = self.path / CONFIG
        if config.is_file():
            content = yaml.safe_load(config.read_text(encoding="utf-8"))
            own_recipe, _ = earlier.recipe(content)
            usual_settings = dict(flatten({"evaluation": usual}))
            own_settings = usual_settings | dict(flatten(_measuring(own_recipe)))
            for key, value in flatten(_measuring(recipe)):
                if own_settings.get(key) != value:
                    looks[key] = _without_nulls(value)
        return looks

    def _state(self) -> str | None:
        try:
            content = (self.path / RECORD).read_text()
            return json.loads(content)["state"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _owns(self, checkpoint: Path) -> bool:
        folder = checkpoint.absolute().parent
        return folder.resolve() == self.checkpoints.resolve()

    def _is_last(self, checkpoint: Path) -> bool:
        last = next(iter(written(self.checkpoints)), None)
        return (
            last is not None and self._owns(checkpoint) and checkpoint.name == last.name
        )

    def _began_from(self, record: Record, given: Path) -> bool:
        """Whether a run began from this very checkpoint, which may have moved since."""
        if record.start is None:
            return False
        if given.exists():
            return identity(given) == record.start["sha256"]
        return str(given.absolute()) == record.start["given"]

    def _start(self, record: Record) -> Path | None:
        """The checkpoint that a run began from."""
        return self.path / record.start["path"] if record.start else None

    def _write(self, record: Record) -> None:
        write_json(self.path / RECORD, {"format": FORMAT, **record._asdict()})

    def _own(self) -> Iterator[Path]:
        """All that belongs to the folder's run, its record last."""
        for name in (CONFIG, CHECKPOINTS, CURVES, MODEL, *RESULTS, RECORD):
            yield from self.path.glob(name)

    def _move_aside(self, start: Start) -> Path:
        """Moves the folder's run into a folder of its own, and says so. Returns that."""
        number = 1
        while (self.path / f"{EARLIER}.{number}").exists():
            number += 1
        aside = self.path / f"{EARLIER}.{number}"
        last = next(iter(written(self.checkpoints)), None)

        partial = aside.with_name(aside.name + ".partial")
        partial.mkdir(exist_ok=True)
        for path in self._own():
            path.rename(partial / path.name)
        partial.rename(aside)

        way = "trains from the beginning"
        if start.checkpoint:
            way = "starts from a checkpoint as another run"
        hint = ""
        if last and not start.checkpoint and start.reason != NEVER:
            last = aside / CHECKPOINTS / last.name
            hint = f"; to resume from its last step instead, give --ckpt_path {last}"

        say(
            f"{self.path}: {way} ({start.reason}); the run that was here is kept in {aside}{hint}"
        )
        return aside

    def _same_before(self, settings: Settings) -> Path | None:
        """The last checkpoint of an earlier run with these settings, if one is kept here."""
        for path in sorted(self.path.glob(f"{EARLIER}.*")):
            folder = RunFolder(path)
            try:
                record = folder.read()
            except ValueError:
                continue

            if record and not differences(record.settings, settings):
                checkpoints = written(folder.checkpoints)
                if checkpoints:
                    return checkpoints[0]
        return None

    def _undo_moves(self) -> None:
        """Puts back what was moved aside when the process was killed in the midst of it."""
        for partial in self.path.glob(f"{EARLIER}.*.partial"):
            for path in partial.iterdir():
                if not (self.path / path.name).exists():
                    path.rename(self.path / path.name)
            if not any(partial.iterdir()):
                partial.rmdir()


def identity(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint, in hexadecimal.

    It is that of its manifest, which holds every file's, or of its file.
    """
    if has_manifest(checkpoint):
        return digest(manifest_of(checkpoint))
    return digest(checkpoint) if checkpoint.is_file() else ""


def _measuring(recipe: Settings) -> Settings:
    """The settings of a recipe that a model's values depend on."""
    evaluation = dict(recipe.get("evaluation") or {})
    evaluation.pop("published", None)  # what others measured, shown beside
    for name in ("metrics", "judges"):
        if isinstance(evaluation.get(name), Mapping):  # one, which may stand alone
            evaluation[name] = [evaluation[name]]

    data = recipe["data"].get("init_args", {})
    manifests = dict(data.get("manifests") or {})
    manifests.pop("val", None)
    return {
        "evaluation": evaluation,
        "manifests": manifests,
        "store": data.get("store"),
    }


def _without_nulls(value: Any) -> Any:
    """A setting without the arguments in it that are null, which say nothing."""
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def listed(changed: list[tuple[str, Any, Any]]) -> str:
    """Differing settings in words, by the keys that the command line takes."""
    words = []
    for key, before, now in changed:
        if key.startswith(FILES):
            words.append(f"{key.removeprefix(FILES)} is another file")
        else:
            name = key.replace(".init_args", "")
            words.append(f"{name} is {_short(now)}, it was {_short(before)}")

    summary = ", ".join(words[:SHOWN])
    if len(words) > SHOWN:
        summary += f", and {len(words) - SHOWN} more"
    return summary


def _short(value: Any) -> str:
    word = "null" if value is None else str(value)
    if len(word) <= 60:
        return word
    return word[:57] + "..."
