"""Captions: a sentence form and one word for each factor, both at random.

Every word means one class only.
"""

from __future__ import annotations

import re

import numpy as np

from flowbind_shapes.scene import COLOURS, SHAPES, SIZES, Scenes

SHAPE_WORDS = {
    "sphere": ("sphere", "ball", "orb", "globe"),
    "cube": ("cube", "box", "block", "dice"),
    "cylinder": ("cylinder", "tube", "drum", "barrel"),
    "cone": ("cone", "funnel", "spire"),
    "torus": ("torus", "ring", "donut", "hoop"),
    "star": ("star", "starfish", "pentagram"),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "orange": ("orange", "tangerine", "apricot"),
    "yellow": ("yellow", "golden", "lemon", "canary"),
    "green": ("green", "emerald", "jade"),
    "cyan": ("cyan", "turquoise", "aqua", "teal"),
    "blue": ("blue", "navy", "sapphire", "cobalt"),
    "purple": ("purple", "violet", "amethyst"),
    "pink": ("pink", "rose", "magenta", "fuchsia"),
}
SIZE_WORDS = {
    "small": ("small", "tiny", "little", "miniature"),
    "medium": ("medium", "average", "moderate", "middling"),
    "large": ("large", "big", "huge", "giant", "enormous"),
}
TEMPLATES = (
    "a {size} {colour} {shape}",
    "a {colour} {shape} that is {size}",
    "a {size} {shape} painted {colour}",
    "a {shape}, {size} and {colour}",
    "a {size} {shape} in {colour}",
    "one {size} {colour} {shape} on its own",
    "there is a {size} {colour} {shape}",
    "there is a {colour} {shape} and it is {size}",
    "this is a {size} {shape} and its colour is {colour}",
    "this {shape} is {size} and {colour}",
    "this {colour} {shape} looks {size}",
    "you can see a {size} {colour} {shape}",
    "you see a {shape} that is {colour} and {size}",
    "i can see a {size} {shape} made of something {colour}",
    "i see a {colour} {shape} of {size} size",
    "here is a {colour} {shape} of {size} size",
    "here we have a {size} {colour} {shape}",
    "look at the {size} {colour} {shape}",
    "look, a {colour} {shape}, quite {size}",
    "the {shape} is {colour} and rather {size}",
    "the {colour} {shape} has a {size} size",
    "the {size} {shape} has been painted {colour}",
    "the {size} thing is a {colour} {shape}",
    "the {colour} object is a {size} {shape}",
    "something {size} and {colour}, namely a {shape}",
    "something {colour} in the form of a {size} {shape}",
    "it is a {size} {colour} {shape}",
    "it is {colour}, it is {size}, it is a {shape}",
    "in {colour}, a {size} {shape}",
    "of {size} size and {colour} colour, a {shape}",
    "a single {shape} with a {colour} surface and a {size} size",
    "a scene with a {size} {colour} {shape}",
    "a scene with one {shape}, which is {size} and {colour}",
    "somebody left a {size} {colour} {shape} here",
    "only a {colour} {shape}, a {size} one",
    "what a {size} {shape}, all in {colour}",
)
FULL_STOP = 0.25  # the share of captions that end in one


def describe(scenes: Scenes, generator: np.random.Generator) -> list[str]:
    """One caption for each scene, in lower case."""
    shapes = _words(scenes.shape, SHAPES, SHAPE_WORDS, generator)
    colours = _words(scenes.colour, COLOURS, COLOUR_WORDS, generator)
    sizes = _words(scenes.size, SIZES, SIZE_WORDS, generator)
    templates = generator.integers(len(TEMPLATES), size=len(scenes))
    stops = generator.random(len(scenes)) < FULL_STOP

    captions = []
    for k, (shape, colour, size) in enumerate(zip(shapes, colours, sizes, strict=True)):
        sentence = TEMPLATES[templates[k]].format(
            shape=shape,
            colour=colour,
            size=size,
        )
        stop = "." if stops[k] else ""
        captions.append(with_articles(sentence) + stop)

    return captions


def _words(
    factor: np.ndarray,
    names: tuple[str, ...],
    words: dict[str, tuple[str, ...]],
    generator: np.random.Generator,
) -> list[str]:
    """A word for each scene, drawn among those that mean its class.

    Args:
        factor: Index of each scene's class, with shape (n,).
        names: Names of the classes.
        words: Words of each class.
        generator: Source of the draws, one a scene.
    """
    chosen = []
    for index, u in zip(factor, generator.random(len(factor)), strict=True):
        synonyms = words[names[index]]
        chosen.append(synonyms[int(u * len(synonyms))])

    return chosen


def with_articles(sentence: str) -> str:
    """A sentence whose articles are all `a`, with `an` where a vowel follows."""
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)
