"""CLAP: embeddings of sounds and of captions in one space, where a cosine tells how well they fit.

Wu et al., "Large-scale contrastive language-audio pretraining with feature fusion and
keyword-to-caption augmentation" (ICASSP 2023, arXiv 2211.06687).

The part of a sound that is heard is fixed, where both libraries would crop at random: its first ten
seconds. A shorter one is repeated as often as it fits completely and continued with silence, as
CLAP was trained. Samples are rounded to 16 bits, so that a sound is heard as its file would be:
decibels tell the floor of a silence from nothing at all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.errors import first_line
from flowbind.files import digest_all
from flowbind.hub import folder_of
from flowbind.libraries import Extra, importing, require
from flowbind.pickles import NUMBERS, WRAPPERS, pickle_fault
from flowbind_audio.spectrogram import RATE

WIDTH = 512  # of an embedding
CLAP_RATE = 48_000  # Hz
SECONDS = 10  # of a sound that are heard
TOKENS = 77  # of a caption, at most; as in CLAP's training
BATCH = 16  # sounds or captions embedded at once
UNFUSED = "laion/clap-htsat-unfused"
SETTINGS = ["*.json", "*.txt"]  # of a repository on the hub
INSTALL = Extra("audioldm")
INSTALL_LAION = Extra("laion-clap")
INSTALL_AUDIO = Extra("audio")


class Clap(ABC):
    """A CLAP model, loaded when first used. Copies load their own.

    Args:
        name: Place of the weights.
        revision: Branch, tag or commit, where that is a repository on the hub.
    """

    backend: ClassVar[str]
    # Modules that it imports, each with the command that installs it.
    libraries: ClassVar[dict[str, Extra]]

    def __init__(self, name: str, revision: str = "main") -> None:
        self.name = name
        self.revision = revision

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files that decide the embeddings, fetched from the hub if need be.

        Raises:
            ValueError: they are not there; one line says what to do.
        """

    @cached_property
    @abstractmethod
    def model(self) -> nn.Module:
        """The frozen network, in evaluation mode.

        Raises:
            ValueError: the weights or the package they need are not there; one line says what to
                do.
        """

    @abstractmethod
    def hear(self, waves: Tensor) -> Tensor:
        """Embeds sounds at 48 kHz, with shape (B, 480000), on the network's device: (B, 512)."""

    @abstractmethod
    def read(self, captions: list[str]) -> Tensor:
        """Embeds captions on the network's device: (B, 512)."""

    def sounds(self, raws: Sequence[Tensor], device: torch.device) -> Tensor:
        """Embeddings of B sounds at 16 kHz, of any lengths.

        float32, with shape (B, 512) and rows of norm 1.
        """

        def embed(part: Sequence[Tensor]) -> Tensor:
            waves = torch.stack([ten_seconds(raw) for raw in part])
            return self.hear(waves.to(device))

        return self._embed(raws, embed, device)

    def texts(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings of B captions: float32, with shape (B, 512) and rows of norm 1."""
        return self._embed(captions, lambda part: self.read(list(part)), device)

    @torch.no_grad()
    def _embed(
        self,
        items: Sequence[Any],
        embed: Callable[[Sequence[Any]], Tensor],
        device: torch.device,
    ) -> Tensor:
        self.model.to(device)
        parts = []
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            parts.append(embed(batch))
        return F.normalize(torch.cat(parts).float(), dim=-1)

    @property
    def loaded(self) -> bool:
        """Whether the network is in memory."""
        return "model" in vars(self)

    def digest(self) -> str:
        """SHA-256 of the files, in hexadecimal, without loading them."""
        return digest_all(self.files)

    def identity(self) -> dict[str, str]:
        """What decides the embeddings.

        Local files by their digest; the hub's by name and revision, without fetching them.
        """
        if Path(self.name).exists():
            return {"clap_weights": self.digest()}

        return {"clap": self.name, "clap_revision": self.revision}

    @property
    def label(self) -> str:
        """Which CLAP it is, for names of values: `transformers,laion/clap-htsat-unfused`."""
        if Path(self.name).exists():  # a path says nothing elsewhere
            file = Path(self.name).name
            checksum = self.digest()[:8]
            return f"{self.backend},{file}@{checksum}"

        label = f"{self.backend},{self.name}"
        if self.revision == "main":
            return label
        return f"{label}@{self.revision}"

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "revision": self.revision}


class TransformersClap(Clap):
    """`transformers.ClapModel`, without fusion, from a folder or a repository on the hub."""

    backend = "transformers"
    libraries: ClassVar[dict[str, Extra]] = {
        "transformers": INSTALL,
        "soxr": INSTALL_AUDIO,
    }

    @cached_property
    def folder(self) -> Path:
        """The model's folder.

        Raises:
            ValueError: there is none, and the hub does not give it.
        """
        patterns = [*SETTINGS, "*.safetensors"]
        folder = _folder_of(self.name, self.revision, patterns)
        if Path(self.name).is_dir() or any(folder.glob("*.safetensors")):
            return folder

        patterns = [*SETTINGS, "*.bin"]
        return _folder_of(self.name, self.revision, patterns)

    @property
    def files(self) -> list[Path]:
        weights = sorted(self.folder.glob("*.safetensors")) or sorted(
            self.folder.glob("*.bin")
        )
        if not weights:
            raise ValueError(
                f"{self.folder}: no weights (.safetensors or .bin), "
                "so no CLAP model of transformers"
            )

        settings = self.folder / "preprocessor_config.json"
        return [*weights, settings] if settings.is_file() else weights

    @cached_property
    def model(self) -> Any:
        folder = self.folder
        with importing(
            "transformers",
            needing=f"the CLAP model '{self.name}'",
            install=INSTALL,
        ):
            from transformers import ClapModel

        try:
            with quietly("transformers"):
                model: Any = ClapModel.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{folder}: no complete CLAP model of transformers ({first_line(error)})"
            ) from None

        if model.config.audio_config.enable_fusion:
            raise ValueError(
                f"{folder}: a CLAP with fusion, which mixes random crops of a sound; "
                "give one without it"
            )
        width = model.config.projection_dim
        if width != WIDTH:
            raise ValueError(
                f"{folder}: a CLAP with embeddings of {width} numbers, not {WIDTH}"
            )

        return model.eval().requires_grad_(False)

    @cached_property
    def extractor(self):
        """How spectrograms are to be made.

        Raises:
            ValueError: the folder does not say, or they are of another rate or length.
        """
        from transformers import ClapFeatureExtractor

        try:
            extractor = ClapFeatureExtractor.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder}: no settings of a CLAP's spectrograms ({first_line(error)})"
            ) from None

        rate, seconds = extractor.sampling_rate, extractor.max_length_s
        if (rate, seconds) != (CLAP_RATE, SECONDS):
            raise ValueError(
                f"{self.folder}: a CLAP that hears {seconds} s at {rate} Hz; "
                f"{SECONDS} s at {CLAP_RATE} Hz is needed"
            )

        return extractor

    @cached_property
    def tokenizer(self):
        """Cuts captions into tokens.

        Raises:
            ValueError: the folder has no tokenizer.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.folder,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder}: no tokenizer of a CLAP's captions ({first_line(error)})"
            ) from None

        # What transformers makes of missing files.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError(
                f"{self.folder}: the tokenizer has no words; "
                "its files (tokenizer.json, ...) are missing"
            )

        return tokenizer

    def hear(self, waves: Tensor) -> Tensor:
        return self.model.get_audio_features(
            input_features=self.spectrograms(waves)
        ).pooler_output

    def read(self, captions: list[str]) -> Tensor:
        options = {
            "padding": True,
            "truncation": True,
            "max_length": TOKENS,
            "return_tensors": "pt",
        }
        tokens = self.tokenizer(captions, **options).to(self.model.device)
        out = self.model.get_text_features(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )
        return out.pooler_output

    def spectrograms(self, waves: Tensor) -> Tensor:
        """Log-mel spectrograms in dB: (B, 480000) -> (B, 1, 1001, 64).

        What `ClapFeatureExtractor` makes of ten seconds without fusion, but many at once and on the
        waves' device; it takes its time over them frame by frame.
        """
        bands = torch.from_numpy(self.extractor.mel_filters_slaney).to(waves)
        size = self.extractor.fft_window_size
        window = torch.hann_window(size, dtype=torch.float32, device=waves.device)
        spectrum = torch.stft(
            waves,
            size,
            self.extractor.hop_length,
            window=window,
            pad_mode="reflect",
            return_complex=True,
        )

        power = spectrum.abs().square().mT @ bands
        return 10 * power.clamp(min=1e-10).log10()[:, None]


