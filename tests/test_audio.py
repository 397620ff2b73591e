"""Laws of the audio plugin: files, spectrograms, phases, the small codec, its training and its pictures."""

import io
import struct
import wave

import numpy as np
import pytest
import soundfile
import torch
from flowbind_audio import Audio
from flowbind_audio.phase import linear_power, waves
from flowbind_audio.small import SAMPLES, SmallAudio
from flowbind_audio.spectrogram import (
    BINS,
    FFT,
    HIGHEST,
    LOWEST,
    MELS,
    RATE,
    level,
    log_mel,
    mel_bands,
    power,
)
from flowbind_audio.training import AudioCodecTraining
from torch import Tensor

from flowbind.data.raw import RawBatch
from flowbind.testing import check_modality


@pytest.fixture(scope="module")
def audio() -> Audio:
    return Audio()


def tone(
    *frequencies: float, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.5
) -> Tensor:
    """Sines that share an amplitude."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    parts = [torch.sin(2 * torch.pi * f * time + k) for k, f in enumerate(frequencies)]
    return (amplitude / len(parts) * torch.stack(parts).sum(0)).float()


def loudest(sound: Tensor, low: float = 0.0, high: float = RATE / 2) -> float:
    """The frequency in Hz with most power between two others, to an eighth of a Hz."""
    spectrum = torch.fft.rfft(sound * torch.hann_window(len(sound)), 8 * RATE).abs()
    return (low * 8 + spectrum[int(low * 8) : int(high * 8)].argmax().item()) / 8


def encoded(form: str, subtype: str, sound: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form, subtype=subtype)
    return file.getvalue()


def notes(count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Sounds of the embedded world, the same number of each instrument, and their factors with shape (6 count, 3)."""
    from flowbind_shapes.audio import INSTRUMENTS, synthesise
    from flowbind_shapes.scene import draw

    generator = np.random.default_rng(seed)
    sounds, factors = [], []
    for shape, instrument in enumerate(INSTRUMENTS.values()):
        scenes = draw(count, generator)
        sounds.append(synthesise(instrument, scenes, generator))
        factors.append(
            np.stack([np.full(count, shape), scenes.colour, scenes.size], axis=1)
        )
    return torch.from_numpy(np.concatenate(sounds)), np.concatenate(factors)


# Files


def test_the_laws_of_a_modality(audio, tmp_path):
    check_modality(
        audio,
        [tone(300), tone(500, 900, seconds=0.4), tone(2000, seconds=1.5)],
        tmp_path,
        tolerance=0.02,
    )


def test_what_was_written_is_read(audio, tmp_path):
    raw = torch.arange(-32768, 32768, 5)[torch.randperm(13108)] / 32768
    audio.write(raw, tmp_path / "a.wav")
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]
    assert torch.equal(audio.read(tmp_path / "a.wav"), raw)
    audio.write(tone(440), tmp_path / "a.wav")
    assert (audio.read(str(tmp_path / "a.wav")) - tone(440)).abs().max() <= 0.5 / 32768
    audio.write(torch.tensor([2.0, -2.0]), tmp_path / "a.wav")
    assert torch.equal(
        audio.read(tmp_path / "a.wav"), torch.tensor([32767 / 32768, -1.0])
    )


def test_a_written_file_is_what_others_read(audio, tmp_path):
    audio.write(tone(440), tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, SAMPLES)
        samples = np.frombuffer(file.readframes(SAMPLES), "<i2") / 32768
    assert np.abs(samples - tone(440).numpy()).max() <= 0.5 / 32768


