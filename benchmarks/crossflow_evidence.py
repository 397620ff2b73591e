"""CrossFlow's evidence on the embedded world: beside flow matching, without its parts, and with other settings.

Runs and tables are those of `evidence.py`: joint accuracy by the picture's judge, and Frechet distance. OUT receives
`evidence.png`, both over parameters.

    flowbind prepare shapes --out data/scenes --modalities text+image+depth
    flowbind encode --config recipes/crossflow/text_to_image.yaml
    python benchmarks/crossflow_evidence.py [--steps 2400] [--seeds 0 1] [--only sizes ablation kl path guidance]
        [--accelerator cpu] [--jobs 1] [--out runs/evidence] [--evaluation.limit=300 ...]

`--jobs` runs go at once; 0 prints what there is. Other options are those of `flowbind fit`, for every run; what is done
already does not have them, so give them an OUT of their own.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from evidence import Bench, Figure, Run, exit_with, read_command_line

from flowbind.cli.recipe import build
from flowbind.evaluation.verdicts import frechet_of, joint_accuracy
from flowbind.files import replacing
from flowbind.method import Networks

CROSSFLOW = "recipes/crossflow/text_to_image.yaml"
FLOW_MATCHING = "recipes/crossflow/baseline_text_to_image.yaml"
DIRECTION, TARGET = "text->image", "image"
APART = 0.04  # of the parameters of two models of one size, at most
SCALE = 2.0  # of guidance, where there is an unconditional field
DPI = 150

NET = "model.init_args.net"
ENCODER = "model.init_args.encoder"
OBJECTIVE = "model.init_args.objective"
GUIDANCE = "evaluation.sampling.guidance"
GUIDED_BY: tuple[tuple[str, Any], ...] = ((GUIDANCE, SCALE),)


def crossflow(name: str, **settings: Any) -> Run:
    """CrossFlow with other settings, `objective__path` for `model.init_args.objective.path`."""
    named = [*GUIDED_BY]
    for key, value in settings.items():
        part, _, setting = key.partition("__")
        prefix = {"encoder": ENCODER, "objective": OBJECTIVE}[part]
        named.append((f"{prefix}.{setting}", value))
    if settings.get("objective__unconditional") == 0:
        named.append((GUIDANCE, 1.0))
    return Run(name, CROSSFLOW, tuple(named))


def size(recipe: str, width: int, depth: int, heads: int, encoder: int = 0) -> Run:
    """A model of a size; its encoder's width, where it has one, comes with blocks as it is wide."""
    name = "crossflow" if encoder else "flow-matching"
    net = {"width": width, "depth": depth, "heads": heads}
    settings = [*GUIDED_BY]
    settings += [(f"{NET}.{key}", value) for key, value in net.items()]
    if encoder:
        blocks = {
            "width": encoder,
            "depth": min(encoder // 64, 2),
            "hidden": 2 * encoder,
        }
        settings += [(f"{ENCODER}.{key}", value) for key, value in blocks.items()]
    return Run(f"{name}-{width}", recipe, tuple(settings))


BASE = Run("crossflow", CROSSFLOW, GUIDED_BY)  # the recipe as it is
# Of about as many parameters each: a block with cross-attention has 22 width^2, one without 18, and
# an encoder beside it.
SIZES = {
    "0.9 M": (size(CROSSFLOW, 96, 4, 2, 80), size(FLOW_MATCHING, 96, 4, 2)),
    "1.6 M": (size(CROSSFLOW, 128, 4, 2, 112), size(FLOW_MATCHING, 128, 4, 2)),
    "2.5 M": (BASE, Run("flow-matching", FLOW_MATCHING, GUIDED_BY)),
    "8.1 M": (size(CROSSFLOW, 256, 6, 4, 160), size(FLOW_MATCHING, 264, 5, 4)),
}

# As the paper goes on, each from the row before: all but the last without an unconditional field.
ALONE = {"objective__unconditional": 0.0}
PLAIN = {"encoder__kind": "plain", "objective__encoder_loss": "reconstruction"} | ALONE
ABLATION = {  # and the paper's FID
    "encoder": (crossflow("encoder", **PLAIN), 66.65),
    "+ noise": (crossflow("encoder-noise", encoder__noise=1.0, **PLAIN), 59.91),
    "variational encoder, text-text reconstruction": (
        crossflow("reconstruction", objective__encoder_loss="reconstruction", **ALONE),
        40.78,
    ),
    "text-text contrast": (
        crossflow(
            "contrast-source", objective__encoder_loss="contrastive-source", **ALONE
        ),
        34.67,
    ),
    "image-text contrast, no guidance": (crossflow("contrast", **ALONE), 33.41),
    "indicator, guidance 2": (BASE, 24.33),
}
KL = {
    "1e-4": crossflow("kl-1e-4", objective__kl_weight=1e-4),
    "1e-3": BASE,
    "1e-2": crossflow("kl-1e-2", objective__kl_weight=1e-2),
    "1e-1": crossflow("kl-1e-1", objective__kl_weight=1e-1),
}
PATH = {
    "straight": BASE,
    "sine-cosine": crossflow("sine-cosine", objective__path="sine-cosine"),
}
GUIDED = {}
for label, recipe in (("CrossFlow", CROSSFLOW), ("flow matching", FLOW_MATCHING)):
    for scale in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0):
        name = label.lower().replace(" ", "-")
        looks = ((GUIDANCE, scale),) if scale != SCALE else ()
        GUIDED[f"{label}, {scale:g}"] = Run(name, recipe, GUIDED_BY, looks)
