"""`flowbind doctor`: what this machine has for flowbind, to be read and pasted into an issue.

Nothing that may be broken is imported here: packages and devices are tried in processes of their
own. A part that cannot be told is told as that.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from flowbind.cli.parser import Parser
from flowbind.hub import is_offline
from flowbind.libraries import Extra, base_requirements
from flowbind.progress import say
from flowbind.registry import KINDS, installed, package

PATIENCE = 180  # seconds for all that is tried
HUB_PATIENCE = 4.0  # seconds for the hub
HUB = "https://huggingface.co"
GIGABYTE = 1e9

# What each extra is for; the order in which they are shown.
EXTRAS = """
hub: models from the Hugging Face hub, and to it
text: captions: a sentence encoder, packaged
image: pictures: needs nothing more
heic: pictures in HEIC
audio: sounds: reading, writing, resampling
points: meshes in STL and COLLADA
prefix-lm: captions by a large language model
lora: training that language model by LoRA
unclip: pictures by CLIP and Stable unCLIP
sd-vae: pictures by Stable Diffusion's autoencoder
dinov2: features of pictures by DINOv2
clip-tokens: captions as CLIP's tokens
audioldm: sounds by CLAP and AudioLDM
laion-clap: sounds by the other library of CLAP, which needs numpy below 2
metrics: FID, CLIPScore, CLAPScore and their like
datasets: parquet files
tensorboard: curves and samples in TensorBoard
wandb: curves and samples in Weights & Biases
demo: the page of `flowbind demo`
s3: manifests and latents in object storage
"""

# Program, how it tells its version, what it is for, and what Debian calls it.
PROGRAMS = (
    ("ffmpeg", "-version", "videos, and sounds that libsndfile does not read"),
    ("ffprobe", "-version", "videos; comes with ffmpeg"),
    (
        "espeak-ng",
        "--version",
        "the spoken words of docs/your-own-files.md, nothing else",
    ),
    ("git", "--version", "nothing of flowbind; tells the commit of a clone"),
)
# Variables of the environment that change what happens; none of them is a secret.
VARIABLES = re.compile(
    r"(FLOWBIND|CUDA|NCCL|OMP|MKL|PYTORCH|TORCH|SLURM_(JOB|NTASKS|NNODES))\w*"
    r"|HF_(HOME|HUB_\w+|ENDPOINT)|WORLD_SIZE|(HTTPS?|NO)_PROXY"
)


def run(verb: str, arguments: list[str]) -> None:
    """Prints a report. Whatever is broken or missing, it ends well."""
    parser = Parser(
        verb,
        "Tells what this machine has for flowbind: versions, devices and what they can do, extras, "
        "programs, the hub, disk. Text to paste into an issue; no tokens, no names of yours.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tell what is installed, and try nothing: neither packages nor devices",
    )
    is_quick = parser.parse_args(arguments).quick

    # The hub is asked, and devices are tried, while packages are.
    hub = Later(_hub)
    devices = Later(lambda: [] if is_quick else _devices())
    faults: dict[str, str] = {}
    if not is_quick:
        say("trying packages and devices; this may take a minute ...")
        faults = _guarded(lambda: _faults(_packages()), {})

    _print("flowbind", _about)
    _print("packages", lambda: _core(faults))
    _print("devices", lambda: devices.result() or ["not tried"])
    _print("extras", lambda: _extras(faults))
    _print("plugins", _plugins)
    _print("programs", _programs)
    _print("hub", lambda: hub.result() or ["no answer"])
    _print("disk", _disk)
    _print("environment", _environment)


class Later:
    """The result of a function that runs in a thread, which nothing waits for at the end."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except Exception as error:
            self._result = [_clause(error)]

    def result(self, seconds: float = PATIENCE + 60.0) -> Any:
        """The function's result; None where it is not there within so many seconds."""
        self._thread.join(seconds)
        return self._result


def _guarded(function: Callable[[], Any], otherwise: Any) -> Any:
    """A function's result; where it fails, something else and a line."""
    try:
        return function()
    except Exception as error:
        say(_clause(error))
        return otherwise


def _clause(error: BaseException) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"cannot be told ({words[:300]})"


def _print(title: str, lines: Callable[[], Iterable[str]]) -> None:
    """Prints a part of the report; the home folder, whose name is often a person's, is ~."""
    try:
        report = list(lines())
    except Exception as error:
        report = [_clause(error)]
    home = os.path.expanduser("~")
    print(title)
    for line in report:
        if len(home) > 1:
            line = line.replace(home, "~")
        print(f"  {line}")


