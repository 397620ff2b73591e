"""Sounds as people have them: formats, layouts, ranges and rates, at either door the same."""

import io
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr
import torch
from flowbind_audio import Audio
from flowbind_audio.files import BY_LIBRARY, BY_PROGRAM, FORMATS
from torch import Tensor

from flowbind.libraries import Extra

RATE = 16_000
SUFFIXES = {
    ".wav": "WAV",
    ".flac": "FLAC",
    ".ogg": "OGG",
    ".oga": "OGG",
    ".opus": "OGG",
    ".mp3": "MP3",
    ".aif": "AIFF",
    ".aiff": "AIFF",
    ".aifc": "AIFF",
    ".au": "AU",
    ".snd": "AU",
    ".caf": "CAF",
    ".w64": "W64",
    ".rf64": "RF64",
    ".sph": "NIST",
}
LOSSY = {"VORBIS", "OPUS", "MPEG_LAYER_III", "GSM610", "IMA_ADPCM", "MS_ADPCM"}
LOSSY |= {
    "G721_32",
    "G723_24",
    "G723_40",
    "NMS_ADPCM_16",
    "NMS_ADPCM_24",
    "NMS_ADPCM_32",
}
# Libsndfile writes them, and refuses them itself.
UNREADABLE = {
    "DWVW_12",
    "DWVW_16",
    "DWVW_24",
}
ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None,
    reason="needs ffmpeg (Debian: apt-get install ffmpeg)",
)


@pytest.fixture(scope="module")
def audio() -> Audio:
    return Audio()


def wave(count: int = 12_000, rate: int = RATE) -> np.ndarray:
    """A low tone and a little noise."""
    noise = np.random.default_rng(0).normal(size=count)
    return (
        0.3 * np.sin(2 * np.pi * 300 * np.arange(count) / rate) + 0.003 * noise
    ).astype(np.float32)


def encoded(form: str, subtype: str, sound: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form, subtype=subtype)
    return file.getvalue()


def pairs() -> list[tuple[str, str]]:
    """Every format that is read, with every subtype that libsndfile writes for one channel."""
    kinds = [
        (form, subtype)
        for form in FORMATS
        for subtype in soundfile.available_subtypes(form)
    ]
    return [(form, subtype) for form, subtype in kinds if subtype not in UNREADABLE]


def refused(audio: Audio, raw, says: str = "") -> None:
    with pytest.raises(ValueError, match=says) as error:
        audio.accept(raw)
    assert "\n" not in str(error.value)


# Files


@pytest.mark.parametrize(("form", "subtype"), pairs())
def test_every_format_and_subtype_is_read_as_the_sound_it_holds(
    audio, tmp_path, form, subtype
):
    """At its level, from the first sample to the last, whatever lies beyond in the last block."""
    suffix = next(suffix for suffix, name in SUFFIXES.items() if form.startswith(name))
    path = tmp_path / f"a{suffix}"
    # Libsndfile counts the byte that makes it even.
    odd = 12_346 if form == "AIFF" else 12_345
    for count in (8000, odd):
        sound = wave(count)
        try:
            path.write_bytes(encoded(form, subtype, sound))
        except soundfile.LibsndfileError:
            pytest.skip("libsndfile does not write it into memory")
        raw = audio.read(path)
        assert raw.dtype == torch.float32
        assert count <= len(raw) <= count + 900
        heard = raw[:count].double().numpy()
        share = np.dot(heard, sound) / np.linalg.norm(heard) / np.linalg.norm(sound)
        assert share > (0.95 if subtype in LOSSY else 0.999)
        assert 0.9 < np.std(heard) / np.std(sound) < 1.1
        assert raw.abs().max() < 0.5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_what_its_samples_are(audio, tmp_path, suffix):
    """Read by name, or by soundfile and given with its rate: in stereo and at another rate, too."""
    assert suffix in BY_LIBRARY
    rates = (16_000, 48_000) if suffix == ".opus" else (16_000, 22_050)
    for rate in rates:
        path = tmp_path / f"a{suffix}"
        sound = np.stack([wave(rate=rate), wave(rate=rate)[::-1]], axis=1)
        subtype = "OPUS" if suffix == ".opus" else None
        soundfile.write(path, sound, rate, format=SUFFIXES[suffix], subtype=subtype)
        raw = audio.read(path)
        samples, rate = soundfile.read(path, dtype="float32")
        # Its decoder rounds as the memory lies.
        exact = 1e-6 if SUFFIXES[suffix] == "MP3" else 0
        for given in (
            (samples, rate),
            (rate, samples),
            (torch.from_numpy(samples.T.copy()), rate),
        ):
            assert (audio.accept(given) - raw).abs().max() <= exact
        assert abs(len(raw) - len(sound) * RATE / rate) < 700
    assert set(SUFFIXES) == set(BY_LIBRARY)