@pytest.mark.parametrize(
    ("suffix", "form", "subtype", "error"),
    [
        (".wav", "WAV", "PCM_16", 1e-4),
        (".wav", "WAV", "FLOAT", 1e-7),
        (".wav", "WAVEX", "PCM_24", 1e-6),
        (".flac", "FLAC", "PCM_16", 1e-4),
        (".ogg", "OGG", "VORBIS", 0.05),
    ],
)
def test_channels_are_averaged_in_every_format(
    audio, tmp_path, suffix, form, subtype, error
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(
        encoded(form, subtype, torch.stack([tone(440), tone(600)], dim=1).numpy())
    )
    read = audio.read(path)
    assert (read.dtype, read.shape) == (torch.float32, (SAMPLES,))
    assert (read - (tone(440) + tone(600)) / 2).abs().max() < error


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_other_rates_are_resampled(audio, tmp_path, rate):
    pytest.importorskip("soxr")
    (tmp_path / "a.wav").write_bytes(
        encoded("WAV", "PCM_16", tone(1234.5, rate=rate).numpy(), rate)
    )
    read = audio.read(tmp_path / "a.wav")
    assert abs(len(read) - RATE) <= 1
    assert loudest(read) == pytest.approx(1234.5, abs=0.2)


def test_what_lies_beyond_full_scale_is_cut(audio, tmp_path):
    (tmp_path / "a.wav").write_bytes(
        encoded("WAV", "FLOAT", np.array([1.5, -3, 0.25], dtype=np.float32))
    )
    assert audio.read(tmp_path / "a.wav").tolist() == [1.0, -1.0, 0.25]


def test_a_wav_written_to_a_pipe_is_read(audio, tmp_path):
    data = bytearray(encoded("WAV", "PCM_16", tone(440).numpy()))
    for claimed in (
        0x7FFFF000,
        0xFFFFFFFF,
    ):  # espeak-ng's and ffmpeg's way of saying that they do not know
        struct.pack_into("<I", data, data.index(b"data") + 4, claimed)
        (tmp_path / "a.wav").write_bytes(data)
        assert len(audio.read(tmp_path / "a.wav")) == SAMPLES


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 1.0], ids="{:.1%}".format)
@pytest.mark.parametrize(
    ("suffix", "form", "subtype"),
    [
        (".wav", "WAV", "PCM_16"),
        (".wav", "WAVEX", "FLOAT"),
        (".flac", "FLAC", "PCM_16"),
        (".ogg", "OGG", "VORBIS"),
    ],
)
def test_truncated_files_are_refused(audio, tmp_path, suffix, form, subtype, share):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    whole = encoded(form, subtype, noise)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole)
    assert len(audio.read(path)) == 3 * RATE
    path.write_bytes(whole[: min(round(share * len(whole)), len(whole) - 1)])
    with pytest.raises(ValueError, match=rf"^[^\n]*cut\{suffix}: [^\n]+$"):
        audio.read(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no sound at all, just a sentence that goes on", "not a whole sound file"),
        (encoded("VOC", "PCM_16", np.zeros(9)), "format VOC; allowed: WAV, FLAC, OGG"),
        (encoded("WAV", "PCM_16", np.zeros(0)), "without samples"),
        (
            encoded("WAV", "FLOAT", np.array([0.5, np.nan], dtype=np.float32)),
            "not finite",
        ),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else ""
    ),  # sounds hold the time of their making
)
def test_damaged_files_are_refused(audio, tmp_path, data, reason):
    (tmp_path / "bad.wav").write_bytes(data)
    with pytest.raises(ValueError, match=rf"^[^\n]*bad\.wav: [^\n]*{reason}[^\n]*$"):
        audio.read(tmp_path / "bad.wav")


def test_a_missing_file_is_an_error_of_the_system(audio, tmp_path):
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "none.wav")


def test_a_sound_that_is_too_long_is_refused(tmp_path):
    Audio().write(tone(440, seconds=2.0), tmp_path / "long.wav")
    assert len(Audio(longest=2.0).read(tmp_path / "long.wav")) == 2 * RATE
    with pytest.raises(
        ValueError,
        match=r"long\.wav: a sound of 2 s, allowed are 1; cut it, or raise `longest`",
    ):
        Audio(longest=1.0).read(tmp_path / "long.wav")


# Spectrograms


def test_mel_bands_share_out_every_frequency():
    bands = mel_bands()
    frequencies = torch.linspace(0, RATE / 2, BINS)
    centres = (bands * frequencies).sum(1) / bands.sum(1)
    assert (bands.sum(1) > 0).all()
    assert (centres.diff() > 0).all()
    # Between the outermost bands' middles.
    inside = (frequencies > LOWEST + 15) & (frequencies < HIGHEST - 300)
    assert torch.allclose(bands.sum(0)[inside], torch.ones(()), atol=1e-5)


