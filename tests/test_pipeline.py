"""Whole runs through the command line on the toy world: prepare, encode, fit, test, generate, and what is not done twice."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import flowbind
import flowbind.data.encoding
import tests.toy
from flowbind.data.store import LatentStore
from tests.toy import RECIPE, STEPS, write_world


def test_the_whole_thread(world, command):
    recipe = world / "recipe.yaml"
    code, _, err = command("encode", "--config", recipe)
    assert code == 0, err
    store = LatentStore(world / "data/latents/train")
    store.verify()
    assert (store.rows, list(store.fields)) == (512, ["word", "vector"])

    code, _, err = command("fit", "--config", recipe)
    assert code == 0, err
    assert f"fit: {STEPS}/{STEPS} steps done in" in err
    run = world / "run"
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml",
        "checkpoints",
        "model",
        "curves",
        "run.json",
    }

    code, out, err = command("test", "--config", recipe)
    assert code == 0, err
    assert "word->vector" in out
    metrics = json.loads((run / "metrics.json").read_text())
    n = metrics["meta"]["samples"]
    for direction in ("word->vector", "vector->word"):
        assert metrics["directions"][direction][f"accuracy/joint[probe,n={n}]"] > 0.9, (
            metrics["directions"]
        )
    assert (run / "metrics.md").is_file()
    assert (run / "gallery.png").is_file()

    # The command and Python give the same.
    code, out, err = command(
        "generate",
        run / "model",
        "--from",
        "word=302",
        "--from",
        "word=113",
        "--to",
        "vector",
        "--out",
        world / "made",
    )
    assert code == 0, err
    files = [world / "made" / name for name in ("0-302.vector.vec", "1-113.vector.vec")]
    assert out.split() == [str(f) for f in files]
    model = flowbind.load(run / "model")
    again = model.generate({"word": ["302", "113"]}, to=["vector"])["vector"]
    assert torch.equal(model.encode("vector", files), model.encode("vector", again))
    torch.testing.assert_close(
        torch.stack(again), torch.tensor([[3.0, 0, 2], [1, 1, 3]]), atol=0.4, rtol=0
    )

    # Nothing is done twice.
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*.safetensors")}
    assert "are encoded already" in command("encode", "--config", recipe)[2]
    assert "trained already" in command("fit", "--config", recipe)[2]
    assert before == {p: p.stat().st_mtime_ns for p in world.rglob("*.safetensors")}


def test_files_without_labels(tmp_path, toys, command):
    write_world(tmp_path / "files", samples=64)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(data=tmp_path / "data", run=tmp_path / "run", steps=20)
    )
    for arguments in (
        [
            "prepare",
            "folder",
            "--source",
            tmp_path / "files",
            "--out",
            tmp_path / "data",
        ],
        ["encode", "--config", recipe],
        ["fit", "--config", recipe],
        ["test", "--config", recipe],
    ):
        code, _, err = command(*arguments)
        assert code == 0, err
    direction = json.loads((tmp_path / "run/metrics.json").read_text())["directions"][
        "word->vector"
    ]
    measured = {name.split("[")[0] for name in direction if "[" in name}
    assert measured == {"frechet", "recall@1", "cycle"}


def test_a_run_goes_on_where_it_stopped(world, encoded, command):
    recipe = world / "recipe.yaml"
    short = [
        "fit",
        "--config",
        recipe,
        "--trainer.val_check_interval=6",
        "--training.decay=constant",
    ]
    assert (
        command(
            *short,
            "--trainer.max_steps=12",
            f"--trainer.default_root_dir={world}/whole",
        )[0]
        == 0
    )
    assert (
        command(
            *short, "--trainer.max_steps=6", f"--trainer.default_root_dir={world}/parts"
        )[0]
        == 0
    )
    checkpoint = world / "parts/checkpoints/step=6.ckpt"
    code, _, err = command(
        *short,
        "--trainer.max_steps=12",
        f"--trainer.default_root_dir={world}/parts",
        f"--ckpt_path={checkpoint}",
    )
    assert code == 0, err
    whole, parts = (
        torch.load(world / name / "checkpoints/step=12.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 12
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name


def test_what_is_tested_is_what_was_trained(world, encoded, command, monkeypatch):
    recipe = world / "recipe.yaml"
    short = [
        "--checkpoints.every=8",
        "--trainer.max_steps=20",
        "--trainer.val_check_interval=20",
    ]
    assert command("fit", "--config", recipe, *short)[0] == 0
    checkpoint = torch.load(world / "run/checkpoints/step=20.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 20
    assert sorted(path.name for path in (world / "run/checkpoints").glob("*.ckpt")) == [
        "step=16.ckpt",
        "step=20.ckpt",
    ]
    released = flowbind.load(world / "run/model").networks.state_dict()
    assert all(
        torch.equal(checkpoint["state_dict"][f"ema.{name}"], tensor)
        for name, tensor in released.items()
    )


def test_signals_while_training_lose_nothing(world, encoded, command, monkeypatch):
    """Four in a row, each of another kind, in one run; its end is that of a run without any, to the bit."""
    # So that the average waits where the signals come.
    monkeypatch.setattr("flowbind.train.ema.EACH", 4)
    monkeypatch.setattr("flowbind.train.ema.EVERY", 4)
    recipe = world / "recipe.yaml"
    step = flowbind.Training.training_step
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=12",
        "--trainer.val_check_interval=12",
    ]
    for number, at, kept in (
        (signal.SIGINT, 3, {4}),
        (signal.SIGTERM, 4, {4, 5}),
        (signal.SIGUSR1, 8, {5, 9}),
        (signal.SIGHUP, 9, {9, 10}),
    ):

        def interrupted(module, batch, index, number=number, at=at):
            if module.global_step == at:
                os.kill(os.getpid(), number)
            return step(module, batch, index)

        handler = signal.getsignal(number)
        with monkeypatch.context() as patch:
            patch.setattr(flowbind.Training, "training_step", interrupted)
            code, _, err = command(*fit)
        assert code == 128 + number, err
        assert "interrupted; run the same command again to resume" in err
        assert signal.getsignal(number) == handler
        assert not (world / "run/model").exists()
        assert {path.name for path in (world / "run/checkpoints").glob("*.ckpt")} == {
            f"step={n}.ckpt" for n in kept
        }
    code, _, err = command(*fit)
    assert code == 0, err
    assert "resuming from" in err
    assert command(*fit, f"--trainer.default_root_dir={world}/whole")[0] == 0
    same_weights(world / "run", world / "whole", 12)


def test_signals_end_what_does_not_train(world, encoded, command, monkeypatch):
    """At once, whatever Lightning makes of them, and the same command again goes to the end."""
    recipe = ("--config", world / "recipe.yaml")
    fit = ("fit", *recipe, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    assert command(*fit)[0] == 0
    shutil.rmtree(world / "data/latents/val")
    generate = ("generate", world / "run/model", "--from", "word=302", "--to", "vector")

    decode = tests.toy.ToyCodec, "decode"
    verbs = {
        ("encode", *recipe): (signal.SIGTERM, tests.toy.ToyCodec, "encode"),
        ("validate", *recipe): (signal.SIGTERM, flowbind.Training, "validation_step"),
        ("test", *recipe): (signal.SIGTERM, *decode),
        (*generate, "--out", world / "out"): (signal.SIGHUP, *decode),
    }
    for verb, (number, owner, name) in verbs.items():
        calls = []

        def interrupted(*given, calls=calls, number=number, **more):
            calls.append(1)
            os.kill(os.getpid(), number)
            raise AssertionError("the signal ended nothing")

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            code, _, err = command(*verb)
        assert (code, calls) == (128 + number, [1]), err
        assert err.splitlines()[-1].startswith("flowbind: interrupted; run")
        assert signal.getsignal(number) is signal.SIG_DFL
        if verb[0] == "encode":
            assert command(*verb)[0] == 0


def same_weights(run, other, step):
    """Weights, their average, and the optimiser's state, bit for bit."""
    mine, others = (
        torch.load(folder / f"checkpoints/step={step}.ckpt", weights_only=True)
        for folder in (run, other)
    )
    assert any(name.startswith("ema.") for name in mine["state_dict"])
    assert mine["state_dict"].keys() == others["state_dict"].keys()
    assert all(
        torch.equal(tensor, mine["state_dict"][name])
        for name, tensor in others["state_dict"].items()
    )
    for one, two in zip(
        mine["optimizer_states"], others["optimizer_states"], strict=True
    ):
        for key, state in one["state"].items():
            assert all(
                torch.equal(value, two["state"][key][name])
                for name, value in state.items()
            )


