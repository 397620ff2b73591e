"""FlowBind's LightningModule: where randomness is drawn, and what an optimiser step is."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback
from torch import Tensor

from flowbind import draws, release
from flowbind.batch import Batch
from flowbind.codec import digest
from flowbind.encoding import known_names
from flowbind.evaluation import BATCH_ROWS, Evaluation, EvaluationConfig
from flowbind.flows import Flows, check_shapes
from flowbind.gallery import save
from flowbind.generation import Model
from flowbind.manifest import Manifest
from flowbind.metrics.report import averaged, suffix, terminal, write
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import Draws, ObjectiveConfig, errors, losses_of
from flowbind.progress import is_first_process, say, track
from flowbind.readers import check_readers
from flowbind.registry import nearest
from flowbind.release import describe_modality
from flowbind.store import LatentStore
from flowbind.tensors import digest_tensors
from flowbind.train.agreement import Agreement
from flowbind.train.average import decay_at, follow
from flowbind.train.callbacks import Export
from flowbind.train.health import Watched, bad_rows
from flowbind.train.rate import go_on, rate_at, set_rate
from flowbind.train.sharding import gather, is_sharded, shard

TRAINING, VALIDATION = 0, 1  # which draws


class FlowBind(Watched):
    """Trains one flow per modality to a shared latent (arXiv 2512.15420).

    Args:
        modalities: by name, as manifests name them.
        drift: size of a drift net, where the modality does not say. The paper's by default.
        head: size of a head, where the modality does not say. The paper's by default.
        objective: the method's settings.
        learning_rate: of Adam, after warm-up; 1e-4 in the paper.
        warmup_steps: linear warm-up; 1,000 in the paper.
        decay: `constant` after warm-up (the paper), or `cosine` down to 0 at the last step.
        seed: of times, noise and dropout; with the step it decides every draw.
        evaluation: what `flowbind test` does.
        average_decay: of the exponential moving average of the weights, which is what is validated, tested and released;
            0.9995 helped the method's successors (arXiv 2610.09866). 0: none.
        compile: compile drift nets and heads by torch.compile, which pays on a GPU (docs/performance.md).
        base: folder of a released model to build on, with `bind`.
        bind: modalities to learn; the flows of all others are those of `base` and stay as they are, to the bit. The
            paper binds 3D points so, from image-points pairs alone. None: learn all.
    """

    decides_nothing: ClassVar = ("evaluation", "compile")  # of the weights

    def __init__(
        self,
        modalities: dict[str, Modality],
        drift: DriftConfig = DriftConfig(),  # noqa: B008 - frozen
        head: HeadConfig = HeadConfig(),  # noqa: B008
        objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
        learning_rate: float = 1e-4,
        warmup_steps: int = 1000,
        decay: str = "constant",
        seed: int = 0,
        evaluation: EvaluationConfig = EvaluationConfig(),  # noqa: B008
        average_decay: float = 0.9995,
        compile: bool = False,
        base: str | None = None,
        bind: list[str] | None = None,
    ) -> None:
        super().__init__()
        for name in modalities:
            if not name.isidentifier():
                raise ValueError(f"a modality's name is an identifier (letters, digits, _), not '{name}'")
        if decay not in ("constant", "cosine"):
            raise ValueError(f"decay is constant or cosine, not '{decay}'")
        if not 0 <= average_decay < 1:
            raise ValueError(f"average_decay must be in [0, 1), 0 for no average, not {average_decay}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {learning_rate}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps}")
        check_shapes(modalities)
        if (base is None) != (bind is None):
            raise ValueError("base and bind belong together: the model to build on, and the modalities to learn")
        for name in bind or []:
            if name not in modalities:
                raise ValueError(f"bind: no modality '{name}' in this recipe; {nearest(name, modalities)}")
        self.modalities, self.base = modalities, base
        self.learnt = list(modalities) if bind is None else bind
        self.drift, self.head, self.objective, self.evaluation = drift, head, objective, evaluation
        self.learning_rate, self.warmup_steps, self.decay, self.seed = learning_rate, warmup_steps, decay, seed
        self.average_decay, self.compiled = average_decay, compile
        self.flows: Flows | None = None
        self.average: Flows | None = None  # of the flows' weights
        self.steps_made = 0  # by the checkpoint that was loaded
        self.quick_look: dict[str, Any] = {}  # what `test` does otherwise than the run's own recipe, which names its files

    def configure_model(self) -> None:
        if self.flows is not None:
            return
        self.flows = Flows(self.modalities, self.drift, self.head)
        if self.base and self.trainer.state.fn == "fit":  # a trained model has all its flows in its checkpoint
            self._build_on(release.load(self.base))
        if self.average_decay:
            self.average = copy.deepcopy(self.flows).requires_grad_(False).eval()
        if self.device_mesh is not None:
            for flows in filter(None, (self.flows, self.average)):
                shard(flows, self.device_mesh["data_parallel"])
        if self.compiled:
            for net in [*self.flows.drifts.values(), *self.flows.heads.values()]:
                net.compile(dynamic=False)  # batches have constant shapes

    def configure_callbacks(self) -> list[Callback]:
        return [Export(), Agreement()]

    def _build_on(self, base: Model) -> None:
        """Takes over the flows of a released model for all modalities but those to learn, and freezes them."""
        if base.objective.normalize != self.objective.normalize:
            raise ValueError(
                f"{self.base}: its latents have normalize: {base.objective.normalize}; set objective.normalize to that"
            )
        for name in [name for name in self.modalities if name not in self.learnt]:
            ours, theirs = self.modalities[name].codec.fingerprint(), base.modality(name).codec.fingerprint()
            for key in {**ours, **theirs}:
                if ours.get(key) != theirs.get(key):
                    raise ValueError(
                        f"{self.base}: its '{name}' has another codec: {key} is {theirs.get(key)!r} there, {ours.get(key)!r} in the recipe"
                    )
            # Drift net, head and standardisation.
            for own, held in zip(self.flows.children(), base.flows.children(), strict=True):
                try:
                    own[name].load_state_dict(held[name].state_dict())
                except RuntimeError as error:
                    why = str(error).splitlines()[-1].strip()
                    raise ValueError(f"{self.base}: its '{name}' is of another size ({why})") from None
                own[name].requires_grad_(False).eval()

    @property
    def best(self) -> Flows:
        """The flows to use: the average of the trained ones, if there is one."""
        return self.flows if self.average is None else self.average

    @property
    def model(self) -> Model:
        """The model as it generates. Where its weights are spread over devices, all of these must ask for it."""
        wrapped = self._trainer and self.trainer.strategy.model
        flows = self.best
        if is_sharded(flows, wrapped):
            with torch.device("meta"):
                whole = Flows(self.modalities, self.drift, self.head)
            flows = gather(flows, wrapped, "flows." if self.average is None else "average.", whole)
        return Model(self.modalities, flows, self.drift, self.head, self.objective)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        store = self.trainer.datamodule.open("train", self.modalities, self.learnt)
        for name in self.learnt:
            field = store.fields[name]
            for flows in filter(None, (self.flows, self.average)):
                flows.standard[name].set(torch.tensor(field.mean), torch.tensor(field.std))
        self._tell_of_untied(store)

    def _tell_of_untied(self, store: LatentStore) -> None:
        frozen = [name for name in self.modalities if name not in self.learnt]  # the model to build on ties them
        tell_of_untied(store.tied_groups(list(self.modalities), frozen), store.source)

    def errors(self, flows: Flows, batch: Batch, *position: int) -> tuple[Batch, dict[str, Tensor]]:
        """A batch of codec latents standardised, and the error of each of its rows: per modality i, with shape (n_i,)."""
        x = {name: flows.standard[name](latents) for name, latents in batch.latents.items()}
        batch = replace(batch, latents=x)
        drawn = Draws.sample(batch, draws.key(self.seed, *position, batch.step))
        return batch, errors(flows.drifts, flows.heads, batch, drawn, self.objective)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        found = losses_of(*self.errors(self.flows, batch, TRAINING))
        self.losses = torch.stack(list(found.values()))
        loss = self.losses.sum()
        self.watch(loss, batch.step)
        # Lightning's books cost time at every step, and are shown at these alone.
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self._log(list(found))
        return loss

    def _log(self, names: list[str]) -> None:
        """Logs the losses of the global batch: the mean of those of all ranks."""
        shown = self.trainer.strategy.reduce(self.losses.detach().clone(), reduce_op="mean")
        self.log_dict({f"train/{name}": value for name, value in zip(names, shown.unbind(), strict=True)})
        self.log("train/loss", shown.sum(), prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        self.totals = torch.zeros(2, len(self.modalities), dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Batch, index: int) -> None:
        batch, found = self.errors(self.best, batch, VALIDATION)
        rows = torch.tensor([float(len(error)) for error in found.values()], dtype=torch.float64)
        self.totals[0] += torch.stack([error.sum() for error in found.values()]).double()
        self.totals[1] += rows.to(self.device, non_blocking=True)

    def on_validation_epoch_end(self) -> None:
        sums, rows = self._sum_over_devices(self.totals).cpu()
        means = {name: (sums[i] / rows[i]).float() for i, name in enumerate(self.modalities) if rows[i]}
        self.log_dict({f"val/{name}": value for name, value in means.items()}, sync_dist=True)
        self.log("val/loss", torch.stack(list(means.values())).sum(), sync_dist=True, prog_bar=True)

    def trouble_at(self, step: int) -> list[str]:
        steps = self.trainer.datamodule.steps
        batch = self.transfer_batch_to_device(steps.at(step), self.device, 0)
        _, errors_of = self.errors(self.flows, batch, TRAINING)
        lines = steps.lines(step)

        trouble = []
        for name, error in errors_of.items():
            bad = lines[name][~error.isfinite().cpu()].tolist()
            if bad:
                trouble.append(bad_rows(name, bad, self.global_rank))
        return trouble

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # One kernel over all parameters; the plain loop over tensors costs several times as much.
        return torch.optim.Adam(learnt, lr=self.rate_at(0), fused=True)

    def rate_at(self, step: int) -> float:
        """The learning rate of the step after `step` others."""
        return rate_at(step, self.trainer.max_steps, self.learning_rate, self.warmup_steps, self.decay)

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.begin_at(self.trainer.global_step)

    def on_train_start(self) -> None:
        go_on(self.trainer, self.rate_at(self.trainer.global_step))

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)
        done = self.trainer.global_step + 1  # with this one, which the trainer has not counted yet
        set_rate(self.trainer.optimizers[0], self.rate_at(done))
        decay = decay_at(done, self.average_decay)
        if self.average is not None and decay < 1:
            follow(self.average, self.flows, decay)

    def test_step(self, batch: int, index: int) -> None:
        """The whole evaluation, shared out among the devices; the first writes it into the run folder.

        A smoke test (`trainer.fast_dev_run`) takes few samples and writes nothing.
        """
        data, folder = self.trainer.datamodule, Path(self.trainer.default_root_dir)
        for modality in self.modalities.values():
            modality.check_libraries()
            for use in ("encode", "decode"):
                modality.codec.check_libraries(use)
        stores = [data.open(split, self.modalities) for split in ("train", "test")]
        manifests = [Manifest.read(data.manifests[split], known_names(self.modalities)) for split in ("train", "test")]
        for name, modality in self.modalities.items():
            lines = stores[1].lines(name).tolist() if name in stores[1].fields else []
            files = [manifests[1].samples[line].values[name] for line in lines]
            check_readers(name, modality, files, str(manifests[1].path))
        self._tell_of_untied(stores[0])
        config, model = self.evaluation, self.model
        if self.trainer.fast_dev_run:
            config = replace(config, limit=min(config.limit or BATCH_ROWS, BATCH_ROWS), repeats=1)
        found = []
        for repeat in range(config.repeats):
            evaluation = Evaluation(model, stores[0], manifests[0], stores[1], manifests[1], config, repeat)
            mine = evaluation.batches[self.global_rank :: self.trainer.world_size]
            for rows in track(mine, "generating every direction"):
                evaluation.step(rows)
            found.append(evaluation.finish(self._sum_over_devices, self.trainer.is_global_zero))
        results = averaged(found)
        if not self.trainer.is_global_zero:
            return

        results["meta"]["model"] |= {"sha256": digest_tensors(model.flows.state_dict()), "step": self.steps_made}
        results["meta"]["quick_look"] = self.quick_look
        print(terminal(results))
        if self.trainer.fast_dev_run:
            say("fast_dev_run: a smoke test on few samples, of which nothing is written")
            return
        written = write(results, folder)
        if config.gallery:
            written.append(folder / f"gallery{suffix(self.quick_look)}.png")
            save(evaluation.gallery(), written[-1])
        quick = "; metrics.json is for the run's last checkpoint and own evaluation" * bool(self.quick_look)
        say(f"wrote {', '.join(path.name for path in written)} into {folder}{quick}")

    def _sum_over_devices(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")

    def export_trained(self) -> None:
        """Writes the released model into the run folder."""
        model = self.model
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "model"
            release.save(model, folder, self.trainer.global_step)
            say(f"wrote the released model {folder}")

    def check_export(self, run_folder: Path) -> None:
        """Refuses, before the first step, a run folder in which the released model could not be written."""
        release.check_folder(run_folder / "model")

    def export_checkpoint(self, checkpoint: Mapping[str, Any], folder: Path) -> None:
        """Writes the released model that a checkpoint holds.

        Args:
            checkpoint: with `state_dict` and `global_step`, as `read_checkpoint` gives it.
            folder: of the released model.

        Raises:
            ValueError: the checkpoint is of another model, or the folder is no released model.
        """
        self.on_load_checkpoint(checkpoint)
        prefix = "average." if self.average_decay else "flows."
        state = {k.removeprefix(prefix): t for k, t in checkpoint["state_dict"].items() if k.startswith(prefix)}

        with torch.device("meta"):
            flows = Flows(self.modalities, self.drift, self.head)
        flows.load_state_dict(state, assign=True)
        model = Model(self.modalities, flows, self.drift, self.head, self.objective)
        release.save(model, folder, checkpoint["global_step"])

    @property
    def inputs(self) -> list[Path]:
        """The files that decide what is trained, besides the data."""
        return list(release.files(Path(self.base))) if self.base else []

    def describe(self) -> dict:
        """What a checkpoint must agree with to be of this model."""
        modalities = {name: describe_modality(modality) for name, modality in self.modalities.items()}
        average = {"kept": bool(self.average_decay)}
        return {"modalities": modalities, "drift": asdict(self.drift), "head": asdict(self.head), "average": average}

    def describe_bond(self) -> dict:
        """What training that goes on must agree with besides: the flows of a base stay in the checkpoint as they were."""
        base = digest(release.files(Path(self.base))[1]) if self.base else None
        return {"bond": {"base": base, "learnt": self.learnt}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["flowbind"] = self.describe() | self.describe_bond()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        held = checkpoint.get("flowbind")
        if held is None:
            raise ValueError(
                "the checkpoint is not one of a FlowBind model; give one that `flowbind fit` wrote with this recipe"
            )
        goes_on = self._trainer and self.trainer.state.fn == "fit" and "bond" in held  # older ones do not say
        for key, wanted in (self.describe() | (self.describe_bond() if goes_on else {})).items():
            theirs = held.get(key, {})
            for part in {**theirs, **wanted}:
                if theirs.get(part) != wanted.get(part):
                    raise ValueError(
                        f"the checkpoint is of another model: its {key}.{part} is {theirs.get(part)}, the recipe's is {wanted.get(part)}"
                    )
        self.steps_made = checkpoint["global_step"]


def tell_of_untied(groups: Sequence[Sequence[str]], source: str) -> None:
    """Says which groups of modalities training never sees together, not even through others: nothing ties their flows."""
    if len(groups) > 1 and is_first_process():
        ends = " to ".join(", ".join(group) for group in groups)
        say(
            f"{source}: no chain of samples leads from {ends}: what is generated from one for the other will have nothing to do "
            "with it; add samples that have both"
        )
