"""Raw samples on their way to a codec in training: few are held at a time, and what is made of them is what one batch gives."""

from types import SimpleNamespace

import pytest
import torch

import flowbind.progress
from flowbind.codec import CHUNK, NeuralCodec
from flowbind.data.raw import RawDataModule
from flowbind.registry import load
from tests.toy import Vector

SAMPLES = 2 * CHUNK + 7


class Counted:
    """A raw sample that knows how many of its kind are held."""

    held = most = 0

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers
        Counted.held += 1
        Counted.most = max(Counted.most, Counted.held)

    def __del__(self) -> None:
        Counted.held -= 1


class CountedVector(Vector):
    """A vector whose raw samples are counted."""

    def read(self, source):
        return Counted(super().read(source))

    def accept(self, raw):
        return raw


class CountedCodec(NeuralCodec):
    """Stacks counted samples."""

    shape = (3,)

    def build(self):
        raise NotImplementedError

    def prepare(self, raws):
        return torch.stack([raw.numbers for raw in raws])

    def finish(self, outputs):
        raise NotImplementedError


@pytest.fixture
def data(tmp_path, toys, monkeypatch):
    """Vectors on disk, for a codec in training."""
    monkeypatch.setattr("flowbind.data.raw.name_of", lambda kind, cls: "vector")
    with (tmp_path / "all.jsonl").open("w") as file:
        for n in range(SAMPLES):
            (tmp_path / f"{n}.vec").write_text(f"{n} {n + 0.5} 0")
            file.write(f'{{"vector": "{n}.vec"}}\n')
    module = RawDataModule(
        CountedVector(), *[str(tmp_path / "all.jsonl")] * 2, batch_size=SAMPLES
    )
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    training = SimpleNamespace(subject=CountedCodec(), kind="codec", least_batch=2)
    module.trainer = SimpleNamespace(
        lightning_module=training, strategy=strategy, world_size=1, global_rank=0
    )
    return module


def test_few_raw_samples_are_held(data, capsys):
    Counted.held = Counted.most = 0
    data.setup("fit")
    assert Counted.most <= CHUNK + 1
    assert Counted.held == 0
    (batch,) = data.val_dataloader()
    assert torch.equal(batch.inputs[0][:, 0], torch.arange(SAMPLES).float())
    assert (
        f"reading all.jsonl: {SAMPLES}/{SAMPLES} samples done in"
        in capsys.readouterr().err
    )


def test_a_damaged_sample_is_named(data, tmp_path):
    (tmp_path / f"{CHUNK + 3}.vec").write_text("1 2")
    with pytest.raises(
        ValueError, match=rf"{CHUNK + 3}.vec: damaged.*sample '{CHUNK + 4}'"
    ):
        data.setup("fit")


def test_a_fault_of_the_codec_is_told_in_a_line(data, monkeypatch):
    def prepare(codec, raws):
        return {}["a key"]

    monkeypatch.setattr(CountedCodec, "prepare", prepare)
    told = rf"the codec of 'vector' cannot prepare it: KeyError: 'a key', at line .*sample '{CHUNK}' of .*all.jsonl"
    with pytest.raises(ValueError, match=told):
        data.setup("fit")


@pytest.mark.parametrize(
    ("codec", "raw"),
    [
        (
            "small-image",
            lambda n: torch.randint(256, (3, 32 + n % 3, 40), dtype=torch.uint8),
        ),
        ("small-audio", lambda n: torch.randn(3000 + n) / 9),
        ("small-points", lambda n: torch.rand(50 + n, 6)),
        ("point-autoencoder", lambda n: torch.rand(50 + n, 6)),
    ],
)
def test_chunks_are_what_one_batch_gives(codec, raw, monkeypatch):
    monkeypatch.setattr("flowbind.codec.CHUNK", CHUNK // 8)
    torch.manual_seed(0)
    raws = [raw(n) for n in range(CHUNK // 8 + 9)]
    codec = load("codecs", codec)()
    (found,) = codec.training_inputs(raws)
    assert torch.equal(found, codec.prepare(raws))


def test_progress_counts_samples_and_tells_the_speed(capsys, monkeypatch):
    now = iter([0.0, *[10.0 * n for n in range(1, 9)]])
    monkeypatch.setattr(flowbind.progress.time, "monotonic", lambda: next(now))
    list(flowbind.progress.track([[1, 2], [3], [4, 5]], "reading", 5, "samples", len))
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2/5 samples (0.2/s, 0:00:15 left)",
        "reading: 3/5 samples (0.1/s, 0:00:13 left)",
        "reading: 5/5 samples done in 30.0 s (0.2/s)",
    ]


def test_a_loop_that_ends_with_the_last_item_has_done_it(capsys):
    for item in flowbind.progress.track(range(3), "counting"):
        if item == 2:
            break
    assert "counting: 3/3 done in" in capsys.readouterr().err


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    list(flowbind.progress.track([[1, 2], [3]], "reading", 3, "samples", len))
    err = capsys.readouterr().err
    assert "reading" in err
    assert "3/3 samples" in err
