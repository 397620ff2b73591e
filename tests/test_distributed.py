"""Several processes do what one does: real runs of the command line, on gloo, against a run of one process."""

import csv
import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
import yaml

from tests.processes import environment, flowbind, make_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 50
FSDP2 = (
    "--trainer.strategy=ModelParallelStrategy",
    "--trainer.strategy.tensor_parallel_size=1",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.save_distributed_checkpoint=false",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Sources of very different sizes: pairs, words alone, and one vector alone; 129 samples to validate."""
    folder = tmp_path_factory.mktemp("world")

    def command(*arguments):
        done = flowbind(folder, *arguments)
        return done.returncode, done.stdout, done.stderr

    make_world(folder, command, steps=STEPS)
    manifest = folder / "data/train.jsonl"
    samples = [json.loads(line) for line in manifest.read_text().splitlines()]
    for number, sample in enumerate(samples):
        if number == 7:
            del sample["word"]
        elif number % 5 == 0:
            del sample["vector"]
    manifest.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    code, _, err = command("encode", "--config", folder / "recipe.yaml")
    assert code == 0, err
    return folder


def fit(world, name, *arguments, recipe="recipe.yaml", **named):
    """Trains into a folder. Returns it and what was said."""
    run = world / name
    done = flowbind(
        world,
        "fit",
        "--config",
        recipe,
        f"--trainer.default_root_dir={run}",
        *arguments,
        **named,
    )
    # A library's advice to its programmers is none of a user's.
    if done.returncode == 0:
        assert "site-packages" not in done.stderr
    return run, done


def weights(run, step=STEPS):
    return torch.load(run / f"checkpoints/step={step}.ckpt", weights_only=True)[
        "state_dict"
    ]


def curves(run):
    """What a run logged, line by line, but for its pace."""
    lines = []
    with (run / "curves/version_0/metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            lines.append({})
            for name, value in row.items():
                if value and not name.startswith("pace/"):
                    lines[-1][name] = float(value)
    return lines


def apart(run, other):
    mine, others = weights(run), weights(other)
    assert mine.keys() == others.keys()
    return max(
        (tensor - others[name]).abs().max().item() for name, tensor in mine.items()
    )


@pytest.fixture(scope="module")
def one(world):
    """Runs of one process, in both precisions."""
    found = {}
    for precision in ("64-true", "32-true"):
        found[precision], done = fit(
            world, precision, f"--trainer.precision={precision}"
        )
        assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize(("precision", "bound"), [("64-true", 1e-9), ("32-true", 1e-5)])
@pytest.mark.parametrize("processes", [2, 4])
def test_ddp_learns_what_one_process_learns(world, one, precision, bound, processes):
    run, done = fit(
        world,
        f"ddp{processes}-{precision}",
        f"--trainer.precision={precision}",
        f"--trainer.devices={processes}",
        "--trainer.strategy=ddp",
    )
    # Ranks that differ in one bit would have ended it.
    assert done.returncode == 0, done.stderr
    difference = apart(run, one[precision])
    print(f"ddp, {processes} processes, {precision}: {difference:.1e}")
    assert difference < bound
    # Losses of training and validation, signs and rates; what the clock says is each run's own.
    for mine, alone in zip(curves(run), curves(one[precision]), strict=True):
        assert mine.keys() == alone.keys()
        for name, value in mine.items():
            assert value == pytest.approx(alone[name], rel=1e-3), name


def test_fsdp2_learns_what_one_process_learns(world, one):
    halfway = f"--trainer.val_check_interval={STEPS // 2}"
    run, done = fit(world, "fsdp2", "--trainer.devices=2", halfway, *FSDP2)
    assert done.returncode == 0, done.stderr
    difference = apart(run, one["32-true"])
    print(f"FSDP2, 2 processes, 32-true: {difference:.1e}")
    assert difference < 1e-5
    done = flowbind(
        world, "test", "--config", "recipe.yaml", f"--trainer.default_root_dir={run}"
    )
    assert done.returncode == 0, done.stderr


def test_fsdp2_learns_a_joint_flow_as_one_process_does(world):
    """Samples that lack a side are not trained on."""
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    ids = {"class_path": "word", "init_args": {"codec": {"class_path": "digit-ids"}}}
    net = {"width": 16, "depth": 2, "heads": 2}
    recipe["model"] = {
        "class_path": "crossmodal",
        "init_args": {
            "modalities": {"word": ids, "vector": {"class_path": "vector"}},
            "net": net,
            "token_net": net | {"reading": 1},
        },
    }
    recipe["evaluation"] = {"limit": 16, "gallery": 2}
    recipe["data"]["init_args"]["store"] = str(world / "ids")
    path = world / "joint.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert flowbind(world, "encode", "--config", path).returncode == 0

    one, done = fit(world, "joint-one", recipe=path)
    assert done.returncode == 0, done.stderr

    both = ("--trainer.devices=2", f"--trainer.val_check_interval={STEPS // 2}")
    two, done = fit(world, "joint-two", *both, *FSDP2, recipe=path)
    assert done.returncode == 0, done.stderr
    difference = apart(two, one)
    print(f"FSDP2 of a joint flow, 2 processes, 32-true: {difference:.1e}")
    assert difference < 1e-4  # of weights near 1e-1, after Adam's steps of 1e-3

    root = f"--trainer.default_root_dir={two}"
    done = flowbind(world, "test", "--config", path, root)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="Lightning's FSDP runs on a GPU only: not run here",
)
def test_fsdp_learns_what_one_process_learns(world, one):
    run, done = fit(
        world,
        "fsdp",
        "--trainer.accelerator=gpu",
        "--trainer.devices=1",
        "--trainer.strategy=fsdp",
    )
    assert done.returncode == 0, done.stderr
    assert apart(run, one["32-true"]) < 1e-4


def test_testing_on_two_processes_gives_the_same_figures(world, one):
    run = one["32-true"]
    figures = []
    for devices in (1, 2):
        strategy = ["--trainer.strategy=ddp"] if devices > 1 else []
        done = flowbind(
            world,
            "test",
            "--config",
            "recipe.yaml",
            f"--trainer.default_root_dir={run}",
            f"--trainer.devices={devices}",
            *strategy,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((run / "metrics.json").read_text())
        figures.append(
            {key: found[key] for key in ("directions", "alignment", "probes", "codecs")}
        )
    assert figures[0] == figures[1]


def test_the_number_of_processes_may_change_on_the_way(world, one):
    """1, 2, 4, then 1 process, stopped by SIGTERM's way of ending at steps 12, 25 and 37."""
    run = world / "elastic"
    for stop, processes in ((12, 1), (25, 2), (37, 4), (STEPS, 1)):
        strategy = ["--trainer.strategy=ddp"] if processes > 1 else []
        checkpoints = sorted((run / "checkpoints").glob("*.ckpt"), key=os.path.getmtime)
        at = [f"--ckpt_path={checkpoints[-1]}"] if checkpoints else []
        _, done = fit(
            world,
            "elastic",
            "--trainer.precision=64-true",
            "--training.decay=constant",
            *at,
            f"--trainer.devices={processes}",
            *strategy,
            f"--trainer.max_steps={stop}",
        )
        assert done.returncode == 0, done.stderr
    whole, done = fit(
        world, "straight", "--trainer.precision=64-true", "--training.decay=constant"
    )
    assert done.returncode == 0, done.stderr
    assert apart(run, whole) < 1e-9


def test_a_rank_that_diverges_is_named(world):
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    method, training = recipe["model"], recipe.pop("training")
    del recipe["evaluation"]
    arguments = {"method": method, "training": training}
    recipe["model"] = {"class_path": "tests.toy.Faulty", "init_args": arguments}
    (world / "faulty.yaml").write_text(yaml.safe_dump(recipe))

    begin = time.monotonic()
    _, done = fit(
        world,
        "faulty",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.max_steps=100000",
        "--trainer.val_check_interval=100000",
        recipe="faulty.yaml",
    )
    print(f"named after {time.monotonic() - begin:.0f} s, start included")
    assert done.returncode == 2
    assert "the weights on rank 1 are no longer those of the other ranks" in done.stderr
    assert "Traceback" not in done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


LAUNCH = [
    "-m",
    "torch.distributed.run",
    "--nnodes=2",
    "--nproc-per-node=1",
    "--master-addr=127.0.0.1",
]


def two_nodes(world, *arguments):
    """Runs a command under two of torchrun's agents on loopback, a process each. Returns each one's code and output."""
    port = free_port()
    launched = [
        [
            sys.executable,
            *LAUNCH,
            f"--master-port={port}",
            f"--node-rank={node}",
            "-m",
            "flowbind",
            *arguments,
        ]
        for node in (0, 1)
    ]
    told = {
        "cwd": world,
        "env": environment(world),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    nodes = [subprocess.Popen(command, text=True, **told) for command in launched]
    try:
        said = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.terminate()  # and the agent ends its process
            node.communicate()
    return list(zip([node.returncode for node in nodes], said, strict=True))


def test_two_nodes_by_torchrun(world, one):
    """Trained as by one process; started again, both end at once; and so they do where the first cannot read the folder."""
    fitting = [
        "fit",
        "--config",
        "recipe.yaml",
        f"--trainer.default_root_dir={world}/nodes",
        "--trainer.num_nodes=2",
        "--trainer.strategy=ddp",
        "--trainer.precision=64-true",
        "--checkpoints.every=10",
    ]
    (first, said), (second, _) = two_nodes(world, *fitting)
    assert (first, second) == (0, 0), said
    difference = apart(world / "nodes", one["64-true"])
    print(f"ddp, two agents of torchrun, 64-true: {difference:.1e}")
    assert difference < 1e-9
    (first, said), (second, silent) = two_nodes(world, *fitting)
    assert (first, second) == (0, 0), said
    assert "trained already" in said
    assert "trained already" not in silent
    (world / "nodes/run.json").write_text("{")
    (first, said), (second, silent) = two_nodes(world, *fitting)
    assert first != 0
    assert "run.json" in said
