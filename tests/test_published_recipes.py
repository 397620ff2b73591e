"""The published recipes by the commands of their own heads: from data sets' own layouts to tables and samples.

Nothing but size is changed: small models of the codecs' own classes, narrow networks, few steps and few samples.
"""

import json
import re
import shlex
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from flowbind_audio.vggish import Vggish
from flowbind_image.fidelity import Fidelity

import flowbind
from flowbind.cli.overrides import merge
from flowbind.metrics.probe import fit_probe
from tests.layouts import WRITERS
from tests.recipes import networks
from tests.test_dinov2 import write_tiny_dinov2
from tests.test_sd_vae import write_tiny_vae
from tests.test_unclip import write_tiny_unclip
from tests.test_wav2clip import reference_state
from tests.tiny_audio import save_audioldm, save_clap
from tests.tiny_clip import write_tiny_clip
from tests.tiny_extractor import register_means
from tests.tiny_text import save_clip_text, save_encoder, save_gemma

ROOT = Path(__file__).parents[1]
TEXT = {"encoder": "models/encoder", "language_model": "models/gemma", "longest": 8}
CLAP = {"clap": "models/clap"}
AUDIO = CLAP | {"audioldm": "models/audioldm", "steps": 1, "seconds": 0.5}
CLIP = {"model": "tiny-768", "pretrained": "models/tiny-768.safetensors"}
CLIP_512 = {"model": "tiny-512", "pretrained": "models/tiny-512.safetensors"}
POINTS = {"width": 16}
SMALL = {  # what makes small, by class and, where the recipe names one, model
    "sentence-prefix-lm": TEXT,
    "SentencePrefixLM": TEXT,
    "clap-audioldm": AUDIO,
    "ClapAudioLDM": AUDIO,
    "clip-unclip": CLIP | {"decoder": "models/unclip", "steps": 1},
    "clip-unclip ViT-B-32": CLIP_512,
    "token-features": {"encoder": "models/clip-text", "width": 32},
    "sd-vae stabilityai/sd-vae-ft-ema": {"model": "models/vae", "size": 32},
    "dinov2-features facebook/dinov2-base": {
        "model": "models/dinov2",
        "size": 32,
        "patch": 8,
        "width": 24,
    },
    "point-autoencoder": POINTS,
    "PointAutoencoder": POINTS,
    "caption-similarity": {"encoder": "models/encoder"},
    "clip-score": CLIP_512,
    "clap-score": CLAP,
    "clap-fad": CLAP,
    "fidelity": {"extractor": "tiny-means"},
}
TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "max_steps": 4,
    "log_every_n_steps": 1,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_encoder(folder / "encoder", folder / "parts", width=768)
    save_gemma(folder / "gemma")
    save_clap(folder / "clap")
    save_audioldm(folder / "audioldm", folder / "clap")
    write_tiny_unclip(folder / "unclip", width=768)
    save_clip_text(folder / "clip-text", folder / "clip-whole")
    write_tiny_vae(folder / "vae")
    write_tiny_dinov2(folder / "dinov2")
    for width in (512, 768):
        write_tiny_clip(folder, seed=width, name=f"tiny-{width}", width=width)
    register_means("tiny-means")
    torch.save(reference_state(), folder / "Wav2CLIP.pt")
    torch.save(Vggish(hidden=6).state_dict(), folder / "vggish.pth")
    return folder


@pytest.fixture
def run(models, tmp_path, monkeypatch, command):
    """Runs a line of a recipe's head in a folder with recipes and small models; data sets appear where they are named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "models").symlink_to(models)

    def ran(line):
        program, *arguments = shlex.split(line)
        if program == "curl":
            file = Path(arguments[arguments.index("-o") + 1])
            shutil.copy(models / file.name, file)
            return
        for option, value in pairwise(tuple(arguments)):
            if (
                option == "--source"
                and not Path(value := value.partition("/")[0]).exists()
            ):
                WRITERS[value](Path(value))
        configs = [
            value for option, value in pairwise(arguments) if option == "--config"
        ]
        if configs:
            place = len(arguments) - arguments[::-1].index(configs[-1])
            arguments[place:place] = ["--config", write_small(configs)]
        code, _, err = command(*arguments)
        assert code == 0, f"{line}\n{err}"

    return ran


@pytest.fixture
def follow(run):
    """Runs all lines of a recipe's head."""

    def followed(recipe):
        for line in re.findall(
            r"^#   ((?:flowbind|curl) .*)$", Path(recipe).read_text(), re.MULTILINE
        ):
            run(line)

    return followed


def write_small(configs: list[str]) -> str:
    """Recipes made small, as a file that is given after them and before what the command line says."""
    told = shrink(merge([yaml.safe_load(Path(path).read_text()) for path in configs]))
    told["trainer"] |= TRAINER
    model, data = told["model"]["init_args"], told["data"]["init_args"]
    if "modalities" in model:
        told["trainer"]["val_check_interval"] = TRAINER["max_steps"]
        for part, sizes in networks(told).items():
            model[part] = model.get(part, {}) | sizes
        told["evaluation"] |= {"sampling": {"steps": 2}, "gallery": 3}
    data["batch_size"] = 8
    small = Path("small") / configs[-1]
    small.parent.mkdir(parents=True, exist_ok=True)
    small.write_text(yaml.safe_dump(told))
    return str(small)


