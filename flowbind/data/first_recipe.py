"""A recipe for the samples that were found in somebody's folder: small, whole, and to be changed.

It names the modalities that training samples have, each by its plugin; its paths go from where
`flowbind prepare` was run.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from flowbind.codec import NeuralCodec
from flowbind.data.scan import PARTIAL
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import name_of

RECIPE = "recipe.yaml"
BATCH = 256  # samples in a step, at most
# Through the samples: as many as two thousand scans and sounds needed (docs/your-own-files.md).
PASSES = 92
FEWEST_STEPS, MOST_STEPS = 200, 20_000
GALLERY = 9  # test samples in the gallery, at most
# A path that needs no quotes, neither in YAML nor in a shell.
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")

Kinds = Counter[tuple[str, ...]]  # samples by the modalities that they have


def write_recipe(
    out: Path,
    kinds: Mapping[str, Kinds],
    modalities: Mapping[str, type[Modality]],
) -> None:
    """Writes a recipe for a folder that is being prepared, and says where it will be.

    Args:
        out: Folder that is being prepared, under the name that it has until it is whole.
        kinds: Number of samples of each kind, by split.
        modalities: Modalities that are installed, by name.
    """
    names = sorted(set().union(*kinds.get("train", ())))
    if len(names) < 2:
        content = f"nothing but '{names[0]}'" if names else "nothing"
        say(
            f"training samples have {content}: a model ties two modalities or more together, so no "
            "recipe is written"
        )
        return

    names = _of_one_shape(names, modalities)
    if len(names) < 2:
        say("no two of them have latents of one shape, so no recipe is written")
        return

    name = out.name.removesuffix(PARTIAL)
    place = shown_path(out.with_name(name))
    head = _head(place, kinds, names)
    present = {name: modalities[name] for name in names}
    body = _body(place, kinds, present)
    content = f"{head}\n{body}"
    (out / RECIPE).write_text(content, encoding="utf-8")
    say(
        f"{place}/{RECIPE}: a recipe for {', '.join(names)}; its first lines tell the commands"
    )


def _of_one_shape(
    names: list[str],
    modalities: Mapping[str, type[Modality]],
) -> list[str]:
    """The modalities whose latents have the shape that most have; of others a line says it."""
    shapes = {name: modalities[name]().codec.shape for name in names}
    [(shape, _)] = Counter(shapes.values()).most_common(1)

    alike = []
    for name in names:
        if shapes[name] == shape:
            alike.append(name)
        else:
            say(
                f"{name}: latents of the shape {shapes[name]}, where the recipe ties those of the "
                f"shape {shape}; it is left out there"
            )
    return alike


def shown_path(folder: Path) -> str:
    """A path from the working folder on, or from the root where it is elsewhere."""
    relative = os.path.relpath(folder)
    return str(folder.absolute()) if relative.startswith("..") else relative


def steps_for(samples: int) -> int:
    """How many steps are enough to begin with: so many passes, in round numbers."""
    steps = PASSES * samples / min(BATCH, samples)
    rounded = 50 * round(steps / 50)
    return int(min(max(rounded, FEWEST_STEPS), MOST_STEPS))


def _head(place: str, kinds: Mapping[str, Kinds], names: list[str]) -> str:
    """What was found, and the commands."""
    lines = [
        f"A model of {place}, written by `flowbind prepare` for what was found there:",
        "",
    ]
    for split, counter in kinds.items():
        lines.append(f"  {split}: {counter.total()} samples ({in_words(counter)})")
    lines.append("")

    can_test = _complete(kinds, names) > 0
    recipe = quoted(f"{place}/{RECIPE}")
    for verb in ["encode", "fit", "test"] if can_test else ["encode", "fit"]:
        lines.append(f"  flowbind {verb:6} --config {recipe}")
    lines.append("")
    if not can_test:
        lines.append(
            "`flowbind test` needs test samples that have every modality; here is none."
        )
    lines += [
        "Change what you like: a recipe that was edited stays when the folder is prepared again, "
        "and the new",
        "one is put beside it. recipes/shapes.yaml explains every key.",
    ]

    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def in_words(kinds: Kinds) -> str:
    """How many samples there are of each kind, sorted: `3 image, 20 image+text`."""
    parts = []
    for kind, count in sorted(kinds.items()):
        names = "+".join(kind)
        parts.append(f"{count} {names}")
    return ", ".join(parts)


def _body(
    place: str,
    kinds: Mapping[str, Kinds],
    modalities: Mapping[str, type[Modality]],
) -> str:
    samples = kinds["train"].total()
    batch = min(BATCH, samples)
    steps = steps_for(samples)
    passes = round(steps * batch / samples)

    complete = _complete(kinds, list(modalities))
    run = f"runs/{Path(place).name}"
    manifests = []
    for split in kinds:
        path = quoted(f"{place}/{split}.jsonl")
        manifests.append(f"{split}: {path}")

    parts = [_modality(name, modality, run) for name, modality in modalities.items()]
    return f"""seed_everything: 0

