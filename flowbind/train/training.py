"""The LightningModule of every method: where randomness is drawn, and what an optimiser step is."""

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from flowbind import draws, earlier, release
from flowbind.batch import Batch
from flowbind.component import differences
from flowbind.data.latents import LatentDataModule
from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.evaluation.chart import draw
from flowbind.evaluation.evaluation import BATCH_ROWS, Evaluation, EvaluationConfig
from flowbind.evaluation.gallery import save
from flowbind.evaluation.page import write as write_page
from flowbind.evaluation.report import CURVES, averaged, suffix, terminal, write
from flowbind.evaluation.space import Space
from flowbind.files import digest
from flowbind.generation import Model
from flowbind.method import (
    Loss,
    Method,
    Networks,
    callable_networks,
    check_decodable,
    decodable,
)
from flowbind.modality import Modality
from flowbind.progress import is_first_process, say, track
from flowbind.readers import check_readers
from flowbind.tensors import digest_tensors
from flowbind.train.callbacks import Export
from flowbind.train.ema import decay_at, follow
from flowbind.train.nonfinite import Watched, bad_rows
from flowbind.train.rate import rate_at, resume_rate, set_rate
from flowbind.train.replicas import Agreement
from flowbind.train.sharding import gather, is_sharded, shard, with_prefix
from flowbind.train.signs import Signs
from flowbind.train.totals import Totals
from flowbind.trainer import Connected

# Which draws.
TRAINING = 0
VALIDATION = 1


