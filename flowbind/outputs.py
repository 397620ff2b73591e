"""What was generated: raw samples that save themselves, and that notebooks show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbind.exhibit import script, to_figure
from flowbind.modality import Modality

SHOWN = 16  # samples in a notebook
STYLE = "display:inline-block;vertical-align:top;width:12rem;margin:.5rem"


class Outputs(dict[str, list[Any]]):
    """Per target, B raw samples; samples of one number belong together.

    Args:
        samples: Raw samples by target.
        modalities: Modalities by name, which write and show them.
    """

    def __init__(
        self,
        samples: Mapping[str, Sequence[Any]],
        modalities: Mapping[str, Modality],
    ) -> None:
        super().__init__({name: list(raws) for name, raws in samples.items()})
        self.modalities = {name: modalities[name] for name in samples}

    def __reduce__(self) -> tuple:
        return type(self), (dict(self), self.modalities)

    def save(
        self,
        folder: str | Path,
        stems: Sequence[str] | None = None,
    ) -> list[Path]:
        """Writes a file for each sample, such as `0.NAME.SUFFIX`; files of that name are replaced.

        Args:
            folder: Folder that receives them; it is made where it is not there.
            stems: What the names of each sample's files begin with; their numbers if None.

        Returns:
            The files, sample by sample.

        Raises:
            ValueError: not as many stems as samples.
            OSError: they cannot be written.
        """
        count = max(map(len, self.values()), default=0)
        if stems is None:
            digits = len(str(count - 1))
            stems = [f"{number:0{digits}d}" for number in range(count)]
        if len(stems) != count:
            raise ValueError(
                f"{len(stems)} stems for {count} samples; give one for each"
            )

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for number, stem in enumerate(stems):
            for name, raws in self.items():
                file = folder / f"{stem}.{name}{self.modalities[name].suffixes[0]}"
                self.modalities[name].write(raws[number], file)
                files.append(file)
        return files

    def _repr_html_(self) -> str:
        """The first samples in a notebook: to read, look at, play and turn."""
        lines = []
        for name, raws in self.items():
            modality = self.modalities[name]
            figures = []
            for raw in raws[:SHOWN]:
                figure = to_figure(modality.exhibit(raw), modality.preview(raw))
                figures.append(f'<div style="{STYLE}">{figure}</div>')
            lines.append(f"<p><b>{name}</b></p>{''.join(figures)}")
        return script() + "".join(lines)
