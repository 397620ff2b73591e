"""What holds on a processor, on a GPU: bits, batches, devices. And a step waits for nothing."""

import copy

import pytest
import torch
from torch import nn

from flowbind.batch import Batch
from flowbind.codec import Codec
from flowbind.data.manifest import Manifest
from flowbind.flow.solver import SOLVERS
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, DriftConfig, Head, HeadConfig
from flowbind.train.ema import follow
from tests.processes import flowbind, make_world
from tests.released import make_model
from tests.toy import ToyCodec, Vector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
STEPS = 50
FSDP2 = (
    "--trainer.strategy=ModelParallelStrategy",
    "--trainer.strategy.tensor_parallel_size=1",
    "--trainer.strategy.data_parallel_size=1",
    "--trainer.strategy.save_distributed_checkpoint=false",
)


def carrying(width: int, drift: DriftConfig):
    """A model whose flows carry latents about as far as trained ones do."""
    torch.manual_seed(0)
    model = make_model(
        {name: Vector(ToyCodec(width)) for name in "ab"}, drift, HeadConfig(8, 1)
    )
    for parameter in model.networks.nets.drifts.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    return model


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("width", "drift"), [(64, DriftConfig(256, 3, 2)), (768, DriftConfig(1152, 3))]
)
def test_a_sample_is_generated_alone_as_in_a_batch(solver, width, drift):
    model, x = carrying(width, drift), torch.randn(600, width)
    options = {"to": ["b"], "solver": solver, "variety": 0.5, "seed": 3}
    here = model.translate({"a": x[:64]}, **options)["b"]

    model.to("cuda")
    together = model.translate({"a": x}, **options)["b"]
    for first, size in ((0, 1), (255, 1), (599, 1), (100, 20), (250, 300)):
        part = model.translate({"a": x[first : first + size]}, **options, first=first)[
            "b"
        ]
        assert torch.equal(part, together[first : first + size])
    assert (together[:64].cpu() - here).abs().max() < 1e-4 * here.std()


@pytest.mark.parametrize("name", ["text", "image", "audio", "points"])
def test_codecs_encode_as_on_a_processor(tmp_path, name):
    """Also one that was used there before, and a sample alone as in a batch."""
    from flowbind_audio import Audio
    from flowbind_image import Image
    from flowbind_points import Points
    from flowbind_shapes import prepare
    from flowbind_text import Text

    modality = {"text": Text, "image": Image, "audio": Audio, "points": Points}[name]()
    prepare(tmp_path, samples=3, test_samples=40)
    manifest = Manifest.read(
        tmp_path / "test.jsonl", {"text", "image", "audio", "points"}
    )
    raws = [manifest.read_raw(sample, name, modality) for sample in manifest.samples]
    codec: Codec = modality.codec
    here = codec.encode(raws)

    codec.to("cuda")
    there = codec.encode(raws)
    alone = codec.encode(raws[7:8])
    print(
        name,
        "CPU",
        (there.cpu() - here).abs().max() / here.std(),
        "alone",
        (alone - there[7:8]).abs().max(),
    )
    assert (there.cpu() - here).abs().max() < 1e-4 * here.std()
    assert (alone - there[7:8]).abs().max() < 1e-5 * here.std()
    decoded, again = codec.decode(there), codec.decode(alone)
    if name == "text":
        assert decoded[7] == again[0]
    else:
        first, second = (torch.as_tensor(raw).float() for raw in (decoded[7], again[0]))
        print(name, "decoded", (first - second).abs().max())


def make_step(names="abcd", width: int = 64):
    """Networks, and a batch of samples that have all modalities."""
    with torch.device("cuda"):
        torch.manual_seed(0)
        drifts = nn.ModuleDict(
            {name: Drift(width, width=256, depth=3, ratio=2) for name in names}
        )
        heads = nn.ModuleDict({name: Head(width, width=256, depth=2) for name in names})
        for parameter in [*drifts.parameters(), *heads.parameters()]:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.03)
        rows = {name: torch.arange(240) for name in names}
        batch = Batch.of({name: torch.randn(240, width) for name in names}, rows)
    return nn.ModuleDict({"drifts": drifts, "heads": heads}), batch


def learn(nets, batch, key: int = 1) -> torch.Tensor:
    found = losses(
        nets["drifts"],
        nets["heads"],
        batch,
        Draws.sample(batch, key),
        ObjectiveConfig(),
    )
    torch.stack(list(found.values())).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in nets.parameters()])


def test_a_step_gives_the_same_bits_again():
    nets, batch = make_step()
    found = []
    for _ in range(5):
        nets.zero_grad()
        found.append(learn(nets, batch))
    assert all(torch.equal(again, found[0]) for again in found)


def test_a_step_waits_for_nothing():
    nets, batch = make_step()
    average = copy.deepcopy(nets)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-4, fused=True)
    learn(nets, batch)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            optimizer.zero_grad()
            learn(nets, batch, step)
            torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
            optimizer.step()
            follow(average, nets, 0.9)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "strategy",
    [("auto",), ("ddp",), ("fsdp",), FSDP2],
    ids=["auto", "ddp", "fsdp", "FSDP2"],
)
def test_one_device_learns_by_every_strategy(tmp_path, strategy, precision):
    def run(*arguments):
        done = flowbind(tmp_path, *arguments)
        return done.returncode, done.stdout, done.stderr

    recipe = make_world(tmp_path, run, steps=STEPS)
    strategy = strategy if len(strategy) > 1 else (f"--trainer.strategy={strategy[0]}",)
    options = (
        "--config",
        recipe,
        "--trainer.accelerator=gpu",
        f"--trainer.precision={precision}",
    )
    code, _, err = run(
        "fit",
        *options,
        *strategy,
        f"--trainer.max_steps={STEPS}",
        "--trainer.val_check_interval=25",
    )
    assert code == 0, err
    code, _, err = run("test", *options)
    assert code == 0, err