model:
  class_path: flowbind
  init_args:
    modalities: # all that training samples have; take out what is not to be trained
{"".join(parts)}    drift: {{width: 256, depth: 4, ratio: 4}}
    head: {{width: 256, depth: 2}}
    objective: {{alpha: 0.5}}

training:
  learning_rate: 1.0e-3
  warmup_steps: {min(100, steps // 6)}
  decay: cosine

evaluation:
  sampling: {{steps: 10, source_steps: 1, solver: midpoint, variety: 1.0}}
  gallery: {min(GALLERY, complete)}
{_judges(modalities, run)}
data:
  class_path: flowbind.data.latents.LatentDataModule
  init_args:
    manifests: {{{", ".join(manifests)}}}
    store: {quoted(f"{place}/latents")} # written by `flowbind encode`
    batch_size: {batch}

trainer:
  default_root_dir: {quoted(run)}
  accelerator: auto
  devices: 1
  max_steps: {steps} # about {passes} times through the samples; fewer where val/loss rises
  val_check_interval: {steps // 6}
  check_val_every_n_epoch: null
  log_every_n_steps: {min(20, steps // 10)}
  gradient_clip_val: 1.0
"""


def _modality(name: str, modality: type[Modality], run: str) -> str:
    """A modality of the recipe, with a hint where its codec has weights that may be one's own."""
    lines = f"      {name}:\n        class_path: {name}\n"
    codec = getattr(modality, "default_codec", None)
    if codec is None or not issubclass(codec, NeuralCodec):
        return lines

    weights = quoted(f"{run}/{name}.safetensors")
    own_codec = (
        f"{{class_path: {name_of('codecs', codec)}, init_args: {{weights: {weights}}}}}"
    )
    return (
        f"{lines}        # A codec that was trained on these files (docs/your-own-files.md), for "
        f"the one that ships:\n        # init_args: {{codec: {own_codec}}}\n"
    )


def _judges(modalities: Mapping[str, type[Modality]], run: str) -> str:
    """A hint at judges that may be one's own, for samples with labels."""
    lines = []
    for name, modality in modalities.items():
        if modality.default_judge is not None:
            judge = name_of("metrics", modality.default_judge)
            weights = quoted(f"{run}/judges/{name}.safetensors")
            lines.append(
                f"- {{class_path: {judge}, init_args: {{weights: {weights}}}}}"
            )
    if not lines:
        return ""

    head = "Judges that were trained on these files and their labels (docs/your-own-files.md):"
    return "".join(f"  # {line}\n" for line in [head, "judges:", *lines])


def _complete(kinds: Mapping[str, Kinds], names: list[str]) -> int:
    """How many test samples have every modality."""
    complete = 0
    for kind, count in kinds.get("test", {}).items():
        if set(names) <= set(kind):
            complete += count
    return complete


def quoted(path: str) -> str:
    """A path as YAML and a shell have it, in quotes where it needs some."""
    return path if PLAIN.fullmatch(path) else json.dumps(path)