GROUPS = ("sizes", "ablation", "kl", "path", "guidance")


@cache
def parameters(run: Run) -> int:
    """Number of those that generate, so without the witness of a loss."""
    cli = build([*run.options, "--trainer.accelerator=cpu"])
    with torch.device("meta"):
        nets = Networks(cli.model.method).nets
    total = 0
    for name, parameter in nets.named_parameters():
        if not name.startswith("witness."):
            total += parameter.numel()
    return total


def accuracy(results: Mapping[str, Any]) -> float | None:
    """The share of pictures in which the judge reads every factor rightly."""
    return joint_accuracy(results["directions"][DIRECTION], "judge")


def frechet(results: Mapping[str, Any]) -> float | None:
    """The Frechet distance in latents."""
    return frechet_of(results["directions"][DIRECTION])


FIGURES = (
    Figure("joint accuracy", accuracy),
    Figure("Frechet distance", frechet, digits=2),
)


def print_real(bench: Bench, runs: Sequence[Run]) -> None:
    """What real samples reach, by the first run that is done."""
    for results in (results for run in runs for results in bench.results(run)):
        codec = joint_accuracy(results["codecs"][TARGET], "judge")
        floor = frechet_of(results["floors"][TARGET])
        print(
            f"\nReal samples, encoded and decoded: joint accuracy {codec:.3f}. Real training "
            f"samples in the place of generations: Frechet distance {floor:.2f}."
        )
        return


def tables() -> dict[str, tuple[list[str], list[tuple[list[str], Run]]]]:
    """Heads and rows of each group's table."""
    sizes = []
    for pair in SIZES.values():
        for label, run in zip(("CrossFlow", "flow matching"), pair, strict=True):
            sizes.append(([label, f"{parameters(run):,}"], run))
    ablation = []
    for label, (run, fid) in ABLATION.items():
        ablation.append(([label, f"{fid}"], run))

    named = {}
    for head, runs in (("`kl_weight`", KL), ("path", PATH), ("guidance", GUIDED)):
        named[head] = ([head], [([label], run) for label, run in runs.items()])
    return {
        "sizes": (["model", "parameters"], sizes),
        "ablation": (["as the paper goes on", "the paper's FID"], ablation),
        "kl": named["`kl_weight`"],
        "path": named["path"],
        "guidance": named["guidance"],
    }


def draw(bench: Bench, path: Path) -> None:
    """Accuracy and Frechet distance over parameters: a line of means, a mark for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, label in enumerate(("CrossFlow", "flow matching")):
        runs = [pair[number] for pair in SIZES.values()]
        done = [(parameters(run), bench.values(run)) for run in runs]
        done = [(count, by_figure) for count, by_figure in done if all(by_figure)]
        colour = f"C{number}"
        for figure_number, panel in enumerate(panels):
            means = []
            for count, by_figure in done:
                values = by_figure[figure_number]
                means.append(mean(values))
                panel.scatter(
                    [count] * len(values),
                    values,
                    facecolors="none",
                    edgecolors=colour,
                )
            counts = [count for count, _ in done]
            panel.plot(counts, means, color=colour, marker="o", label=label)

    for panel, title in zip(
        panels,
        ("samples with every factor right", "Frechet distance"),
        strict=True,
    ):
        panel.set_xscale("log")
        panel.set_xticks([parameters(pair[0]) for pair in SIZES.values()], SIZES)
        panel.minorticks_off()
        panel.set_xlabel("parameters")
        panel.set_ylabel(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, fontsize="small"
    )
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def check_sizes() -> None:
    """Refuses pairs of models that are not of one size."""
    for label, pair in SIZES.items():
        one, other = map(parameters, pair)
        if abs(one - other) > APART * one:
            raise SystemExit(f"{label}: {one:,} and {other:,} parameters are not equal")


def main() -> None:
    given, more = read_command_line(str(__doc__), GROUPS, steps=2400)
    bench = Bench(FIGURES, given, more)
    by_group = tables()
    if "sizes" in given.only:
        check_sizes()

    chosen = [run for group in given.only for _, run in by_group[group][1]]
    failed = bench.run_all(chosen)
    for group in given.only:
        bench.print_table(*by_group[group])
    print_real(bench, chosen)
    sizes = [run for pair in SIZES.values() for run in pair]
    if "sizes" in given.only and any(map(bench.results, sizes)):
        draw(bench, given.out / "evidence.png")
    exit_with(failed)


if __name__ == "__main__":
    main()
