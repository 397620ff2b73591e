"""Trains recipes at small size in float64, one after the other, on the processes that torchrun started.

torchrun --nproc-per-node=2 -m tests.pair FOLDER NAME...      each of which is prepared in FOLDER/NAME
"""

import os
import sys
from pathlib import Path

from flowbind.cli import main
from tests.small_recipes import options

folder, *names = sys.argv[1:]
for name in names:
    os.chdir(Path(folder, name))
    main(
        options(
            name,
            "two",
            "--trainer.precision=64-true",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
        )
    )
