"""Enriched weights of a whole image captioner: an encoder of pictures with a decoder that knows nothing yet.

    python examples/enrich_captioning.py
    accelerate launch examples/enrich_captioning.py --dataset jxie/flickr8k --caption_column caption_0 \\
        --encoder OpenGVLab/pvt_v2_b0 --output_dir runs/captions

The captioner itself learns, forgets in five stages with r = 0.33 and is predicted (x3 and x9); in the paper's Table 4
an image classifier forgets, and then becomes the encoder: recipes/table4.yaml. Any encoder does that makes a sequence
(ViT, Swin) or a map (PvtV2, ResNet, MobileNet); of those with maps the folders bring the code of their class, and
transformers loads them with trust_remote_code=True. Scores masked accuracy: the share of a caption's words that are
predicted right, given those before. Without --dataset it makes one: handwritten digits, two side by side, real
pictures with made captions (see make_data.py); as it is about two minutes on two cores, and more is learnt
with --examples 800 --num_train_epochs 20. Every field of ForgettingArguments is a flag.
"""

import os
from dataclasses import dataclass, field

from make_data import captioned_pairs, labelled_items
from transformers import AutoModel, HfArgumentParser, PreTrainedModel, PvtV2Config, PvtV2Model, set_seed

from know_hf import ForgettingArguments, enrich_pretrained
from know_hf.models.joining import decoder_config, join
from know_hf.report import report_markdown
from know_hf.tasks.words import word_tokenizer
from know_hf.training.data import load_split


@dataclass
class ExampleArguments:
    """What to enrich, and with which data."""

    dataset: str | None = field(default=None, metadata={"help": "Hub id or folder; default: made of digits."})
    eval_split: str = field(default="test", metadata={"help": "Split to score every stage on."})
    caption_column: str = field(default="caption", metadata={"help": "Column of the captions."})
    more_words: list[str] = field(default_factory=list, metadata={"help": "Hub ids or folders of captions to come."})
    encoder: str | None = field(default=None, metadata={"help": "Hub id or folder; default: a tiny PVTv2."})
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels; default: the encoder's own."})
    width: int = field(default=64, metadata={"help": "Of the decoder, and of the tiny encoder."})
    layers: int = field(default=2, metadata={"help": "Of the decoder, and of the tiny encoder."})
    max_words: int = field(default=24, metadata={"help": "Longest caption in words."})
    vocabulary: int = field(default=8000, metadata={"help": "Most words that are known."})
    examples: int = field(default=400, metadata={"help": "Made images to train on; a quarter as many to score on."})
    steps: int = field(default=2, metadata={"help": "Number of steps; 2 gives x3 and x9 at r = 0.33."})


def encoder_of(example: ExampleArguments) -> PreTrainedModel:
    """The encoder that was named, or a tiny PVTv2 with initial values."""
    if example.encoder:
        return AutoModel.from_pretrained(example.encoder)
    shape = {"hidden_sizes": [example.width // 2, example.width], "depths": [example.layers] * 2, "strides": [4, 2]}
    parts = {"num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "sr_ratios": [2, 1], "patch_sizes": [7, 3]}
    return PvtV2Model(PvtV2Config(num_encoder_blocks=2, image_size=example.image_size or 32, **shape, **parts))


def main(arguments: list[str] | None = None):
    parser = HfArgumentParser((ExampleArguments, ForgettingArguments))
    parser.set_defaults(
        output_dir="runs/captions", sampling_ratio=0.33, num_train_epochs=6, per_device_train_batch_size=16,
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
    tokenizer = word_tokenizer(captions, example.vocabulary, example.max_words)
    sizes = {"n_embd": example.width, "n_layer": example.layers, "n_head": 4}
    set_seed(args.seed)
    decoder = decoder_config({"model_type": "gpt2", **sizes}, tokenizer)
    model = join(encoder_of(example), decoder, example.image_size)
    if args.train_stage_zero is None:
        args.train_stage_zero = True  # the decoder is new
    result = enrich_pretrained(
        model, train, eval_dataset=test, args=args, steps=example.steps, task="image-to-text",
        label_column=example.caption_column, image_size=example.image_size, processing_class=tokenizer,
        push_to_hub=args.hub_model_id is not None, hub_model_id=args.hub_model_id,
    )  # fmt: skip
    if args.process_index == 0:
        print(report_markdown(result))
    return result


if __name__ == "__main__":
    main()