def shrink(told):
    """A recipe's part with small models."""
    if isinstance(told, list):
        return [shrink(part) for part in told]
    if not isinstance(told, dict):
        return told
    told = {key: shrink(part) for key, part in told.items()}
    own = told.get("init_args", {})
    name = " ".join(
        [
            told.get("class_path", "").rpartition(".")[2],
            *([own["model"]] if "model" in own else []),
        ]
    )
    return told | {"init_args": own | SMALL[name]} if name in SMALL else told


def newest(run: str, pattern: str) -> Path:
    """The file of a run that was written last: what is judged otherwise than the recipe says has a name of its own."""
    return max(Path(run).glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def measured(run: str, samples: int) -> dict[str, set[str]]:
    """The short names of what a run's report has on every direction, each for this number of samples."""
    results = json.loads(newest(run, "metrics*.json").read_text())
    assert newest(run, "gallery*.png").stat().st_size
    assert results["meta"]["samples"] == samples
    return {
        direction: {key.split("[")[0] for key in found if key.endswith(f"n={samples}]")}
        for direction, found in results["directions"].items()
    }


EVERY = {"frechet", "recall@1", "cycle"}
CAPTIONS = {"cider", "rouge-l", "similarity"}
# With VGGSound's classes.
CLASSES = {"accuracy/class", "accuracy/joint", "private-variance"}
FIDELITY = {"fid", "kid", "precision", "recall", "density", "coverage"}


@pytest.mark.slow
def test_audiocaps(follow):
    follow("recipes/flowbind/audiocaps.yaml")
    found = measured("runs/audiocaps", 12)
    assert found["text->audio"] == EVERY | {"clap-score", "fad", "kad"}
    assert found["audio->text"] >= EVERY | CAPTIONS | {"clap-score"}
    # The trained projector and adapter came along.
    model = flowbind.load("runs/audiocaps/model")
    (sound,) = model.generate({"text": ["a bell"]}, to=["audio"], steps=2)["audio"]
    assert sound.shape == (8000,)
    assert sound.isfinite().all()


@pytest.mark.slow
def test_flickr30k(follow):
    follow("recipes/flowbind/flickr30k.yaml")
    found = measured("runs/flickr30k", 12)
    assert found["text->image"] == EVERY | {"clip-score", "cut-captions"}
    assert found["image->text"] >= EVERY | CAPTIONS | {"clip-score"}
    model = flowbind.load("runs/flickr30k/model")
    (picture,) = model.generate({"text": ["a dog"]}, to=["image"], steps=2)["image"]
    assert picture.shape == (3, 32, 32)


@pytest.mark.slow
def test_flowbind_and_points_bound_to_it(follow, run, monkeypatch):
    monkeypatch.setattr(Fidelity, "minimum", 12)  # a hundred pictures take long
    # What they read is not asked.
    monkeypatch.setattr(
        "flowbind.evaluation.evaluation.fit_probe", partial(fit_probe, steps=20)
    )
    for name in ("published", "normalized"):
        follow(f"recipes/flowbind/{name}.yaml")
        found = measured(f"runs/{name}", 20)
        assert found["text->image"] == EVERY | FIDELITY | {"clip-score", "cut-captions"}
        assert found["image->text"] >= EVERY | CAPTIONS | {"clip-score"}
        report = newest(f"runs/{name}", "metrics*.md").read_text()
        for published in (
            "| FlowBind (568 M) | 17.39 | 46.26 |",
            "| FlowBind | 28.35 | 29.74 |",
        ):
            assert published in report
        assert (
            len(
                re.findall(
                    r"^\| this run \| +\d+\.\d\d \| +\d+\.\d\d \|", report, re.MULTILINE
                )
            )
            == 2
        )

    # The other pairings of the protocol, on test samples that were prepared with the rest.
    both = "--config recipes/flowbind/published.yaml --config recipes/flowbind/normalized.yaml"
    test = f"flowbind test {both} --evaluation.between"
    run(f"{test} [text,audio]")
    found = measured("runs/normalized", 12)
    assert found["text->audio"] == EVERY | {"clap-score", "fad", "kad"}
    assert found["audio->text"] >= EVERY | CAPTIONS | {"clap-score"}
    run(f"{test} [image,audio]")
    found = measured("runs/normalized", 12)
    assert found["image->audio"] == EVERY | CLASSES | {"fad", "kad", "ais"}
    assert found["audio->image"] == EVERY | CLASSES | FIDELITY | {"ais"}

    follow("recipes/flowbind/pix3d_bind.yaml")
    assert "chamfer" in measured("runs/pix3d_bind", 4)["image->points"]
    old, new = (
        flowbind.load("runs/normalized/model"),
        flowbind.load("runs/pix3d_bind/model"),
    )
    held = new.networks.state_dict()
    assert all(
        torch.equal(held[key], tensor)
        for key, tensor in old.networks.state_dict().items()
    )
    assert {
        key.removeprefix("nets.").split(".")[1]
        for key in held.keys() - old.networks.state_dict().keys()
    } == {"points"}
    (cloud,) = Path("runs/pix3d_bind/made").rglob("*.ply")
    assert b"element vertex 2048\n" in cloud.read_bytes()


@pytest.mark.slow
def test_crossflow_from_coco_s_captions_to_pictures(follow, monkeypatch):
    monkeypatch.setattr(Fidelity, "minimum", 12)  # a hundred pictures take long
    follow("recipes/crossflow/coco_text_to_image.yaml")
    run = "runs/crossflow/coco_text_to_image"
    found = measured(run, 20)
    assert found == {
        "text->image": {"frechet", "recall@1", "clip-score", "cut-captions"} | FIDELITY
    }
    assert_beside(run, "| CrossFlow (0.95 B), 300,000 steps", columns=2)
    model = flowbind.load(f"{run}/model")
    (picture,) = model.generate({"text": ["a dog"]}, to=["image"], steps=2)["image"]
    assert picture.shape == (3, 32, 32)


@pytest.mark.slow
def test_crossflow_from_coco_s_pictures_to_captions(follow):
    follow("recipes/crossflow/coco_captions.yaml")
    run = "runs/crossflow/coco_captions"
    found = measured(run, 60)
    assert found.keys() == {"image->text"}
    assert found["image->text"] >= {"frechet", "recall@1", "cider", "rouge-l", "bleu-4"}
    assert_beside(run, "| CrossFlow (351 M)", columns=3)
    # The trained codec came along.
    model = flowbind.load(f"{run}/model")
    picture = torch.zeros(3, 40, 40, dtype=torch.uint8)
    (text,) = model.generate({"image": [picture]}, to=["text"], steps=2)["text"]
    assert isinstance(text, str)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "farthest"), [("kitti", 4, 80), ("nyuv2", 4, 10)]
)
def test_crossflow_from_pictures_to_depth(follow, name, count, farthest):
    follow(f"recipes/crossflow/{name}_depth.yaml")
    run = f"runs/crossflow/{name}_depth"
    found = measured(run, count)
    errors = {"abs-rel", "rmse", "delta-1.25"}
    assert found == {"image->depth": {"frechet", "recall@1"} | errors}
    assert_beside(run, "| CrossFlow (527 M)", columns=1)
    model = flowbind.load(f"{run}/model")
    picture = torch.zeros(3, 30, 40, dtype=torch.uint8)
    (depth,) = model.generate({"image": [picture]}, to=["depth"], steps=2)["depth"]
    assert depth.shape == (256, 256)
    assert 0.5 <= depth.min() <= depth.max() <= farthest * 1.001


