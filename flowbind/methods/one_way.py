"""What methods have in common that lead from one modality to another by one guided flow."""

from collections.abc import Collection
from typing import Any

from flowbind.flow.objective import FlowConfig
from flowbind.flow.sampling import FlowSampling
from flowbind.method import Direction, Method
from flowbind.modality import Modality


class OneWay(Method):
    """A method of one direction.

    Args:
        modalities: Two modalities by name, as manifests name them.
        source: Modality from which the flow leads.
        target: Modality to which it leads.
        objective: Settings of the objective.

    Raises:
        ValueError: other modalities than source and target, or latents that are ids.
    """

    Sampling = FlowSampling

    def __init__(
        self,
        modalities: dict[str, Modality],
        source: str,
        target: str,
        objective: FlowConfig,
    ) -> None:
        super().__init__(modalities)
        if source == target or {source, target} != set(modalities):
            raise ValueError(
                f"source and target are the two modalities, one each: {', '.join(modalities)}; "
                f"not '{source}' and '{target}'"
            )
        for name, modality in modalities.items():
            if modality.codec.vocabulary is not None:
                raise ValueError(
                    f"the latents of '{name}' are ids, and flows carry numbers; choose another "
                    "codec"
                )

        self.source = source
        self.target = target
        self.objective = objective

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of one latent of the source and of the target."""
        source = self.modalities[self.source].codec.shape
        target = self.modalities[self.target].codec.shape
        return tuple(source), tuple(target)

    @property
    def masked(self) -> bool:
        """Whether sources say which of their positions are there."""
        return self.modalities[self.source].codec.masked

    def trains_on(self, present: Collection[str]) -> bool:
        return {self.source, self.target} <= set(present)

    def directions(self) -> list[Direction]:
        return [Direction((self.source,), (self.target,))]

    def choose(self, sampling: Any = None, **choices: Any) -> FlowSampling:
        chosen = super().choose(sampling, **choices)
        if chosen.guidance != 1 and not self.objective.unconditional:
            raise ValueError(
                f"guidance is 1, not {chosen.guidance}: the model has learnt no unconditional "
                "field (objective.unconditional: 0)"
            )
        return chosen
