"""Enriched weights of an image captioner: a vision encoder with a transformer decoder that knows nothing yet.

    accelerate launch examples/enrich_captioning.py --dataset jxie/flickr8k --caption_column caption_0 \\
        --encoder google/vit-base-patch16-224 --output_dir runs/captions

Scores masked accuracy: the share of a caption's words that are predicted right, given those before. Without --dataset
it makes one: handwritten digits, two side by side, real pictures with made captions (see make_data.py). Every field of
ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field

import numpy as np
from make_data import captioned_pairs, labelled_items
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModel,
    GPT2Config,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    set_seed,
)

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.report import report_markdown
from know_hf.training.data import load_split


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: made of digits."})
    eval_split: str = field(default="test", metadata={"help": "Split to score every stage on."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions."})
    more_words: list[str] = field(default_factory=list, metadata={"help": "Hub ids or folders of captions to come."})
    encoder: str | None = field(default=None, metadata={"help": "Hub id or folder; default: a tiny ViT."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; default: the encoder's own."})
    width: int = field(default=64, metadata={"help": "Of the decoder, and of the tiny encoder."})
    layers: int = field(default=2, metadata={"help": "Of the decoder, and of the tiny encoder."})
    max_words: int = field(default=24, metadata={"help": "Longest caption in words."})
    vocabulary: int = field(default=8000, metadata={"help": "Most words that are known."})
    examples: int = field(default=800, metadata={"help": "Made images to train on; a quarter as many to score on."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})


def word_tokenizer(captions: list[str], example: ExampleArguments) -> PreTrainedTokenizerFast:
    """A tokenizer of the words that occur, most frequent first."""
    words, counts = np.unique(" ".join(captions).lower().split(), return_counts=True)
    known = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", *words[np.argsort(-counts, kind="stable")][: example.vocabulary]]
    tokenizer = Tokenizer(models.WordLevel({str(word): i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=example.max_words + 1, **names)


def captioner(example: ExampleArguments, tokenizer: PreTrainedTokenizerFast) -> VisionEncoderDecoderModel:
    """The encoder with a new decoder."""
    sizes = {"n_embd": example.width, "n_layer": example.layers, "n_head": 4, "n_positions": example.max_words + 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    decoder = GPT2Config(vocab_size=len(tokenizer), add_cross_attention=True, is_decoder=True, **sizes, **ids)
    encoder = AutoModel.from_pretrained(example.encoder) if example.encoder else None
    shape = {"hidden_size": example.width, "num_hidden_layers": example.layers, "num_attention_heads": 4}
    vit = ViTConfig(image_size=example.image_size or 32, patch_size=8, intermediate_size=4 * example.width, **shape)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config if encoder else vit, decoder)
    config.decoder_start_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    return VisionEncoderDecoderModel(config=config, **({"encoder": encoder} if encoder else {}))


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/captions", sampling_ratio=0.33, num_train_epochs=20, per_device_train_batch_size=16,
        learning_rate=1e-3, lr_scheduler_type="cosine", save_total_limit=1, self_check=True,
        ddp_find_unused_parameters=False, use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    if example.dataset is None:
        counts = {"train": (example.examples, args.seed), "test": (max(example.examples // 4, 4), args.seed + 1)}
        train, test = (captioned_pairs(n, labelled_items(None, split), seed) for split, (n, seed) in counts.items())
    else:
        train, test = (load_split(example.dataset, split) for split in ("train", example.eval_split))
    captions = [
        caption for data in (train, *map(load_split, example.more_words)) for caption in data[example.caption_column]
    ]
    tokenizer = word_tokenizer(captions, example)
    set_seed(args.seed)
    if args.train_stage_zero is None:
        args.train_stage_zero = True  # the decoder is new
    result = enrich_pretrained(
        captioner(example, tokenizer), train, eval_dataset=test, args=args, steps=example.steps, task="image-to-text",
        label_column=example.caption_column, image_size=example.image_size, processing_class=tokenizer,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
