"""Meaning against likeness over a trained model's sampling choices, on its test samples.

    python benchmarks/sampling.py [--config recipes/shapes.yaml] [--model runs/shapes/model] [--limit 300]

Accuracies are those of the recipe's judges, on decoded samples. The Frechet distance is over its floor, the private
variance over that of real samples. Means are over directions from one source to another modality, and from two.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

import flowbind
from flowbind.cli.recipe import build
from flowbind.data.manifest import Manifest
from flowbind.evaluation.evaluation import Evaluation
from flowbind.evaluation.report import kind
from flowbind.evaluation.verdicts import (
    frechet_of,
    joint_accuracy,
    lowest_class,
    private_variance_of,
)
from flowbind.progress import track

# Source steps, steps, solver, variety; the first is how the authors' code generates.
SETTINGS = [
    (None, 10, "euler", 0.0),
    (1, 10, "midpoint", 0.0),
    (1, 10, "midpoint", 0.7),
    (1, 10, "midpoint", 0.85),
    (1, 10, "midpoint", 0.9),
    (1, 10, "midpoint", 0.95),
    (1, 10, "midpoint", 1.0),
    (1, 20, "euler", 1.0),
    (1, 5, "midpoint", 1.0),
    (None, 10, "euler", 1.0),
]
HEAD = "| steps in | steps out | solver | variety | judges, mean | lowest | lowest class | probes, mean | Frechet / floor | private |"


def row(
    names: Iterable[str], results: Mapping[str, Any]
) -> tuple[float, float, float, float, float, float]:
    """What the table says of some directions."""
    directions = {name: results["directions"][name] for name in names}
    judged = [joint_accuracy(d, "judge") for d in directions.values()]
    probed = [joint_accuracy(d, "probe") for d in directions.values()]
    classes = [lowest_class(results["classes"][name])[0] for name in directions]
    floors = [frechet_of(results["floors"][d["target"]]) for d in directions.values()]
    distances = [frechet_of(d) for d in directions.values()]
    private = [private_variance_of(d) for d in directions.values()]
    return (
        mean(judged),
        min(judged),
        min(classes),
        mean(probed),
        mean(distances) / mean(floors),
        mean(private),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="recipes/shapes.yaml")
    parser.add_argument("--model", default="runs/shapes/model")
    parser.add_argument("--limit", type=int, default=300, help="test samples")
    options = parser.parse_args()

    cli = build(["--config", options.config])
    model = flowbind.load(options.model)
    data = []
    for split in ("train", "test"):
        data.append(cli.datamodule.open(split, model.modalities))
        path = cli.datamodule.manifests[split]
        data.append(Manifest.read_for(path, model.modalities))
    config = replace(cli.model.evaluation, limit=options.limit, gallery=0, metrics=[])

    tables: dict[str, list[str]] = {"one source": [], "two sources": []}
    for source, steps, solver, variety in track(SETTINGS, "settings"):
        model.sampling = model.method.choose(
            steps=steps, source_steps=source, solver=solver, variety=variety
        )
        evaluation = Evaluation(model, *data, config)
        for rows in evaluation.batches:
            evaluation.step(rows)
        results = evaluation.finish()

        kinds = {name: kind(d) for name, d in results["directions"].items()}
        groups = {
            "one source": [n for n in kinds if kinds[n] in ("paired", "never_paired")],
            "two sources": [n for n in kinds if kinds[n] == "two_sources"],
        }
        for title, names in groups.items():
            *accuracies, ratio, private = row(names, results)
            cells = [str(source or steps), str(steps), solver, f"{variety:g}"]
            cells += [f"{value:.3f}" for value in accuracies]
            cells += [f"{ratio:.2f}", f"{private:.2f}"]
            tables[title].append(f"| {' | '.join(cells)} |")

    for title, lines in tables.items():
        print(f"\n{title.capitalize()}, n = {evaluation.count} test samples, seed 0:\n")
        print(HEAD, "|---|---|---|---|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
