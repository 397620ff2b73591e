"""Ten-second clips of YouTube: the names under which they are kept."""

from pathlib import Path

from flowbind_datasets.files import checked

SECONDS = 10


def start_of(clip: str, start: str, annotations: Path) -> int:
    """Where a clip begins, in whole seconds.

    Raises:
        ValueError: it is no number, or the clip's name leads out of the dataset's folder.
    """
    checked(clip, annotations)

    try:
        return int(float(start))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{annotations}: clip '{clip}' starts at '{start}', which is no number of seconds"
        ) from None


def stems(clip: str, start: int) -> tuple[str, ...]:
    """Stems of a clip's files, as the releases and the common downloaders name them.

    The first one names what is missing.

    Args:
        clip: Name of the video at YouTube.
        start: Seconds from the video's beginning to the clip's.
    """
    end = start + SECONDS
    return (
        f"{clip}_{start}",
        f"{clip}_{start:06d}",
        f"{clip}_{start}_{end}",
        f"{clip}_{1000 * start}_{1000 * end}",
        clip,
        f"Y{clip}",
    )
