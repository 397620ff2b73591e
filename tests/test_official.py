"""The authors' released checkpoint, read as a model of flowbind: the same outputs as their published formula gives."""

import json

import numpy as np
import pytest
import torch

import flowbind
from flowbind.nets.mlp import Drift, DriftConfig, Head
from tests.reference import official
from tests.toy import RECIPE

D, W, LAYERS = 8, 24, 2
NAMES = ("word", "vector")


@pytest.fixture
def released(tmp_path, toys):
    """A synthetic checkpoint of the authors' layout, and the options that name its files."""
    generator = torch.Generator().manual_seed(0)
    states = {
        name: {
            key: 0.3 * torch.randn(shape, generator=generator)
            for key, shape in official.shapes(D, W, LAYERS).items()
        }
        for name in NAMES
    }
    optimizer = {
        "state": {0: {"step": torch.tensor(5.0)}},
        "param_groups": [{"lr": 1e-4}],
    }
    whole = {
        "epoch": 3,
        "global_step": 5,
        "model_state_dict": states,
        "optimizer_state_dict": optimizer,
    }
    torch.save(whole, tmp_path / "model.pth")
    config = {
        "hidden_dim": W,
        "num_layers": LAYERS,
        "prior": "explicit_residual",
        "t_cond": "adaln",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = [
        "--checkpoint",
        tmp_path / "model.pth",
        "--config",
        tmp_path / "config.json",
        "--out",
        tmp_path / "model",
    ]
    for number, name in enumerate(NAMES):
        mean, std = torch.full((1, D), 0.5 + number), torch.full((1, D), 2.0 + number)
        np.save(tmp_path / f"{name}_mean.npy", mean.numpy())
        torch.save(std, tmp_path / f"{name}_std.pt")
        options += [
            "--mean",
            f"{name}={tmp_path}/{name}_mean.npy",
            "--std",
            f"{name}={tmp_path}/{name}_std.pt",
        ]
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.format(data=tmp_path, run=tmp_path / "run", steps=1)
    )
    return states, [*options, "--recipe", tmp_path / "recipe.yaml"]


def test_outputs_are_those_of_the_published_formula(released, tmp_path, command):
    states, options = released
    code, _, err = command("import-official", *options)
    assert code == 0, err
    model = flowbind.load(tmp_path / "model")
    model.networks.double()
    generator = torch.Generator().manual_seed(1)
    x, t = (
        torch.randn(16, D, generator=generator, dtype=torch.float64),
        torch.linspace(0, 1, 16, dtype=torch.float64),
    )
    for number, name in enumerate(NAMES):
        state = {key: tensor.double() for key, tensor in states[name].items()}
        assert torch.allclose(
            model.networks.nets.drifts[name](x, t),
            official.drift(state, x, t, LAYERS),
            atol=1e-9,
        )
        assert torch.allclose(
            model.networks.nets.heads[name](x), official.head(state, x), atol=1e-9
        )
        one = torch.full((1, D), 2.5 + 2 * number, dtype=torch.float64)
        assert torch.equal(model.networks.standard[name](one), torch.ones_like(one))
    assert model.method.objective.times == "both"
    assert not model.method.objective.normalize


def test_every_weight_of_the_published_size_has_a_place():
    with torch.device("meta"):
        drift, head = Drift(768), Head(768)
    count = sum(
        np.prod(shape)
        for shape in official.shapes(768, 1152, DriftConfig().depth).values()
    )
    unused = 768 * 1152 + 768
    assert (
        sum(p.numel() for net in (drift, head) for p in net.parameters())
        == count - unused
    )
    assert 3 * count == 567_972_864


