"""The models of the standard text codec, of the very same classes but tiny and with random weights, as folders."""

from pathlib import Path

import torch

WIDTH, EMBEDDED = 48, 24  # of the language model, and of the encoder's embeddings
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def gemma_tokenizer():
    """Characters, and bytes where there is none."""
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    known = [
        *special,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    return GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(known)}, merges=[]
    )


def save_encoder(folder: Path, parts: Path, width: int = EMBEDDED) -> None:
    """EmbeddingGemma's modules but for its last, which divides by the norm."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Pooling,
        Transformer,
    )
    from transformers import Gemma3TextConfig, Gemma3TextModel

    tokenizer = gemma_tokenizer()
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        intermediate_size=64,
        use_bidirectional_attention=True,
        sliding_window=16,
        **SIZES,
    )
    Gemma3TextModel(config).save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    dense = [
        Dense(WIDTH, 64, bias=False, activation_function=None),
        Dense(64, width, bias=False, activation_function=None),
    ]
    SentenceTransformer(
        modules=[Transformer(str(parts)), Pooling(WIDTH), *dense], device="cpu"
    ).save(str(folder))


def save_gemma(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = gemma_tokenizer()
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        intermediate_size=96,
        sliding_window=6,  # shorter than captions
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.2,
        **SIZES,
    )
    Gemma3ForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_gpt2(folder: Path) -> None:
    """Another kind of language model: absolute positions, no linear layers, a tokenizer without a beginning."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = gemma_tokenizer()
    tokenizer.bos_token = None
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_clip_text(tower: Path, whole: Path) -> None:
    """A text tower of CLIP, 32 wide, alone and in a model with a tower of pictures."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    letters = "abcdefghijklmnopqrstuvwxyz,."
    pieces = [*letters, *(letter + "</w>" for letter in letters), *special]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[],
        model_max_length=77,
    )
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    text = sizes | ends | {"vocab_size": len(pieces), "pad_token_id": len(pieces) - 1}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    model.save_pretrained(whole)
    CLIPTextModel.from_pretrained(whole).save_pretrained(tower)
    for folder in (whole, tower):
        tokenizer.save_pretrained(folder)


def save_t5(folder: Path) -> None:
    """An encoder of T5, 24 wide, as `T5EncoderModel` saves it."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *"abcdefghijklmnopqrstuvwxyz,."]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=24,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5EncoderModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
