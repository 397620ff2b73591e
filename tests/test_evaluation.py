"""Evaluation and gallery, on modalities whose flows are known exactly."""

import copy
import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from flowbind.codec import Codec
from flowbind.data.manifest import Manifest, write_manifest
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import LatentStore, finish_store
from flowbind.evaluation import gallery, report
from flowbind.evaluation.evaluation import Evaluation, EvaluationConfig
from flowbind.evaluation.labels import classes_of, draw_rows
from flowbind.evaluation.previews import draws_of
from flowbind.files import digest
from flowbind.method import Direction
from flowbind.methods.flowbind import FlowBind
from flowbind.metrics.probe import fit_probe
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from tests import released

NAMES = ("ant", "bee", "cat")
WIDTH = 6
COLOURS, SIZES = ("blue", "green", "red"), ("large", "small")
# Samples; the last are test samples that lack something.
TRAIN, TEST, PARTIAL = (
    400,
    60,
    5,
)
# One Euler step is exact on a straight field.
# One step each way, without noise: what straight flows undo exactly.
EXACT = {"steps": 1, "source_steps": None, "solver": "euler", "variety": 0.0}
CONFIG = EvaluationConfig(sampling=EXACT, gallery=6)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Turned(Codec):
    """Latents are the raw vectors, turned."""

    shape = (WIDTH,)

    def __init__(self, seed):
        self.seed = seed
        self.rotation = torch.linalg.qr(randn(WIDTH, WIDTH, seed=seed)).Q

    def encode(self, raws):
        return torch.stack(raws) @ self.rotation

    def decode(self, latents, generator=None):
        return list(latents @ self.rotation.T)


class Straight(nn.Module):
    """The field whose flow carries z to `scale * z + shift` along straight lines."""

    def __init__(self, scale, shift):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x, t):
        z = (x - t[:, None] * self.shift) / (1 + t[:, None] * (self.scale - 1))
        return (self.scale - 1) * z + self.shift


class Vector(Modality):
    """Numbers in a row; `kind` decides turning, flow and what a gallery shows."""

    suffixes = (".txt",)
    literal = True

    def __init__(self, kind, shift=0.0):
        super().__init__(Turned(kind))
        self.kind, self.shift = kind, shift
        self.scale = 0.5 + torch.rand(
            WIDTH, generator=torch.Generator().manual_seed(kind)
        )

    def read(self, source):
        return torch.tensor([float(number) for number in source.split()])

    def write(self, raw, path):
        path.write_text(" ".join(map(str, raw.tolist())))

    def preview(self, raw):
        if self.kind == 0:
            return " ".join(f"{number:.1f}" for number in raw.tolist())
        levels = (raw.sigmoid() * 255).byte().reshape(2, 3).numpy()
        return Image.fromarray(levels).resize((30, 20), Image.Resampling.NEAREST)

    def build_drift(self, config):
        return Straight(self.scale, self.shift * torch.eye(WIDTH)[0])


def statistics(kind):
    """Mean and standard deviation of a modality's latents."""
    return randn(WIDTH, seed=10 + kind), 0.5 + randn(WIDTH, seed=20 + kind).abs()


@pytest.fixture(scope="module", autouse=True)
def _quick_probes():
    """These factors are read after few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "flowbind.evaluation.evaluation.fit_probe", partial(fit_probe, steps=100)
        )
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Manifests and stores: each sample is one shared vector, told exactly by every modality that it has."""
    return make_world(tmp_path_factory.mktemp("world"), labelled=True)