@pytest.mark.filterwarnings("ignore:Chunk .non-data. not understood")
@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
)
def test_a_wav_is_what_scipy_makes_of_it(audio, tmp_path, subtype):
    from scipy.io import wavfile

    soundfile.write(
        tmp_path / "a.wav",
        np.stack([wave(), -0.5 * wave()], axis=1),
        44_100,
        subtype=subtype,
    )
    rate, samples = wavfile.read(tmp_path / "a.wav")
    assert (
        audio.accept((rate, samples)) - audio.read(tmp_path / "a.wav")
    ).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("form", "subtype"),
    [pair for pair in pairs() if pair[1] in LOSSY or pair[1] == "PCM_16"],
)
def test_a_file_that_is_cut_is_refused(audio, tmp_path, form, subtype):
    try:
        whole = encoded(form, subtype, wave(48_000))
    except soundfile.LibsndfileError:
        pytest.skip("libsndfile does not write it into memory")
    path = tmp_path / "cut.wav"
    for missing in (1, 10, 1000, len(whole) // 2, len(whole) - 9, len(whole)):
        if missing < 1000 and form == "MP3":  # its last frames may be counted or not
            continue
        path.write_bytes(whole[: len(whole) - missing])
        with pytest.raises(ValueError, match=r"^[^\n]*cut\.wav: [^\n]+$"):
            audio.read(path)


def test_gsm_ends_where_it_is_said_to_end(audio, tmp_path):
    """libsndfile would read one block more, at full scale; without a count, whole blocks are left."""
    content = encoded("WAV", "GSM610", wave(8000), rate=8000)
    (tmp_path / "a.wav").write_bytes(content)
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert file.frames == 8320
    assert len(audio.read(tmp_path / "a.wav")) == 16_000
    place = content.index(b"fact")
    (tmp_path / "b.wav").write_bytes(content[:place] + b"note" + content[place + 4 :])
    assert torch.equal(audio.read(tmp_path / "b.wav"), audio.read(tmp_path / "a.wav"))


def test_an_mp3_in_blocks_is_one_sound(audio, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.mp3", wave(48_000), RATE)
    whole = audio.read(tmp_path / "a.mp3")
    monkeypatch.setattr("flowbind_audio.files.BLOCK", 1000)
    assert torch.equal(audio.read(tmp_path / "a.mp3"), whole)
    (tmp_path / "a.flac").write_bytes(encoded("FLAC", "PCM_16", wave(), 44_100))
    blocks = audio.read(tmp_path / "a.flac")
    monkeypatch.undo()
    assert torch.equal(audio.read(tmp_path / "a.flac"), blocks)


def test_a_flac_that_does_not_say_how_long_it_is(audio, tmp_path):
    content = bytearray(encoded("FLAC", "PCM_16", wave()))
    # STREAMINFO's number of samples, as an encoder leaves it that writes to a pipe.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    assert len(audio.read(tmp_path / "a.flac")) == len(wave())
    with pytest.raises(
        ValueError,
        match=r"a\.flac: a sound of 0.4\d* s, allowed are 0.4; cut it, or raise `longest`",
    ):
        Audio(longest=0.4).read(tmp_path / "a.flac")


def test_headers_of_more_than_four_gigabytes(audio, tmp_path):
    content = bytearray(encoded("RF64", "PCM_16", wave()))
    (tmp_path / "a.wav").write_bytes(content)
    assert len(audio.read(tmp_path / "a.wav")) == len(wave())
    place = content.index(b"ds64") + 16
    content[place : place + 8] = struct.pack("<Q", 2**33)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match="truncated"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize("peak", [1.5, 3.9])
def test_what_goes_a_little_beyond_is_cut_and_what_goes_far_is_refused(
    audio, tmp_path, peak
):
    soundfile.write(
        tmp_path / "a.wav", peak * np.sin(np.arange(999) / 9), RATE, subtype="FLOAT"
    )
    assert audio.read(tmp_path / "a.wav").abs().max() == 1
    soundfile.write(
        tmp_path / "a.wav", 32767 * np.sin(np.arange(999) / 9), RATE, subtype="FLOAT"
    )
    with pytest.raises(
        ValueError,
        match=r"a\.wav: a sound with numbers up to 3.277e\+04, floats lie in \[-1, 1\]",
    ):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "mark",
    [
        b"\xff\xfb",
        b"ID3\4\0",
        b"caff\0\1\0\0",
        b".snd\0\0\0\x18",
        b"FORM",
        b"riff",
        b"OggS",
        b"fLaC",
    ],
)
def test_noise_with_the_mark_of_a_sound_is_none(audio, tmp_path, mark):
    (tmp_path / "noise.mp3").write_bytes(mark + np.random.default_rng(0).bytes(3000))
    with pytest.raises(ValueError, match=r"^[^\n]*noise\.mp3: [^\n]+$"):
        audio.read(tmp_path / "noise.mp3")


def test_other_formats_are_refused(audio, tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded("VOC", "PCM_16", wave()))
    with pytest.raises(
        ValueError,
        match="a sound in the format VOC; allowed: WAV, FLAC, OGG, Opus, MP3, AIFF",
    ):
        audio.read(tmp_path / "a.wav")


# By ffmpeg


@pytest.mark.parametrize(
    "mark",
    [
        b"\0\0\0\x20ftypM4A ",
        b"\x30\x26\xb2\x75\x8e\x66",
        b"\x1aE\xdf\xa3",
        b"\xff\xf1\x50",
        b"#!AMR\n",
    ],
)
def test_without_ffmpeg_a_line_says_what_is_needed(audio, tmp_path, monkeypatch, mark):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(mark + bytes(99))
    with pytest.raises(
        ValueError,
        match=r"^[^\n]*a\.m4a: M4A, .* need the program ffmpeg; install it[^\n]*$",
    ):
        audio.read(tmp_path / "a.m4a")


CODECS = {
    ".m4a": "aac",
    ".aac": "aac",
    ".wma": "wmav2",
    ".webm": "libopus",
    ".mka": "flac",
}


@ffmpeg
@pytest.mark.parametrize("suffix", CODECS)
def test_ffmpeg_decodes_the_rest(audio, tmp_path, suffix):
    assert suffix in BY_PROGRAM
    soundfile.write(
        tmp_path / "a.wav", np.stack([wave(96_000, 48_000)] * 2, axis=1), 48_000
    )
    path = tmp_path / f"a{suffix}"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        tmp_path / "a.wav",
        "-c:a",
        CODECS[suffix],
        path,
    ]
    subprocess.run([str(part) for part in command], check=True)
    raw, expected = audio.read(path), audio.read(tmp_path / "a.wav")
    assert abs(len(raw) - len(expected)) < 1000
    assert raw.std().item() == pytest.approx(expected.std().item(), rel=0.05)
    whole = path.read_bytes()
    for missing in (1000, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[: len(whole) - missing])
        with pytest.raises(ValueError, match=rf"^[^\n]*a\{suffix}: [^\n]+$"):
            audio.read(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="allowed are 1; cut it, or raise `longest`"):
        Audio(longest=1.0).read(path)


