"""A sample comes out the same alone and among others, from its file to what is decoded: with the codecs that ship."""

import pytest
import torch
from flowbind_audio import Audio
from flowbind_image import Image
from flowbind_points import Points
from flowbind_shapes import prepare
from flowbind_text import Text

from flowbind.data.manifest import Manifest
from flowbind.flow.solver import SOLVERS
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.padding import GPU_BLOCK, in_blocks
from tests.released import make_model

ONES = (0, 7, 19)
CLOSE = 1e-6  # of the latents' spread, in float32


@pytest.fixture(scope="module")
def model():
    """Flows that carry latents about as far as trained ones do."""
    modalities = {
        "text": Text(),
        "image": Image(),
        "audio": Audio(),
        "points": Points(),
    }
    sizes = DriftConfig(width=64, depth=2, ratio=2), HeadConfig(width=8, depth=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model(modalities, *sizes)
        for parameter in model.networks.nets.drifts.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.fixture(scope="module")
def sources(tmp_path_factory, model):
    """Twenty samples of every modality: literals and paths."""
    folder = tmp_path_factory.mktemp("shapes")
    prepare(folder, samples=3, test_samples=20)
    manifest = Manifest.read(folder / "test.jsonl", model.modalities)
    return {
        name: [manifest.source(sample, name, modality) for sample in manifest.samples]
        for name, modality in model.modalities.items()
    }


@pytest.fixture(scope="module")
def latents(model, sources):
    return {name: model.encode(name, samples) for name, samples in sources.items()}


@pytest.mark.parametrize("name", ["text", "image", "audio", "points"])
def test_encoding(model, sources, latents, name):
    spread = latents[name].std()
    for start, count in ((0, 1), (7, 1), (19, 1), (3, 2), (5, 13)):
        few = model.encode(name, sources[name][start : start + count])
        assert (
            few - latents[name][start : start + count]
        ).abs().max() <= CLOSE * spread


@pytest.mark.parametrize(
    ("solver", "given"),
    [
        *((solver, ["text", "audio"]) for solver in SOLVERS),
        *(("euler", [name]) for name in ("text", "image", "audio", "points")),
    ],
)
def test_generating(model, sources, latents, solver, given):
    """Encoder, both legs, average and the noise of variety; the noise is the sample's, whatever its part begins with."""
    targets = list(model.modalities)
    options = {"steps": 4, "solver": solver, "variety": 0.5, "seed": 3}
    together = model.translate(
        {name: latents[name] for name in given}, targets, **options
    )
    for one in ONES:
        alone = {name: model.encode(name, [sources[name][one]]) for name in given}
        made = model.translate(alone, targets, **options, first=one)
        for target in targets:
            moved = (made[target] - together[target][one : one + 1]).abs().max()
            assert moved <= CLOSE * together[target].std()


def test_decoding(model, latents):
    """To the bit where samples are words or whole numbers, to rounding where they are not."""
    for name, modality in model.modalities.items():
        together = modality.codec.decode(latents[name])
        for one in ONES:
            (alone,) = modality.codec.decode(latents[name][one : one + 1])
            if isinstance(alone, str) or not alone.is_floating_point():
                assert (
                    torch.equal(alone, together[one])
                    if name != "text"
                    else alone == together[one]
                )
            else:
                torch.testing.assert_close(
                    alone,
                    together[one],
                    rtol=0,
                    atol=1e-6 * together[one].abs().max().item(),
                )


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_blocks_leave_the_precision_of_convolutions_as_it_was(precision):
    """Blocks are a GPU's, for which any device but a processor may stand."""
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, precision
    seen = []

    def compute(rows):
        seen.append((len(rows), conv.fp32_precision))
        return rows

    x = torch.empty(GPU_BLOCK + 1, 3, device="meta")
    try:
        assert in_blocks(compute, x).shape == x.shape
        assert seen == [(GPU_BLOCK, "ieee")] * 2

        seen.clear()
        torch.set_float32_matmul_precision("high")
        try:
            in_blocks(compute, x)
        finally:
            torch.set_float32_matmul_precision("highest")
        assert [shape for shape, _ in seen] == [len(x)]
        assert conv.fp32_precision == precision
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize(
    ("positions", "block"), [(1, GPU_BLOCK), (4, 256), (65, 15), (257, 3), (5_000, 1)]
)
def test_blocks_of_rows_with_many_positions_have_fewer_rows(positions, block):
    seen = []
    x = torch.empty(2 * GPU_BLOCK - 1, 3, device="meta")
    assert in_blocks(lambda x: seen.append(len(x)) or x, x, positions).shape == x.shape
    assert set(seen) == {block}
    assert len(seen) == -(-len(x) // block)


@pytest.mark.parametrize(
    "terms", [{}, {"minus": {"text": "red"}, "plus": {"text": "blue"}}]
)
def test_parts_of_a_list_are_the_list(model, sources, terms):
    """What `--batch` cuts a request into decides nothing."""
    captions = sources["text"][:10]
    options = {"to": ["image"], "steps": 2, "variety": 1.0, "seed": 5, **terms}
    whole = model.generate({"text": captions}, **options)["image"]
    parts = [
        picture
        for first in range(0, 10, 4)
        for picture in model.generate(
            {"text": captions[first : first + 4]}, **options, first=first
        )["image"]
    ]
    assert all(torch.equal(one, other) for one, other in zip(parts, whole, strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_an_interpolation_ends_in_its_sources(model, sources):
    """To the bit, from several sources to several targets, with fresh noise."""
    pair = {name: sources[name][4:6] for name in ("text", "image")}
    options = {"to": ["image", "points"], "steps": 2, "variety": 1.0, "seed": 5}
    line = model.interpolate(pair, shares=[0, 0.5, 1], **options)
    for end, place in ((0, 0), (1, 2)):
        alone = {name: [samples[end]] for name, samples in pair.items()}
        plain = model.generate(alone, **options)
        for name in options["to"]:
            reached = model.encode(name, [line[name][place]])
            assert torch.equal(reached, model.encode(name, plain[name]))
    assert not torch.equal(line["image"][1], line["image"][0])