def test_ctrl_c_and_a_full_disk_while_encoding_lose_nothing(
    world, command, monkeypatch
):
    recipe, folder = world / "recipe.yaml", world / "data/latents/train"
    monkeypatch.setattr("flowbind.data.plan.SHARD_ROWS", 128)
    write, written = flowbind.data.encoding.write_shard, []

    def failing(error):
        def write_some(path, tensors, metadata):
            if len(written) == 2:
                raise error
            written.append(path)
            write(path, tensors, metadata)

        return write_some

    with monkeypatch.context() as patch:
        patch.setattr(
            "flowbind.data.encoding.write_shard", failing(KeyboardInterrupt())
        )
        code, _, err = command("encode", "--config", recipe, "--split", "train")
    assert (code, "interrupted" in err) == (130, True), err
    with monkeypatch.context() as patch:
        full = SafetensorError("I/O error: No space left on device (os error 28)")
        patch.setattr(
            "flowbind.tensors.save_file", lambda *_, **__: (_ for _ in ()).throw(full)
        )
        code, _, err = command("encode", "--config", recipe, "--split", "train")
    assert (code, "No space left on device" in err.splitlines()[-1]) == (2, True), err
    assert not (folder / "manifest.json").exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in written)
    kept = [p.stat().st_mtime_ns for p in written]
    assert command("encode", "--config", recipe, "--split", "train")[0] == 0
    assert [p.stat().st_mtime_ns for p in written] == kept
    assert LatentStore(folder).rows == 512