class LaionClap(Clap):
    """The package laion-clap, from a checkpoint of its authors.

    That is a file, or `OWNER/REPOSITORY/FILE` on the hub. The size of the audio tower is read off
    the weights. The package asks the hub for roberta-base besides.
    """

    backend = "laion_clap"
    libraries: ClassVar[dict[str, Extra]] = {
        "laion_clap": INSTALL_LAION,
        "soxr": INSTALL_AUDIO,
    }
    # By the width of a patch.
    towers: ClassVar[dict[int, str]] = {
        96: "HTSAT-tiny",
        128: "HTSAT-base",
        256: "HTSAT-large",
    }

    @property
    def files(self) -> list[Path]:
        if Path(self.name).is_file():
            return [Path(self.name)]

        repository, _, file = self.name.rpartition("/")
        if self.name.count("/") != 2 or not file.endswith(".pt"):
            raise ValueError(
                f"{self.name}: no such file; give a .pt file of laion-clap "
                "or OWNER/REPOSITORY/FILE.pt on the hub, "
                "such as lukewys/laion_clap/music_speech_epoch_15_esc_89.25.pt"
            )

        return [_folder_of(repository, self.revision, [file]) / file]

    @cached_property
    def module(self):
        """The package's own wrapper of the network and its tokenizer."""
        (file,) = self.files
        needing = f"the CLAP checkpoint '{self.name}'"
        with importing("laion_clap", needing=needing, install=INSTALL_LAION):
            from laion_clap import CLAP_Module

        state = load_weights(file)
        # No longer a weight of transformers' RoBERTa.
        state.pop("text_branch.embeddings.position_ids", None)

        patches = state.get("audio_branch.patch_embed.proj.weight", torch.empty(0))
        tower = self.towers.get(len(patches))
        if tower is None:
            raise ValueError(
                f"{file}: no weights of laion-clap with an HTSAT audio tower"
            )

        try:
            module = CLAP_Module(
                enable_fusion=False,
                device="cpu",
                amodel=tower,
            )
            module.model.load_state_dict(state)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{file}: laion-clap cannot be built with these weights ({first_line(error)})"
            ) from None

        return module.eval().requires_grad_(False)

    @cached_property
    def model(self) -> nn.Module:
        return self.module.model

    def hear(self, waves: Tensor) -> Tensor:
        return self.module.get_audio_embedding_from_data(x=waves, use_tensor=True)

    def read(self, captions: list[str]) -> Tensor:
        return self.module.get_text_embedding(captions, use_tensor=True)


