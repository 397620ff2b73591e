"""The published codec for sounds: CLAP's embedding to 768 numbers, and AudioLDM back to a sound.

AudioLDM (Liu et al., "AudioLDM: text-to-audio generation with latent diffusion models", ICML 2023,
arXiv 2301.12503) is a diffusion model of sounds given an embedding of CLAP; so it decodes
embeddings of sounds as well as of captions.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import NeuralCodec
from flowbind.files import digest
from flowbind.hub import existing_paths, unreachable
from flowbind.libraries import Extra, importing
from flowbind.progress import say
from flowbind_audio.adapter import LATENT, ClapAdapter
from flowbind_audio.clap import (
    INSTALL,
    SECONDS,
    UNFUSED,
    WIDTH,
    Clap,
    open_clap,
    quietly,
)
from flowbind_audio.official import convert_adapter, convert_clap
from flowbind_audio.sound import faint
from flowbind_audio.spectrogram import RATE

TOGETHER = 8  # sounds made at once
# Least cosine of two embeddings of a caption by one and the same CLAP, in whatever precision.
AGREEMENT = 0.9
CAPTIONS = (
    "a dog barks",
    "heavy rain falls on a roof",
    "a man gives a speech",
    "an engine starts and idles",
)


class ClapAudioLDM(NeuralCodec):
    """Latents of 768 numbers for sounds of any length, of which the first ten seconds are heard.

    An embedding of CLAP is widened by a small adapter, as FlowBind's authors do it; latents are
    narrowed again and given to AudioLDM, in half precision on a GPU. The adapter is trained by
    recipes/codecs/audio_adapter.yaml; none is shipped. AudioLDM understands the CLAP that it was
    trained with: once both are in memory, they are compared on a few captions, and one line says so
    if they differ.

    Args:
        weights: Safetensors file of the adapter.
        clap: CLAP model: for transformers a folder or a repository on the hub, without fusion;
            for laion_clap a checkpoint, a file or `OWNER/REPOSITORY/FILE.pt` on the hub.
        clap_revision: Branch, tag or commit, where that is on the hub.
        clap_backend: Library of it, transformers or laion_clap.
        audioldm: AudioLDM pipeline of diffusers at 16 kHz, a folder or a repository on the hub.
        audioldm_revision: Branch, tag or commit, where that is on the hub.
        steps: Steps of AudioLDM's sampler.
        guidance: Guidance scale of AudioLDM; above 1 sounds keep closer to the embedding, at a loss
            of variety and twice the time.
        seconds: Length of the sounds that are made.
        normalize: Whether AudioLDM gets the adapter's output divided by its norm, which CLAP's own
            embeddings have 1 of. The authors' code does not divide.
    """

    shape = (LATENT,)
    licences: ClassVar = {
        "clap": "Apache-2.0 for laion/clap-htsat-unfused",
        "audioldm": "CC BY-NC-SA 4.0 for cvssp/audioldm",
    }

    def __init__(
        self,
        weights: str | None = None,
        clap: str = UNFUSED,
        clap_revision: str = "main",
        clap_backend: str = "transformers",
        audioldm: str = "cvssp/audioldm-l-full",
        audioldm_revision: str = "main",
        steps: int = 20,
        guidance: float = 2.5,
        seconds: float = 10.0,
        normalize: bool = True,
    ) -> None:
        super().__init__(weights)
        self.clap = clap
        self.clap_revision = clap_revision
        self.clap_backend = clap_backend
        self.audioldm = audioldm
        self.audioldm_revision = audioldm_revision
        self.steps = steps
        self.guidance = guidance
        self.seconds = seconds
        self.normalize = normalize
        self.ear: Clap = open_clap(clap_backend, clap, clap_revision)
        self._compared = False

        if steps < 1 or seconds <= 0:
            raise ValueError(
                f"ClapAudioLDM: steps ({steps}) must be at least 1 and seconds ({seconds}) above 0"
            )

    @property
    def file(self) -> Path:
        if self.weights is None:
            raise ValueError(
                "ClapAudioLDM has no adapter: train one with "
                "`flowbind fit --config recipes/codecs/audio_adapter.yaml` "
                "and give its file as `weights`"
            )

        return Path(self.weights)

    def libraries(self, use: str) -> dict[str, Extra]:
        if use == "encode":
            return self.ear.libraries

        return dict.fromkeys(("diffusers", "transformers"), INSTALL)

    def files(self) -> dict[str, Path]:
        named = existing_paths(clap=self.clap, audioldm=self.audioldm)
        return super().files() | named

    def convert(self, argument: str, source: Path, target: Path) -> None:
        """Writes the adapter of FlowBind's authors as `weights`, their CLAP as `clap`."""
        if argument == "weights":
            convert_adapter(source, target)
        elif argument == "clap":
            convert_clap(source, target)
        else:
            super().convert(argument, source, target)

    def build(self) -> ClapAdapter:
        return ClapAdapter()

    def caveat(self, raw: Tensor) -> str:
        return faint(raw)  # it is heard in 16 bits

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """CLAP's embeddings of B sounds: float32, with shape (B, 512) and rows of norm 1."""
        return self.ear.sounds(raws, self.device).cpu()

    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        latents = super().encode(raws)
        self._compare()
        return latents

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Sounds at 16 kHz of `seconds` each: (B, 768) to B tensors with shape (samples,).

        AudioLDM's noise is drawn from the generator.
        """
        latents = latents.to(self.device, torch.float32)
        embeddings = self.net.decode(latents)
        if self.normalize:
            embeddings = F.normalize(embeddings, dim=-1)
        sounds = []
        for part in embeddings.split(TOGETHER):
            sounds.append(self._make(part, generator))
        self._compare()
        return self.finish(torch.cat(sounds))

    def _make(self, embeddings: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sounds, with shape (B, samples), of embeddings, with shape (B, 512)."""
        return self.pipeline(
            prompt_embeds=embeddings,
            audio_length_in_s=self.seconds,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=generator,
            output_type="pt",
        ).audios

    def finish(self, outputs: Tensor) -> list[Tensor]:
        return list(outputs.float().clamp(-1, 1).cpu())

    def fingerprint(self) -> dict[str, Any]:
        """What decides the latents: CLAP, what it hears, and the adapter, not what makes sounds."""
        return {
            "codec": type(self).__name__,
            "version": self.version,
            "clap_backend": self.clap_backend,
            **self.ear.identity(),
            "heard": f"first {SECONDS} s",
            "weights": digest(self.file),
        }

    @cached_property
    def pipeline(self):
        """AudioLDM, loaded.

        Raises:
            ValueError: it is not there, or it is another model; one line says what to do.
        """
        needing = f"the decoder '{self.audioldm}'"
        with importing("diffusers", "transformers", needing=needing, install=INSTALL):
            from diffusers import AudioLDMPipeline

        precision = torch.float16 if self.device.type == "cuda" else torch.float32
        try:
            # Quietly: diffusers remarks that AudioLDM is developed no further.
            with quietly("transformers", "diffusers"):
                pipeline = AudioLDMPipeline.from_pretrained(
                    self.audioldm,
                    revision=self.audioldm_revision,
                )
                pipeline.to(self.device, precision)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                unreachable(
                    self.audioldm,
                    self.audioldm_revision,
                    "the decoder",
                    "audioldm",
                    error,
                )
            ) from None

        rate = pipeline.vocoder.config.sampling_rate
        width = pipeline.unet.config.projection_class_embeddings_input_dim
        if (rate, width) != (RATE, WIDTH):
            raise ValueError(
                f"'{self.audioldm}' makes sounds at {rate} Hz from embeddings of {width} numbers; "
                f"{RATE} Hz from {WIDTH} are needed"
            )

        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def agreement(self) -> float:
        """Mean cosine of CLAP's and AudioLDM's own embeddings of the same captions.

        It is 1 where both have one CLAP.
        """
        tower = self.pipeline.text_encoder
        tokens = self.pipeline.tokenizer(
            list(CAPTIONS),
            padding=True,
            return_tensors="pt",
        )
        tokens = tokens.to(tower.device)
        out = tower(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        of_audioldm = out.text_embeds.float()

        of_clap = self.ear.texts(CAPTIONS, self.device)
        return F.cosine_similarity(of_clap, of_audioldm).mean().item()

    @torch.inference_mode()
    def _compare(self) -> None:
        """Says so, once, if AudioLDM was trained with another CLAP than the codec's."""
        if self._compared or not (self.ear.loaded and "pipeline" in vars(self)):
            return

        self._compared = True
        agreement = self.agreement
        if agreement < AGREEMENT:
            say(
                f"'{self.audioldm}' was trained with another CLAP than '{self.clap}': "
                f"their embeddings of the same captions have a cosine of {agreement:.2f}; "
                "decoded sounds will not mean what their latents say"
            )

    def to(self, device: torch.device | str) -> "ClapAudioLDM":
        if torch.device(device) != self.device:
            vars(self).pop("pipeline", None)  # its precision depends on the device

        return super().to(device)

    def __getstate__(self) -> dict[str, Any]:
        """All but the pipeline: a copy loads its own."""
        state = dict(vars(self))
        state.pop("pipeline", None)
        return state
