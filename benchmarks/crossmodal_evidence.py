"""What the parts of a joint flow are worth on the embedded world: times, losses, noise of ids, alignment, how it generates.

Runs and tables are those of `evidence.py`: joint accuracy of text to image by the picture's judge and of image to text by the
captions' grammar, whether pairs of noise alone agree, and the bound of a caption, in nats an id, given the picture and alone.

    flowbind prepare shapes --out data/scenes --modalities text+image+depth
    python benchmarks/crossmodal_evidence.py --encode
    python benchmarks/crossmodal_evidence.py [--steps 2000] [--seeds 0 1] [--only objective align sampling evolve]
        [--accelerator cpu] [--jobs 1] [--out runs/evidence] [--evaluation.limit=300 ...]

All runs read one store, which `--encode` makes: the recipe's latents, and beside them what a net is aligned with, the vectors of
the picture codec of recipes/flowbind, that are spread by meaning. `--jobs` runs go at once; 0 prints what there is. Other options are
those of `flowbind fit`, for every run.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from evidence import Bench, Figure, Run, exit_with, read_command_line

from flowbind.evaluation.verdicts import first, joint_accuracy

RECIPE = "recipes/crossmodal/shapes.yaml"
STORE = "data.init_args.store"
FEATURES = "data/scenes/aligned_latents"
OBJECTIVE = "model.init_args.objective"
SAMPLING = "evaluation.sampling"

IMAGE = (
    "{class_path: image, init_args: {reads: image, codec: {class_path: small-image}}}"
)
ENCODER = ("model.init_args.modalities.features", IMAGE)
BLOCK = "{features: features, block: 2, hidden: 256"


def run(
    name: str, *settings: tuple[str, Any], looks: dict[str, Any] | None = None
) -> Run:
    """The recipe with other settings, and a further test of it."""
    chosen = tuple((f"{SAMPLING}.{k}", v) for k, v in (looks or {}).items())
    return Run(name, RECIPE, ((STORE, FEATURES), *settings), chosen)


def objective(name: str, **settings: Any) -> Run:
    """The recipe with other settings of the objective."""
    return run(name, *((f"{OBJECTIVE}.{k}", v) for k, v in settings.items()))


def evolving(**looks: Any) -> Run:
    """A model of which either side, given, may evolve, and a further test of it."""
    names = {"source": "uniform", "clean_latents": 0.1}
    settings = tuple((f"{OBJECTIVE}.{k}", v) for k, v in names.items())
    return run("evolving", *settings, looks=looks)


BASE = run("joint")
SHARED = run(
    "shared",
    (f"{OBJECTIVE}.times", "shared"),
    (f"{SAMPLING}.order", "together"),
)
RUNS: dict[str, dict[str, Run]] = {
    "objective": {
        "the recipe: times apart, a mask, cross-entropy": BASE,
        "one time for both sides": SHARED,
        "uniform noise": objective("uniform", source="uniform"),
        "generalised divergence": objective("divergence", token_loss="generalised-kl"),
    },
    "align": {
        "no alignment": BASE,
        "features": run("features", ENCODER, ("model.init_args.align", f"{BLOCK}}}")),
        "features and attention": run(
            "attention",
            ENCODER,
            ("model.init_args.align", f"{BLOCK}, attention_weight: 0.5}}"),
        ),
    },
    "sampling": {
        "the recipe: pairs ids first": BASE,
        "together": run("joint", looks={"order": "together"}),
        "together, horizon 2": run("joint", looks={"horizon": 2, "order": "together"}),
        "together, horizon 4": run("joint", looks={"horizon": 4, "order": "together"}),
        "latent first": run("joint", looks={"order": "latent-first"}),
        "ids by Euler's steps": run("joint", looks={"tokens": "euler"}),
    },
    "evolve": {
        "what is given is held": evolving(),
        "what is given evolves": evolving(evolve=True),
    },
}


def joint(direction: str) -> Callable[[Mapping[str, Any]], float | None]:
    """The share of a direction's samples in which a judge reads every factor rightly."""

    def share(results: Mapping[str, Any]) -> float | None:
        measures = results["directions"].get(direction)
        return measures and joint_accuracy(measures, "judge")

    return share


def agreement(results: Mapping[str, Any]) -> float | None:
    """The share of pairs whose picture and caption tell the same."""
    measures = results["directions"].get("->text+image: text", {})
    return first(measures, "agreement/joint[")


def nats(condition: str) -> Callable[[Mapping[str, Any]], float | None]:
    """The bound of a caption, in nats an id."""
    return lambda results: first(results["measures"], f"nats-an-id[text{condition}]")


FIGURES = (
    Figure("text to image", joint("text->image")),
    Figure("image to text", joint("image->text")),
    Figure("pairs agree", agreement),
    Figure("nats an id, given the picture", nats("|image")),
    Figure("alone", nats("")),
)


def encode() -> None:
    """Writes the store of all runs."""
    aligned = RUNS["align"]["features"]
    line = [sys.executable, "-m", "flowbind", "encode", *aligned.options]
    raise SystemExit(subprocess.run(line, check=False).returncode)


def main() -> None:
    if sys.argv[1:] == ["--encode"]:
        encode()
    given, more = read_command_line(str(__doc__), tuple(RUNS), steps=2000)
    bench = Bench(FIGURES, given, more)
    chosen = [each for group in given.only for each in RUNS[group].values()]
    failed = bench.run_all(chosen)
    for group in given.only:
        bench.print_table(
            [group], [([label], each) for label, each in RUNS[group].items()]
        )
    exit_with(failed)


if __name__ == "__main__":
    main()
