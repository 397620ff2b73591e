"""Binding: a new modality is tied to a trained model from pairs with one of its own, and the old flows stay to the bit."""

import json

import torch
import yaml

import flowbind
from flowbind.data.latents import LatentDataModule
from flowbind.methods.flowbind import FlowBind
from tests.toy import RECIPE, STEPS, Vector, Word

WORD = {
    "class_path": "word",
    "init_args": {"codec": {"class_path": "toy-word", "init_args": {"seed": 1}}},
}
TWIN = {
    "class_path": "vector",
    "init_args": {"codec": {"class_path": "toy", "init_args": {"seed": 5}}},
}


def build(world, command, steps) -> None:
    """Trains a model of words and vectors on the first half of the toy world, and writes the recipe that binds twins to it."""
    lines = (world / "data/train.jsonl").read_text().splitlines(keepends=True)
    (world / "data/train.jsonl").write_text("".join(lines[:256]))
    short = (f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}")
    for verb, options in (("encode", ()), ("fit", short)):
        code, _, err = command(verb, "--config", world / "recipe.yaml", *options)
        assert code == 0, err
    (world / "more").mkdir()
    for split, drop in (("train", ["word"]), ("val", []), ("test", [])):
        texts = (
            lines[256:]
            if split == "train"
            else (world / f"data/{split}.jsonl").read_text().splitlines()
        )
        with (world / f"more/{split}.jsonl").open(
            "w"
        ) as file:  # a twin is read from the same file as the vector
            for sample in map(json.loads, texts):
                kept = {key: value for key, value in sample.items() if key not in drop}
                file.write(json.dumps(kept | {"twin": sample["vector"]}) + "\n")
    recipe = yaml.safe_load(
        RECIPE.format(data=world / "more", run=world / "bound", steps=STEPS // 2)
    )
    recipe["model"]["init_args"]["bind"] = ["twin"]
    recipe["training"]["base"] = str(world / "run/model")
    recipe["model"]["init_args"]["modalities"] |= {"word": WORD, "twin": TWIN}
    (world / "bind.yaml").write_text(yaml.safe_dump(recipe))


def test_a_new_modality_meets_those_it_was_never_paired_with(world, command):
    build(world, command, STEPS // 2)
    for verb in ("encode", "fit", "test"):
        code, _, err = command(verb, "--config", world / "bind.yaml")
        assert code == 0, err
    found = json.loads((world / "bound/metrics.json").read_text())["directions"]
    assert found["word->twin"]["accuracy/joint[probe,n=128]"] > 0.9
    assert not found["word->twin"]["paired"]

    old, new = flowbind.load(world / "run/model"), flowbind.load(world / "bound/model")
    held = new.networks.state_dict()
    assert all(
        torch.equal(held[key], tensor)
        for key, tensor in old.networks.state_dict().items()
    )
    words = {"word": old.encode("word", ["302", "113"])}
    assert torch.equal(
        old.translate(words, ["vector"])["vector"],
        new.translate(words, ["vector"])["vector"],
    )
    assert any(key.startswith("nets.drifts.twin") for key in held)


def test_only_samples_with_a_modality_to_learn_are_drawn(world, command):
    build(world, command, 5)
    more = (world / "data/train.jsonl").read_text().splitlines(keepends=True)
    with (world / "more/train.jsonl").open("a") as file:
        file.writelines(
            json.dumps(json.loads(line) | {"id": f"pair {n}"}) + "\n"
            for n, line in enumerate(more)
        )
    code, _, err = command("encode", "--config", world / "bind.yaml")
    assert code == 0, err
    data = LatentDataModule({"train": "none.jsonl"}, "none", batch_size=10)
    store = flowbind.LatentStore(world / "more/latents/train")
    method = FlowBind(
        {"word": Word(), "vector": Vector(), "twin": Vector()}, bind=["twin"]
    )
    drawn = map(len, data.mixture(store, method).batch(0))
    kinds = {
        frozenset(stratum.modalities): count
        for stratum, count in zip(store.strata, drawn, strict=True)
    }
    assert kinds == {
        frozenset({"vector", "twin"}): 10,
        frozenset({"vector", "word"}): 0,
    }


MISTAKES = [
    ("--training.base=null", "training.base names the released model"),
    (
        "--model.init_args.bind=[twyn]",
        "bind: no modality 'twyn' here; did you mean 'twin'",
    ),
    ("--model.init_args.bind=[]", "it has no modality 'twin'"),
    (
        "--model.init_args.modalities.word.init_args.codec.init_args.seed=9",
        "its 'word' has another codec: seed is 1 there, 9 in the recipe",
    ),
    ("--model.init_args.drift.width=32", "its 'vector' is of another size"),
    ("--model.init_args.objective.normalize=false", "its latents have normalize: True"),
    (
        "--model.init_args.objective.noise_variance=0.4",
        "its latents have noise_variance: 0.1",
    ),
    ("--training.base=nowhere", "nowhere: no such folder"),
]


def test_mistakes(world, command):
    build(world, command, 5)
    assert command("encode", "--config", world / "bind.yaml")[0] == 0
    for changed, said in MISTAKES:
        code, _, err = command("fit", "--config", world / "bind.yaml", changed)
        assert (code, said in err.strip().splitlines()[-1], "Traceback" in err) == (
            2,
            True,
            False,
        ), err


def test_a_run_goes_on_with_the_base_that_it_has(world, command):
    """The flows of a base are in the checkpoint: another base, or others to learn, would be ignored there."""
    build(world, command, 5)
    assert command("encode", "--config", world / "bind.yaml")[0] == 0
    fit = ["fit", "--config", world / "bind.yaml", "--trainer.val_check_interval=4"]
    assert command(*fit, "--trainer.max_steps=4")[0] == 0
    other = f"--trainer.default_root_dir={world}/other"
    short = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
    assert command("fit", "--config", world / "recipe.yaml", other, *short)[0] == 0

    more = [
        *fit,
        "--trainer.max_steps=8",
        f"--ckpt_path={world}/bound/checkpoints/step=4.ckpt",
    ]
    for changed, key in (
        ([f"--training.base={world}/other/model"], "base"),
        (["--model.bind=[twin, vector]"], "trained"),
    ):
        code, _, err = command(*more, *changed)
        assert (code, f"its {key} is" in err.strip().splitlines()[-1]) == (2, True), err
    assert command(*more)[0] == 0
