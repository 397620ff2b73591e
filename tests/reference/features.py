"""Writes features.json: features of two sets of samples, and the distances that others' code gives them.

Others are clean-fid (FID, KID), prdc (precision, recall, density, coverage), frechet-audio-distance (FAD) and kadtk
(KAD), and SciPy's root of a matrix in the formula of the Frechet distance. Their networks' weights are not needed:
what is compared begins with the features. In an environment of its own, for they ask for other packages than flowbind:

    python -m venv /tmp/others && /tmp/others/bin/pip install kadtk==1.1.0 frechet-audio-distance==0.3.4 \
        clean-fid==0.1.35 prdc==0.2 torch==2.5.1 torchaudio==2.5.1 torchvision==0.20.1
    /tmp/others/bin/python tests/reference/features.py tests/reference/features.json
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

SAMPLES, WIDTH, CLUSTERS = 120, 8, 3


def features() -> tuple[np.ndarray, np.ndarray]:
    """Real samples in three clusters, and generated ones that leave a cluster out and spread too far."""
    draw = np.random.default_rng(0)
    centres, shape = (
        3 * draw.normal(size=(CLUSTERS, WIDTH)),
        draw.normal(size=(WIDTH, WIDTH)),
    )
    real = (
        centres[draw.integers(CLUSTERS, size=SAMPLES)]
        + draw.normal(size=(SAMPLES, WIDTH)) @ shape
    )
    made = (
        centres[draw.integers(CLUSTERS - 1, size=SAMPLES)]
        + 1.2 * draw.normal(size=(SAMPLES, WIDTH)) @ shape
    )
    return made.round(3), real.round(3)


def frechet_by_scipy(made: np.ndarray, real: np.ndarray) -> float:
    """Dowson and Landau's formula."""
    import scipy.linalg

    a, b = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    return float(
        ((made.mean(0) - real.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    )


def main(path: Path) -> None:
    # Asks a hub for a tokeniser when it is imported.
    sys.modules["laion_clap"] = ModuleType("laion_clap")
    import torch
    from cleanfid.fid import frechet_distance, kernel_distance
    from frechet_audio_distance import FrechetAudioDistance
    from kadtk.kad import calc_kernel_audio_distance
    from prdc import compute_prdc

    made, real = features()
    statistics = [
        x for part in (made, real) for x in (part.mean(0), np.cov(part, rowvar=False))
    ]
    fad = FrechetAudioDistance.calculate_frechet_distance(
        SimpleNamespace(verbose=False), *statistics
    )
    # Its kernel is as wide as the second set's median distance; its documentation says that this is the real one's.
    precisely = {
        "cache_dirs": (None, None),
        "device": "cpu",
        "precision": torch.float64,
    }
    kad = calc_kernel_audio_distance(
        torch.tensor(made), torch.tensor(real), **precisely
    )
    names = ("clean-fid", "prdc", "frechet-audio-distance", "kadtk", "scipy")
    content = {
        "by": ", ".join(f"{name} {version(name)}" for name in names)
        + ", by tests/reference/features.py",
        "frechet": {
            "scipy": frechet_by_scipy(made, real),
            "clean-fid": float(frechet_distance(*statistics)),
            "frechet-audio-distance": float(fad),
        },
        "kid": float(kernel_distance(made, real)),
        "prdc k=3": {
            name: float(value)
            for name, value in compute_prdc(real, made, nearest_k=3).items()
        },
        "prdc k=5": {
            name: float(value)
            for name, value in compute_prdc(real, made, nearest_k=5).items()
        },
        "kad": float(kad),
        "made": made.tolist(),
        "real": real.tolist(),
    }
    rows = json.dumps(content).replace("], [", "],\n[").replace('", "', '",\n"')
    path.write_text(rows + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
