"""A run that is watched: its summary, curves, samples and signs of failure, and what loggers are given."""

import csv
import io
import json
import math
import shutil
from contextlib import redirect_stderr
from types import SimpleNamespace

import lightning.pytorch.loggers
import pytest
import torch
from lightning.pytorch.loggers import Logger
from PIL import Image

import flowbind.train.samples
import flowbind.train.summary
from flowbind.batch import Batch
from flowbind.cli import main
from flowbind.cli.loggers import LOGGERS, placed
from flowbind.method import Sign
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.methods.flowbind.signs import flow_signs, shared_latent_signs
from flowbind.train.callbacks import is_trained
from flowbind.train.curves import draw, read
from flowbind.train.rate import rate_at
from flowbind.train.samples import Samples
from flowbind.train.signs import Signs
from flowbind.train.summary import DryRun, Summary
from flowbind.train.totals import Totals
from flowbind.train.training import Training
from tests.conftest import register_toys
from tests.toy import RECIPE
from tests.toy_kinds import Regression

STEPS = 12


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, files):
    """The toy world, prepared and encoded once: twelve steps, validated at every fourth."""
    folder = tmp_path_factory.mktemp("watched")
    path = folder / "recipe.yaml"
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_toys(monkeypatch)
        out = str(folder / "data")
        main(["prepare", "folder", "--source", str(files), "--out", out])
        path.write_text(
            RECIPE.format(data=out, run=folder / "run", steps=STEPS)
            .replace(f"val_check_interval: {STEPS}", "val_check_interval: 4")
            .replace("log_every_n_steps: 10", "log_every_n_steps: 2")
        )
        main(["encode", "--config", str(path)])
    return path


