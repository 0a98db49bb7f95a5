"""Enriched weights of an image captioner: a vision encoder with a transformer decoder that knows nothing yet.

    accelerate launch examples/enrich_captioning.py --dataset jxie/flickr8k --caption_column caption_0 \\
        --encoder google/vit-base-patch16-224 --output_dir runs/captions

Scores masked accuracy: the share of a caption's words that are predicted right, given those before. Without --dataset
it makes one: scikit-learn's handwritten digits, two side by side, with captions from a few patterns; real images,
made captions. Every field of ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoImageProcessor,
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
from know_hf.data import load_split
from know_hf.metrics import load_metric
from know_hf.report import report_markdown

WORDS = "zero one two three four five six seven eight nine".split()
PATTERNS = ("a {} and a {}", "a {} beside a {}", "the digit {} left of the digit {}")


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: made of digits."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions."})
    encoder: str | None = field(default=None, metadata={"help": "Hub id or folder; default: a tiny ViT."})
    image_size: int = field(default=32, metadata={"help": "Side in pixels, without an encoder."})
    width: int = field(default=64, metadata={"help": "Of the decoder, and of the tiny encoder."})
    layers: int = field(default=2, metadata={"help": "Of the decoder, and of the tiny encoder."})
    max_words: int = field(default=24, metadata={"help": "Longest caption in words."})
    vocabulary: int = field(default=8000, metadata={"help": "Most words that are known."})
    examples: int = field(default=800, metadata={"help": "Made images to train on; a quarter as many to score on."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})
    push: str | None = field(default=None, metadata={"help": "Hub repository for the steps, as its revisions."})


def made_of_digits(count: int, seed: int) -> Dataset:
    """Two digits side by side, and a caption that names them."""
    from sklearn.datasets import load_digits

    random, source = np.random.default_rng(seed), load_digits()
    rows: dict[str, list] = {"image": [], "caption": []}
    for left, right in random.integers(0, len(source.images), size=(count, 2)):
        pixels = np.concatenate((source.images[left], source.images[right]), axis=1)
        rows["image"].append(Pillow.fromarray((pixels * 15.9).astype(np.uint8)))
        names = (WORDS[source.target[i]] for i in (left, right))
        rows["caption"].append(PATTERNS[random.integers(len(PATTERNS))].format(*names))
    return Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))


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
    vit = ViTConfig(image_size=example.image_size, patch_size=8, intermediate_size=4 * example.width, **shape)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config if encoder else vit, decoder)
    config.decoder_start_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    return VisionEncoderDecoderModel(config=config, **({"encoder": encoder} if encoder else {}))


def prepared(data: Dataset, example: ExampleArguments, tokenizer, processor) -> Dataset:
    """Pixels, and words with -100 after the end."""

    def transform(batch: dict[str, list]) -> dict[str, list]:
        images = [image.convert("RGB") for image in batch[example.image_column]]
        if processor is not None:
            pixels = processor(images, return_tensors="pt")["pixel_values"]
        else:
            size = (example.image_size, example.image_size)
            pixels = torch.from_numpy(np.stack([np.asarray(image.resize(size)) for image in images]))
            pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        captions = [f"{caption} [EOS]" for caption in batch[example.caption_column]]
        words = tokenizer(captions, padding="max_length", truncation=True, max_length=example.max_words + 1)[
            "input_ids"
        ]
        labels = torch.tensor(words)
        return {
            "pixel_values": list(pixels),
            "labels": list(labels.masked_fill(labels == tokenizer.pad_token_id, -100)),
        }

    return data.with_transform(transform)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stacks examples."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def masked_accuracy(prediction) -> dict[str, float]:
    """Share of the words that are predicted right, given those before."""
    scores = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return load_metric("masked_accuracy").compute(predictions=scores.argmax(-1), references=prediction.label_ids)


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/captions", sampling_ratio=0.33, num_train_epochs=20, per_device_train_batch_size=16,
        learning_rate=1e-3, lr_scheduler_type="cosine", save_total_limit=1, self_check=True,
        remove_unused_columns=False, ddp_find_unused_parameters=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU") in ("1", "true"),
    )  # fmt: skip
    example, args = parser.parse_args_into_dataclasses(arguments)
    if example.dataset is None:
        train, test = made_of_digits(example.examples, args.seed), made_of_digits(example.examples // 4, args.seed + 1)
    else:
        train, test = (load_split(example.dataset, split) for split in ("train", "validation"))
    set_seed(args.seed)
    tokenizer = word_tokenizer(train[example.caption_column], example)
    processor = AutoImageProcessor.from_pretrained(example.encoder) if example.encoder else None
    if args.train_stage_zero is None:
        args.train_stage_zero = True  # the decoder is new
    result = enrich_pretrained(
        captioner(example, tokenizer), prepared(train, example, tokenizer, processor), args=args, steps=example.steps,
        eval_dataset=prepared(test, example, tokenizer, processor), data_collator=collate, processing_class=tokenizer,
        compute_metrics=masked_accuracy, push_to_hub=example.push,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
