"""What the small codecs lose on the way to a latent and back, beside what chance alone would change.

    python benchmarks/codecs.py

Scenes of the embedded world are rendered twice, with the same private numbers (how a solid is turned,
when a note sets in) and other noise (which points of a surface, which hiss): how far these two lie
from each other is the floor. A picture has no noise. Judges are those that ship; they never saw a
codec. Prints Markdown tables; takes two minutes on one core.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from flowbind_audio.judge import AudioJudge
from flowbind_audio.small import SmallAudio
from flowbind_image.grid import GridImage
from flowbind_image.judge import ImageJudge
from flowbind_image.small import SmallImage
from flowbind_points.chamfer import chamfer
from flowbind_points.judge import PointsJudge
from flowbind_points.small import SmallPoints
from flowbind_shapes import audio, image, points
from flowbind_shapes.scene import SHAPES, Scenes, draw
from flowbind_shapes.solids import SOLIDS
from torch import Tensor

SCENES = 480
AT_ONCE = 64  # samples whose time is taken
DECIBELS = 35  # of a unit of level in a log-mel spectrogram


class SameScene:
    """A generator whose uniform numbers are a scene's own, and whose noise is another's."""

    def __init__(self, scene: int, noise: int) -> None:
        self.uniform = np.random.default_rng(scene).uniform
        noisy = np.random.default_rng(noise)
        self.random = noisy.random
        self.normal = noisy.normal
        self.standard_normal = noisy.standard_normal


def cloud(shape: str, scene: Scenes, generator: SameScene) -> Tensor:
    vertices = points.sample(SOLIDS[shape], scene, generator)[0]
    place = [vertices[axis] for axis in "xyz"]
    colour = [vertices[name] / np.float32(255) for name in ("red", "green", "blue")]
    return torch.tensor(np.stack([*place, *colour], axis=1))


def picture(shape: str, scene: Scenes, generator: SameScene) -> Tensor:
    rendered = image.render(SOLIDS[shape], scene, generator)[0]
    return torch.tensor(rendered).permute(2, 0, 1).contiguous()


def sound(shape: str, scene: Scenes, generator: SameScene) -> Tensor:
    return torch.tensor(audio.synthesise(audio.INSTRUMENTS[shape], scene, generator)[0])


def distances(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Chamfer distances of clouds, with shape (n,)."""
    return chamfer(torch.stack(one)[..., :3], torch.stack(other)[..., :3])


def signal_to_noise(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Peak signal-to-noise ratios of pictures in dB, with shape (n,)."""
    errors = torch.stack(one).double() - torch.stack(other).double()
    return 20 * np.log10(255) - 10 * errors.square().flatten(1).mean(1).log10()


def level_errors(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Mean absolute differences of log-mel levels in dB, with shape (n,)."""
    return DECIBELS * SmallAudio().errors(one, other)


def accuracy(judge, raws: list[Tensor], scenes: Scenes) -> Tensor:
    """Whether a judge reads all factors of each sample right, with shape (n,)."""
    features = [
        judge.features(judge.judges, raws[k : k + AT_ONCE])
        for k in range(0, len(raws), AT_ONCE)
    ]
    classes = judge.read(torch.cat(features))
    right = torch.ones(len(raws), dtype=torch.bool)
    for column, (factor, values) in enumerate(judge.classes.items()):
        labels = [values.index(label[factor]) for label in scenes.labels()]
        right &= classes[:, column] == torch.tensor(labels)

    return right


def milliseconds(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(9):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return 1e3 * min(seconds)


KINDS = {
    "points": (SmallPoints, PointsJudge, cloud, distances, "Chamfer distance"),
    "image": (SmallImage, ImageJudge, picture, signal_to_noise, "PSNR, dB"),
    "image-grid": (
        GridImage,
        ImageJudge,
        picture,
        signal_to_noise,
        "PSNR, dB",
    ),
    "audio": (SmallAudio, AudioJudge, sound, level_errors, "levels' error, dB"),
}


def report(kind: str, scenes: Scenes) -> None:
    codec_type, judge_type, make, compare, measure = KINDS[kind]
    codec, judge = codec_type(), judge_type()
    has_noise = make is not picture
    first: list[Tensor] = []
    second: list[Tensor] = []
    for k, number in enumerate(scenes.shape):
        scene = scenes.take(np.array([k]))
        first.append(make(SHAPES[number], scene, SameScene(k, noise=2 * k)))
        if has_noise:
            second.append(make(SHAPES[number], scene, SameScene(k, noise=2 * k + 1)))

    latents = codec.encode(first)
    decoded = codec.decode(latents)
    lost = compare(first, decoded)
    floor = compare(first, second) if has_noise else None
    real, judged = accuracy(judge, first, scenes), accuracy(judge, decoded, scenes)

    print(
        f"\n| {kind} | {measure} | its floor | times | judge, real | judge, round trip |"
    )
    print("|---|---|---|---|---|---|")
    rows = {shape: torch.tensor(scenes.shape == k) for k, shape in enumerate(SHAPES)}
    rows["all"] = torch.ones(len(first), dtype=torch.bool)
    for name, row in rows.items():
        figures = [f"{lost[row].mean():.3g}", "none", ""]
        if floor is not None:
            figures[1] = f"{floor[row].mean():.3g}"
            figures[2] = f"{lost[row].mean() / floor[row].mean():.2f}"
        figures += [f"{right[row].float().mean():.3f}" for right in (real, judged)]
        print(f"| {name} | {' | '.join(figures)} |")

    few = first[:AT_ONCE]
    encode = milliseconds(lambda: codec.encode(few))
    decode = milliseconds(lambda: codec.decode(latents[:AT_ONCE]))
    print(f"\n{AT_ONCE} samples: {encode:.1f} ms to encode, {decode:.1f} ms to decode")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for one in arguments.kinds:
        report(one, draw(SCENES, np.random.default_rng(arguments.seed)))
