"""A CLIP model of open_clip with random weights, small enough for tests: registered by name, its weights in a file."""

import json
from pathlib import Path

NAME = "tiny-clip"
WIDTH = 16  # of an embedding
SIDE = 32  # pixels of what the image tower sees
CONTEXT = 12  # tokens
CONFIG = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 16,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


def write_tiny_clip(
    folder: Path, seed: int = 0, name: str = NAME, width: int = WIDTH
) -> Path:
    """Registers the model with open_clip and writes random weights of it. Returns their file."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = CONFIG | {"embed_dim": width}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = open_clip.CLIP(**config)
    save_file(net.state_dict(), folder / f"tiny-{seed}.safetensors")
    return folder / f"tiny-{seed}.safetensors"


def pictures(count: int, height: int = 40, width: int = 48, seed: int = 0) -> list:
    """Bright blocks on noise, uint8 with shape (3, H, W)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = torch.randint(
        100, (count, 3, height, width), generator=generator, dtype=torch.uint8
    )
    for picture in made:
        colour = torch.randint(
            100, 256, (3, 1, 1), generator=generator, dtype=torch.uint8
        )
        top, left = (
            int(torch.randint(side // 2, (), generator=generator))
            for side in (height, width)
        )
        picture[:, top : top + height // 2, left : left + width // 2] = colour
    return list(made)