@ffmpeg
def test_ffmpeg_opens_nothing_but_the_file(audio, tmp_path):
    soundfile.write(tmp_path / "secret.wav", wave(), RATE)
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path}/secret.wav\n".encode()
    for mark in (b"", b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3"):
        (tmp_path / "a.m4a").write_bytes(mark + playlist)
        with pytest.raises(ValueError, match=r"a\.m4a: "):
            audio.read(tmp_path / "a.m4a")


# Libraries


@pytest.mark.parametrize("library", ["soundfile", "soxr"])
def test_a_missing_library_is_named_with_its_extra(
    audio, tmp_path, monkeypatch, library
):
    soundfile.write(tmp_path / "a.wav", wave(), 8000)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ValueError,
        match=rf"^[^\n]*a\.wav: .* needs {library}; install it with `{re.escape(str(Extra('audio')))}`[^\n]*$",
    ):
        audio.read(tmp_path / "a.wav")


# Arrays


MONO = torch.from_numpy(wave())
STEREO = np.stack([wave(), 0.5 * wave()[::-1]])
LAYOUTS = {
    "(n,)": (wave(), wave()),
    "(1, n)": (wave()[None], wave()),
    "(n, 1)": (wave()[:, None], wave()),
    "(1, 1, n)": (wave()[None, None], wave()),
    "(2, n)": (STEREO, STEREO.mean(0)),
    "(n, 2)": (STEREO.T, STEREO.mean(0)),
    "(1, 2, n)": (STEREO[None], STEREO.mean(0)),
    "(6, n)": (np.stack([wave()] * 6), wave()),
}


