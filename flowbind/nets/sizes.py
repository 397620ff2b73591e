"""Sizes that a network may have, refused before anything is built: they may come from any file."""

from dataclasses import dataclass

# Of a network, whatever file its sizes come from.
MOST_FEATURES = 2**16
MOST_BLOCKS = 2**10


def check_sizes(config: object, **most: int) -> None:
    """Refuses sizes that no network has.

    Args:
        config: Configuration whose attributes they are.
        most: The largest value of each by name; the least is 1, of `depth` 0.

    Raises:
        ValueError: no whole number, or out of range; one line that says what is allowed.
    """
    for name, largest in most.items():
        value = getattr(config, name)
        least = 0 if name == "depth" else 1  # a net without blocks is still one
        if type(value) is not int or not least <= value <= largest:
            raise ValueError(
                f"{type(config).__name__}: {name} is {value!r}, "
                f"allowed are whole numbers from {least} to {largest}"
            )


@dataclass(frozen=True)
class TransformerSize:
    """Size of a transformer over the patches of a latent.

    Args:
        width: Features of each token.
        depth: Number of blocks.
        heads: Heads of attention, which divide the width.
        patch: Side of the squares that a grid is split into, which divides its height and width; a
            sequence or a vector has none.

    Raises:
        ValueError: a size that no network has.
    """

    width: int
    depth: int
    heads: int
    patch: int

    def __post_init__(self) -> None:
        check_sizes(
            self,
            width=MOST_FEATURES,
            depth=MOST_BLOCKS,
            heads=MOST_FEATURES,
            patch=MOST_FEATURES,
        )


def check_blocks(size: TransformerSize) -> None:
    """Refuses a net of one side of a joint flow that has no blocks, in which it sees the other.

    Raises:
        ValueError: it has none.
    """
    if size.depth < 1:
        raise ValueError(
            f"{type(size).__name__}: no block, and so the net would see nothing of the other "
            "side; allowed are 1 and more"
        )
