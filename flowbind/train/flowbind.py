"""FlowBind's LightningModule: where randomness is drawn, and what an optimiser step is."""

from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from flowbind import release
from flowbind.batch import Batch
from flowbind.encoding import known_names
from flowbind.evaluation import Evaluation, EvaluationConfig
from flowbind.flows import Flows, check_shapes
from flowbind.gallery import save
from flowbind.generation import Model
from flowbind.manifest import Manifest
from flowbind.metrics.report import averaged, terminal, write
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.progress import say, track
from flowbind.registry import nearest
from flowbind.release import describe_modality


class FlowBind(LightningModule):
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
        base: folder of a released model to build on, with `bind`.
        bind: modalities to learn; the flows of all others are those of `base` and stay as they are, to the bit. The
            paper binds 3D points so, from image-points pairs alone. None: learn all.
    """

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
        base: str | None = None,
        bind: list[str] | None = None,
    ) -> None:
        super().__init__()
        for name in modalities:
            if not name.isidentifier():
                raise ValueError(f"a modality's name is an identifier (letters, digits, _), not '{name}'")
        if decay not in ("constant", "cosine"):
            raise ValueError(f"decay is constant or cosine, not '{decay}'")
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
        self.flows: Flows | None = None

    def configure_model(self) -> None:
        if self.flows is None:
            self.flows = Flows(self.modalities, self.drift, self.head)
            if self.base and self.trainer.state.fn == "fit":  # a trained model has all its flows in its checkpoint
                self._build_on(release.load(self.base))

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
    def model(self) -> Model:
        """The model as it generates, sharing these weights."""
        return Model(self.modalities, self.flows, self.drift, self.head, self.objective)

    def on_fit_start(self) -> None:
        store = self.trainer.datamodule.open("train", self.modalities, self.learnt)
        for name in self.learnt:
            field = store.fields[name]
            self.flows.standard[name].set(torch.tensor(field.mean), torch.tensor(field.std))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of each modality on a batch of codec latents."""
        x = {name: self.flows.standard[name](latents) for name, latents in batch.latents.items()}
        batch = Batch(x, batch.samples, batch.links)
        return losses(self.flows.drifts, self.flows.heads, batch, Draws.sample(batch, generator), self.objective)

    def draws_at(self, *position: int) -> torch.Generator:
        """The generator of one step's draws, on the module's device: a pure function of the seed and the position."""
        mixed = hash((self.seed, *position)) & (2**63 - 1)  # hashes of integers do not depend on the process
        return torch.Generator(self.device).manual_seed(mixed)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        found = self.losses(batch, self.draws_at(0, self.global_step, index, self.global_rank))
        loss = torch.stack(list(found.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in found.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        found = self.losses(batch, self.draws_at(1, index, self.global_rank))
        size = sum(batch.rows)
        self.log_dict({f"val/{name}": value for name, value in found.items()}, batch_size=size, sync_dist=True)
        self.log("val/loss", torch.stack(list(found.values())).sum(), batch_size=size, sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> dict:
        learnt = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # One kernel over all parameters; the plain loop over tensors costs several times as much.
        optimizer = torch.optim.Adam(learnt, lr=self.learning_rate, fused=True)
        rates = [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / max(self.warmup_steps, 1), 1.0, max(self.warmup_steps, 1))
        ]
        if self.decay == "cosine":
            steps = max(self.trainer.estimated_stepping_batches - self.warmup_steps, 1)
            rates.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps))
        schedule = (
            torch.optim.lr_scheduler.SequentialLR(optimizer, rates, [self.warmup_steps]) if len(rates) > 1 else rates[0]
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        # Lightning refuses to clip for a fused optimiser under mixed precision, because float16 gradients are scaled until
        # inside the optimiser; those of bfloat16 are not.
        if self.trainer.precision == "bf16-mixed" and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def test_step(self, batch: int, index: int) -> None:
        """The whole evaluation, shared out among the devices; the first writes it into the run folder."""
        data, folder = self.trainer.datamodule, Path(self.trainer.default_root_dir)
        stores = [data.open(split, self.modalities) for split in ("train", "test")]
        manifests = [Manifest.read(data.manifests[split], known_names(self.modalities)) for split in ("train", "test")]
        found = []
        for repeat in range(self.evaluation.repeats):
            evaluation = Evaluation(
                self.model, stores[0], manifests[0], stores[1], manifests[1], self.evaluation, repeat
            )
            mine = evaluation.batches[self.global_rank :: self.trainer.world_size]
            for rows in track(mine, "generating every direction"):
                evaluation.step(rows)
            found.append(evaluation.finish(self._sum_over_devices, self.trainer.is_global_zero))
        results = averaged(found)
        if self.trainer.is_global_zero:
            write(results, folder)
            if self.evaluation.gallery:
                save(evaluation.gallery(), folder / "gallery.png")
            print(terminal(results))
            gallery = " and gallery.png" * bool(self.evaluation.gallery)
            say(f"wrote metrics.json, metrics.md{gallery} into {folder}")

    def _sum_over_devices(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            folder = Path(self.trainer.default_root_dir) / "model"
            release.save(self.model, folder)
            say(f"wrote the released model {folder}")

    @property
    def inputs(self) -> list[Path]:
        """The files that decide what is trained, besides the data."""
        return list(release.files(Path(self.base))) if self.base else []

    def describe(self) -> dict:
        """What a checkpoint must agree with to be of this model."""
        modalities = {name: describe_modality(modality) for name, modality in self.modalities.items()}
        return {"modalities": modalities, "drift": asdict(self.drift), "head": asdict(self.head)}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["flowbind"] = self.describe()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        held = checkpoint.get("flowbind")
        if held is None:
            raise ValueError(
                "the checkpoint is not one of a FlowBind model; give one that `flowbind fit` wrote with this recipe"
            )
        for key, wanted in self.describe().items():
            if held[key] != wanted:
                part = next((k for k in {**held[key], **wanted} if held[key].get(k) != wanted.get(k)), key)
                raise ValueError(
                    f"the checkpoint is of another model: its {key}.{part} is {held[key].get(part)}, the recipe's is {wanted.get(part)}"
                )