BACKENDS: dict[str, type[Clap]] = {
    clap.backend: clap for clap in (TransformersClap, LaionClap)
}


def open_clap(backend: str, name: str, revision: str = "main") -> Clap:
    """A CLAP model of one of the two libraries; nothing is loaded yet.

    Raises:
        ValueError: there is no such library.
    """
    if backend not in BACKENDS:
        raise ValueError(f"no CLAP backend '{backend}'; allowed: {', '.join(BACKENDS)}")

    return BACKENDS[backend](name, revision)


def ten_seconds(wave: Tensor) -> Tensor:
    """The part of a sound at 16 kHz that is heard, at 48 kHz: (samples,) -> (480000,)."""
    soxr = require("soxr", "resampling sounds for CLAP", INSTALL_AUDIO)
    beginning = wave[: SECONDS * RATE].cpu().float()
    rounded = (beginning * 32768).round()
    rounded = rounded.clamp(-32768, 32767) / 32768

    length = SECONDS * CLAP_RATE
    resampled = soxr.resample(rounded.numpy(), RATE, CLAP_RATE)
    resampled = torch.from_numpy(resampled)[:length]
    repeated = resampled.repeat(length // len(resampled))
    missing = length - len(repeated)
    return F.pad(repeated, (0, missing))


def _folder_of(name: str, revision: str, patterns: list[str]) -> Path:
    return folder_of(
        name,
        revision,
        kind="the CLAP model",
        argument="clap",
        install=INSTALL,
        patterns=patterns,
    )


def local_weights(network: str, weights: str | None, fetch: str) -> Path:
    """The file of a network's weights, which people fetch by hand; `fetch` says how.

    Raises:
        ValueError: there is none.
    """
    if weights is None or not Path(weights).is_file():
        raise ValueError(
            f"{network}: no weights ({weights}); {fetch} and give the file as `weights`"
        )

    return Path(weights)


def load_weights(file: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from a checkpoint of torch; nothing but weights is read.

    Raises:
        ValueError: the file is neither, holds more than weights, or none by name.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        with torch.serialization.safe_globals(NUMBERS):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the readers of archives and pickles say
        raise ValueError(
            f"{file}: cannot be read as weights alone ({pickle_fault(file, error)})"
        ) from None

    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict):
        raise ValueError(f"{file}: holds no weights by name")
    if not all(isinstance(name, str) for name in state):
        raise ValueError(f"{file}: holds no weights by name")

    tensors = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[WRAPPERS.sub("", name)] = value

    return tensors


@contextmanager
def quietly(*libraries: str) -> Iterator[None]:
    """Leaves out the progress bars and remarks of transformers or diffusers.

    They come for weights that load well, too.
    """
    loggings = [import_module(f"{library}.utils.logging") for library in libraries]
    before = []
    for logging in loggings:
        level = logging.get_verbosity()
        bars = logging.is_progress_bar_enabled()
        before.append((level, bars))

    try:
        for logging in loggings:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        yield
    finally:
        for logging, (level, bars) in zip(loggings, before, strict=True):
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