@pytest.fixture(scope="module")
def watched(recipe):
    """A run that was watched to its end, with another logger, and what it said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stderr(said):
        register_toys(monkeypatch)
        main(["fit", "--config", str(recipe), "--trainer.logger=tensorboard"])
    return recipe.parent / "run", said.getvalue()


@pytest.fixture(scope="module")
def run(watched):
    """The folder of that run, to be read alone."""
    folder, _ = watched
    return folder


@pytest.fixture
def fit(toys, command, recipe, tmp_path):
    """Trains into a folder of its own. Returns the exit code and what was said."""

    def training(*arguments):
        folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
        code, _, said = command("fit", "--config", recipe, folder, *arguments)
        return code, said

    return training


def weights(folder):
    path = folder / f"checkpoints/step={STEPS}.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def rows_of(folder):
    (path,) = folder.glob("curves/*/metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def picture(path):
    with Image.open(path) as image:
        image.load()
    return image


# Curves


def test_rates_and_pace_stand_beside_the_losses(run):
    logged = [row for row in rows_of(run) if row["train/loss"]]
    assert [int(row["step"]) for row in logged] == [1, 3, 5, 7, 9, 11]
    for row in logged:
        rate = rate_at(int(row["step"]), STEPS, 5e-3, 10, "cosine")
        assert float(row["learning_rate"]) == pytest.approx(rate, rel=1e-5)
        assert float(row["share/vector+word"]) == 1
        assert float(row["pace/samples_per_second"]) > 0
        assert 0 <= float(row["pace/data_wait"]) <= 1


def test_the_picture_of_curves_is_drawn_and_shown_with_the_metrics(run):
    assert picture(run / "curves.png").size > (500, 300)
    curves = read(run / "curves")
    assert [step for step, _ in curves["val/loss"]] == [4, 8, 12]
    assert {"train/word", "val/word", "signs/spread", "learning_rate"} <= curves.keys()
    assert not draw({"epoch": [(1, 1.0)]}, run / "nothing.png")
    assert not (run / "nothing.png").exists()


def test_each_kind_of_sign_is_drawn_by_itself(tmp_path):
    """Flat, at nought, decades apart, negative, infinite and not a number."""
    signs = {
        "flat/a": (0.5, 0.5),
        "flat/b": (0.0, 0.0),
        "nought/a": (0.0, 0.0),
        "small/a": (1e-7, 1e-3),
        "below": (-1.0, 2.0),
        "broken": (math.nan, math.inf),
    }
    curves = {f"signs/{name}": list(enumerate(signs[name], 1)) for name in signs}
    few = {name: curves[name] for name in ("signs/flat/a", "signs/flat/b")}
    heights = []
    for shown in (few, curves):
        assert draw(shown, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            heights.append(picture.height)
    assert heights[1] == pytest.approx(5 * heights[0], rel=0.01)


def test_a_resumed_start_holds_from_where_it_resumed(tmp_path):
    for number, steps, value in ((0, range(10), 1), (1, range(6, 12), 2)):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        lines = ["step,train/loss,val/loss"]
        lines += [f"{step},{value},{'' if step % 2 else value}" for step in steps]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    curves = read(tmp_path)
    assert curves["train/loss"] == [(n, 1 if n < 7 else 2) for n in range(1, 13)]
    assert curves["val/loss"] == [(1, 1), (3, 1), (5, 1), (7, 2), (9, 2), (11, 2)]


# Samples


def test_samples_are_drawn_at_every_validation(run):
    pictures = sorted(run.glob("samples/*"), key=lambda path: len(path.name))
    assert [path.name for path in pictures] == [f"step={n}.png" for n in (4, 8, 12)]
    first, *_, last = map(picture, pictures)
    assert first.size == last.size
    assert first.tobytes() != last.tobytes()


def test_watching_changes_no_bit(fit, run, tmp_path):
    code, said = fit("--training.samples=0", "--trainer.logger=false")
    assert code == 0, said
    assert not (tmp_path / "run/samples").exists()
    assert not (tmp_path / "run/curves").exists()
    watched, alone = weights(run), weights(tmp_path / "run")
    assert all(torch.equal(x, alone[name]) for name, x in watched.items())


def test_samples_that_cannot_be_drawn_stop_no_training(monkeypatch, tmp_path, capsys):
    def refuse(*_):
        raise ValueError("the codec's weights are not there")

    monkeypatch.setattr(flowbind.train.samples, "draw_samples", refuse)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        is_global_zero=True,
        global_step=3,
        datamodule=None,
        strategy=strategy,
    )
    monkeypatch.setattr(Training, "model", None)
    monkeypatch.setattr(Training, "trainer", trainer)
    module = Training.__new__(Training)
    samples = Samples(tmp_path / "samples", 4)
    for _ in range(2):
        samples.on_validation_end(trainer, module)
    assert capsys.readouterr().err == (
        "samples: none are drawn (the codec's weights are not there); training goes on\n"
    )
    assert not list(tmp_path.iterdir())


# Signs of failure


@pytest.fixture
def batch():
    """Samples of two modalities, all paired."""
    generator = torch.Generator().manual_seed(0)
    latents = {name: torch.randn(64, 8, generator=generator) for name in "ab"}
    samples = {name: torch.arange(64) for name in latents}
    return Batch.of(latents, samples)


def signs_of(batch, heads, **settings):
    streams = torch.arange(128)
    return shared_latent_signs(heads, batch, streams, ObjectiveConfig(**settings))


def same(x, streams):
    return x


def test_spread_and_parts_of_known_latents(batch):
    signs = signs_of(batch, {"a": same, "b": lambda x, _: 3 * x}, noise_variance=0.0)
    assert 0.9 < float(signs["spread"].value) <= 1
    parts = {name: float(signs[f"part/{name}"].value) for name in "ab"}
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["b"] == pytest.approx(0.9, abs=0.05)

    noisy = signs_of(batch, {"a": same, "b": same}, noise_variance=0.8)
    assert float(noisy["spread"].value) == pytest.approx(1 / 1.8, abs=0.03)
    assert not any(sign.complaint for sign in noisy.values())


@pytest.mark.parametrize("normalize", [True, False])
def test_a_constant_shared_latent_is_told(batch, normalize):
    def constant(x, _):
        return torch.ones_like(x).cumsum(1) + 1e-3 * x

    signs = signs_of(batch, {"a": constant, "b": constant}, normalize=normalize)
    assert float(signs["spread"].value) < 0.001
    assert "hardly tells samples apart" in signs["spread"].complaint


def test_a_modality_that_says_nothing_is_told(batch):
    signs = signs_of(batch, {"a": same, "b": lambda x, _: 0.01 * x})
    assert "above 0.9" in signs["part/a"].complaint
    assert "below 0.05" in signs["part/b"].complaint


def test_a_flow_that_does_not_return_is_told(batch):
    exact = flow_signs(batch.latents, lambda _, x: x + 1, lambda _, z: z - 1)
    assert not any(sign.complaint for sign in exact.values())
    bent = flow_signs(batch.latents, lambda _, x: x.square(), lambda _, z: z.sqrt())
    assert float(bent["there_and_back/a"].value) == pytest.approx(1.8, abs=0.2)
    assert "does not return" in bent["there_and_back/a"].complaint
    lost = Sign(torch.tensor(math.nan), "it is lost", most=1.0)
    assert lost.complaint


def test_a_line_is_said_when_a_bound_is_crossed(capsys):
    signs = Signs(Regression({}), seed=0)
    assert not signs.exist
    for step, value in enumerate((0.5, 0.01, 0.02, 0.5, 0.01)):
        signs.tell({"spread": Sign(torch.tensor(value), "bad", least=0.05)}, step)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["step 1", "step 4"]


def test_a_run_made_to_collapse_says_so_once(fit, run, tmp_path):
    """Noise that drowns the shared latent, which is not normalised; in the folder of a good run."""
    shutil.copytree(run, tmp_path / "run")
    code, said = fit(
        "--model.objective.normalize=false",
        "--model.objective.noise_variance=1000",
        "--trainer.logger=tensorboard",
        "--trainer.max_steps=8",
    )
    told = [line for line in said.splitlines() if "hardly tells samples apart" in line]
    assert code == 0
    assert len(told) == 1
    assert told[0].startswith("step 4: spread is ")

    # The good run has taken its logs along.
    aside = tmp_path / "run/earlier.1"
    for name in ("tensorboard/version_0", "samples/step=4.png", "curves.png"):
        assert (aside / name).exists()
        assert (tmp_path / "run" / name).exists()
    assert json.loads((aside / "run.json").read_text())["state"] == "trained"


# Totals


def test_totals_are_means_over_all_batches():
    totals = Totals(["a", "b", "none"])
    errors = torch.arange(12.0)
    for part in errors.split(5):
        totals.update("a", part)
        totals.update("b", part[:0])
    totals.update("b", torch.tensor([[1.0, 2.0]]))
    means = totals.compute()
    assert {name: float(value) for name, value in means.items()} == {"a": 5.5, "b": 1.5}
    assert not list(totals.state_dict())


# The summary, and the dry run


def test_a_run_begins_with_a_summary(watched):
    folder, said = watched
    head = said.splitlines()[:7]
    assert head[0] == f"fit: {folder}, from the beginning"
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in head[1:]}
    assert lines["device"].startswith("cpu, one process of one thread, precision")
    assert "drifts 159,632 (word 79,816, vector 79,816)" in lines["parameters"]
    assert lines["samples"] == "vector+word 512 (100% of a batch)"
    assert lines["steps"] == (
        "12 of 64 samples, 1.5 times through all; validated every 4"
    )
    assert lines["memory"].startswith("about ")
    assert "a step " in lines["memory"]
    assert "2 checkpoints and the model" in lines["disk"]


def test_a_module_of_somebody_else_is_told_by_its_parts():
    parts = {"one": torch.nn.Linear(2, 3), "other": torch.nn.Linear(1, 1)}
    parts["other"].requires_grad_(False)
    line = flowbind.train.summary.parameters_line(torch.nn.ModuleDict(parts))
    assert line == "11, of which 2 stay as they are: one 9, other 2"


def test_a_dry_run_takes_steps_and_keeps_nothing(fit, tmp_path):
    code, said = fit("--dry-run")
    assert code == 0
    assert "dry run: samples take " in said
    assert f"so {STEPS} steps about 0:0" in said
    assert said.rstrip().endswith("nothing was written")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("room", ["free_memory", "free_disk"])
def test_a_dry_run_refuses_what_there_is_no_room_for(monkeypatch, tmp_path, room):
    for name in ("free_memory", "free_disk"):
        monkeypatch.setattr(flowbind.train.summary, name, lambda *_: 2**40)
    summary = Summary(tmp_path, lambda: None, keep=2)
    summary.memory = {"weights": 2**20, "gradients": 2**20}
    summary.disk = 2**22
    summary.check(None)
    monkeypatch.setattr(flowbind.train.summary, room, lambda *_: 1000)
    needed = {"free_memory": "memory: .* 2 MiB", "free_disk": "disk: .* 4 MiB"}
    with pytest.raises(ValueError, match=needed[room] + ", and 1e.03 bytes are free"):
        summary.check(None)


def test_only_fit_has_a_dry_run(command, recipe):
    code, _, said = command("test", "--config", recipe, "--dry-run")
    assert (code, said.count("\n")) == (2, 1)
    assert "--dry-run is for flowbind fit" in said


def test_a_dry_run_of_all_steps_is_no_training():
    ends = {"fast_dev_run": False, "interrupted": False, "global_step": 3}
    trainer = SimpleNamespace(**ends, max_steps=3, callbacks=[])
    assert is_trained(trainer)
    trainer.callbacks = [DryRun(None, samples=0)]
    assert not is_trained(trainer)


# Loggers


def test_loggers_have_plain_names_and_a_place_in_the_run_folder(tmp_path):
    folder = tmp_path / "run"
    package = "lightning.pytorch.loggers"
    assert placed("tensorboard", folder) == {
        "class_path": f"{package}.TensorBoardLogger",
        "init_args": {
            "name": "tensorboard",
            "default_hp_metric": False,
            "save_dir": str(folder),
        },
    }
    chosen = {"class_path": "wandb", "init_args": {"offline": True, "project": "own"}}
    one, two = placed([chosen, "my.Logger"], folder)
    assert one["init_args"] == {
        "project": "own",
        "save_dir": str(folder),
        "name": "run",
        "offline": True,
    }
    assert two == {"class_path": "my.Logger", "init_args": {}}
    assert placed(False, folder) is False
    with pytest.raises(
        ValueError, match=r"no logger 'tensorbord'; did you mean 'tensor"
    ):
        placed("tensorbord", folder)


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_s_plain_name_is_one_that_lightning_has(tmp_path, name):
    setting = placed(name, tmp_path)
    _, _, cls = setting["class_path"].rpartition(".")
    assert issubclass(getattr(lightning.pytorch.loggers, cls), Logger)


def test_tensorboard_has_what_the_curves_have(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = run.glob("tensorboard/version_0/events.*")
    events = EventAccumulator(str(file.parent), size_guidance={"images": 0})
    events.Reload()
    curves = read(run / "curves")
    for name in ("train/loss", "val/word", "learning_rate", "signs/spread"):
        scalars = [(event.step + 1, event.value) for event in events.Scalars(name)]
        assert scalars == [
            (step, pytest.approx(value)) for step, value in curves[name]
        ], name
    assert {event.step for event in events.Images("samples")} == {4, 8, 12}
    assert "samples/vector to word/0/text_summary" in events.Tags()["tensors"]
    assert "samples/word to vector/1" in events.Tags()["images"]