def test_no_place_to_write(world, command):
    (world / "taken").write_text("a file")
    for arguments in (
        [
            "encode",
            "--config",
            world / "recipe.yaml",
            f"--data.init_args.store={world}/taken/store",
        ],
        [
            "prepare",
            "folder",
            "--source",
            world / "files",
            "--out",
            world / "taken/data",
        ],
    ):
        code, _, err = command(*arguments)
        assert (code, "taken" in err.strip().splitlines()[-1]) == (2, True), err


def test_another_recipe_keeps_the_old_run(world, encoded, command):
    recipe = world / "recipe.yaml"
    assert (
        command(
            "fit",
            "--config",
            recipe,
            "--trainer.max_steps=5",
            "--trainer.val_check_interval=5",
        )[0]
        == 0
    )
    code, _, err = command(
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=6",
    )
    assert code == 0
    assert "the run that was here is kept in" in err
    assert (world / "run/earlier.1/checkpoints/step=5.ckpt").is_file()


def test_encoding_does_only_what_changed(own_world, command):
    world = own_world
    recipe, folder = world / "recipe.yaml", world / "data/latents/train"
    assert command("encode", "--config", recipe)[0] == 0
    whole = {name: LatentStore(folder).all(name) for name in ("word", "vector")}
    (folder / "manifest.json").unlink()  # as if killed before the end
    code, _, err = command("encode", "--config", recipe, "--split", "train")
    assert code == 0
    assert "encoding" not in err
    assert all(
        torch.equal(LatentStore(folder).all(name), x) for name, x in whole.items()
    )
    file = next((world / "files/train").glob("*.vec"))
    file.write_text("1 1 1")
    code, _, err = command("encode", "--config", recipe, "--split", "train")
    assert "encoding" in err
    assert not torch.equal(LatentStore(folder).all("vector"), whole["vector"])


def test_bad_samples(own_world, command):
    world = own_world
    recipe = world / "recipe.yaml"
    first, second = sorted((world / "files/train").glob("*.vec"))[3:5]
    first.write_text("1 2")
    code, _, err = command("encode", "--config", recipe)
    assert code == 2
    assert err.count("\n") == err.strip().count("\n") + 1
    assert f"{first.name}: damaged" in err.splitlines()[-1]
    assert "--skip-bad N" in err
    assert not (world / "data/latents/train/manifest.json").exists()
    second.write_text("")
    code, _, err = command("encode", "--config", recipe, "--skip-bad", "1")
    assert code == 2
    assert "more than the 1 that --skip-bad allows" in err
    code, _, err = command("encode", "--config", recipe, "--skip-bad", "2")
    assert code == 0
    assert "2 samples could not be read and are left out" in err
    assert LatentStore(world / "data/latents/train").rows == 510


