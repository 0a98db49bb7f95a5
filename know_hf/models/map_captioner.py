"""Captioners of encoders that make maps (PvtV2, ResNet, MobileNet …), which transformers joins to no decoder.

The file goes into the folder of every such model, for machines without know-hf: it stands alone.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, VisionEncoderDecoderConfig, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput


@strict
class MapCaptionerConfig(VisionEncoderDecoderConfig):
    """Configuration of a [`MapCaptioner`]: that of an encoder and of a decoder, and what the encoder's maps are.

    Args:
        encoder_width: Channels of the encoder's last map.
        channels_last: Whether its maps are ``(n, h, w, c)`` instead of ``(n, c, h, w)``.

    Example:
        >>> from transformers import GPT2Config, PvtV2Config
        >>> from know_hf.models.map_captioner import MapCaptionerConfig
        >>> MapCaptionerConfig.from_encoder_decoder_configs(PvtV2Config(), GPT2Config(), encoder_width=256).model_type
        'map-captioner'
    """

    model_type = "map-captioner"

    encoder_width: int | None = None
    channels_last: bool = False


class MapCaptioner(VisionEncoderDecoderModel):
    """A ``VisionEncoderDecoderModel`` whose decoder reads the places of the encoder's last map as a sequence.

    Source: paper Table 4 (a PVTv2 as the encoder of a captioner); how its map is read is ours.

    Args:
        config: A [`MapCaptionerConfig`].
        encoder: The encoder; by default one of the configuration, with initial values.
        decoder: The decoder, likewise.

    Example:
        >>> from transformers import GPT2Config, PvtV2Config
        >>> from know_hf.models.map_captioner import MapCaptioner, MapCaptionerConfig
        >>> decoder = GPT2Config(n_layer=1, n_embd=32, n_head=2)
        >>> config = MapCaptionerConfig.from_encoder_decoder_configs(PvtV2Config(), decoder, encoder_width=256)
        >>> MapCaptioner(config).enc_to_dec_proj.in_features
        256
    """

    config: MapCaptionerConfig
    config_class = MapCaptionerConfig

    def __init__(
        self,
        config: MapCaptionerConfig,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
    ) -> None:
        # Joining asks the encoder's configuration for its width, which those of maps state otherwise, or not at all.
        for described in (config.encoder, getattr(encoder, "config", None)):
            if isinstance(described, PreTrainedConfig) and getattr(described, "hidden_size", None) is None:
                described.hidden_size = config.encoder_width
        super().__init__(config, encoder, decoder)
        # A hook, since generation calls the encoder by itself.
        self.encoder.register_forward_hook(_Places(config.channels_last))


class _Places:
    """Turns the map in an encoder's outputs into the sequence of its places, ``(n, h·w, c)``; a sequence stays."""

    def __init__(self, channels_last: bool) -> None:
        self.channels_last = channels_last

    def __call__(self, encoder: nn.Module, inputs: Any, outputs: Any) -> Any:
        found: Tensor = outputs[0]
        if found.dim() == 4:
            found = found.flatten(1, 2) if self.channels_last else found.flatten(2).transpose(1, 2).contiguous()
        if isinstance(outputs, tuple):
            return (found, *outputs[1:])
        # Those of convolutions have no attentions, which joining asks for.
        others = {name: getattr(outputs, name, None) for name in ("hidden_states", "attentions")}
        return BaseModelOutput(last_hidden_state=found, **others)