def test_levels_are_decibels():
    full = log_mel(tone(1000, amplitude=1.0)[None])[0, :, 30]
    assert full.max() == pytest.approx(1, abs=0.05)
    half = log_mel(tone(1000, amplitude=0.5)[None])[0, :, 30]
    assert (full.max() - half.max()).item() * 35 == pytest.approx(
        20 * np.log10(2), abs=0.01
    )
    assert torch.equal(
        log_mel(torch.zeros(1, SAMPLES)),
        torch.full((1, MELS, 63), level(torch.zeros(())).item()),
    )
    assert level(torch.zeros(())) == pytest.approx(-1)
    powers = torch.logspace(-6, 0.3, 50)
    assert torch.allclose(power(level(powers)), powers, rtol=1e-3)


@pytest.mark.parametrize("frequency", [110, 220, 440, 1760, 6000])
def test_a_tone_is_loudest_in_its_band(frequency):
    bands = mel_bands()
    nearest = bands[:, round(frequency * FFT / RATE)].argmax()
    assert abs(log_mel(tone(frequency)[None])[0, :, 30].argmax() - nearest) <= 1


# Phases


@pytest.mark.parametrize(
    "frequencies", [(220.0,), (239.9,), (330, 990, 1650), (880, 2429)]
)
def test_waves_keep_the_note(frequencies):
    made = waves(log_mel(tone(*frequencies)[None]))[0]
    for frequency in frequencies:
        found = loudest(made[4000:12000], 0.9 * frequency, 1.1 * frequency)
        # Bands grow wider.
        assert abs(1200 * np.log2(found / frequency)) < (10 if frequency < 1000 else 30)


def test_waves_keep_the_spectrogram():
    levels = log_mel(torch.cat([notes(2, seed=0)[0], torch.zeros(12, 128)], dim=1))
    again = log_mel(waves(levels))
    assert again.shape == levels.shape
    error = (again - levels) * 35  # dB
    assert error[levels > -0.3].abs().median() < 1.0
    # Noise has another texture, but the same level.
    assert error.mean(2).abs().mean() < 1.0


