"""Sizes that a network may have, refused before anything is built: they may come from any file."""

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
