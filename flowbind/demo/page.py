"""The page: sources above, results below, a column for each modality.

A modality enters it as words where it has literals, as a file elsewhere, and leaves it as its
`exhibit`, so that a third party's needs nothing of its own. What is filled in is a source.
"""

import html
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio.components import Component

from flowbind.demo.choices import chosen, controls
from flowbind.demo.examples import Example
from flowbind.exhibit import as_url, to_figure
from flowbind.generation import Model
from flowbind.modality import Modality
from flowbind.progress import listening

MOST = 4.0  # weight of a source
# Seconds between two looks for files that were handed over, and how old they may become.
SWEEP, KEPT = 600, 3600

STYLE = """
footer { display: none !important }
.exhibit img, .exhibit turning-cloud { display: block; width: 100%; max-width: 16rem; margin: 0 auto .5rem }
.exhibit img { border-radius: 6px }
.exhibit audio, .exhibit video { width: 100% }
.exhibit .words { font-size: 1.15rem; padding: .6rem 0; overflow-wrap: anywhere }
.exhibit a { display: block; font-size: .85rem; margin-top: .4rem }
.exhibit .empty { opacity: .5; padding: .6rem 0 }
.mistake { color: #b3261e; font-weight: 600 }
.remark { opacity: .75; font-size: .9rem }
.thumbnail img { height: 48px; width: auto; max-width: 72px }
.thumbnail .words { max-width: 15rem; white-space: normal; font-size: .85rem; margin: 0 }
"""
# Results are below all else on a telephone, out of sight.
SCROLL = """(...given) => {
  if (innerWidth < 640) document.getElementById("status").scrollIntoView({behavior: "smooth"});
  return given;
}"""
NOTHING = '<p class="empty">nothing yet</p>'