@dataclass(frozen=True)
class TrainingConfig:
    """How a method learns.

    Args:
        learning_rate: Rate of Adam, after warm-up; 1e-4 in FlowBind's paper.
        warmup_steps: Steps of the linear warm-up; 1,000 in the paper.
        decay: Rate after warm-up: `constant` (the paper), or `cosine` down to 0 at the last step.
        ema_decay: Decay of the exponential moving average of the weights, which is what is
            validated, tested and released; 0.9995 helped the method's successors (arXiv
            2610.09866). 0: no average.
        seed: Seed of all that is drawn; with the step it decides every draw.
        samples: Rows of the picture of samples that is made at every validation, in `samples/` of
            the run folder; 0 for none.
        compile: Whether networks are compiled by torch.compile, which pays on a GPU
            (docs/performance.md).
        base: Folder of a released model whose weights the method builds on.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 1000
    decay: str = "constant"
    ema_decay: float = 0.9995
    seed: int = 0
    samples: int = 4
    compile: bool = False
    base: str | None = None

    def __post_init__(self) -> None:
        if self.decay not in ("constant", "cosine"):
            raise ValueError(
                f"training.decay is constant or cosine, not '{self.decay}'"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"training.ema_decay must be in [0, 1), 0 for no average, not {self.ema_decay}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"training.learning_rate must be positive, not {self.learning_rate}"
            )
        for name in ("warmup_steps", "samples"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"training.{name} must be at least 0, not {value}")


class Training(Watched):
    """Trains a method, validates and tests it, and releases the model.

    Args:
        method: Method that is trained.
        training: How it is trained.
        evaluation: What `flowbind test` does.

    Raises:
        ValueError: a method that trains some modalities alone, without a model that has the others;
            one of which nothing could be decoded; sampling choices that it does not have.
    """

    trainer: Connected[LatentDataModule]
    networks: Networks  # from `configure_model` on

    def __init__(
        self,
        method: Method,
        training: TrainingConfig = TrainingConfig(),
        evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008
    ) -> None:
        super().__init__()
        if training.base is None and set(method.trained) != set(method.modalities):
            raise ValueError(
                f"the method learns {', '.join(method.trained)} alone; training.base names the "
                "released model that has the others"
            )
        if not decodable(method):
            check_decodable(method.modalities, method.directions()[0].targets)

        self.method = method
        self.training_config = training
        self.evaluation = evaluation
        try:
            self.sampling = method.choose(**evaluation.sampling)
        except ValueError as error:
            raise ValueError(f"evaluation.sampling: {error}") from error

        self.ema: Networks | None = None  # the average of the networks' weights
        # Modalities whose standardisation is that of the base.
        self.adopted: Collection[str] = ()
        self.signs = Signs(method, training.seed)
        self.steps_made = 0  # by the checkpoint that was loaded
        # What `test` does otherwise than the run's own recipe; it names the files of results.
        self.quick_look: dict[str, Any] = {}

    @property
    def modalities(self) -> dict[str, Modality]:
        """The method's modalities."""
        return self.method.modalities

    def configure_model(self) -> None:
        if hasattr(self, "networks"):
            return

        config = self.training_config
        self.networks = Networks(self.method)
        # A trained model has all weights in its checkpoint.
        if config.base and self.trainer.state.fn == "fit":
            base = release.load(config.base)
            self._build_on(base)
        if config.ema_decay:
            ema = copy.deepcopy(self.networks)
            self.ema = ema.requires_grad_(False).eval()

        if self.device_mesh is not None:
            for networks in filter(None, (self.networks, self.ema)):
                shard(networks, self.device_mesh["data_parallel"])
        if config.compile:
            for net in callable_networks(self.networks.nets):
                net.compile(dynamic=False)  # batches have constant shapes

    def configure_callbacks(self) -> list[Callback]:
        return [Export(self), Agreement()]

    def _build_on(self, base: Model) -> None:
        try:
            self.adopted = self.method.adopt(self.networks, base.method, base.networks)
        except ValueError as error:
            raise ValueError(f"{self.training_config.base}: {error}") from error

    def trained_networks(self) -> dict[str, nn.Module]:
        """The networks by name, without their average."""
        return dict(self.networks.nets.named_children())

    def loss_without_numbers(self) -> tuple[Tensor, nn.Module]:
        """The loss of a step, and its networks, on the meta device: shapes alone are computed."""
        batch = self.trainer.datamodule.steps.at(self.trainer.global_step).to("meta")
        with torch.device("meta"):
            networks = Networks(self.method)
            _, terms = self.terms(networks, batch, TRAINING)
            errors = [term.errors.sum() for term in terms.values()]
            return torch.stack(errors).sum(), networks

    @property
    def best(self) -> Networks:
        """The networks to use: the average of the trained ones, if there is one."""
        if self.ema is None:
            return self.networks
        return self.ema

    @property
    def model(self) -> Model:
        """The model as it generates.

        Where its weights are spread over devices, all of these must ask for it.
        """
        wrapped = self.trainer.strategy.model if self._trainer else None
        networks = self.best
        if is_sharded(networks, wrapped):
            prefix = "networks." if self.ema is None else "ema."
            empty = self._empty_networks()
            networks = gather(networks, wrapped, prefix, empty)
        return Model(self.method, networks, self.sampling)

    def _empty_networks(self) -> Networks:
        """The method's networks without weights, on the meta device."""
        with torch.device("meta"):
            return Networks(self.method)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        trained = self.method.trained
        store = self.trainer.datamodule.open("train", self.modalities, trained)
        for name in trained:
            if name in self.adopted:
                continue
            mean, std = store.fields[name].statistics
            for networks in filter(None, (self.networks, self.ema)):
                networks.standard[name].set(mean, std)

        self._tell_of_untied(store)

    def _tell_of_untied(self, store: LatentStore) -> None:
        # The model to build on ties those that are not trained.
        frozen = [name for name in self.modalities if name not in self.method.trained]
        groups = store.tied_groups(list(self.modalities), frozen)
        tell_of_untied(groups, store.source)

    def terms(
        self,
        networks: Networks,
        batch: Batch,
        *position: int,
    ) -> tuple[Batch, dict[str, Loss]]:
        """A batch of codec latents, standardised, and the terms of the objective on it, row by row.

        Args:
            networks: Networks of the method.
            batch: Batch of codec latents.
            position: Key, with the seed and the batch's step, of what is drawn.
        """
        batch = networks.standardize(batch)
        key = draws.key(self.training_config.seed, *position, batch.step)
        drawn = self.method.draw(batch, key)
        return batch, self.method.losses(networks.nets, batch, drawn)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        batch, terms = self.terms(self.networks, batch, TRAINING)
        losses = {name: term.mean(batch) for name, term in terms.items()}
        self.losses = torch.stack(list(losses.values()))
        loss = self.losses.sum()
        self.watch(loss, batch.step)

        # Lightning's books cost time at every step, and are shown at these alone.
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self._log(list(losses))
        return loss

    def _log(self, names: list[str]) -> None:
        """Logs the losses of the global batch: the mean of those of all ranks."""
        losses = self.losses.detach().clone()
        means = self.trainer.strategy.reduce(losses, reduce_op="mean")
        values = dict(zip(names, means.unbind(), strict=True))
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log("train/loss", means.sum(), prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        self.totals: Totals | None = None

    def validation_step(self, batch: Batch, index: int) -> None:
        _, terms = self.terms(self.best, batch, VALIDATION)
        if self.totals is None:
            self.totals = Totals(terms).to(self.device)
        for name, term in terms.items():
            self.totals.update(name, term.errors)

    def on_validation_epoch_end(self) -> None:
        assert self.totals is not None  # at least one batch was validated
        means = self.totals.compute()
        loss = torch.stack(list(means.values())).sum()

        # Logging reduces them over devices once more, and NCCL takes tensors of a GPU alone.
        named = {f"val/{name}": value for name, value in means.items()}
        self.log_dict(named, sync_dist=True)
        self.log("val/loss", loss, sync_dist=True, prog_bar=True)
        if self.signs.exist and hasattr(self.trainer.datamodule, "sample"):
            self._log_signs()

    def _log_signs(self) -> None:
        """Logs the method's signs of failure, which the first process reads."""
        model = self.model  # of all processes, where weights are spread
        values = {}
        if self.trainer.is_global_zero:
            with self.trainer.precision_plugin.forward_context():
                signs = self.signs.read(model, self.trainer.datamodule)
            self.signs.tell(signs, self.trainer.global_step)
            values = {name: float(sign.value) for name, sign in signs.items()}
        values = self.trainer.strategy.broadcast(values)

        # They are the same on all, which Lightning cannot know.
        named = {f"signs/{name}": value for name, value in values.items()}
        self.log_dict(named, sync_dist=True)

    def trouble_at(self, step: int) -> list[str]:
        steps = self.trainer.datamodule.steps
        batch = self.transfer_batch_to_device(steps.at(step), self.device, 0)
        _, terms = self.terms(self.networks, batch, TRAINING)
        lines = steps.lines(step)

        trouble = []
        for name, term in terms.items():
            is_bad = ~term.errors.isfinite().cpu()
            lines_of_rows = lines[term.of]
            bad = lines_of_rows[is_bad].tolist()
            if bad:
                trouble.append(bad_rows(name, bad, self.global_rank))
        return trouble

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                trained.append(parameter)
        # One kernel over all parameters; the plain loop over tensors costs several times as much.
        return torch.optim.Adam(trained, lr=self.rate_at(0), fused=True)

    def rate_at(self, step: int) -> float:
        """The learning rate of the step after `step` others."""
        config = self.training_config
        return rate_at(
            step,
            self.trainer.max_steps,
            config.learning_rate,
            config.warmup_steps,
            config.decay,
        )

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.begin_at(self.trainer.global_step)

    def on_train_start(self) -> None:
        rate = self.rate_at(self.trainer.global_step)
        resume_rate(self.trainer, rate)

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)
        # With this one, which the trainer has not counted yet.
        done = self.trainer.global_step + 1
        rate = self.rate_at(done)
        set_rate(self.trainer.optimizers[0], rate)

        decay = decay_at(done, self.training_config.ema_decay)
        if self.ema is not None and decay < 1:
            follow(self.ema, self.networks, decay)

    def test_step(self, batch: int, index: int) -> None:
        """The whole evaluation, shared out among the devices.

        The first writes it into the run folder. A smoke test (`trainer.fast_dev_run`) takes few
        samples and writes nothing.
        """
        config = self.evaluation
        if self.trainer.fast_dev_run:
            limit = min(config.limit or BATCH_ROWS, BATCH_ROWS)
            config = replace(config, limit=limit, repeats=1)

        (train_store, train_manifest), (test_store, test_manifest) = (
            self._open_for_test()
        )
        model = self.model
        space = None
        if config.space:
            space = Space.open(config.space, model, train_manifest, test_manifest)

        repeats = []
        for repeat in range(config.repeats):
            evaluation = Evaluation(
                model,
                train_store,
                train_manifest,
                test_store,
                test_manifest,
                config=config,
                repeat=repeat,
                space=space,
            )

            own_batches = evaluation.batches[
                self.global_rank :: self.trainer.world_size
            ]
            for rows in track(own_batches, "generating every direction"):
                evaluation.step(rows)
            is_first = self.trainer.is_global_zero
            repeats.append(evaluation.finish(self._sum_over_devices, is_first))

        results = averaged(repeats)
        if not self.trainer.is_global_zero:
            return

        state = model.networks.state_dict()
        results["meta"]["model"] |= {
            "sha256": digest_tensors(state),
            "step": self.steps_made,
        }
        results["meta"]["quick_look"] = self.quick_look
        print(terminal(results))
        if self.trainer.fast_dev_run:
            say(
                "fast_dev_run: a smoke test on few samples, of which nothing is written"
            )
        else:
            self._write(results, evaluation)

    def _open_for_test(self) -> list[tuple[LatentStore, Manifest]]:
        """The stores and manifests of the splits train and test.

        Before, it is made sure that all can be read and decoded.
        """
        for name, modality in self.modalities.items():
            codec = modality.codec
            modality.check_libraries()
            codec.check_libraries("encode")
            if codec.decodes:
                codec.check_libraries("decode")
            elif any(name in way.targets for way in self.method.directions()):
                say(
                    f"'{name}' is judged as a source alone: its codec, {type(codec).__name__}, "
                    "encodes only"
                )

        data = self.trainer.datamodule
        stores = []
        manifests = []
        for split in ("train", "test"):
            path = data.manifests[split]
            stores.append(data.open(split, self.modalities))
            manifests.append(Manifest.read_for(path, self.modalities))

        _, test_store = stores
        _, test_manifest = manifests
        for name, modality in self.modalities.items():
            files = []
            if name in test_store.fields:
                for line in test_store.lines(name).tolist():
                    files.append(test_manifest.samples[line].values[name])
            check_readers(name, modality, files, str(test_manifest.path))

        self._tell_of_untied(stores[0])
        return list(zip(stores, manifests, strict=True))

    def _write(self, results: dict[str, Any], evaluation: Evaluation) -> None:
        """Writes results, and a gallery if the evaluation has one, into the run folder."""
        folder = Path(self.trainer.default_root_dir)
        paths = write(results, folder)
        chart = folder / f"likeness{suffix(self.quick_look)}.png"
        if draw(results, chart):
            paths.append(chart)
        rows = []
        if self.evaluation.gallery:
            path = folder / f"gallery{suffix(self.quick_look)}.png"
            save(evaluation.gallery(), path)
            paths.append(path)
            rows = evaluation.gallery_rows

        page = folder / f"report{suffix(self.quick_look)}.html"
        charts = {
            "Meaning against likeness: every direction": chart,
            "Curves of the training": folder / CURVES,
        }
        write_page(results, rows, charts, page, str(folder))
        paths.append(page)

        names = ", ".join(path.name for path in paths)
        note = ""
        if self.quick_look:
            note = "; metrics.json is for the run's last checkpoint and own evaluation"
        say(f"wrote {names} into {folder}{note}")

    def _sum_over_devices(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")

    def export_trained(self) -> None:
        """Writes the released model into the run folder."""
        model = self.model
        if self.trainer.is_global_zero:
            run_folder = Path(self.trainer.default_root_dir)
            folder = run_folder / "model"
            release.save(model, folder, self.trainer.global_step)
            say(f"wrote the released model {folder}")

    def check_export(self, run_folder: Path) -> None:
        """Refuses a run folder in which the released model could not be written.

        It does so before the first step.
        """
        release.check_folder(run_folder / "model")

    def export_checkpoint(self, checkpoint: Mapping[str, Any], folder: Path) -> None:
        """Writes the released model that a checkpoint holds.

        Args:
            checkpoint: Checkpoint with `state_dict` and `global_step`, as `read_checkpoint` gives
                it.
            folder: Folder of the released model.

        Raises:
            ValueError: the checkpoint is of another model, or the folder is no released model.
        """
        checkpoint = dict(checkpoint)
        self.on_load_checkpoint(checkpoint)
        prefix = "ema." if self.training_config.ema_decay else "networks."
        state = with_prefix(checkpoint["state_dict"], prefix)

        networks = self._empty_networks()
        networks.load_state_dict(state, assign=True)
        model = Model(self.method, networks, self.sampling)
        release.save(model, folder, checkpoint["global_step"])

    @property
    def inputs(self) -> list[Path]:
        """The files that decide what is trained, besides the data."""
        base = self.training_config.base
        if not base:
            return []
        return list(release.files(Path(base)))

    def describe(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be of this model."""
        described = self.method.describe()
        args = dict(described["args"])
        for key in self.method.trained_by:
            args.pop(key, None)

        method = described | {"args": args}
        return {"method": method, "ema": bool(self.training_config.ema_decay)}

    def describe_base(self) -> dict[str, Any]:
        """What training that is resumed must agree with besides.

        The weights of a base stay in the checkpoint as they were.
        """
        base = self.training_config.base
        base_digest = None
        if base:
            _, weights = release.files(Path(base))
            base_digest = digest(weights)
        return {"base": base_digest, "trained": self.method.trained}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.describe() | self.describe_base()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        earlier.checkpoint(checkpoint)
        described = checkpoint.get(KEY)
        if described is None:
            raise ValueError(
                "the checkpoint is not one of a method's training; give one that `flowbind fit` "
                "wrote with this recipe"
            )

        # Older checkpoints do not say what they build on.
        expected = self.describe()
        if self._trainer and self.trainer.state.fn == "fit" and "base" in described:
            expected |= self.describe_base()

        described = {key: described.get(key) for key in expected}
        for key, before, now in differences(described, expected):
            name = key.replace(".args", "")
            raise ValueError(
                f"the checkpoint is of another model: its {name} is {before}, the recipe's is {now}"
            )

        self.steps_made = checkpoint["global_step"]


KEY = "flowbind"  # of a checkpoint, under which it is described


def tell_of_untied(groups: Sequence[Sequence[str]], source: str) -> None:
    """Says which groups of modalities training never sees together.

    Nothing ties their flows, not even through others.
    """
    if len(groups) > 1 and is_first_process():
        groups_in_words = [", ".join(group) for group in groups]
        ends = " to ".join(groups_in_words)
        say(
            f"{source}: no chain of samples leads from {ends}: what is generated from one for the "
            "other will have nothing to do with it; add samples that have both"
        )
