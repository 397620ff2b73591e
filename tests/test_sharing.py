"""Models given away: to a stand-in of the hub's HTTP interface on this machine, and as one file."""

import errno
import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

import flowbind
from flowbind.card import write_card
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.release import save
from tests.local_hub import REPOSITORY, local_hub
from tests.released import make_model
from tests.test_methods import crossflow, crossmodal
from tests.toy import Vector, Word

pytestmark = (
    pytest.mark.filterwarnings(  # between huggingface_hub 2.4 and its HTTP library
        "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
    )
)
RESULTS = Path(__file__).parent / "formats/3/run/metrics.json"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with local_hub(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture
def folder(tmp_path, toys):
    """A released model of the toy world in a run folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(
            make_model({"word": Word(), "vector": Vector()}),
            tmp_path / "run/model",
            step=7,
        )
    return tmp_path / "run/model"


def results_of(folder):
    """Results of a test, as if they were of these weights."""
    results = json.loads(RESULTS.read_text())
    weights = json.loads((folder / "model.json").read_text())["weights"]["sha256"]
    results["meta"]["model"]["sha256"] = weights
    return results


def test_what_is_pushed_is_what_is_loaded(folder, hub, command, monkeypatch, tmp_path):
    from huggingface_hub import constants

    code, out, err = command("push", folder, REPOSITORY, "--license", "apache-2.0")
    assert code == 0, err
    assert out.strip() == f"hf:{REPOSITORY}@{hub.newest}"
    files = hub.commits[hub.newest]
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "codecs/old/a.bin" not in files
    assert {name.rpartition(".")[2] for name in files} <= {
        *("safetensors", "json", "md", "gitattributes")
    }
    assert hub.lfs

    original = flowbind.load(folder)
    for name in (f"hf:{REPOSITORY}", f"hf:{REPOSITORY}@{hub.newest}"):
        loaded = flowbind.load(name)
        state = original.networks.state_dict()
        assert all(
            torch.equal(tensor, state[key])
            for key, tensor in loaded.networks.state_dict().items()
        )
    # Of a commit that is here, nothing is fetched again.
    hub.asked.clear()
    flowbind.load(f"hf:{REPOSITORY}@{hub.newest}")
    assert not [path for path in hub.asked if "safetensors" in path]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    # Nor is a folder here mistaken for it.
    (tmp_path / REPOSITORY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    flowbind.load(f"hf:{REPOSITORY}")
    assert not hub.asked


def test_only_safetensors_and_json_are_fetched(folder, hub, command):
    assert command("push", folder, REPOSITORY)[0] == 0
    hub.commits[hub.newest] |= {"evil.py": b"1", "codecs/word/evil.pkl": b"1"}
    flowbind.load(f"hf:{REPOSITORY}")
    assert not [path for path in hub.asked if "evil" in path]
    # And what is fetched is compared with its checksum.
    files = hub.commits[hub.newest]
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\1"
    hub.commits["f" * 40] = files
    with pytest.raises(ValueError, match=r"model.safetensors: damaged"):
        flowbind.load(f"hf:{REPOSITORY}@{'f' * 40}")


def test_the_card_tells_where_it_comes_from(folder, hub, command):
    (folder.parent / "metrics.json").write_text(json.dumps(results_of(folder)))
    (folder.parent / "gallery.png").write_bytes(b"\x89PNG of a test")
    code, _, err = command("push", folder, REPOSITORY, "--license", "mit")
    assert code == 0, err
    files = hub.commits[hub.newest]
    card = files["README.md"].decode()
    for part in (
        "license: mit",
        "library_name: flowbind",
        f'flowbind.load("hf:{REPOSITORY}")',
        'model.generate({"word": "..."}, to=["vector"])',
        f'flowbind generate hf:{REPOSITORY} --from word="..." --to vector --out made',
        "- vector from word\n- word from vector\n",
        "(arXiv 2512.15420), after step 7 of its training",
        "- word+vector: 9 samples",
        "7423af7130d551cca92d3df2d7ccd81517d508adfa37d249f32d2f8d12e03329",
        "| word->vector |",
        "![Rows",
        "## Whose weights came along",
    ):
        assert part in card, card
    assert files["gallery.png"] == b"\x89PNG of a test"

    # Results of other weights are not this model's.
    other = results_of(folder)
    other["meta"]["model"]["sha256"] = "0" * 64
    for results in (other, {"directions": {}}, []):
        (folder.parent / "metrics.json").write_text(json.dumps(results))
        code, _, err = command("push", folder, REPOSITORY)
        assert (code, "not known to be of the model's weights" in err) == (0, True), err
        assert "Not measured" in hub.commits[hub.newest]["README.md"].decode()


def test_a_card_is_one_to_the_hub_and_its_commands_run(folder, hub, command, tmp_path):
    from huggingface_hub import ModelCard

    assert command("push", folder, REPOSITORY, "--license", "mit")[0] == 0
    card = ModelCard(hub.commits[hub.newest]["README.md"].decode())
    assert card.data.to_dict() == {
        "library_name": "flowbind",
        "pipeline_tag": "any-to-any",
        "license": "mit",
    }

    # With a word of this world in the place of what is yours.
    (line,) = re.findall(r"^flowbind (generate .*)$", card.text, re.MULTILINE)
    _, *arguments = shlex.split(line.replace("...", "302"))
    arguments[-1] = tmp_path / "shell"
    code, _, err = command("generate", *arguments)
    assert code == 0, err
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
    code = code.replace("...", "302").replace("made", str(tmp_path / "python"))
    exec(code, {})
    for made in ("shell", "python"):
        assert [path.suffix for path in (tmp_path / made).iterdir()] == [".vec"]


CARDS = {
    "crossmodal": (
        lambda: crossmodal("vector"),
        {"pipeline_tag": "any-to-any"},
        ("- ids with latent\n", "- latent from ids", '--from ids="..." --to latent'),
    ),
    "crossflow": (
        lambda: crossflow("vector", "vector"),
        {},
        ("(arXiv 2412.15213)", "- target from source\n", '{"source": "source.'),
    ),
}


@pytest.mark.parametrize(("build", "task", "says"), CARDS.values(), ids=CARDS)
def test_a_card_of_each_method_tells_what_it_makes(build, task, says, toys, tmp_path):
    with torch.random.fork_rng(devices=[]):
        method = build()
        save(Model(method, Networks(method).eval()), tmp_path / "model")
    card = write_card(tmp_path / "model", "model").content
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {"library_name": "flowbind"} | task
    for part in (*says, "generator matching" if task else "CrossFlow".lower()):
        assert part in card, card
    assert "step" not in card.partition("## Use it")[0]


def test_mistakes_are_one_line(folder, hub, command, monkeypatch, tmp_path):
    def refused(*arguments, says):
        code, _, err = command(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("flowbind: ")]
        assert (code, len(lines), says in lines[-1]) == (2, 1, True), err
        assert "Traceback" not in err

    refused("push", folder, "toy", says="'toy' is no repository; it is OWNER/NAME")
    refused("push", tmp_path / "none", REPOSITORY, says="none: no such folder")
    for licence in ("Apache 2.0", "mit\ntags: [a]"):
        refused(
            *("push", folder, REPOSITORY, "--license", licence),
            says="no licence as the hub calls it",
        )
    refused(
        "generate",
        "hf:toy",
        "--to",
        "word",
        "--out",
        tmp_path / "o",
        says="hf:OWNER/NAME",
    )
    hub.refuses = True
    refused("push", folder, REPOSITORY, says="the hub does not take it")
    hub.refuses = False
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\1")
    refused("push", folder, REPOSITORY, says="model.safetensors: damaged, or changed")
    weights.write_bytes(whole)
    (folder / "codecs/word").mkdir(parents=True)
    (folder / "codecs/word/weights.pkl").write_bytes(b"1")
    refused(
        "push",
        folder,
        REPOSITORY,
        says="weights.pkl: allowed in a model that is given away",
    )
    shutil.rmtree(folder / "codecs/word")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("push", folder, REPOSITORY, says="while HF_HUB_OFFLINE is set")
    hub.shutdown()
    hub.server_close()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    refused("push", folder, REPOSITORY, says="log in with `hf auth login`")
    refused(
        *("generate", "hf:nobody/none@v1", "--to", "word", "--out", tmp_path / "o"),
        says="the model 'nobody/none' (v1): the hub does not give it",
    )


FAILURES = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}, "it is gated: its terms"),
    "private": (
        401,
        {"X-Error-Code": "RepoNotFound"},
        "or it is private and not yours",
    ),
    "no revision": (404, {"X-Error-Code": "RevisionNotFound"}, "has no such revision"),
    "a wrong token": (401, {}, "the token of your login is not valid"),
    "down": (500, {}, "the hub answers 500"),
    "breaking off": (200, {"Content-Type": "application/json"}, "closed connection"),
}


@pytest.mark.parametrize(("code", "headers", "says"), FAILURES.values(), ids=FAILURES)
def test_why_the_hub_does_not_give_it(code, headers, says, hub, command, tmp_path):
    hub.failure = code, headers
    code, out, err = command(
        "generate", f"hf:{REPOSITORY}", "--to", "word", "--out", tmp_path / "o"
    )
    assert (code, out, says in err, "hf auth login" in err) == (2, "", True, True), err
    assert "Traceback" not in err


def test_a_repository_of_something_else_is_no_model(folder, hub, command, monkeypatch):
    from huggingface_hub import file_download

    hub.commits[hub.newest] = {"config.json": b"{}", "README.md": b"mine"}
    with pytest.raises(ValueError, match=r"it has no model\.json, so it is no model"):
        flowbind.load(f"hf:{REPOSITORY}")
    code, _, err = command("push", folder, REPOSITORY)
    assert (code, "something else than a model of flowbind" in err) == (2, True), err
    assert hub.commits[hub.newest]["README.md"] == b"mine"

    # A full disk is not the hub's fault.
    hub.newest = "e" * 40
    hub.commits[hub.newest] = {"model.json": b"{}", "model.safetensors": b"1"}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(OSError, match=r"cache: .*No space left"):
        flowbind.load(f"hf:{REPOSITORY}")


def test_one_file_is_the_same_model_and_the_same_bytes(folder, command, tmp_path):
    for name in ("a", "b"):
        code, _, err = command("pack", folder, tmp_path / name / "toy.zip")
        assert code == 0, err
    packed = [(tmp_path / name / "toy.zip").read_bytes() for name in ("a", "b")]
    assert packed[0] == packed[1]
    with zipfile.ZipFile(tmp_path / "a/toy.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert "# toy" in (tmp_path / "unpacked/toy/README.md").read_text()
    model = flowbind.load(tmp_path / "unpacked/toy")
    state = flowbind.load(folder).networks.state_dict()
    assert all(
        torch.equal(tensor, state[key])
        for key, tensor in model.networks.state_dict().items()
    )
    code, _, err = command("pack", folder, tmp_path / "toy.tar")
    assert (code, "end it in .zip" in err) == (2, True), err


def test_generate_says_where_to_get_a_model(command, tmp_path):
    code, _, err = command(
        *("generate", "runs/nowhere/model", "--from", "text=a", "--to", "image"),
        *("--out", tmp_path),
    )
    assert code == 2
    for part in (
        "runs/nowhere/model",
        "make quickstart",
        "flowbind-shapes.zip",
        "hf:OWNER/NAME",
    ):
        assert part in err