class Page:
    """What happens on the page of one model.

    Args:
        model: Model that is tried.
        examples: Per modality, samples to begin with.
    """

    def __init__(self, model: Model, examples: Mapping[str, Sequence[Example]]) -> None:
        self.model = model
        self.examples = examples

        directions = model.method.directions()
        names = list(model.modalities)
        self.sources = [n for n in names if any(n in d.sources for d in directions)]
        self.targets = []
        for name in names:
            is_target = any(name in d.targets for d in directions)
            if is_target and model.modalities[name].codec.decodes:
                self.targets.append(name)

    def build(self, title: str) -> gr.Blocks:
        """The page with all that it does."""
        with gr.Blocks(
            title="flowbind",
            analytics_enabled=False,
            delete_cache=(SWEEP, KEPT),
        ) as blocks:
            gr.HTML(f"<h2>{html.escape(title)}</h2>")
            inputs = {}
            with gr.Row():
                for name in self.sources:
                    with gr.Column(min_width=240):
                        inputs[name] = self._add_source(name)

            with gr.Row(equal_height=True):
                targets = gr.CheckboxGroup(
                    choices=self.targets,
                    value=self._first_targets(),
                    label="make",
                    scale=3,
                    elem_id="targets",
                )
                seed = gr.Number(0, label="seed", min_width=120)
                button = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Accordion("choices of this model", open=False):
                weights = self._add_weights()
                with gr.Row():
                    choices = controls(self.model)

            status = gr.HTML(elem_id="status")
            results = {}
            with gr.Row():
                for name in self.targets:
                    with gr.Column(min_width=240):
                        results[name] = gr.HTML(
                            NOTHING,
                            label=f"made: {name}",
                            show_label=True,
                            container=True,
                            padding=True,
                            elem_id=f"result-{name}",
                            elem_classes="exhibit",
                        )

            run = partial(self.generate, list(weights), list(choices))
            arguments = [*inputs.values(), *weights.values(), targets, seed]
            arguments += choices.values()
            words = [box for box in inputs.values() if isinstance(box, gr.Textbox)]
            gr.on(
                [button.click, *(box.submit for box in words)],
                run,
                arguments,
                [status, *results.values()],
                api_visibility="private",
                js=SCROLL,
            )
        return blocks

    def _first_targets(self) -> list[str]:
        """What is made where nothing else is chosen: all but what people type first."""
        others = self.targets[1:] if len(self.targets) > 1 else self.targets
        return others if set(self.sources) == set(self.targets) else self.targets

    def _add_source(self, name: str) -> Component:
        """A modality's input, what was read of it, and examples."""
        modality = self.model.modality(name)
        box: Component
        if modality.literal:
            box = gr.Textbox(label=name, lines=2, elem_id=f"source-{name}")
        else:
            box = gr.File(
                label=name,
                file_types=list(modality.suffixes),
                type="filepath",
                height=140,
                elem_id=f"source-{name}",
            )
            view = gr.HTML(elem_id=f"view-{name}", elem_classes="exhibit")
            box.change(
                partial(self.look, name),
                box,
                view,
                api_visibility="private",
                show_progress="hidden",
            )

        examples = self.examples.get(name, ())
        if examples:
            shown = [[f'<div class="thumbnail">{e.thumbnail}</div>'] for e in examples]
            rows = gr.Dataset(
                label="examples",
                components=[gr.HTML(visible=False)],
                samples=shown,
                type="index",
                samples_per_page=len(shown),
                elem_id=f"examples-{name}",
            )
            rows.click(
                lambda index: str(examples[index].source),
                rows,
                box,
                api_visibility="private",
                show_progress="hidden",
            )
        return box

    def _add_weights(self) -> dict[str, Component]:
        """How much each source counts, where a method can weigh them."""
        sliders: dict[str, Component] = {}
        if self.model.method.linear and len(self.sources) > 1:
            with gr.Row():
                for name in self.sources:
                    sliders[name] = gr.Slider(
                        0,
                        MOST,
                        value=1,
                        step=0.1,
                        label=f"weight of {name}",
                        min_width=160,
                    )
        return sliders

    def look(self, name: str, file: str | None) -> str:
        """What was read of a file that was handed over."""
        if not file:
            return ""
        try:
            modality = self.model.modality(name)
            raw = modality.read(Path(file))
            return to_figure(modality.exhibit(raw), modality.preview(raw))
        except Exception as error:
            return mistake(error, [file])

    def generate(
        self,
        weighted: Sequence[str],
        choice_names: Sequence[str],
        *values: Any,
    ) -> list[str]:
        """What the button does: a line on it, and the result of each target."""
        rest = list(values)
        samples = [rest.pop(0) for _ in self.sources]
        weights = {name: rest.pop(0) for name in weighted}
        targets, seed, *choice_values = rest

        given = {}
        for name, sample in zip(self.sources, samples, strict=True):
            if sample and sample.strip():
                given[name] = sample
        empty = [NOTHING for _ in self.targets]
        files = [sample for sample in given.values() if Path(sample).is_absolute()]
        try:
            with listening() as remarks:
                raws = self._read(given)
                generated = self.model.generate(
                    {name: [raw] for name, raw in raws.items()},
                    targets,
                    weights=_of(given, weights),
                    seed=seed or 0,
                    **chosen(self.model, choice_names, choice_values),
                )
            results = []
            for name in self.targets:
                modality = self.model.modality(name)
                samples_of_target = generated.get(name, ())
                results += [_result(name, modality, raw) for raw in samples_of_target]
                results += [NOTHING] * (not samples_of_target)
        except Exception as error:
            return [mistake(error, files), *empty]

        lines = [f'<p class="remark">{html.escape(line)}</p>' for line in remarks]
        return ["".join(lines), *results]

    def _read(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Raw samples of what was typed and handed over.

        Raises:
            ValueError: one cannot be read, or is typed like the name of a file, which would be one
                of this machine's.
        """
        raws = {}
        for name, sample in given.items():
            modality = self.model.modality(name)
            if modality.literal and sample.strip().lower().endswith(modality.suffixes):
                raise ValueError(
                    f"{name}: '{sample:.60}' is named like a file; type the sample itself"
                )
            raws[name] = modality.read(sample if modality.literal else Path(sample))
        return raws


def _of(given: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of what is given, where one of them differs from what counts without any, 1."""
    of_sources = {name: weights[name] for name in given if name in weights}
    return of_sources if set(of_sources.values()) - {1} else {}


def _result(name: str, modality: Modality, raw: Any) -> str:
    """An exhibit, and below it the file that a command would have written."""
    suffix = modality.suffixes[0]
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}{suffix}"
        modality.write(raw, file)
        url = as_url(file.read_bytes())
    link = f'<a download="{name}{suffix}" href="{url}">download {name}{suffix}</a>'
    return to_figure(modality.exhibit(raw), modality.preview(raw)) + link


def mistake(error: Exception, files: Sequence[str] = ()) -> str:
    """An error in its one line, in which files have the names that their owner knows.

    What is no person's mistake has its traceback on standard error.
    """
    line = " ".join(str(error).split())
    for file in files:
        line = line.replace(file, Path(file).name)
    if not isinstance(error, ValueError | OSError | MemoryError):
        traceback.print_exception(error)
        line = "an error that flowbind should not make; its traceback is on the terminal of `flowbind demo`"
    return f'<p class="mistake" role="alert">{html.escape(line)}</p>'
