"""The standard codec for images, on a tiny CLIP and a tiny Stable unCLIP of the very same classes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from flowbind_image import Image
from flowbind_image.unclip import ClipUnclip

from flowbind.libraries import Extra
from flowbind.testing import check_modality
from tests.distribution import distribution
from tests.released import as_received
from tests.tiny_clip import NAME, SIDE, WIDTH, pictures, write_tiny_clip

SIZE = 32  # pixels a side of what the tiny decoder draws


def write_tiny_unclip(folder: Path, width: int = WIDTH) -> Path:
    """A `StableUnCLIPImg2ImgPipeline` with random weights, as it lies on the hub."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableUnCLIPImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"]
    small = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        StableUnCLIPImg2ImgPipeline(
            feature_extractor=CLIPImageProcessor(size=SIDE, crop_size=SIDE),
            image_encoder=CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    **small, projection_dim=width, image_size=SIDE, patch_size=16
                )
            ),
            image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=width),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            tokenizer=CLIPTokenizer(
                vocab={word: i for i, word in enumerate(words)},
                merges=[],
                model_max_length=7,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    **small,
                    vocab_size=4,
                    bos_token_id=0,
                    eos_token_id=1,
                    max_position_embeddings=7,
                )
            ),
            unet=UNet2DConditionModel(
                sample_size=SIZE // 8,
                block_out_channels=(8, 16),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                norm_num_groups=4,
                attention_head_dim=(2, 4),
                cross_attention_dim=8,
                use_linear_projection=True,
                class_embed_type="projection",
                projection_class_embeddings_input_dim=2 * width,
            ),
            scheduler=DDIMScheduler(
                prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1
            ),
            vae=AutoencoderKL(
                block_out_channels=(4, 4, 4, 4),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                norm_num_groups=2,
            ),
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    return write_tiny_unclip(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def codec(weights, decoder) -> ClipUnclip:
    return tiny(weights, decoder)


def tiny(weights, decoder="", **changed) -> ClipUnclip:
    return ClipUnclip(
        NAME,
        **{
            "pretrained": str(weights),
            "width": WIDTH,
            "decoder": str(decoder),
            "steps": 2,
        }
        | changed,
    )


def pil(raw):
    return PIL.Image.fromarray(raw.permute(1, 2, 0).numpy())


def assert_alike(picture, other) -> None:
    """Equal but for the last digit of float32, which may turn a rounding here and there."""
    difference = (picture.int() - other.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01


def refusal(call) -> str:
    """What an error says; one line."""
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# The laws


def test_laws(codec, tmp_path):
    with distribution(
        tmp_path / "site",
        "tiny-unclip",
        {"flowbind.codecs": {"tiny": "flowbind_image.unclip:ClipUnclip"}},
    ):
        check_modality(Image(codec), pictures(3), tmp_path)


def test_a_released_model_needs_no_other_folder(codec, weights, decoder, tmp_path):
    shutil.copytree(decoder, tmp_path / "mine/decoder")
    shutil.copy(weights, tmp_path / "mine/weights.safetensors")
    mine = tiny(tmp_path / "mine/weights.safetensors", tmp_path / "mine/decoder")
    received = as_received(Image(mine), "image", tmp_path / "mine")
    assert received.fingerprint() == codec.fingerprint()
    raws = pictures(1)
    latents = codec.encode(raws)
    assert torch.equal(received.encode(raws), latents)
    drawn, expected = (
        c.decode(latents, torch.Generator().manual_seed(0)) for c in (received, codec)
    )
    assert_alike(drawn[0], expected[0])


# Encoding


def test_latents_are_open_clip_s_own_embeddings(codec, weights):
    import open_clip

    raws = [
        *pictures(2),
        *pictures(1, 64, 33),
        *pictures(1, SIDE, SIDE),
        *pictures(1, 5, 200),
    ]
    net, _, preprocess = open_clip.create_model_and_transforms(
        NAME, pretrained=str(weights)
    )
    with torch.no_grad():
        expected = net.eval().encode_image(
            torch.stack([preprocess(pil(raw)) for raw in raws])
        )
    latents = codec.encode(raws)
    assert torch.allclose(latents, expected, atol=1e-5)
    assert latents.dtype == torch.float32
    # Not normalised.
    assert not torch.allclose(latents.norm(dim=1), torch.ones(()), atol=0.1)


def test_the_middle_is_seen_and_the_margins_are_not(codec):
    raw = pictures(1, SIDE, 3 * SIDE)[0]
    other = raw.clone()
    other[..., :SIDE], other[..., 2 * SIDE :] = 0, 255
    assert torch.allclose(codec.encode([raw]), codec.encode([other]), atol=1e-5)
    assert torch.allclose(
        codec.encode([raw]), codec.encode([raw[..., SIDE : 2 * SIDE]]), atol=1e-5
    )


def test_a_tag_brings_its_activation_and_its_preprocessing(weights, monkeypatch):
    """OpenAI's tags need QuickGELU, which open_clip does not see to by itself."""
    import open_clip
    from open_clip import pretrained

    mean = (0.1, 0.2, 0.3)
    tag = {
        "file": str(weights),
        "quick_gelu": True,
        "mean": mean,
        "interpolation": "bilinear",
    }
    monkeypatch.setitem(pretrained._PRETRAINED, NAME, {"official": tag})
    codec, raws = tiny("official"), pictures(3)
    net = open_clip.create_model(
        NAME, str(weights), force_quick_gelu=True, force_preprocess_cfg=tag
    ).eval()
    preprocess = open_clip.image_transform(
        SIDE, is_train=False, mean=mean, interpolation="bilinear"
    )
    with torch.no_grad():
        expected = net.encode_image(torch.stack([preprocess(pil(raw)) for raw in raws]))
    assert torch.allclose(codec.encode(raws), expected, atol=1e-5)
    assert not torch.allclose(tiny(weights).encode(raws), expected, atol=1e-3)
    assert open_clip.get_pretrained_cfg("ViT-L-14", "openai")["quick_gelu"]
    assert not open_clip.get_model_config("ViT-L-14").get("quick_gelu")


def test_an_autocast_around_it_changes_nothing(codec, weights, decoder):
    expected = codec.encode(pictures(2))
    drawn = codec.decode(expected, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(codec.encode(pictures(2)), expected, atol=1e-5)
        again = codec.decode(expected, torch.Generator().manual_seed(0))
    for one, other in zip(again, drawn, strict=True):
        assert_alike(one, other)


# Decoding


def test_pictures_are_stable_unclip_s(codec, decoder):
    """With an empty prompt, and noise from generators that the given one seeds."""
    from diffusers import StableUnCLIPImg2ImgPipeline

    latents = codec.encode(pictures(2))
    pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(decoder)
    pipeline.set_progress_bar_config(disable=True)
    seeds = torch.randint(
        2**62, (2,), generator=torch.Generator().manual_seed(7)
    ).tolist()
    expected = pipeline(
        prompt=["", ""],
        image_embeds=latents,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=2,
        guidance_scale=10.0,
    ).images
    drawn = codec.decode(latents, torch.Generator().manual_seed(7))
    assert [picture.dtype for picture in drawn] == [torch.uint8] * 2
    assert [tuple(picture.shape) for picture in drawn] == [(3, SIZE, SIZE)] * 2
    for picture, other in zip(drawn, expected, strict=True):
        assert_alike(picture, torch.from_numpy(np.array(other)).permute(2, 0, 1))


def test_a_picture_depends_on_its_latent_and_noise_alone(weights, decoder):
    latents = tiny(weights).encode(pictures(5))
    made = [
        tiny(weights, decoder, batch_size=size).decode(
            latents, torch.Generator().manual_seed(3)
        )
        for size in (2, 8)
    ]
    for one, other in zip(*made, strict=True):
        assert_alike(one, other)
    drawn = torch.stack(made[1]).float()
    assert ((drawn[:1] - drawn[1:]).abs().amax((1, 2, 3)) > 8).all()
    far = tiny(weights, decoder).decode(-4 * latents, torch.Generator().manual_seed(3))
    assert ((torch.stack(far).float() - drawn).abs().amax((1, 2, 3)) > 8).all()


@pytest.mark.parametrize(
    "changed", [{"steps": 4}, {"guidance": 1.0}, {"noise_level": 900}]
)
def test_settings_reach_the_decoder(codec, weights, decoder, changed):
    latents = codec.encode(pictures(1))
    drawn = [
        c.decode(latents, torch.Generator().manual_seed(0))[0]
        for c in (codec, tiny(weights, decoder, **changed))
    ]
    assert not torch.equal(*drawn)


def test_the_decoder_is_frozen(codec):
    # The normaliser apart, which makes itself new parameters whenever it is moved.
    pipeline = codec.pipeline
    for net in (
        pipeline.unet,
        pipeline.vae,
        pipeline.text_encoder,
        pipeline.image_encoder,
    ):
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_size_is_a_setting(weights, decoder):
    latents = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))
    assert tiny(weights, decoder, size=48).decode(latents)[0].shape == (3, 48, 48)


def test_moving_moves_what_is_built(weights, decoder):
    codec = tiny(weights, decoder)
    assert codec.to("meta") is codec
    assert not {"encoder", "pipeline"} & vars(codec).keys()
    codec.to("cpu").decode(codec.encode(pictures(1)))
    codec.to("meta")
    nets = (
        codec.encoder,
        codec.pipeline.unet,
        codec.pipeline.vae,
        codec.pipeline.text_encoder,
    )
    assert {
        parameter.device.type for net in nets for parameter in net.parameters()
    } == {"meta"}


# The fingerprint


def test_the_fingerprint_is_the_encoder_s(weights, tmp_path):
    own = tiny(weights).fingerprint()
    assert (
        own == tiny(weights, "elsewhere", steps=50, size=512, half=False).fingerprint()
    )
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    assert own == tiny(moved).fingerprint()
    moved.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert own != tiny(moved).fingerprint()
    assert ClipUnclip().fingerprint() != ClipUnclip("ViT-L-14-336").fingerprint()
    assert ClipUnclip().fingerprint()["pretrained"] == "openai"
    assert json.loads(json.dumps(own)) == own


def test_describing_it_loads_nothing():
    code = "from flowbind_image.unclip import ClipUnclip; ClipUnclip().to('cuda').fingerprint(); import sys; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"open_clip", "diffusers", "transformers", "torchvision"} & set(modules)


# Mistakes


def test_unknown_models_and_weights(weights, tmp_path):
    assert "did you mean 'ViT-L-14'" in refusal(
        lambda: ClipUnclip("ViT-L14").encode(pictures(1))
    )
    assert "did you mean 'openai'" in refusal(
        lambda: ClipUnclip(pretrained="openal").encode(pictures(1))
    )
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no weights")
    assert "damaged.pt: not weights of open_clip's tiny-clip" in refusal(
        lambda: tiny(damaged).encode(pictures(1))
    )
    other = ClipUnclip("ViT-B-32", str(weights), 512)
    assert "not weights of open_clip's ViT-B-32" in refusal(
        lambda: other.encode(pictures(1))
    )
    assert f"set `width` to {WIDTH}" in refusal(
        lambda: tiny(weights, width=20).encode(pictures(1))
    )


def test_weights_never_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    assert "not weights" in refusal(
        lambda: tiny(tmp_path / "evil.pt").encode(pictures(1))
    )


def test_an_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = refusal(lambda: ClipUnclip().encode(pictures(1)))
    assert "'openai' of ViT-L-14 cannot be fetched" in said
    assert "`pretrained`" in said
    said = refusal(lambda: ClipUnclip().decode(torch.zeros(1, 768)))
    assert "'sd2-community/stable-diffusion-2-1-unclip-small' cannot be loaded" in said
    assert "local folder" in said
    assert "hf auth login" in said


def test_a_folder_that_is_no_decoder(weights, decoder, tmp_path):
    zeros = torch.zeros(1, WIDTH)
    assert "cannot be loaded" in refusal(lambda: tiny(weights, tmp_path).decode(zeros))
    said = refusal(lambda: tiny(weights, decoder, width=20).decode(torch.zeros(1, 20)))
    assert f"embeddings of {WIDTH} numbers" in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 100}, "a multiple of 8 pixels, not 100"),
        ({"size": 0}, "a multiple of 8 pixels, not 0"),
        ({"noise_level": 1000}, "0 to 999, not 1000"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_out_of_range(wrong, said):
    assert said in refusal(lambda: ClipUnclip(**wrong))


@pytest.mark.parametrize(
    ("package", "does"), [("open_clip", "encode"), ("diffusers", "decode")]
)
def test_a_missing_package_says_how_to_install_it(
    codec, weights, decoder, monkeypatch, package, does
):
    monkeypatch.setitem(sys.modules, package, None)
    given = pictures(1) if does == "encode" else torch.zeros(1, WIDTH)
    said = refusal(lambda: getattr(tiny(weights, decoder), does)(given))
    assert package in said
    assert f"with `{Extra('unclip')}`" in said