@pytest.mark.parametrize(
    "library",
    [np.asarray, lambda array: torch.from_numpy(array.copy())],
    ids=["numpy", "torch"],
)
@pytest.mark.parametrize(("array", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_one_sound(audio, array, expected, library):
    raw = audio.accept(library(array))
    assert (raw.dtype, raw.shape) == (torch.float32, (12_000,))
    assert (raw - torch.from_numpy(expected)).abs().max() < 1e-7


@pytest.mark.parametrize(
    ("dtype", "scale", "centre"),
    [
        ("int8", 128, 0),
        ("uint8", 128, 128),
        ("int16", 2**15, 0),
        ("int32", 2**31, 0),
        ("float16", 1, 0),
        ("float64", 1, 0),
    ],
)
def test_the_dtype_tells_the_range(audio, dtype, scale, centre):
    samples = (
        (wave().astype(np.float64) * scale * 0.99 + centre)
        .round(0 if scale > 1 else 16)
        .astype(dtype)
    )
    for given in (samples, torch.from_numpy(samples)):
        raw = audio.accept(given)
        assert (raw - 0.99 * MONO).abs().max() <= 1 / min(scale, 2**20) + (
            1e-3 if dtype == "float16" else 0
        )
    ends = (
        np.array([np.iinfo(dtype).min, centre], dtype)
        if scale > 1
        else np.array([-1, 0], dtype)
    )
    assert audio.accept(ends).tolist() == [-1, 0]


def carried(samples: np.ndarray, rate: int) -> dict[str, object]:
    """The same sound as libraries hand it over."""
    tensor = torch.from_numpy(samples)
    return {
        "soundfile": (samples, rate),
        "scipy": (rate, samples),
        "torchaudio": (tensor[None], rate),
        "a list": [samples, rate],
        "numpy's number": (samples, np.int64(rate)),
        "a tensor's": (tensor, torch.tensor(rate)),
        "datasets": {"path": None, "array": samples, "sampling_rate": rate},
        "torchcodec": SimpleNamespace(data=tensor[None], sample_rate=rate),
        "a decoder": SimpleNamespace(
            get_all_samples=lambda: SimpleNamespace(data=tensor[None], sample_rate=rate)
        ),
    }


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_sound_with_its_rate_is_resampled(audio, rate):
    samples = wave(rate=rate)
    expected = torch.from_numpy(soxr.resample(samples, rate, RATE)).clamp(-1, 1)
    for name, given in carried(samples, rate).items():
        assert torch.equal(audio.accept(given), expected), name


def test_a_raw_sample_is_itself(audio):
    assert audio.accept(MONO).data_ptr() == MONO.data_ptr()
    assert torch.equal(audio.accept(torch.tensor([0.0])), torch.zeros(1))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "None is no array"),
        (3, "the number 3"),
        ("cat", "the string 'cat'"),
        (["a", "b"], "a list of str"),
        ([1, 2, 3], "does not tell the range"),
        (wave().astype(np.int64), "int64 .* does not tell the range"),
        (
            (wave() * 32767).astype(np.float32),
            r"numbers up to .*, floats lie in \[-1, 1\]",
        ),
        (np.zeros(0), "empty"),
        (np.zeros((2, 0)), "empty"),
        (np.array([0.1, np.nan]), "not finite"),
        (np.array([0.1, np.inf]), "not finite"),
        (np.zeros((80, 500)), "not one sound"),
        (np.zeros((4, 2, 500)), "not one sound"),
        (np.array([True, False]), "does not tell the range"),
        (np.zeros(9, complex), "no array of real numbers"),
        ((wave(), 0), "at 0 Hz"),
        ((wave(), -8000), "at -8000 Hz"),
        ((wave(), float("nan")), "at nan Hz"),
        ((wave(), 500_000), "at 500000 Hz"),
        ((None, 16_000), "None is no array"),
        ({"array": wave()}, "an object of the class dict"),
        ({"array": wave(), "sampling_rate": None}, "whose rate is None"),
        ({"array": None, "sampling_rate": 16_000}, "None is no array"),
    ],
)
def test_what_is_no_sound_is_refused(audio, raw, says):
    refused(audio, raw, says)


