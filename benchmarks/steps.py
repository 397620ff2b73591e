"""How meaning and likeness change with the steps of each leg and with the solver, on a trained model's test samples.

    python benchmarks/steps.py [--model runs/shapes/model] [--data data/shapes] [--limit 200]

Joint accuracy is of what was generated, decoded and encoded again; Frechet distance in the target codec's space. Means
are over directions with one source that is not the target.
"""

import argparse
from pathlib import Path
from statistics import mean

import flowbind
from flowbind.evaluation.evaluation import Evaluation, EvaluationConfig
from flowbind.progress import track

SETTINGS = [
    # source steps, target steps, solver, drift calls a step
    *[(n, n, "euler", 1) for n in (1, 2, 4, 10, 20, 50)],
    (2, 10, "euler", 1),
    (10, 2, "euler", 1),
    (5, 5, "midpoint", 2),
    (10, 10, "midpoint", 2),
    (5, 5, "rk4", 4),
]


def value(direction: dict, name: str) -> float:
    """A measure by the beginning of its name."""
    return next(figure for key, figure in direction.items() if key.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/shapes/model")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"))
    parser.add_argument(
        "--store", type=Path, help="latent stores, if not in DATA/latents"
    )
    parser.add_argument("--limit", type=int, default=200, help="test samples")
    options = parser.parse_args()
    model = flowbind.load(options.model)
    folder = options.store or options.data / "latents"
    parts = [
        part
        for split in ("train", "test")
        for part in (
            flowbind.LatentStore(folder / split),
            flowbind.Manifest.read(
                options.data / f"{split}.jsonl", list(model.modalities)
            ),
        )
    ]
    print(
        "| steps in | steps out | solver | drift calls | accuracy, lowest | accuracy, mean | never paired, mean | Frechet, mean |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for source, target, method, calls in track(SETTINGS, "settings"):
        evaluation = Evaluation(
            model,
            *parts,
            EvaluationConfig(
                steps=target,
                source_steps=source,
                method=method,
                limit=options.limit,
                gallery=0,
            ),
        )
        for rows in evaluation.batches:
            evaluation.step(rows)
        found = evaluation.finish()["directions"].values()
        one = [
            d
            for d in found
            if len(d["sources"]) == 1 and d["sources"][0] != d["target"]
        ]
        joint = [value(d, "accuracy/joint") for d in one]
        never = [value(d, "accuracy/joint") for d in one if not d["paired"]]
        likeness = mean(value(d, "frechet") for d in one)
        total = calls * (source + target)
        print(
            f"| {source} | {target} | {method} | {total} | {min(joint):.3f} | {mean(joint):.3f} | {mean(never):.3f} | {likeness:.2f} |",
            flush=True,
        )
    print(f"\nn = {evaluation.count} test samples, seed 0.")


if __name__ == "__main__":
    main()
