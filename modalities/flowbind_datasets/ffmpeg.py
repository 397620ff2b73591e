"""A picture and a sound of a video, taken by the program ffmpeg."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from flowbind.files import replacing

PROGRAMS = ("ffmpeg", "ffprobe")
RATE = 16_000  # Hz

# Of .mp4, .mkv and .webm; a playlist by such a name would have other files read.
CONTAINERS = "mov,matroska"

# Options of both programs, in the order in which they are given.
QUIET = ["-nostdin", "-v", "error", "-y"]
ONE_THREAD = ["-threads", "1"]
DURATION = [
    "-v",
    "error",
    "-show_entries",
    "format=duration",
    "-of",
    "default=nw=1:nk=1",
]
FRAME = ["-frames:v", "1", "-q:v", "2", "-f", "image2", "-update", "1", "-c:v", "mjpeg"]
SOUND = ["-vn", "-ac", "1", "-ar", str(RATE), "-c:a", "pcm_s16le", "-f", "wav"]


def installed() -> bool:
    """Whether ffmpeg can be run."""
    return all(map(shutil.which, PROGRAMS))


def take_frame(video: Path, picture: Path) -> None:
    """Writes the frame in the middle of a video as JPEG.

    Raises:
        ValueError: there is none; gives the reason.
    """
    duration = _run("ffprobe", *DURATION, *_source(video))
    is_number = duration.replace(".", "", 1).isdigit()  # it may be N/A
    middle = float(duration) / 2 if is_number else 0.0

    with replacing(picture) as partial:
        seek = ("-ss", f"{middle:.3f}")
        _run(
            "ffmpeg",
            *QUIET,
            *ONE_THREAD,
            *seek,
            *_source(video),
            *FRAME,
            _url(partial),
        )
        _refuse_empty(partial, "no frame")


def take_sound(video: Path, sound: Path) -> None:
    """Writes the sound of a video as WAV, mono, 16 bits at 16 kHz.

    Raises:
        ValueError: there is none; gives the reason.
    """
    with replacing(sound) as partial:
        _run("ffmpeg", *QUIET, *ONE_THREAD, *_source(video), *SOUND, _url(partial))
        _refuse_empty(partial, "no sound")


def _source(video: Path) -> tuple[str, ...]:
    return "-format_whitelist", CONTAINERS, "-i", _url(video)


def _url(path: Path) -> str:
    return f"file:{path}"


def _run(*command: str) -> str:
    """What a program prints.

    Raises:
        OSError: the disk is full.
        ValueError: it fails otherwise; its last line.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )

    full = os.strerror(errno.ENOSPC)
    if full in done.stderr:
        raise OSError(errno.ENOSPC, full, command[-1].removeprefix("file:"))

    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(
            lines[-1] if lines else f"{command[0]} ended with {done.returncode}"
        )

    return done.stdout.strip()


def _refuse_empty(path: Path, what: str) -> None:
    if not path.stat().st_size:
        raise ValueError(what)
