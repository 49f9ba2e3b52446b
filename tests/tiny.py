"""Tiny random checkpoints made on the spot: a byte-level BPE tokenizer and models below 100k parameters."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIALS = [
    "<|pad|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|text|>",
    "<|question|>",
    "<|verdict|>",
]
SENTENCES = [
    "Is the answer harmless, helpful and honest? TRUE or FALSE, or NA.",
    "The apothecary grinds willow bark for the fever and never sells the bane.",
    "Answer with one of A, B, C, D, F or NA: how clear is the text?",
    "Boil the root for an hour, strain it, and let it cool before you drink.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FAMILIES = ("llama", "qwen3", "gpt2", "gemma3_text")


def tiny_tokenizer(
    *, chat_template: str | None = CHAT_TEMPLATE, words: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with about 300 tokens; ``words`` become single ordinary tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(SPECIALS),
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*SENTENCES, *words * 200], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIALS[2:],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_config(family: str, vocab_size: int, *, context: int = 256) -> PreTrainedConfig:
    """A two-layer configuration of one of :data:`FAMILIES` with fewer than 100k parameters."""
    shape: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if family == "gpt2":
        shape = {
            "vocab_size": vocab_size,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": context,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
    if family == "gemma3_text":
        shape |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return AutoConfig.for_model(family, **shape)


def tiny_model(family: str, vocab_size: int, *, context: int = 256, seed: int = 0) -> PreTrainedModel:
    """A random model whose weights are large enough that its answers differ from uniform."""
    return random_model(tiny_config(family, vocab_size, context=context), seed=seed)


def other_model(family: str, vocab_size: int, **options: object) -> PreTrainedModel:
    """The same of another family of transformers, with options of its own configuration."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    sizes = {"vocab_size": vocab_size, "num_key_value_heads": 2, **shape, **ends}
    return random_model(AutoConfig.for_model(family, **sizes, **options))


def random_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A random model of this configuration; see :func:`tiny_model`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)
    return model


def tiny_checkpoint(
    directory: Path, family: str = "llama", *, chat_template: str | None = CHAT_TEMPLATE, context: int = 256
) -> Path:
    """Write a checkpoint (safetensors, tokenizer.json) and return ``directory``."""
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    tiny_model(family, len(tokenizer), context=context).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def tiny_reward_model(
    directory: Path,
    family: str = "llama",
    *,
    labels: int = 1,
    pad: int | None = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a random sequence-classification checkpoint and return ``directory``; ``pad`` is its pad token's id."""
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    torch.manual_seed(seed)
    config = tiny_config(family, len(tokenizer))
    config.num_labels, config.pad_token_id = labels, pad
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
