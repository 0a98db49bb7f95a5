"""Captioners made of an image encoder and a decoder that knows nothing yet."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from know_hf.model_config import brief
from know_hf.models.adapters import base_of
from know_hf.models.architecture import check_architecture
from know_hf.models.map_captioner import MapCaptioner, MapCaptionerConfig
from know_hf.store import making
from know_hf.tasks.images import saved_processor

# Side of the picture that an encoder is tried with, where nothing says what it reads.
_USUAL_SIDE = 64


def decoder_config(described: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The configuration of a decoder that writes a tokenizer's words and looks at an encoder's outputs.

    Args:
        described: ``model_type`` with fields of its transformers configuration; places for the tokenizer's longest
            text are made unless it says how many.
        tokenizer: With an end, or a separator that serves as one.

    Raises:
        ValueError: If there is no such type, or it is no decoder that can look at pictures.
    """
    fields = dict(described)
    if "model_type" not in fields:
        raise ValueError("A decoder needs model_type: a type that transformers knows, such as gpt2.")
    begin, end = (
        first if first is not None else second
        for first, second in (
            (tokenizer.bos_token_id, tokenizer.cls_token_id),
            (tokenizer.eos_token_id, tokenizer.sep_token_id),
        )
    )
    if end is None:
        raise ValueError("The tokenizer has no mark for the end of a text (eos_token or sep_token): give it one.")
    begin = end if begin is None else begin
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    name = fields.pop("model_type")
    if not {"max_position_embeddings", "n_positions"} & fields.keys() and tokenizer.model_max_length < 1 << 20:
        fields["max_position_embeddings"] = tokenizer.model_max_length + 1
    own = {"is_decoder": True, "add_cross_attention": True, "vocab_size": len(tokenizer)}
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    try:
        check_architecture(described, "decoder.architecture", further=())
        return AutoConfig.for_model(name, **{**fields, **own, **ids})
    except Exception as error:  # a configuration's fields have checks of their own
        raise ValueError(f"{name!r} with these fields is no decoder that transformers knows: {brief(error)}") from error


def join(encoder: PreTrainedModel, decoder: PreTrainedConfig, image_size: int | None = None) -> PreTrainedModel:
    """Makes a captioner of an encoder and a decoder with initial values.

    Args:
        encoder: A model without head that makes sequences ``(n, l, c)`` or maps ``(n, c, h, w)`` of pictures, the last
            of several first; it becomes part of the captioner.
        decoder: From [`decoder_config`].
        image_size: Side of the pictures in pixels, where the encoder's configuration does not say it.

    Returns:
        A ``VisionEncoderDecoderModel`` where transformers can join the two by itself, else a
        [`MapCaptioner`](know_hf.models.map_captioner), whose folder brings its code.

    Raises:
        ValueError: If the encoder makes something else, or the decoder cannot look at pictures.

    Source: paper Table 4.

    Example:
        >>> from transformers import PvtV2Config, PvtV2Model
        >>> from know_hf.models.joining import decoder_config, join
        >>> from know_hf.tasks.words import word_tokenizer
        >>> decoder = decoder_config({"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2},
        ...                          word_tokenizer(["a cat"]))
        >>> type(join(PvtV2Model(PvtV2Config(image_size=32)), decoder)).__name__
        'MapCaptioner'
    """
    name = type(encoder).__name__
    if encoder.get_output_embeddings() is not None:
        raise ValueError(f"{name} writes text itself; an encoder of pictures has no such head.")
    shape = _tried(encoder, image_size).shape
    width, last = _width(encoder, shape), len(shape) == 4 and _channels_last(encoder, shape)
    settings: dict[str, Any] = {"decoder_start_token_id": decoder.bos_token_id, "pad_token_id": decoder.pad_token_id}
    settings["eos_token_id"] = decoder.eos_token_id
    if len(shape) == 3 and getattr(encoder.config, "hidden_size", None) == width:
        kind, config_kind = VisionEncoderDecoderModel, VisionEncoderDecoderConfig
    else:
        kind, config_kind = MapCaptioner, MapCaptionerConfig
        settings |= {"encoder_width": width, "channels_last": last}
    config = config_kind.from_encoder_decoder_configs(encoder.config, decoder, **settings)
    if isinstance(config, MapCaptionerConfig):
        config.encoder.hidden_size = width
    try:
        writer = AutoModelForCausalLM.from_config(config.decoder)
    except Exception as error:  # every model's own code may raise here
        raise ValueError(f"A decoder of type {decoder.model_type!r} cannot be built: {brief(error)}") from error
    if "encoder_hidden_states" not in signature(writer.forward).parameters:
        raise ValueError(
            f"{type(writer).__name__} cannot look at pictures, it has no cross-attention: take a decoder that has, "
            "such as gpt2 or bert."
        )
    return kind(config=config, encoder=encoder, decoder=writer)


