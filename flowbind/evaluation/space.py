"""The latents in which generations are measured: the model's own, or those of another store.

Models with different codecs each have latents of their own, in which distances and probes say
different things. Generations are raw samples, though: encoded by the codecs of one store, those of
all models are measured alike.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowbind.codec import Codec
from flowbind.data.manifest import Manifest
from flowbind.data.remote import place_of
from flowbind.data.remote_store import open_store
from flowbind.data.store import LatentStore
from flowbind.evaluation.labels import draw_rows
from flowbind.generation import Model
from flowbind.method import standardizer_of
from flowbind.modality import Modality


@dataclass(frozen=True)
class SpaceConfig:
    """Another latent store of the same manifests, in whose latents generations are measured.

    Args:
        store: Folder of the store, which has the splits `train` and `test`.
        modalities: Modalities with the codecs that it was encoded by, by the model's names.
    """

    store: str
    modalities: dict[str, Modality]


class Space:
    """Codecs, standardisations and real latents of one space.

    Args:
        codecs: Codec of each modality, on the model's device.
        standard: Standardisation of each modality, likewise.
        train: Latents of the training samples.
        test: Latents of the test samples.
    """

    def __init__(
        self,
        codecs: Mapping[str, Codec],
        standard: Mapping[str, nn.Module],
        train: LatentStore,
        test: LatentStore,
    ) -> None:
        self.codecs = codecs
        self.standard = standard
        self.train = train
        self.test = test

    @classmethod
    def own(
        cls,
        model: Model,
        train: LatentStore,
        test: LatentStore,
    ) -> "Space":
        """A model's own latents, standardised as it does, in float32 at least."""
        codecs = {name: m.codec for name, m in model.modalities.items()}
        # What judges is exact, whatever the networks' precision.
        return cls(codecs, copy.deepcopy(model.networks.standard).float(), train, test)

    @classmethod
    def open(
        cls,
        config: SpaceConfig,
        model: Model,
        train: Manifest,
        test: Manifest,
    ) -> "Space":
        """The latents of another store.

        Args:
            config: The store, and what it was encoded by.
            model: Model whose generations are measured.
            train: Manifest of the training samples.
            test: Manifest of the test samples.

        Raises:
            FileNotFoundError: there is no such store.
            ValueError: it lacks a modality, was encoded by other codecs, or from other manifests.
        """
        for name in model.modalities:
            if name not in config.modalities:
                raise ValueError(
                    f"evaluation.space.modalities has no '{name}', which the model generates; give "
                    "it with the codec that the store was encoded by"
                )

        codecs = {}
        fingerprints = {}
        for name in model.modalities:
            codec = config.modalities[name].codec
            codecs[name] = codec
            fingerprints[name] = codec.fingerprint()

        stores = []
        for split, manifest in (("train", train), ("test", test)):
            store = open_store(place_of(config.store) / split)
            expected = {}
            for name, fingerprint in fingerprints.items():
                if name in store.fields:
                    expected[name] = fingerprint
            store.check(expected)
            store.check_source(manifest.path)
            stores.append(store)

        train_store, test_store = stores
        standard = {}
        for name, codec in codecs.items():
            codec.to(model.device)
            codec.check_libraries("encode")
            if name not in train_store.fields:
                continue

            mean, std = train_store.fields[name].statistics
            standardizer = standardizer_of(codec)
            standardizer.set(mean, std)
            standard[name] = standardizer.to(model.device)
        return cls(codecs, standard, train_store, test_store)

    def real(
        self,
        names: Sequence[str],
        lines: Tensor,
        samples: int,
    ) -> dict[str, Tensor]:
        """Latents of test samples.

        Args:
            names: Modalities.
            lines: Samples in the manifest, with shape (n,).
            samples: Samples of the manifest.

        Returns:
            Per modality, with shape (n, *shape).

        Raises:
            ValueError: the store has no latents of some of them.
        """
        is_wanted = torch.zeros(samples, dtype=torch.bool)
        is_wanted[lines] = True
        latents, stored = draw_rows(self.test, names, is_wanted, None, 0)
        if len(stored) < len(lines):
            raise ValueError(
                f"{self.test.folder}: lacks {len(lines) - len(stored)} of the {len(lines)} test "
                "samples; encode it from the same samples"
            )
        # From the store's order to that of the lines.
        place = stored.argsort()[lines.argsort().argsort()]
        return {name: x[place] for name, x in latents.items()}

    def standardised(
        self,
        name: str,
        latents: Tensor,
        device: torch.device,
    ) -> Tensor:
        """Standardised latents, with shape (n, *shape), on the CPU."""
        return self.standard[name](latents.to(device)).cpu()

    def describe(self) -> dict[str, Any]:
        """The space, as JSON."""
        codecs = {name: codec.fingerprint() for name, codec in self.codecs.items()}
        return {"store": str(self.test.folder.parent), "codecs": codecs}