def test_waves_hang_on_their_spectrogram_alone():
    levels = log_mel(notes(1, seed=0)[0])
    torch.manual_seed(1)
    first = waves(levels)
    state = torch.get_rng_state()
    assert torch.equal(waves(levels), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(
        torch.cat([waves(one[None]) for one in levels]), first, atol=1e-4
    )
    # Silence.
    assert torch.equal(waves(torch.full((1, MELS, 5), -1.2)), torch.zeros(1, 1024))
    assert waves(torch.full((1, MELS, 5), 3.0)).abs().max() <= 1


def test_linear_power_has_the_given_mel_bands():
    levels = log_mel(notes(1, seed=0)[0])
    found = linear_power(power(levels))
    assert (found >= 0).all()
    error = level(mel_bands() @ found.mT) - levels
    assert error.abs().mean() * 35 < 0.3  # dB
    assert found.sum(2) == pytest.approx(power(levels).sum(1), rel=0.05, abs=1e-6)


# The small codec


def test_encoding_and_decoding(audio):
    codec = audio.codec
    raws = [tone(300), tone(500, seconds=0.3), tone(700, seconds=2.5), torch.zeros(1)]
    latents = codec.encode(raws)
    assert latents.shape == (4, 64)
    assert torch.allclose(
        torch.cat([codec.encode([raw]) for raw in raws]), latents, atol=1e-3
    )
    made = codec.decode(latents)
    assert [(m.shape, m.dtype) for m in made] == [((SAMPLES,), torch.float32)] * 4
    assert all(m.isfinite().all() and m.abs().max() <= 1 for m in made)
    assert all(
        torch.equal(a, b) for a, b in zip(made, codec.decode(latents), strict=True)
    )
    alone = torch.stack([codec.decode(latent[None])[0] for latent in latents])
    assert (log_mel(alone) - log_mel(torch.stack(made))).abs().mean() < 0.01


def test_a_second_is_what_counts(audio):
    sound = tone(500, 800, seconds=2.0)
    short = sound[:5000]
    latents = audio.codec.encode(
        [sound, sound[:SAMPLES], short, torch.cat([short, torch.zeros(SAMPLES)])]
    )
    assert torch.allclose(latents[0], latents[1], atol=1e-4)
    assert torch.allclose(latents[2], latents[3], atol=1e-4)
    assert not torch.allclose(latents[0], latents[2], atol=0.1)


def test_the_fingerprint_knows_the_weights(audio, tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "small.safetensors"
    file.write_bytes(SmallAudio.shipped.read_bytes())
    same = SmallAudio(str(file)).fingerprint()
    assert same["weights"] == audio.codec.fingerprint()["weights"]
    state = load_file(file)
    save_file(
        {
            name: tensor * 1.01 if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        },
        file,
    )
    assert SmallAudio(str(file)).fingerprint()["weights"] != same["weights"]


def test_shipped_weights_are_small():
    assert SmallAudio.shipped.stat().st_size <= 2e6


def test_the_round_trip_keeps_instrument_note_and_octave(audio):
    codec = audio.codec
    known, factors = notes(60, seed=1)
    heard, truth = notes(8, seed=2)
    latents = codec.encode(list(known))
    design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1)
    again = torch.cat(
        [
            codec.encode(codec.decode(codec.encode(list(heard)))),
            torch.ones(len(heard), 1),
        ],
        dim=1,
    )
    kept = np.ones(len(heard), dtype=bool)
    for factor, truths in zip(
        factors.T, truth.T, strict=True
    ):  # the simplest probe: least squares on one-hot labels
        targets = torch.nn.functional.one_hot(torch.from_numpy(factor)).float()
        kept &= (again @ torch.linalg.lstsq(design, targets).solution).argmax(
            1
        ).numpy() == truths
    assert kept.mean() >= 0.95


# Training


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)  # Lightning's own
def test_training_lowers_the_loss_and_exports(tmp_path):
    from lightning.pytorch import Trainer, seed_everything
    from torch.utils.data import DataLoader

    seed_everything(0)
    weights = tmp_path / "trained.safetensors"
    codec = SmallAudio(weights=str(weights))
    training = AudioCodecTraining(codec, str(weights), learning_rate=3e-3)
    raws = list(notes(4, seed=0)[0])
    batches = [
        RawBatch.of(codec.training_inputs(raws), step=step) for step in range(25)
    ]

    def loss() -> float:
        return training.eval().errors(batches[0], 0.0)["reconstruction"].mean().item()

    training.configure_model()
    # The latents' spread, before which nothing can be compared.
    training.train().errors(batches[0], 0.0)
    before = loss()
    quiet = dict.fromkeys(
        (
            "logger",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
        ),
        False,
    )
    trainer = Trainer(max_steps=25, accelerator="cpu", num_sanity_val_steps=0, **quiet)
    trainer.fit(
        training.train(),
        DataLoader(batches, batch_size=None),
        DataLoader(batches[:1], batch_size=None),
    )
    assert loss() < before / 2
    again = training.eval().net.encode(batches[0].inputs[0])
    assert torch.allclose(codec.encode(raws), again, atol=0.02)  # float16


# Pictures


def test_preview(audio):
    for seconds in (0.01, 1.0, 3.0):
        picture = audio.preview(tone(200, seconds=seconds))
        assert (picture.mode, picture.size) == ("RGB", (128, 128))
    sounds = tone(200), tone(4000), torch.zeros(9)
    low, high, silent = (
        np.asarray(audio.preview(sound)).sum(2).sum(1) for sound in sounds
    )
    assert low.argmax() > 100  # low frequencies are at the bottom
    assert high.argmax() < 50
    assert silent.max() <= 4 * 128
    heard = np.asarray(audio.preview(tone(200, seconds=0.25))).sum((0, 2))
    # A quarter of a second is a quarter of the picture.
    assert heard[:28].min() > 2 * heard[40:].max()