def test_what_is_not_known_is_refused(released, tmp_path, command):
    states, options = released

    def refused(said):
        code, _, err = command("import-official", *options)
        assert (
            code,
            said in err,
            "Traceback" in err,
            (tmp_path / "model").exists(),
        ) == (
            2,
            True,
            False,
            False,
        ), err

    config = json.loads((tmp_path / "config.json").read_text())
    for changed, said in (
        (
            config | {"prior": "gaussian"},
            "prior is 'gaussian', allowed is 'explicit_residual'",
        ),
        (config | {"feat_scale": 4.0}, "feat_scale is 4.0"),
        ({"hidden_dim": W}, "not the authors' config.json"),
        (config | {"hidden_dim": float(W)}, "its hidden_dim is 24.0"),
        (
            config | {"hidden_dim": W + 1},
            "flow of 'word' with hidden_dim 25 and num_layers 2 and latents of 8: input_proj.bias "
            "has the shape (24,), not (25,)",
        ),
        (
            config | {"num_layers": 1},
            "res_blocks.1.adaLN_modulation.1.bias is not known",
        ),
        (config | {"num_layers": 3}, "it has no res_blocks.2.adaLN_modulation.1.bias"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        refused(said)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for changed, said in (
        (
            {"model_state_dict": states | {"smell": states["word"]}},
            "it has word, vector, smell, the codecs are of word, vector",
        ),
        (
            {
                "model_state_dict": states
                | {"word": states["word"] | {"more.weight": torch.ones(1)}}
            },
            "more.weight is not known",
        ),
        ({"weights": states}, "it has weights, no model_state_dict"),
        (
            {"model_state_dict": states | {"word": states["word"]["out.bias"]}},
            "no weights by name, but Tensor",
        ),
        (
            {
                "model_state_dict": states
                | {"word": states["word"] | {"out.bias": torch.full((D,), torch.nan)}}
            },
            "out.bias has numbers that are not finite",
        ),
    ):
        torch.save(changed, tmp_path / "model.pth")
        refused(said)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_precisions_of_training_make_no_difference(
    dtype, prefix, released, tmp_path, command
):
    states, options = released
    saved = {}
    for name, state in states.items():
        saved[name] = {prefix + key: tensor.to(dtype) for key, tensor in state.items()}
    # And numbers of numpy beside them.
    torch.save(
        {"model_state_dict": saved, "loss": np.float64(0.5), "at": np.int64(3)},
        tmp_path / "model.pth",
    )
    code, _, err = command("import-official", *options)
    assert code == 0, err
    written = flowbind.load(tmp_path / "model").networks.nets.drifts["word"]
    expected = states["word"]["res_blocks.1.mlp.fc1.weight"].to(dtype).float()
    assert torch.equal(written.blocks[1].mlp[0].weight, expected)


def test_nothing_in_it_runs(released, tmp_path, command):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    torch.save({"model_state_dict": {"word": Trap()}}, tmp_path / "model.pth")
    code, _, err = command("import-official", *released[1])
    assert (code, "not the authors' checkpoint" in err) == (2, True), err
    assert not (tmp_path / "canary").exists()


def test_wrong_statistics(released, tmp_path, command):
    std = torch.load(tmp_path / "word_std.pt")
    for wrong, says in (
        (0.0, "word_std.pt: a standard deviation is above 0, this has 0"),
        (torch.nan, "word_std.pt: has numbers that are not finite"),
    ):
        torch.save(
            torch.cat([std[:, 1:], torch.full((1, 1), wrong)], 1),
            tmp_path / "word_std.pt",
        )
        code, _, err = command("import-official", *released[1])
        assert (code, says in err) == (2, True), err
    torch.save(std, tmp_path / "word_std.pt")

    np.save(tmp_path / "word_mean.npy", np.zeros(D + 1))
    code, _, err = command("import-official", *released[1])
    assert (code, "word_mean.npy: not 8 numbers" in err) == (2, True), err
    *files, recipe, path = released[1]
    code, _, err = command("import-official", *files[:-4], recipe, path)
    assert (code, "no statistics of 'vector': give --mean vector=FILE" in err) == (
        2,
        True,
    ), err