def test_mistakes_in_a_recipe(world, command):
    recipe = world / "recipe.yaml"
    text = recipe.read_text()

    def mistake(old, new, *said):
        assert old in text
        recipe.write_text(text.replace(old, new))
        code, out, err = command("fit", "--config", recipe)
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1, err
        assert out == ""
        for part in said:
            assert part in err, err
        assert not (world / "run").exists()

    mistake(
        "learning_rate",
        "learning_rat",
        "unknown key 'learning_rat'",
        "did you mean 'learning_rate'?",
    )
    mistake(
        "class_path: word",
        "class_path: wrod",
        "no class 'wrod'",
        "did you mean 'word'?",
    )
    mistake("trainer:", "trianer:", "unknown key 'trianer'", "did you mean 'trainer'?")
    mistake("depth: 2", "detph: 2", "unknown key 'detph'", "did you mean 'depth'?")
    mistake("max_steps", "max_step", "did you mean 'max_steps'?")
    mistake("devices: 1", "devices: [", "line", "not YAML")
    mistake(
        "class_path: flowbind\n",
        "class_path: flowbnid\n",
        "no class 'flowbnid'",
        "did you mean 'flowbind'?",
    )
    mistake(
        "class_path: flowbind\n",
        "class_path: flowbind.FlowBnid\n",
        "FlowBnid",
        "FlowBind",
    )
    mistake("batch_size: 64", "batch_size: many", "batch_size")
    mistake(
        "word: {class_path: word}",
        "word: {class_path: word, init_args: {codec: {class_path: toy-word, init_args: {width: 16}}}}",
        "word (16,)",
        "vector (8,)",
    )
    mistake(
        "decay: cosine", "decay: linear", "decay is constant or cosine, not 'linear'"
    )
    mistake(
        "seed_everything: 1",
        "seed_everything: 0",
        "no such latent store",
        "flowbind encode",
    )
    code, _, err = command("fit", "--config", world / "none.yaml")
    assert (code, "no such recipe" in err) == (2, True)


def test_mistakes_of_stores_and_checkpoints(world, encoded, command):
    recipe = world / "recipe.yaml"
    fit = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
    ]

    def mistake(arguments, *said):
        code, _, err = command(*arguments)
        assert code == 2, err
        for part in said:
            assert part in err.strip().splitlines()[-1], err

    codec = "--model.init_args.modalities.vector.init_args.codec"
    mistake(
        [*fit, f"{codec}={{class_path: toy, init_args: {{seed: 5}}}}"],
        "'vector' was encoded by another codec: seed is 0 in the store, 5 in the recipe",
        "flowbind encode",
    )
    mistake(["test", "--config", recipe], "no whole checkpoint", "flowbind fit")
    assert command(*fit)[0] == 0
    run = world / "run/run.json"
    told = run.read_text()
    for damaged in ("{", "[]", "{}", ""):
        run.write_text(damaged)
        mistake(fit, "run.json: cannot be read", "--ckpt_path")
    run.write_text(told)
    checkpoint = world / "run/checkpoints/step=3.ckpt"
    mistake(
        ["test", "--config", recipe, "--model.init_args.drift.width=32"],
        "the checkpoint is of another model",
        "drift.width is 64, the recipe's is 32",
    )
    whole = checkpoint.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        checkpoint.write_bytes(damaged)
        mistake(["test", "--config", recipe], "no whole checkpoint")
        mistake(
            ["test", "--config", recipe, f"--ckpt_path={checkpoint}"],
            "step=3.ckpt",
            "damaged",
        )
    shard = next((world / "data/latents/train").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9])
    mistake([*fit, "--resume", "never"], shard.name, "flowbind encode")
    (world / "data/train.jsonl").write_text('{"word": "123"}\n')
    shutil.rmtree(world / "data/latents")
    (world / "data/train.jsonl").write_text("")
    mistake(["encode", "--config", recipe], "train.jsonl: an empty manifest")
    (world / "data/train.jsonl").write_text('{"word": "123"\n')
    mistake(["encode", "--config", recipe], "train.jsonl, line 1: not JSON")


def test_nothing_is_replaced_without_a_word(world, encoded, command):
    recipe, model, out = world / "recipe.yaml", world / "run/model", world / "made"
    assert (
        command(
            "fit",
            "--config",
            recipe,
            "--trainer.max_steps=3",
            "--trainer.val_check_interval=3",
        )[0]
        == 0
    )
    again = (
        "generate",
        model,
        "--from",
        "word=123",
        "--from",
        "word=321",
        "--to",
        "vector",
        "--to",
        "word",
        "--out",
        out,
    )
    code, first, err = command(*again)
    assert code == 0, err
    files = {path: path.stat().st_mtime_ns for path in map(Path, first.split())}
    assert len(files) == 4

    code, printed, err = command(*again)
    assert (code, printed) == (2, "")
    assert (
        err
        == f"flowbind: {out}/0-123.vector.vec, and 3 more, is there already; --overwrite replaces it, or give another --out\n"
    )
    assert files == {path: path.stat().st_mtime_ns for path in files}

    code, printed, _ = command(*again, "--overwrite")
    assert (code, printed) == (0, first)
    assert all(path.stat().st_mtime_ns > time for path, time in files.items())


