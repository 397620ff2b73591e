"""The models of the audio standard codecs, of the very same classes but tiny and with random weights, as folders."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SOUND = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "patch_size": 16,
    "patch_stride": [16, 16],
    "window_size": 4,
}


def scatter(net: nn.Module, deviation: float) -> None:
    """Draws matrices far from zero, so that what comes out depends on what goes in."""
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=deviation)


def save_clap(
    folder: Path,
    change: Callable[[nn.Module], None] = lambda model: None,
    seed: int = 0,
    **sound,
) -> Path:
    """Writes a tiny `ClapModel` with its tokenizer, of single bytes, and its feature extractor, both of real size."""
    from tokenizers import pre_tokenizers
    from transformers import (
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        RobertaTokenizer,
    )
    from transformers.utils import logging

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {
        token: i
        for i, token in enumerate(
            [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        )
    }
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = TEXT | {"vocab_size": len(vocabulary)}
        model = ClapModel(ClapConfig(text_config=text, audio_config=SOUND | sound))
        scatter(model.text_model, 0.5)
        scatter(model.audio_model, 0.5)
    change(model)
    model.save_pretrained(folder)
    RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=512).save_pretrained(
        folder
    )
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


def save_audioldm(folder: Path, clap: Path, **vocoder) -> Path:
    """Writes a tiny `AudioLDMPipeline` that was, so to speak, trained with the CLAP in another folder."""
    from diffusers import (
        AudioLDMPipeline,
        AutoencoderKL,
        DDIMScheduler,
        UNet2DConditionModel,
    )
    from diffusers.utils import logging
    from transformers import (
        AutoTokenizer,
        ClapConfig,
        ClapTextModelWithProjection,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=(8, 16),
            attention_head_dim=4,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=512,
            class_embeddings_concat=True,
        )
        vae = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            latent_channels=4,
            block_out_channels=[8, 16],
            norm_num_groups=8,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
        settings = {
            "model_in_dim": 8,
            "sampling_rate": 16000,
            "upsample_initial_channel": 32,
            "upsample_rates": [5, 4, 2, 2, 2],
            "upsample_kernel_sizes": [15, 8, 4, 4, 4],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1]],
            "normalize_before": False,
        }
        sound = SpeechT5HifiGan(SpeechT5HifiGanConfig(**settings | vocoder))
        scatter(unet.class_embedding, 1.0)
        scatter(sound, 0.3)
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    tower = ClapTextModelWithProjection(ClapConfig.from_pretrained(clap).text_config)
    tower.load_state_dict(
        {
            k: v
            for k, v in load_file(clap / "model.safetensors").items()
            if k.startswith("text_")
        }
    )
    pipeline = AudioLDMPipeline(
        vae=vae,
        text_encoder=tower,
        tokenizer=AutoTokenizer.from_pretrained(clap),
        unet=unet,
        scheduler=scheduler,
        vocoder=sound,
    )
    pipeline.save_pretrained(folder)
    return folder
