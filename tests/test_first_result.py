"""The time to a first result: `flowbind generate` with small codecs imports torch and little else."""

import os
import subprocess
import sys
from pathlib import Path

from flowbind_image import Image
from flowbind_points import Points
from flowbind_text import Text

from tests.released import release

ROOT = Path(__file__).parents[1]
# Each takes a good part of a second, some of them several.
SLOW = {
    *("diffusers", "jsonargparse", "lightning", "matplotlib", "open_clip", "pandas"),
    *("scipy", "sentence_transformers", "sklearn", "torchdiffeq", "torchmetrics"),
    *("torchvision", "transformers", "trimesh"),
}
SCRIPT = """\
import sys
from flowbind.cli import main

model, out = sys.argv[1:]
main(["generate", model, "--from", "text=a red torus", "--to", "image", "--to", "points", "--out", out])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_generating_imports_torch_and_nothing_slow_beside_it(tmp_path):
    model = release(tmp_path / "model", text=Text(), image=Image(), points=Points())
    python_path = os.pathsep.join([str(ROOT), str(ROOT / "modalities")])
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=python_path),
    )
    assert run.returncode == 0, run.stderr
    *files, modules = run.stdout.splitlines()
    assert len(files) == 2
    assert "torch" in modules.split()
    assert not SLOW & set(modules.split())
