"""How like real samples generations are: stand-ins, the rows of tables, the chart."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbind.evaluation import report
from flowbind.evaluation.chart import draw
from flowbind.evaluation.stand_ins import choose

POOL = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1], [-1, 0], [0, 1]])


def test_stand_ins_have_the_same_labels_and_are_taken_once_while_there_are_others():
    wanted = torch.tensor([[0, 1], [0, 0], [0, 1], [1, 1], [0, 0]])
    for seed in range(20):
        chosen = choose(POOL, wanted, seed)
        assert (POOL[chosen] == wanted).all()
        assert len(chosen.unique()) == len(wanted)
    taken = {tuple(choose(POOL, wanted, seed).tolist()) for seed in range(20)}
    assert len(taken) > 1  # drawn, not the first ones


def test_where_there_are_too_few_some_stand_in_twice():
    chosen = choose(POOL, torch.tensor([[0, 0]] * 5), 0)
    assert set(chosen.tolist()) == {0, 2}


def test_where_no_sample_has_the_labels_any_other_stands_in():
    chosen = choose(POOL, torch.tensor([[1, 0]] * 3), 0)
    assert len(chosen.unique()) == 3


def test_without_labels_as_many_samples_stand_in():
    nothing = torch.empty(7, 0, dtype=torch.long)
    assert sorted(choose(nothing, nothing, 3).tolist()) == list(range(7))


def results(directions, floors):
    return {"directions": directions, "floors": floors}


def direction(sources, target, paired=True, **measures):
    return {"sources": sources, "target": target, "paired": paired, **measures}


LABELLED = {
    "accuracy/joint[probe,n=9]": 0.9,
    "frechet[codec,n=9]": 3.0,
    "private-variance[codec,n=9]": 0.5,
}


def test_the_summary_has_means_of_likeness_beside_their_floors():
    directions = {
        "a->b": direction(["a"], "b", **LABELLED),
        "c->b": direction(["c"], "b", **LABELLED | {"frechet[codec,n=9]": 5.0}),
    }
    floors = {"b": {"frechet[codec,n=9]": 2.0}}
    entry = report.summarise(directions, floors=floors)["paired"]["likeness"]
    assert entry == {
        "directions": 2,
        "frechet": 4.0,
        "frechet_floor": 2.0,
        "private_variance": 0.5,
    }


def test_the_chart_is_drawn_where_there_are_labels_and_floors(tmp_path):
    directions = {
        "a->b": direction(["a"], "b", **LABELLED),
        "b->a": direction(["b"], "a", paired=False, **LABELLED),
        "a+b->c": direction(["a", "b"], "c", **LABELLED),
    }
    floors = {name: {"frechet[codec,n=9]": 2.0} for name in "abc"}
    path = tmp_path / "likeness.png"
    assert draw(results(directions, floors), path)
    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(2**24)
    assert len(colours) > 20

    path.unlink()
    assert not draw(results(directions, {}), path)
    unlabelled = {"a->b": direction(["a"], "b", **{"frechet[codec,n=9]": 3.0})}
    assert not draw(results(unlabelled, floors), path)
    assert not path.exists()


@pytest.mark.parametrize("version", ["1", "2"])
def test_results_of_before_have_no_floors_and_are_shown(version, tmp_path):
    path = Path(__file__).parent / "formats" / version / "run/metrics.json"
    old = json.loads(path.read_text())
    assert not draw(old, tmp_path / "likeness.png")
    assert not any("floor" in table.head for table in report.tables(old))