def join_start(
    start: Path, folder: Path, decoder: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, image_size: int | None
) -> None:
    """Writes the captioner that a checkpoint of an image model makes with a decoder; its head is left out.

    The decoder's initial values are the same for every checkpoint.

    Args:
        start: The checkpoint.
        folder: Where to; nothing is there yet. Tokenizer and image processor go with it.
        decoder: From [`decoder_config`].
        tokenizer: The decoder's.
        image_size: As for [`join`].

    Raises:
        ValueError: If the checkpoint is an adapter or no image encoder, or the two cannot be joined.
    """
    if base_of(start) != start:
        raise ValueError(f"{start} is an adapter: merge it into its base model, which a decoder can be joined to.")
    torch.manual_seed(0)
    try:
        encoder, info = AutoModel.from_pretrained(start, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{start} is no encoder that a decoder can be joined to: {brief(error)}") from error
    # A pooling layer that classifiers leave out stands behind what the decoder reads.
    if lost := sorted(name for name in info["missing_keys"] if "pooler" not in name):
        raise ValueError(f"{start} holds no value for {lost[0]} of a {type(encoder).__name__}: it is another encoder.")
    joined, processor = join(encoder, decoder, image_size), saved_processor(start)
    with making(folder) as beside:
        joined.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        if processor is not None and not hasattr(processor, "val_transforms"):  # timm's is in the configuration
            processor.save_pretrained(beside)


def _tried(encoder: PreTrainedModel, image_size: int | None) -> Tensor:
    """What an encoder makes of a black picture: ``(1, l, c)`` or ``(1, c, h, w)``."""
    config, name = encoder.config, type(encoder).__name__
    described = getattr(config, "pretrained_cfg", None) or {}
    own = described.get("input_size") or getattr(config, "image_size", None) or _USUAL_SIDE
    height, width = (
        (image_size, image_size) if image_size else own[-2:] if isinstance(own, (list, tuple)) else (own, own)
    )
    channels = described["input_size"][0] if described.get("input_size") else getattr(config, "num_channels", 3)
    training = encoder.training
    try:
        with torch.no_grad():
            picture = torch.zeros(1, channels, height, width, device=encoder.device, dtype=encoder.dtype)
            # As the captioner calls it.
            asked = {"output_attentions": None, "output_hidden_states": None, "return_dict": None}
            found = encoder.eval()(pixel_values=picture, **asked)[0]
    except Exception as error:  # every model's own code may raise here
        raise ValueError(f"{name} is no encoder of pictures that a decoder can be joined to: {brief(error)}") from error
    finally:
        encoder.train(training)
    if not isinstance(found, Tensor) or found.dim() not in (3, 4):
        shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{name} makes {shown} of a picture; a decoder reads sequences (n, l, c) or maps (n, c, h, w): join it to "
            "an encoder without head."
        )
    return found


def _stated_width(encoder: PreTrainedModel) -> int | None:
    """Channels of an encoder's last map, where it says so."""
    sizes = getattr(encoder.config, "hidden_sizes", None)
    network = getattr(encoder, "timm_model", None)
    return sizes[-1] if sizes else getattr(network, "num_features", None)


def _channels_last(encoder: PreTrainedModel, shape: torch.Size) -> bool:
    stated = _stated_width(encoder)
    return shape[1] != stated and shape[-1] == stated


def _width(encoder: PreTrainedModel, shape: torch.Size) -> int:
    return int(shape[1] if len(shape) == 4 and not _channels_last(encoder, shape) else shape[-1])
