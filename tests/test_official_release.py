"""The authors' release, whole: made-up files of its layouts, with small models of the same classes, to raw samples."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from flowbind_audio.adapter import ClapAdapter
from flowbind_text.prefix_lm import Projector
from safetensors.torch import load_file

import flowbind
from tests.local_hub import REPOSITORY, local_hub
from tests.reference import official
from tests.test_audioldm import tone
from tests.test_clap import Stub
from tests.test_unclip import write_tiny_unclip
from tests.tiny_audio import save_audioldm, save_clap
from tests.tiny_clip import NAME as CLIP
from tests.tiny_clip import pictures, write_tiny_clip
from tests.tiny_text import WIDTH, save_encoder, save_gemma

LAYOUT = Path(__file__).parents[1] / "recipes/flowbind/official.json"
D, W, LAYERS = 768, 16, 2
STATISTICS = {
    "text": ("gemmae_text", 0.02),
    "image": ("unclip_img", 0.46),
    "audio": ("clap_audio", 0.15),
}
FILES = (
    "model.pth",
    "config.json",
    "gemmae_3.pt",
    "lightweight_audio_ae.pth",
    "clap.pt",
)


def write_networks(folder):
    """`model.pth` and `config.json`."""
    states = {}
    for name in STATISTICS:
        states[name] = {
            key: 0.05 * torch.randn(shape)
            for key, shape in official.shapes(D, W, LAYERS).items()
        }
    torch.save(
        {"epoch": 3, "global_step": 5, "model_state_dict": states}, folder / "model.pth"
    )
    config = {"hidden_dim": W, "num_layers": LAYERS, "prior": "explicit_residual"}
    (folder / "config.json").write_text(json.dumps(config | {"t_cond": "adaln"}))


def write_sounds(folder):
    """`lightweight_audio_ae.pth` and `clap.pt`, as data-parallel training leaves it."""
    torch.save(ClapAdapter().state_dict(), folder / "lightweight_audio_ae.pth")
    state = {
        f"module.{name}": tensor
        for name, tensor in Stub(False, "cpu", "HTSAT-base").model.state_dict().items()
    }
    torch.save({"epoch": 15, "state_dict": state}, folder / "clap.pt")


def write_statistics(folder):
    folder.mkdir()
    for stem, std in STATISTICS.values():
        torch.save(0.1 * std * torch.randn(1, D), folder / f"{stem}_mean.pt")
        torch.save(torch.full((1, D), std), folder / f"{stem}_std.pt")


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """A release without its language model, which is quick to write, and the statistics beside it."""
    folder = tmp_path_factory.mktemp("flows")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (folder / "release").mkdir()
        write_networks(folder / "release")
        write_sounds(folder / "release")
        write_statistics(folder / "samples")
        decoder = {
            "prefix_proj": Projector(D, WIDTH, 3).state_dict(),
            "model": {
                "model.embed_tokens.weight": torch.randn(9, WIDTH),
                "model.norm.weight": torch.ones(WIDTH),
            },
        }
        decoder["model"]["lm_head.weight"] = decoder["model"][
            "model.embed_tokens.weight"
        ]
        torch.save(decoder, folder / "release/gemmae_3.pt")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with local_hub(tmp_path / "cache", monkeypatch) as server:
        yield server


def options(folder, out):
    release, samples = folder / "release", folder / "samples"
    return ["--from", release, "--statistics", samples, "--out", out]


def test_files_become_safetensors_with_the_same_numbers(flows, tmp_path, command):
    code, _, err = command("import-official", *options(flows, tmp_path / "model"))
    assert code == 0, err
    assert "has a copy of" not in err  # of files that are not there any longer
    suffixes = {
        path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    assert suffixes == {".safetensors", ".json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    codecs, release = tmp_path / "model/codecs", flows / "release"
    decoder = torch.load(release / "gemmae_3.pt")
    written = load_file(codecs / "text/weights.safetensors")
    table = written.pop("lm.model.embed_tokens.weight")
    assert torch.equal(table, decoder["model"]["model.embed_tokens.weight"].bfloat16())
    assert written.pop("lm.model.norm.weight").dtype == torch.bfloat16
    assert written.keys() == {f"projector.{name}" for name in decoder["prefix_proj"]}

    adapter = torch.load(release / "lightweight_audio_ae.pth")
    written = load_file(codecs / "audio/weights.safetensors")
    assert written.keys() == adapter.keys()
    assert all(torch.equal(written[name], adapter[name]) for name in adapter)
    clap = load_file(codecs / "audio/clap.safetensors")
    assert clap.keys() == Stub(False, "cpu", "HTSAT-base").model.state_dict().keys()

    model = flowbind.load(tmp_path / "model")
    arguments = model.modality("audio").codec.arguments()
    assert arguments["audioldm"] == "cvssp/audioldm-m-full"
    assert not arguments["normalize"]
    one = torch.full((1, D), STATISTICS["image"][1])
    mean = torch.load(flows / "samples/unclip_img_mean.pt")
    standard = model.networks.standard["image"](mean + one)
    assert torch.allclose(standard, torch.ones(1, D), atol=1e-5)


def test_from_the_hub_it_fetches_these_files_alone(flows, tmp_path, command, hub):
    files = {file: (flows / "release" / file).read_bytes() for file in FILES}
    for path in (flows / "samples").iterdir():
        files[f"samples/{path.name}"] = path.read_bytes()
    hub.commits[hub.newest] = files | {"more.pth": b"1", "setup.py": b"1"}
    code, _, err = command(
        *("import-official", "--from-hub", REPOSITORY, "--out", tmp_path / "model")
    )
    assert code == 0, err
    assert flowbind.load(tmp_path / "model").modality("text").codec.prefix == 3
    resolved = {path.partition("/resolve/")[2] for path in hub.asked}
    fetched = {path.partition("/")[2].partition("?")[0] for path in resolved if path}
    assert fetched == files.keys()


def test_what_differs_is_named(flows, tmp_path, command):
    release = tmp_path / "release"
    release.mkdir()
    for file in FILES:
        (release / file).symlink_to(flows / "release" / file)

    def refused(file, content, *says):
        (release / file).unlink(missing_ok=True)
        if content is not None:
            torch.save(content, release / file)
        code, _, err = command(
            *("import-official", "--from", release),
            *("--statistics", flows / "samples", "--out", tmp_path / "model"),
        )
        assert (code, err.count("Traceback")) == (2, 0), err
        assert all(part in err for part in (file, *says)), err
        assert [path.name for path in tmp_path.iterdir()] == ["release"]
        (release / file).unlink(missing_ok=True)
        (release / file).symlink_to(flows / "release" / file)

    decoder = torch.load(flows / "release/gemmae_3.pt")
    projector = decoder["prefix_proj"]
    wide = projector | {"net.0.weight": torch.ones(D, D + 1)}
    refused("gemmae_3.pt", {"model": {}}, "it has model, not prefix_proj and model")
    refused(
        "gemmae_3.pt", decoder | {"prefix_proj": wide}, "net.0.weight has the shape"
    )
    refused(
        "gemmae_3.pt", decoder | {"model": projector}, "no model.embed_tokens.weight"
    )
    lm = decoder["model"]
    for change, says in (
        ({"lm_head.weight": torch.ones(9, WIDTH)}, "has a lm_head.weight that differs"),
        ({"model.embed_tokens.weight": torch.ones(9)}, "of 1 axes, not 2"),
        ({"model.layers.1.a.weight": torch.ones(2)}, "no model.layers.0.a.weight"),
    ):
        refused("gemmae_3.pt", decoder | {"model": lm | change}, says)
    adapter = ClapAdapter().state_dict()
    file = "lightweight_audio_ae.pth"
    refused(
        file, adapter | {"encoder.4.bias": torch.ones(1)}, "encoder.4.bias is not known"
    )
    refused(file, {"state_dict": adapter}, "no weights by name, but state_dict")
    adapter.pop("decoder.2.bias")
    refused(file, adapter, "it has no decoder.2.bias")
    refused("clap.pt", {"state_dict": adapter}, "it has no audio_branch")
    clap = torch.load(flows / "release/clap.pt")["state_dict"]
    fusion = {"module.audio_branch.patch_embed.fusion_model.a": torch.ones(1)}
    refused("clap.pt", {"state_dict": clap | fusion}, "weights of a fusion")
    refused("clap.pt", {"args": SimpleNamespace()}, "it holds types.SimpleNamespace")
    refused("clap.pt", None, "has no clap.pt; the authors' release has model.pth")


def test_a_file_that_git_lfs_has_not_fetched_is_told(flows, tmp_path, command):
    release = tmp_path / "release"
    release.mkdir()
    for file in FILES:
        (release / file).symlink_to(flows / "release" / file)
    for file in ("model.pth", "gemmae_3.pt", "clap.pt"):
        (release / file).unlink()
        (release / file).write_text("version https://git-lfs.github.com/spec/v1\noid\n")
        code, _, err = command(
            *("import-official", "--from", release),
            *("--statistics", flows / "samples", "--out", tmp_path / "model"),
        )
        assert (code, file in err, "git lfs pull" in err) == (2, True, True), err
        (release / file).unlink()
        (release / file).symlink_to(flows / "release" / file)


def test_weights_that_share_memory_are_each_written(flows, tmp_path):
    from flowbind_audio.official import convert_clap

    state = torch.load(flows / "release/clap.pt")["state_dict"]
    state["module.again"] = state["module.audio_projection.0.bias"][:4]
    torch.save({"state_dict": state}, tmp_path / "clap.pt")
    convert_clap(tmp_path / "clap.pt", tmp_path / "clap.safetensors")
    written = load_file(tmp_path / "clap.safetensors")
    assert torch.equal(written["again"], written["audio_projection.0.bias"][:4])


def test_nothing_in_its_files_runs(flows, tmp_path, command):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    release = tmp_path / "release"
    release.mkdir()
    for file in FILES:
        (release / file).symlink_to(flows / "release" / file)
    for file in ("gemmae_3.pt", "lightweight_audio_ae.pth", "clap.pt"):
        (release / file).unlink()
        torch.save({"prefix_proj": Trap(), "model": {}}, release / file)
        code, _, err = command(
            *("import-official", "--from", release),
            *("--statistics", flows / "samples", "--out", tmp_path / "model"),
        )
        assert (code, file in err) == (2, True), err
        assert not (tmp_path / "canary").exists()
        (release / file).unlink()
        (release / file).symlink_to(flows / "release" / file)


def test_options_that_do_not_go_together(flows, tmp_path, command):
    for arguments, says in (
        (["--from-hub", "a/b", "--from", tmp_path], "not both"),
        (
            ["--from", tmp_path, "--config", tmp_path / "c"],
            "--config is for a checkpoint",
        ),
        ([], "--from-hub OWNER/NAME or --from FOLDER"),
        (["--checkpoint", tmp_path / "c"], "--config is missing"),
        (
            ["--from-hub", "nobody/nothing"],
            "'nobody/nothing' (main): the hub does not give it",
        ),
        (
            ["--from", flows / "release"],
            "cannot be fetched (<urlopen error HF_HUB_OFFLINE",
        ),
    ):
        code, _, err = command(
            "import-official", *arguments, "--out", tmp_path / "model"
        )
        assert (code, says in err) == (2, True), err
        assert not list(tmp_path.iterdir())


def test_statistics_are_fetched_where_the_release_has_none(
    flows, tmp_path, command, monkeypatch
):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = flows / self.path.lstrip("/")
            self.send_response(200 if path.is_file() else 404)
            self.end_headers()
            self.wfile.write(path.read_bytes() if path.is_file() else b"")

        def log_message(self, *_):
            pass

    monkeypatch.delenv("HF_HUB_OFFLINE")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    layout = json.loads(LAYOUT.read_text())

    def imported(folder):
        url = f"http://127.0.0.1:{server.server_port}/{folder}"
        layout["statistics"]["url"] = url
        (tmp_path / "layout.json").write_text(json.dumps(layout))
        return command(
            *("import-official", "--from", flows / "release"),
            *("--layout", tmp_path / "layout.json", "--out", tmp_path / folder),
        )

    try:
        code, _, err = imported("samples")
        assert code == 0, err
        assert flowbind.load(tmp_path / "samples").method.objective.times == "both"
        code, _, err = imported("nowhere")
        assert (
            code,
            "nowhere/gemmae_text_mean.pt: cannot be fetched (HTTP" in err,
        ) == (
            2,
            True,
        ), err
    finally:
        server.shutdown()
        server.server_close()


def test_from_its_files_to_a_caption_a_picture_and_a_sound(
    flows, tmp_path, command, monkeypatch
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(sys.modules, "laion_clap", SimpleNamespace(CLAP_Module=Stub))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(tmp_path / "encoder", tmp_path / "parts", D)
        save_gemma(tmp_path / "gemma", torch.bfloat16)
        write_tiny_unclip(tmp_path / "unclip", D)
        clip = write_tiny_clip(tmp_path, width=D)
        save_audioldm(tmp_path / "audioldm", save_clap(tmp_path / "clap"))

        # Fine-tuned: other weights than the language model is distributed with.
        lm = AutoModelForCausalLM.from_pretrained(tmp_path / "gemma")
        for parameter in lm.parameters():
            parameter.data.normal_(std=0.3)
        projector = Projector(D, WIDTH, 3).state_dict()
    release = tmp_path / "release"
    release.mkdir()
    for file in FILES:
        (release / file).symlink_to(flows / "release" / file)
    (release / "samples").symlink_to(flows / "samples")
    (release / "gemmae_3.pt").unlink()
    decoder = {"prefix_proj": projector, "model": lm.float().state_dict()}
    torch.save(decoder, release / "gemmae_3.pt")

    layout = json.loads(LAYOUT.read_text())
    small = {
        "text": {"encoder": "encoder", "language_model": "gemma"},
        "image": {"decoder": "unclip"},
        "audio": {"audioldm": "audioldm"},
    }
    for name, places in small.items():
        args = layout["modalities"][name]["args"]["codec"]["args"]
        args |= {argument: str(tmp_path / place) for argument, place in places.items()}
    more = {
        "text": {"longest": 6},
        "image": {"model": CLIP, "pretrained": str(clip), "steps": 1},
        "audio": {"steps": 1, "seconds": 0.25},
    }
    for name, values in more.items():
        layout["modalities"][name]["args"]["codec"]["args"] |= values
    (tmp_path / "layout.json").write_text(json.dumps(layout))

    code, _, err = command(
        *("import-official", "--from", release),
        *("--layout", tmp_path / "layout.json", "--out", tmp_path / "model"),
    )
    assert code == 0, err
    model = flowbind.load(tmp_path / "model")
    net = model.modality("text").codec.net
    assert torch.equal(
        net.lm.get_input_embeddings().weight,
        lm.get_input_embeddings().weight.bfloat16(),
    )

    code, out, err = command(
        *("generate", tmp_path / "model", "--from", "text=a dog barks"),
        *("--to", "image", "--to", "audio", "--out", tmp_path / "made"),
    )
    assert code == 0, err
    assert [line.rpartition(".")[2] for line in out.split()] == ["png", "wav"]
    generated = model.generate(
        {"image": pictures(1), "audio": [tone(300)]}, to=["text"]
    )
    assert len(generated["text"][0]) >= 1


def test_sounds_are_of_the_adapter_s_output_as_it_is(flows, tmp_path):
    """Not divided by its norm, as in the authors' code; ours is by default."""
    from flowbind_audio.audioldm import ClapAudioLDM
    from flowbind_audio.official import convert_adapter

    file = tmp_path / "adapter.safetensors"
    convert_adapter(flows / "release/lightweight_audio_ae.pth", file)
    seen = []

    class Spy(ClapAudioLDM):
        def _make(self, embeddings, generator):
            seen.append(embeddings)
            return torch.zeros(len(embeddings), 4)

    latents = torch.randn(2, D)
    for normalize in (False, True):
        Spy(str(file), normalize=normalize).decode(latents)
    as_it_is, normalised = seen
    adapter = ClapAdapter()
    adapter.load_state_dict(load_file(file))
    assert torch.allclose(as_it_is, adapter.decode(latents), atol=1e-6)
    norms = as_it_is.norm(dim=1, keepdim=True)
    assert (norms - 1).abs().min() > 0.1
    assert torch.allclose(normalised, as_it_is / norms, atol=1e-6)