@pytest.mark.slow
def test_crossflow_from_small_pictures_to_large(follow, monkeypatch):
    monkeypatch.setattr(Fidelity, "minimum", 12)
    follow("recipes/crossflow/imagenet_super_resolution.yaml")
    run = "runs/crossflow/imagenet_super_resolution"
    likeness = {"frechet", "recall@1", "psnr", "ssim"}
    assert measured(run, 12) == {"small->image": likeness | FIDELITY}
    assert_beside(run, "| CrossFlow (505 M)", columns=1)
    model = flowbind.load(f"{run}/model")
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    (large,) = model.generate({"small": [picture]}, to=["image"], steps=2)["image"]
    assert large.shape == (3, 256, 256)


@pytest.mark.slow
def test_a_joint_flow_over_coco_s_pictures_and_captions(follow, monkeypatch):
    monkeypatch.setattr(Fidelity, "minimum", 12)
    follow("recipes/crossmodal/coco.yaml")
    run = "runs/crossmodal/coco"
    found = measured(run, 20)
    likeness = {"frechet", "recall@1", "cycle", "clip-score", "cut-captions"}
    assert found["text->image"] >= likeness - {"cycle"} | FIDELITY
    assert found["image->text"] >= CAPTIONS
    assert_beside(run, "| joint flow with REPA", columns=3)

    # Pairs of noise alone, and the features, which are for training, in none.
    names = sorted(path.name for path in Path(f"{run}/pairs").iterdir())
    assert len(names) == 32
    assert names[:2] == ["00-sample.image.png", "00-sample.text.txt"]
    model = flowbind.load(f"{run}/model")
    (picture,) = model.generate({"text": ["a dog"]}, to=["image"], steps=2)["image"]
    assert picture.shape == (3, 32, 32)


def assert_beside(run: str, published: str, columns: int) -> None:
    """A run's report has a published row, and its own figures in so many columns of a table."""
    report = newest(run, "metrics*.md").read_text()
    assert published in report
    own = re.findall(r"^\| this run .*$", report, re.MULTILINE)
    assert sorted(len(re.findall(r"\d\.\d\d", row)) for row in own)[-1] == columns