def test_what_is_too_faint_to_be_heard_is_said(audio):
    """60 dB below full scale little is left above the spectrogram's floor; silence is itself."""
    for gain in (1, 1e-1, 1e-2):
        assert audio.codec.caveat(audio.accept(gain * wave())) == ""
    assert audio.codec.caveat(torch.zeros(9)) == ""
    for gain in (1e-3, 1e-6):
        assert f"{gain * np.abs(wave()).max():.2g} of full scale" in audio.codec.caveat(
            audio.accept(gain * wave())
        )
    faint, silent = audio.codec.encode([audio.accept(1e-6 * wave()), torch.zeros(RATE)])
    assert torch.allclose(faint, silent, atol=1e-3)


def test_too_long_a_sound_is_refused_here_too():
    assert len(Audio(longest=1.0).accept(np.zeros(RATE))) == RATE
    refused(Audio(longest=1.0), np.zeros(2 * RATE), "a sound of 2 s, allowed are 1")
    refused(
        Audio(longest=1.0), (np.zeros(2 * 8000), 8000), "a sound of 2 s, allowed are 1"
    )


def test_a_model_takes_all_of_them(audio):
    """The same latent, whatever the sound came in."""
    from flowbind.data.manifest import take_raw

    same: list[Tensor | np.ndarray | tuple] = [
        MONO,
        wave(),
        wave()[None],
        wave().astype(float),
        (wave(), RATE),
        MONO[:, None],
    ]
    latents = audio.codec.encode([take_raw(audio, given, "x") for given in same])
    assert torch.equal(latents, latents[:1].expand_as(latents))


def test_the_page_names_every_suffix(audio):
    page = (Path(__file__).parents[1] / "docs" / "codecs" / "audio.md").read_text()
    assert [suffix for suffix in audio.suffixes if f"`{suffix}`" not in page] == []