def _about() -> Iterable[str]:
    folder = Path(__file__).parents[2]
    place = f"a clone, {folder}" if (folder / ".git").exists() else str(folder)
    version = _version("flowbind") or "not installed; run from its folder"
    yield f"flowbind {version}, {place}{_commit(folder)}"
    yield f"Python {platform.python_version()}, {sys.executable}"
    yield f"{platform.platform()}, {os.cpu_count()} processors, {_memory()}"


def _commit(folder: Path) -> str:
    """The commit of a clone, as a clause; empty where it cannot be told."""
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" at {run.stdout.strip()}" if run.returncode == 0 else ""


def _memory() -> str:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{size / GIGABYTE:.1f} GB of memory"


def _version(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return distribution(name).version or "of unknown version"
    except PackageNotFoundError:
        return ""


def _extra_names() -> dict[str, str]:
    """What each extra is for, by its name."""
    extras = {}
    for line in EXTRAS.strip().splitlines():
        name, _, about = line.partition(": ")
        extras[name] = about
    return extras


def _needs(extra: str) -> dict[str, str]:
    """The libraries of an extra, with those of the extras within it, as it asks for them."""
    needs: dict[str, str] = {}
    for name, requirement in Extra(extra).requirements().items():
        if name == "flowbind":
            for inner in requirement.partition("[")[2].rstrip("]").split(","):
                needs |= _needs(inner.strip())
        else:
            needs[name] = requirement
    return needs


def _packages() -> list[str]:
    """Every library that flowbind or an extra of it asks for, and that is installed."""
    names = dict(base_requirements())
    for extra in _extra_names():
        names |= _needs(extra)
    return [name for name in names if _version(name)]


def _module_of(library: Distribution) -> str:
    """The name by which a library is imported."""
    own = re.sub(r"[-_.]+", "_", library.metadata["Name"]).lower()
    listed = (library.read_text("top_level.txt") or "").split()
    for file in library.files or []:
        if len(file.parts) == 2 and file.name == "__init__.py":
            listed.append(file.parts[0])
        if len(file.parts) == 1 and file.suffix == ".py":
            listed.append(file.stem)
    public = [name for name in listed if name.isidentifier() and name[0] != "_"]
    alike = [name for name in public if name.lower() == own]
    return [*alike, *public, own][0]


def _faults(names: Sequence[str]) -> dict[str, str]:
    """What is wrong with those libraries that cannot be imported, by their names."""
    modules = {_module_of(distribution(name)): name for name in names}
    faults = {}
    untried = list(modules)
    end = time.monotonic() + PATIENCE
    while untried:
        lines, ending = _probe(["imports", *untried], end - time.monotonic())
        for line in lines:
            untried.remove(line["module"])
            if line["error"]:
                faults[modules[line["module"]]] = line["error"]
        if untried:
            # The one that was being imported ended the process; the others may be well.
            culprit = untried.pop(0)
            faults[modules[culprit]] = ending or "ends Python"
    return faults


def _probe(
    arguments: Sequence[str], seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """What a process tried, and how it ended."""
    command = [sys.executable, "-m", "flowbind.cli.probe", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=max(seconds, 1.0))
        ending = _ending(process.returncode, err)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        ending = f"not done within {PATIENCE} s"

    lines = []
    for line in out.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # of something that was imported
            continue
    return lines, ending


def _ending(code: int, err: str) -> str:
    """How a process ended, as a clause; empty where it ended well."""
    if code == 0:
        return ""
    if code < 0:
        return f"ends Python by {signal.Signals(-code).name}"
    last = err.strip().splitlines()[-1:]
    return " ".join(["ends Python:", *last]) if last else "ends Python"


def _state(name: str, requirement: str, faults: dict[str, str]) -> str:
    """Name and version of a library, and what is wrong with it."""
    version = _version(name)
    if not version:
        return f"{name} missing: pip install '{requirement}'"
    if name in faults:
        return f"{name} {version} BROKEN: {faults[name][:300]}"
    if not _is_allowed(version, requirement):
        return f"{name} {version} TOO OLD OR NEW: pip install '{requirement}'"
    return f"{name} {version}"


def _is_allowed(version: str, requirement: str) -> bool:
    """Whether a version is one that is asked for; yes, where that cannot be told."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def _core(faults: dict[str, str]) -> Iterable[str]:
    requirements = base_requirements()
    if not requirements:
        yield "flowbind is not installed, so what it needs is not known: pip install -e ."
    for name, requirement in requirements.items():
        yield _state(name, requirement, faults)
    for name in (
        "torchvision",
        "torchmetrics",
        "torchcodec",
    ):  # which must go with torch
        if _version(name) and name not in requirements:
            yield f"{name} {_version(name)}"


def _extras(faults: dict[str, str]) -> Iterable[str]:
    extras = _extra_names()
    width = max(map(len, extras))
    for extra, about in extras.items():
        needs = _needs(extra)
        states = [_state(name, needs[name], faults) for name in needs]
        if any(not _version(name) for name in needs):
            yield f"{extra:{width}}  missing, for {about}: {Extra(extra)}"
        else:
            yield f"{extra:{width}}  {', '.join(states) or 'there'}"


def _devices() -> list[str]:
    facts, ending = _probe(["devices"], PATIENCE)
    if not facts:
        return [f"torch cannot tell: {ending}"]

    lines = []
    for fact in facts:
        if "torch" in fact:
            build = f"CUDA {fact['cuda']}" if fact["cuda"] else "processors alone"
            lines.append(f"torch is built for {build}; {fact['threads']} threads")
        elif "device" in fact:
            lines.append(_device(fact))
        elif fact["error"]:
            lines.append(
                f"compile on {fact['compiles']}: fails ({fact['error'][:300]})"
            )
        else:
            seconds = fact["seconds"]
            lines.append(
                f"compile on {fact['compiles']}: works, {seconds:.0f} s for a first function"
            )
    if ending:
        lines.append(f"what comes next was not told: {ending}")
    if shutil.which("nvidia-smi") and not any(
        "cuda" in f.get("device", "") for f in facts
    ):
        lines.append(
            "nvidia-smi is there, but torch sees no GPU: its driver may be too old"
        )
    return lines


def _device(fact: dict[str, Any]) -> str:
    name = fact["name"]
    if fact["device"] == "cpu":
        name = _processor()
    if fact["memory"]:
        free = fact["free"] / GIGABYTE
        name += f", {fact['memory'] / GIGABYTE:.0f} GB, {free:.0f} free"
    speed = f"bfloat16 {fact['gain']:.1f} times as fast as float32"
    if fact["error"]:
        speed = f"no bfloat16 ({fact['error'][:200]})"
    elif fact["gain"] < 1:
        speed += ": train with 32-true"
    return f"{fact['device']}: {name}; {speed}"


def _processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _plugins() -> Iterable[str]:
    for kind in KINDS:
        entries = installed(kind)
        packages: dict[str, int] = {}
        for entry in entries.values():
            packages[package(entry)] = packages.get(package(entry), 0) + 1
        counts = ", ".join(f"{count} of {name}" for name, count in packages.items())
        yield f"{kind}: {counts or 'none'}"
    yield "`flowbind plugins` lists them"


def _programs() -> Iterable[str]:
    for name, flag, about in PROGRAMS:
        place = shutil.which(name)
        if place is None:
            yield f"{name} missing, for {about}"
            continue
        try:
            run = subprocess.run(
                [place, flag],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=10,
            )
            first = (run.stdout or run.stderr).strip().splitlines()[:1]
            yield f"{' '.join(first)[:60] or name}"
        except (OSError, subprocess.SubprocessError) as error:
            yield f"{name} BROKEN: {error}"


def _hub() -> list[str]:
    """Whether the hub answers; a look-up of its name may take minutes, so it has its own thread."""
    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    if is_offline():
        return [
            f"{endpoint}: not asked, since HF_HUB_OFFLINE is set; local files alone are used"
        ]

    start = time.perf_counter()
    state = Later(lambda: [_ask(endpoint)]).result(HUB_PATIENCE) or [
        f"no answer within {HUB_PATIENCE:.0f} s; set HF_HUB_OFFLINE=1 to not wait"
    ]
    return [f"{endpoint}: {state[0]} ({time.perf_counter() - start:.1f} s)"]


def _ask(endpoint: str) -> str:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_PATIENCE):
            return "reachable"
    except urllib.error.HTTPError as error:
        return f"reachable; answers {error.code}"
    except (OSError, ValueError) as error:
        return f"unreachable: {getattr(error, 'reason', error)}"


def _disk() -> Iterable[str]:
    cache = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    temporary = os.environ.get("TMPDIR") or "/tmp"
    places = {"here": os.getcwd(), "weights of the hub": cache, "temporary": temporary}
    for name, place in places.items():
        nearest = Path(place)
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        total, _, free = shutil.disk_usage(nearest)
        gigabytes = f"{free / GIGABYTE:.1f} GB free of {total / GIGABYTE:.1f}"
        yield f"{name}, {place}: {gigabytes}"


def _environment() -> Iterable[str]:
    names = [name for name in sorted(os.environ) if VARIABLES.fullmatch(name)]
    for name in names:
        value = re.sub(r"//[^@/]*@", "//...@", os.environ[name])  # of a proxy, say
        yield f"{name}={value}"
    if not names:
        yield "nothing that changes what flowbind does"
