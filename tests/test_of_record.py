"""The recipe recipes/audiocaps.yaml from its data set's own layout to its table, on small models of the codecs' own classes."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from flowbind_audio import Audio

import flowbind
from tests.tiny_audio import save_audioldm, save_clap
from tests.tiny_text import save_encoder, save_gemma

ROOT = Path(__file__).parents[1]
CLIPS = {"train": 10, "val": 2, "test": 6}
SMALL = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_steps": 4, "log_every_n_steps": 1}


def write_audiocaps(folder: Path) -> None:
    """CSV files and a folder of sounds, as AudioCaps is distributed and fetched."""
    (folder / "wav").mkdir(parents=True)
    number = 0
    for split, count in CLIPS.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("audiocap_id", "youtube_id", "start_time", "caption"))
            for _ in range(count):
                number += 1
                pitch = 100 * number
                rows.writerow((number, f"clip{number:07d}", 30, f"a tone of {pitch} hertz sounds"))
                wave = 0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(8000) / 16000)
                Audio().write(wave, folder / f"wav/clip{number:07d}_30.wav")


@pytest.fixture
def models(tmp_path):
    torch.manual_seed(0)
    save_encoder(tmp_path / "encoder", tmp_path / "parts", width=768)
    save_gemma(tmp_path / "gemma")
    save_clap(tmp_path / "clap")
    save_audioldm(tmp_path / "audioldm", tmp_path / "clap")
    return tmp_path


@pytest.mark.slow
def test_from_audiocaps_to_its_table(models, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    write_audiocaps(tmp_path / "AUDIOCAPS")

    def run(*arguments):
        code, out, err = command(*arguments)
        assert code == 0, err
        return out, err

    run("prepare", "audiocaps", "--source", "AUDIOCAPS", "--out", "data/audiocaps")
    text = {"encoder": "encoder", "language_model": "gemma", "longest": 8}
    audio = {"clap": "clap", "audioldm": "audioldm", "steps": 1, "seconds": 0.5}
    for recipe, codec in (("text_decoder", text), ("audio_adapter", {"clap": "clap"})):
        differs = {
            "model": {"init_args": {"codec": {"init_args": codec}}},
            "data": {"init_args": {"batch_size": 4}},
            "trainer": SMALL,
        }
        Path(f"{recipe}.yaml").write_text(yaml.safe_dump(differs))
        run("fit", "--config", f"recipes/codecs/{recipe}.yaml", "--config", f"{recipe}.yaml")
    clap = {"clap": "clap"}
    metrics = [
        {"class_path": "captions"},
        {"class_path": "clap-score", "init_args": {"judges": "text"} | clap},
        {"class_path": "clap-score", "init_args": {"judges": "audio"} | clap},
        {"class_path": "clap-fad", "init_args": clap},
    ]
    differs = {
        "model": {
            "init_args": {
                "modalities": {
                    "text": {"init_args": {"codec": {"init_args": text}}},
                    "audio": {"init_args": {"codec": {"init_args": audio}}},
                },
                "drift": {"width": 16, "depth": 1},
                "head": {"width": 16, "depth": 1},
                "evaluation": {"steps": 2, "gallery": 2, "metrics": metrics, "published": "recipes/published.json"},
            }
        },
        "data": {"init_args": {"batch_size": 8}},
        "trainer": SMALL | {"val_check_interval": 4},
    }
    Path("small.yaml").write_text(yaml.safe_dump(differs))
    for verb in ("encode", "fit", "test"):
        out, _ = run(verb, "--config", "recipes/audiocaps.yaml", "--config", "small.yaml")
    assert "text->audio" in out
    results = json.loads(Path("runs/audiocaps/metrics.json").read_text())
    made = results["directions"]["text->audio"]
    assert {name.split("[")[0] for name in made if "n=6" in name} >= {"clap-score", "fad", "frechet", "recall@1"}
    assert "cider[cider-d,1-reference,n=6]" in results["directions"]["audio->text"]
    assert "this run" in Path("runs/audiocaps/metrics.md").read_text()
    assert Path("runs/audiocaps/gallery.png").stat().st_size

    model = flowbind.load("runs/audiocaps/model")  # the trained projector and adapter came along
    (sound,) = model.generate({"text": ["a bell"]}, to=["audio"], steps=2)["audio"]
    assert sound.shape == (8000,)
    assert sound.isfinite().all()