def make_world(folder, labelled):
    kinds = {name: Vector(kind) for kind, name in enumerate(NAMES)}
    places = 4 * torch.eye(WIDTH)  # one for each colour and size
    made = {}
    for split, strata in (
        ("train", [(NAMES[:2], TRAIN), (NAMES[1:], TRAIN)]),
        ("test", [(NAMES, TEST), (NAMES[:2], PARTIAL)]),
    ):
        samples, groups = [], []
        for number, (names, rows) in enumerate(strata):
            generator = torch.Generator().manual_seed(number + 40 * (split == "test"))
            places_of = torch.randint(len(places), (rows,), generator=generator)
            z = places[places_of] + 0.2 * torch.randn(rows, WIDTH, generator=generator)
            tensors = {}
            for name in names:
                mean, std = statistics(kinds[name].kind)
                tensors[name] = (kinds[name].scale * z) * std + mean
            lines = torch.arange(len(samples), len(samples) + rows)
            for row, place in enumerate(places_of.tolist()):
                raws = {
                    name: kinds[name]
                    .codec.decode(tensors[name][row : row + 1])[0]
                    .tolist()
                    for name in names
                }
                sample = {"id": f"s{len(samples)}"} | {
                    name: " ".join(map(str, raw)) for name, raw in raws.items()
                }
                if labelled:
                    sample["labels"] = {
                        "colour": COLOURS[place // 2],
                        "size": SIZES[place % 2],
                    }
                samples.append(sample)
            (folder / split).mkdir(exist_ok=True)
            write_shard(
                folder / split / f"{number}.safetensors", tensors | {LINE: lines}, {}
            )
            groups.append((names, [f"{number}.safetensors"]))
        path = folder / f"{split}.jsonl"
        write_manifest(path, samples)
        prints = {name: kinds[name].codec.fingerprint() for name in NAMES}
        made[split] = (
            finish_store(folder / split, groups, prints, str(path), digest(path)),
            Manifest.read(path, NAMES),
        )
    return made


def make_model(shift=0.0):
    """The exact model; with a shift, one whose last modality lies elsewhere."""
    modalities = {
        name: Vector(kind, shift if kind == 2 else 0.0)
        for kind, name in enumerate(NAMES)
    }
    model = released.make_model(modalities, DriftConfig(), HeadConfig(width=8, depth=1))
    for name, modality in modalities.items():
        model.networks.standard[name].set(*statistics(modality.kind))
    model.sampling = model.method.choose(**EXACT)
    return model


def evaluate(world, model=None, config=CONFIG, **sampling):
    model = model or make_model()
    model.sampling = model.method.choose(model.sampling, **sampling)
    evaluation = Evaluation(model, *world["train"], *world["test"], config)
    for rows in evaluation.batches:
        evaluation.step(rows)
    return evaluation, evaluation.finish()


@pytest.fixture(scope="module")
def exact(world):
    with torch.inference_mode():  # as Lightning's test loop runs it
        return evaluate(world)


def measure(found, name):
    """The figure whose full name begins so."""
    (value,) = [value for key, value in found.items() if key.startswith(name + "[")]
    return value


def directions(names):
    return FlowBind({name: Vector(0) for name in names}).directions()


def test_directions_are_single_self_and_pairs():
    every = [str(d) for d in directions(NAMES)]
    assert len(every) == 12
    assert {
        "ant->ant",
        "ant->cat",
        "ant+bee->cat",
        "ant+cat->bee",
        "bee+cat->ant",
    } <= set(every)
    assert len(directions("abcd")) == 28


def test_exact_flows_are_perfect_in_every_direction(exact):
    found = exact[1]["directions"]
    assert list(found) == [str(d) for d in directions(NAMES)]
    for measures in found.values():
        for factor in ("colour", "size", "joint"):
            assert measure(measures, f"accuracy/{factor}") == 1
        assert measure(measures, "recall@1") == 1
        assert measure(measures, "frechet") == pytest.approx(0, abs=1e-6)


def test_only_ways_between_two_modalities_are_walked_back(exact):
    found = exact[1]["directions"]
    walked = {
        said
        for said, measures in found.items()
        if any(key.startswith("cycle[") for key in measures)
    }
    assert walked == {
        str(Direction((a,), (b,))) for a in NAMES for b in NAMES if a != b
    }
    assert all(measure(found[said], "cycle") < 1e-5 for said in walked)


def test_a_direction_is_paired_where_training_held_a_source_with_the_target(exact):
    found = exact[1]["directions"]
    assert {said for said, measures in found.items() if not measures["paired"]} == {
        "ant->cat",
        "cat->ant",
    }


def test_names_say_implementation_and_count(exact):
    keys = set(exact[1]["directions"]["ant->bee"]) - set(report.DESCRIBED)
    kinds = (
        "accuracy/colour[probe",
        "accuracy/size[probe",
        "accuracy/joint[probe",
        "frechet[codec",
        "private-variance[codec",
        "recall@1[codec",
        "cycle[rms",
    )
    assert keys == {f"{kind},n={TEST}]" for kind in kinds}


def test_the_shared_space_agrees_and_ceilings_and_codecs_are_told(exact):
    results = exact[1]
    for measures in results["alignment"].values():
        shared = [
            value for key, value in measures.items() if key.startswith("cknna[shared")
        ]
        assert shared == pytest.approx([1.0], abs=1e-4)
        assert len(measures) == 2
    assert set(results["alignment"]) == {"ant~bee", "ant~cat", "bee~cat"}
    assert [
        measure(found, "accuracy/joint") for found in results["probes"].values()
    ] == [1, 1, 1]
    assert results["probes"]["bee"]["rows"] == 2 * TRAIN
    assert [measure(found, "recall@1") for found in results["codecs"].values()] == [
        1,
        1,
        1,
    ]


def test_what_does_not_enter_is_counted(exact):
    meta = exact[1]["meta"]
    assert (meta["samples"], meta["left_out"]) == (TEST, PARTIAL)
    assert meta["trained_on"] == {"ant+bee": TRAIN, "bee+cat": TRAIN}
    assert meta["codecs"]["cat"]["seed"] == 2
    assert {"decode ant", "encode cat", "flows", "probes", "measures"} <= set(
        meta["seconds"]
    )


def test_a_broken_modality_is_seen_wherever_it_takes_part(world):
    """The last modality's flow ends and begins elsewhere: it fools itself alone."""
    _, results = evaluate(world, make_model(shift=30.0))
    found = results["directions"]
    for said in ("ant->cat", "bee->cat", "cat->ant", "cat->bee", "ant+bee->cat"):
        assert measure(found[said], "accuracy/joint") < 0.5, said
        assert measure(found[said], "frechet") > 10, said
    for said in ("ant->bee", "bee->ant", "cat->cat"):
        assert measure(found[said], "accuracy/joint") == 1, said
    assert results["summary"]["paired"]["lowest_joint_accuracy"] < 0.5
    assert results["summary"]["two_sources"]["least_gain_over_the_better_source"] < 0
    assert [
        measure(found, "accuracy/joint") for found in results["codecs"].values()
    ] == [1, 1, 1]


class Growing(nn.Module):
    """dx/dt = x, where one Euler step doubles on the way out and leaves nothing on the way in; two leave a quarter."""

    def forward(self, x, t):
        return x


def test_the_way_there_and_back_shows_what_the_solver_loses(world):
    model = make_model()
    model.networks.nets.drifts["bee"] = Growing()
    evaluation, results = evaluate(
        world, model, EvaluationConfig(), steps=1, source_steps=2
    )
    x = {
        name: model.networks.standard[name](real)
        for name, real in evaluation.real.items()
    }
    assert torch.allclose(evaluation.states["bee"], x["bee"] / 4, atol=1e-5)
    # ant -> z -> 2 z -> z / 2 -> ant: half of it is lost
    lost = (x["ant"] / 2).square().mean().sqrt().item()
    assert measure(results["directions"]["ant->bee"], "cycle") == pytest.approx(
        lost, rel=1e-4
    )
    assert measure(results["directions"]["ant->cat"], "cycle") < 1e-5


def test_what_is_judged_went_through_the_codec(world):
    """A decoder that loses everything gives nothing to read, however good the flows."""
    model = make_model()
    model.modalities["bee"].codec.decode = lambda latents, generator=None: (
        [torch.zeros(WIDTH)] * len(latents)
    )
    _, results = evaluate(world, model)
    assert measure(results["directions"]["ant->bee"], "accuracy/joint") < 0.5
    assert measure(results["codecs"]["bee"], "accuracy/joint") < 0.5
    assert measure(results["directions"]["bee->ant"], "accuracy/joint") == 1


def test_results_do_not_depend_on_who_takes_which_step(world, exact):
    """Two devices, each with some rows, one row with both: sums over devices give the results of one."""
    config = replace(CONFIG, gallery=0)
    both = [
        Evaluation(make_model(), *world["train"], *world["test"], config)
        for _ in range(2)
    ]
    both[0].step(torch.arange(0, 40))
    both[1].step(torch.arange(39, TEST))
    sums = iter(
        [sum(parts) for parts in zip(*(kept_of(one) for one in both), strict=True)]
    )
    results = both[0].finish(lambda tensor: next(sums))
    for said, expected in exact[1]["directions"].items():
        for key, value in expected.items():
            same = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
            assert results["directions"][said][key] == same, (said, key)


def kept_of(evaluation):
    """Tensors in the order in which `finish` merges them."""
    parts = (
        evaluation.generated,
        evaluation.trips,
        evaluation.states,
        evaluation.cycles,
        evaluation.measures,
    )
    return [evaluation.seen, *(tensor for part in parts for tensor in part.values())]


def test_the_trainer_s_precision_changes_nothing(world, exact):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, results = evaluate(world)
    for said, expected in exact[1]["directions"].items():
        assert results["directions"][said] == expected


def test_the_limit_draws_by_seed(world):
    drawn = [
        Evaluation(
            make_model(),
            *world["train"],
            *world["test"],
            EvaluationConfig(limit=20, seed=s),
        )
        for s in (0, 0, 1)
    ]
    assert [one.count for one in drawn] == [20, 20, 20]
    assert torch.equal(drawn[0].lines, drawn[1].lines)
    assert not torch.equal(drawn[0].lines, drawn[2].lines)
    assert len(set(drawn[0].lines.tolist())) == 20


def test_rows_carry_the_latents_of_their_lines(world):
    """From two strata, drawn: the manifest's own raw sample, encoded, is the row."""
    store, manifest = world["train"]
    bee = make_model().modalities["bee"]
    found, lines = draw_rows(
        store, ["bee"], torch.ones(2 * TRAIN, dtype=torch.bool), 50, seed=3
    )
    assert (lines < TRAIN).any()
    assert (lines >= TRAIN).any()
    raws = [
        manifest.read_raw(manifest.samples[line], "bee", bee) for line in lines.tolist()
    ]
    assert torch.allclose(bee.codec.encode(raws), found["bee"], atol=1e-4)


def test_stand_ins_are_samples_of_the_same_labels_and_no_others_are_read(
    world, monkeypatch
):
    counts = []
    gather = LatentStore.gather

    def counted(store, number, rows, names):
        if names != [LINE]:
            counts.append(len(rows))
        return gather(store, number, rows, names)

    monkeypatch.setattr(LatentStore, "gather", counted)
    store, manifest = world["train"]
    evaluation = Evaluation(
        make_model(), store, manifest, *world["test"], replace(CONFIG, limit=20)
    )
    assert max(counts) <= 20

    labels = classes_of(manifest, evaluation.values)
    assert list(evaluation.stand_ins.latents) == list(NAMES)
    for name, latents in evaluation.stand_ins.latents.items():
        same = (latents[:, None] == store.all(name)).all(2)
        assert (same.sum(1) == 1).all()
        lines = store.lines(name)[same.int().argmax(1)]
        assert torch.equal(labels[lines], evaluation.labels)


def test_without_labels_there_are_no_accuracies(tmp_path):
    evaluation, results = evaluate(make_world(tmp_path, labelled=False))
    assert results["probes"] == {}
    for entry in results["summary"].values():
        assert entry.keys() == {"likeness"}
        assert entry["likeness"].keys() == {"directions", "frechet", "frechet_floor"}
    assert not any(
        "accuracy" in key
        for measures in results["directions"].values()
        for key in measures
    )
    assert measure(results["directions"]["ant->cat"], "recall@1") == 1
    assert evaluation.gallery().width == gallery.WIDTH
    assert "recall@1" in report.terminal(results)
    report.write(results, tmp_path / "run")


def test_latents_that_are_not_finite_are_refused(world):
    evaluation = Evaluation(
        make_model(shift=float("nan")), *world["train"], *world["test"], CONFIG
    )
    with pytest.raises(
        ValueError, match=r"^cat->ant: generated latents are not finite"
    ):
        evaluation.step(torch.arange(4))


def test_a_test_set_without_a_modality_is_refused(world):
    store, manifest = world["train"]
    with pytest.raises(ValueError, match="0 samples have all of ant, bee, cat"):
        Evaluation(make_model(), *world["train"], store, manifest, CONFIG)


@pytest.mark.parametrize(
    ("key", "value"), [("repeats", 0), ("limit", 1), ("gallery", -1)]
)
def test_a_mistaken_setting_is_named(key, value):
    with pytest.raises(ValueError, match=f"evaluation.{key}.*{value}"):
        EvaluationConfig(**{key: value})


# Report


def test_files_are_whole(exact, tmp_path):
    report.write(exact[1], tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.json",
        "metrics.md",
    ]
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == exact[1]
    lines = (tmp_path / "run/metrics.md").read_text().splitlines()
    for said in exact[1]["directions"]:
        assert sum(line.startswith(f"| {said} |") for line in lines) == 1
    for group in re.findall(r"(?:\|.*\n)+", "\n".join(lines)):
        assert len({line.count("|") for line in group.splitlines()}) == 1


def test_the_terminal_table_is_aligned(exact):
    headline, *blocks = report.terminal(exact[1]).split("\n\n")
    assert (
        headline == f"{TEST} test samples, seed 0, steps 1, solver euler, variety 0.0"
    )
    for block in blocks[1:]:
        _, head, rule, *rows = block.splitlines()
        assert len(head) == len(rule) >= max(map(len, rows))
    paired = next(block for block in blocks if block.startswith("One source, never"))
    assert [line.split()[0] for line in paired.splitlines()[3:]] == [
        "ant->cat",
        "cat->ant",
    ]
    assert blocks[0].splitlines()[-1] == (
        "  Two sources are below the better of them in 0 of 3 directions; the least gain is +0.000 (ant+bee->cat)."
    )


def test_figures_of_one_name_are_told_apart(exact):
    results = copy.deepcopy(exact[1])
    found = results["directions"]["ant->bee"]
    found |= {
        "cider[cider-d,1-reference,n=9]": 1.0,
        "cider[cider-d,5-references,n=9]": 2.0,
        "fad[vggish,n=9]": 3.0,
    }
    (row,) = [line for line in report.markdown(results).splitlines() if "cider" in line]
    assert "| cider 1-reference | cider 5-references | fad |" in row


def test_repetitions_are_averaged_and_their_spread_told(exact):
    results = exact[1]
    other = json.loads(json.dumps(results))
    name = next(
        key for key in results["directions"]["ant->bee"] if key.startswith("frechet")
    )
    other["directions"]["ant->bee"][name] = results["directions"]["ant->bee"][name] + 2
    both = report.averaged([results, other])
    assert both["directions"]["ant->bee"][name] == pytest.approx(
        results["directions"]["ant->bee"][name] + 1
    )
    assert both["spread"]["ant->bee"][name] == pytest.approx(2**0.5)
    assert both["directions"]["ant->bee"]["sources"] == ["ant"]
    assert " ± 1.414 |" in report.markdown(both)
    assert "mean ± spread of 2 repetitions" in report.markdown(both)
    assert report.averaged([results]) == results


def test_the_summary_finds_the_lowest_and_what_a_second_source_adds():
    def direction(sources, target, joint, paired=True):
        return {
            "sources": sources,
            "target": target,
            "paired": paired,
            "accuracy/joint[probe,n=9]": joint,
        }

    found = {
        "a->a": direction(["a"], "a", 1.0),
        "a->c": direction(["a"], "c", 0.9),
        "b->c": direction(["b"], "c", 0.8, paired=False),
        "a->b": direction(["a"], "b", 0.95),
        "a+b->c": direction(["a", "b"], "c", 0.875),
    }
    summary = report.summarise(found)
    assert summary["paired"] == {
        "directions": 2,
        "lowest_joint_accuracy": 0.9,
        "in": "a->c",
    }
    assert summary["never_paired"]["in"] == "b->c"
    assert summary["itself"]["lowest_joint_accuracy"] == 1
    two = summary["two_sources"]
    assert two["least_gain_over_the_better_source"] == pytest.approx(-0.025)
    assert two["least_gain_in"] == "a+b->c"
    assert two["below_the_better_source"] == 1


# Gallery


def test_the_gallery_shows_every_modality_as_a_source(exact, tmp_path):
    picture = exact[0].gallery()
    assert picture.size[0] == gallery.WIDTH
    gallery.save(picture, tmp_path / "deep/gallery.png")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["gallery.png"]
    with Image.open(tmp_path / "deep/gallery.png") as read:
        assert (read.format, read.size) == ("PNG", picture.size)
    colours = np.asarray(picture).reshape(-1, 3)
    orange = tuple(int(gallery.UNSEEN[i : i + 2], 16) for i in (1, 3, 5))
    assert (colours == orange).all(
        1
    ).sum() > 1000  # ant->cat and cat->ant, two rows each, and the legend


def test_a_gallery_grows_by_rows_and_marks_only_what_was_never_seen():
    picture = Image.new("L", (64, 64), 128)
    rows = [
        gallery.Row(
            "a", f"{i}", "", picture, {"a": [picture], "b": ["words"]}, frozenset()
        )
        for i in range(3)
    ]
    one, three = (
        gallery.compose(rows[:1], ["a", "b"]),
        gallery.compose(rows, ["a", "b"]),
    )
    step = (three.height - one.height) / 2
    assert step == three.height - gallery.compose(rows[:2], ["a", "b"]).height > 100
    orange = tuple(int(gallery.UNSEEN[i : i + 2], 16) for i in (1, 3, 5))
    assert not (np.asarray(three).reshape(-1, 3) == orange).all(1).any()


def test_a_cell_shows_what_each_seed_made():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    made = [Image.new("RGB", (64, 64), colour) for colour in colours]
    words = ["one", "two", "three"]
    row = gallery.Row("a", "0", "", made[0], {"a": made, "b": words}, frozenset())
    without = gallery.Row("a", "0", "", made[0], {"a": made}, frozenset())
    picture = np.asarray(gallery.compose([row, row], ["a", "b"]))
    places = [(picture == colour).all(2).any(0).nonzero()[0] for colour in colours]
    assert places[1].max() < places[2].min()  # side by side, in the order of the seeds
    of_cell = picture.copy()
    empty = np.asarray(gallery.compose([without, row], ["a", "b"]))
    assert (of_cell != empty).any()


def test_sources_of_other_targets_have_a_head_of_their_own():
    """No column is empty: one-way methods and pairs of modalities make one target of each source."""
    picture = Image.new("RGB", (64, 64), "green")
    to_b = gallery.Row("a", "0", "", picture, {"b": [picture]}, frozenset())
    to_a = gallery.Row("b", "1", "", picture, {"a": [picture]}, frozenset())
    names = ["a", "b"]
    heads = [name for name, _ in gallery.blocks([to_b, to_b, to_a], names)]
    assert heads == [("b",), ("a",)]

    both = gallery.Row("a", "0", "", picture, {"a": [], "b": []}, frozenset())
    assert len(list(gallery.blocks([both, both], names))) == 1
    two = gallery.compose([to_b, to_a], names)
    one = gallery.compose([to_b], names)
    assert two.height - gallery.FOOT == 2 * (one.height - gallery.FOOT)


def test_a_gallery_of_noise_shows_several_seeds_and_of_none_one(world):
    def draws(evaluation):
        latents = {"ant": evaluation.real["ant"][:2]}
        return draws_of(evaluation.model, latents, ["bee"], range(3))

    alike, _ = evaluate(world)
    assert len(draws(alike)) == 1
    evaluation, _ = evaluate(world, variety=1.0)
    first = draws(evaluation)
    assert len(first) == 3
    for one, again in zip(first, draws(evaluation), strict=True):
        assert torch.equal(one["bee"], again["bee"])
    assert not torch.equal(first[0]["bee"], first[1]["bee"])

    # Two sources at the same place: what is alike is not the noise.
    noise = [evaluation.model.streams(2, first=2 * number) for number in range(2)]
    assert set(noise[0].tolist()).isdisjoint(noise[1].tolist())


@pytest.mark.parametrize(
    "words",
    [
        "short",
        "a caption of several words that needs more than one line " * 2,
        "w" * 300,
        "",
        "naïve café",
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_words_stay_inside_their_cell(words, seeds):
    cell = Image.new("RGB", (240, 200), "white")
    gallery.put(cell, (20, 20, 220, 180), [words] * seeds)
    outside = np.asarray(cell).copy()
    outside[20:181, 20:221] = 255
    assert (outside == 255).all()