def test_mistakes_of_generate(world, encoded, command):
    recipe, model = world / "recipe.yaml", world / "run/model"
    assert (
        command(
            "fit",
            "--config",
            recipe,
            "--trainer.max_steps=3",
            "--trainer.val_check_interval=3",
        )[0]
        == 0
    )

    def mistake(arguments, *said):
        code, out, err = command("generate", *arguments, "--out", world / "made")
        assert code == 2, err
        assert len(err.strip().splitlines()) == 1, err
        assert out == ""
        for part in said:
            assert part in err, err
        assert not (world / "made").exists()

    mistake([world / "none", "--from", "word=123", "--to", "vector"], "no such folder")
    mistake(
        [world / "data", "--from", "word=123", "--to", "vector"], "not a released model"
    )
    mistake(
        [model, "--from", "word=123", "--to", "vectro"],
        "no modality 'vectro'",
        "did you mean 'vector'?",
    )
    mistake(
        [model, "--from", "wrod=123", "--to", "vector"],
        "no modality 'wrod'",
        "did you mean 'word'?",
    )
    mistake([model, "--from", "vector=none.vec", "--to", "word"], "no such file")
    mistake([model, "--from", "word", "--to", "vector"], "--from takes NAME=VALUE")
    mistake(
        [model, "--from", "word=12", "--to", "vector"],
        "'12' is no word of three digits",
    )
    mistake(
        [model, "--from", "word=123", "--to", "vector", "--solver", "eule"],
        "no solver 'eule'",
    )
    mistake(
        [model, "--from", "word=123", "--to", "vector", "--steps", "0"],
        "steps must be a whole number, at least 1, not 0",
    )
    mistake(
        [model, "--from", "word=123", "--to", "vector", "--stpes", "3"],
        "no option --stpes; did you mean --steps?",
        "--help",
    )
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    mistake(
        [model, "--from", "word=123", "--to", "vector"], "model.safetensors: damaged"
    )


def test_prepare_is_whole_or_not_at_all(tmp_path, toys, command):
    write_world(tmp_path / "files", samples=16)
    args = [
        "prepare",
        "folder",
        "--source",
        tmp_path / "files",
        "--out",
        tmp_path / "data",
    ]
    assert command(*args)[0] == 0
    assert "prepared already" in command(*args)[2]
    assert command(*args, "--val", "0.2")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("data*")) == ["data"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    code, _, err = command(*args[:-1], tmp_path / "mine")
    assert (code, "not empty, and not written by" in err) == (2, True)
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"
    code, _, err = command(
        "prepare", "folder", "--source", tmp_path / "none", "--out", tmp_path / "other"
    )
    assert (code, "no such folder" in err, (tmp_path / "other").exists()) == (
        2,
        True,
        False,
    )
    code, _, err = command("prepare", "fodler", "--out", tmp_path / "other")
    assert (code, "did you mean 'folder'?" in err) == (2, True)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_every_precision_that_trains_is_tested(world, encoded, command, precision):
    """Networks are judged in their own precision, by measures that are not."""
    short = [
        "--trainer.max_steps=20",
        "--trainer.val_check_interval=20",
        f"--trainer.precision={precision}",
    ]
    assert command("fit", "--config", world / "recipe.yaml", *short)[0] == 0
    few = "--evaluation.limit=16"
    code, _, err = command("test", "--config", world / "recipe.yaml", *short, few)
    assert code == 0, err
    code, out, err = command(
        "generate",
        world / "run/model",
        "--from",
        "word=203",
        "--to",
        "vector",
        "--to",
        "word",
        "--out",
        world / "out",
    )
    assert code == 0, err
    assert len(out.splitlines()) == 2


def test_training_where_no_signal_is_heard(world, encoded, command):
    """In another thread than the main one: only that may set what a signal does."""
    short = ("--trainer.max_steps=4", "--trainer.val_check_interval=4")
    with ThreadPoolExecutor(1) as pool:
        code, _, err = pool.submit(
            command, "fit", "--config", world / "recipe.yaml", *short
        ).result()
    assert code == 0, err
    assert (world / "run/checkpoints/step=4.ckpt").is_file()
