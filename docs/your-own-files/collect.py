"""Collects digits as people meet them into one folder: scanned handwriting, spoken words and written phrases.

The scans are the 1,797 of scikit-learn, the words are spoken by espeak-ng (Debian: `apt-get install espeak-ng`), the
phrases come from a small grammar. Training samples have a phrase and either a scan or a sound; those held out have all
three. No scan, no voice (speaker, speed and pitch) and no phrase is used twice.

    python collect.py DIR
"""

import argparse
import csv
import shutil
import subprocess
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from scipy.signal import resample_poly
from sklearn.datasets import load_digits

from flowbind.progress import say, track

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = {"test": 30, "val": 10}  # samples of each digit; its other scans are for training
SPOKEN = 140  # sounds of each digit for training

SIDE = 64  # pixels
RATE = 16_000  # Hz
QUIET = 0.01  # of a sound's peak; what is quieter at its ends is cut off

ACCENTS = (
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us",
    "en-us-nyc",
    "en-029",
)
SPEAKERS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4")
SPEEDS = range(130, 211, 8)  # words a minute
PITCHES = range(20, 81, 4)  # espeak-ng's own scale, 0 to 99
VOICES = list(
    product(SPEAKERS, SPEEDS, PITCHES)
)  # in any accent: some accents say some words alike

KINDS = ("digit", "number", "figure", "numeral")
MANNERS = ("plain", "single", "lone", "simple", "neat", "little", "big")
THE = (
    "the",
    "this is the",
    "that is the",
    "here is the",
    "it was the",
    "I mean the",
    "we want the",
    "remember the",
)
A = ("a", "just a", "only a", "here is a", "that is a", "this is a", "give me a", "I wanted a")
ENDS = ("", " again", ", please", " once more", " today", " for you", " and no other")


def collect(out: Path, seed: int) -> None:
    """Writes the files and `labels.csv`, whole or not at all.

    Raises:
        ValueError: the folder is there already, or espeak-ng is not.
    """
    if out.exists():
        raise ValueError(f"{out}: there already; remove it, or choose another folder")
    if not shutil.which("espeak-ng"):
        raise ValueError("espeak-ng is not installed; on Debian `apt-get install espeak-ng`")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split in ("train", *HELD_OUT):
        (partial / split).mkdir(parents=True)
    samples = arrange(np.random.default_rng(seed))
    for split, stem, digit, phrase, scan, voice in track(samples, "collecting"):
        path = partial / split / stem
        path.with_suffix(".txt").write_text(phrase + "\n", encoding="utf-8")
        if scan is not None:
            draw(scan).save(path.with_suffix(".png"))
        if voice is not None:
            soundfile.write(
                path.with_suffix(".wav"), speak(DIGITS[digit], *voice), RATE, subtype="PCM_16"
            )
    with (partial / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("id", "digit"), *((stem, DIGITS[digit]) for _, stem, digit, *_ in samples)]
        )
    partial.rename(out)


def arrange(generator: np.random.Generator) -> list[tuple]:
    """Samples as tuples (split, stem, digit, phrase, scan or None, voice or None), everything in them used once."""
    images, digits = load_digits(return_X_y=True)
    voices = iter(generator.permutation(len(VOICES)))
    samples = []
    for digit, name in enumerate(DIGITS):
        scans = iter(generator.permutation(images[digits == digit]))
        phrases = iter(generator.permutation(phrases_of(digit)))
        seen = (digits == digit).sum() - sum(HELD_OUT.values())
        kinds = [(split, True, True) for split, count in HELD_OUT.items() for _ in range(count)]
        kinds += [("train", True, False)] * seen + [("train", False, True)] * SPOKEN
        for number, (split, scanned, spoken) in enumerate(kinds):
            scan = next(scans) if scanned else None
            voice = (generator.choice(ACCENTS), *VOICES[next(voices)]) if spoken else None
            samples.append((split, f"{name}-{number:03d}", digit, str(next(phrases)), scan, voice))
    return samples


def phrases_of(digit: int) -> list[str]:
    """All phrases for a digit; each says as much of a written digit as of a spoken one."""
    names = (DIGITS[digit], str(digit))
    the = product(THE, KINDS, names, ENDS)
    a = product(A, MANNERS, names, ENDS)
    return [f"{start} {kind} {name}{end}" for start, kind, name, end in (*the, *a)]


def draw(scan: np.ndarray) -> Image.Image:
    """A scan of 8 x 8 levels of ink, from 0 to 16, as dark ink on a white page."""
    page = np.pad(255 - scan.reshape(8, 8) * (255 / 16), 1, constant_values=255)
    return Image.fromarray(page.round().astype(np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )


def speak(word: str, accent: str, speaker: str, speed: int, pitch: int) -> np.ndarray:
    """A spoken word at 16 kHz, without the silence around it."""
    options = ["-v", f"{accent}+{speaker}", "-s", str(speed), "-p", str(pitch)]
    spoken = subprocess.run(
        ["espeak-ng", *options, "--stdout", word], capture_output=True, check=True
    ).stdout
    sound, rate = soundfile.read(BytesIO(spoken), dtype="float32")
    heard = np.flatnonzero(abs(sound) > QUIET * abs(sound).max())
    return resample_poly(sound[heard[0] : heard[-1] + 1], RATE, rate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Collects scanned, spoken and written digits into a folder."
    )
    parser.add_argument("out", type=Path, help="folder to write; must not be there yet")
    parser.add_argument("--seed", type=int, default=0, help="of what goes with what")
    options = parser.parse_args()
    try:
        collect(options.out, options.seed)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    say(f"{options.out}: collected")
