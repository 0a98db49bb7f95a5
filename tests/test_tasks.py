"""What is particular to a task: columns, preprocessing, scores, heads; and the laboratory on each of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    set_seed,
)

from know_hf.laboratory import protocol as protocol_module
from know_hf.laboratory.arms import Arm
from know_hf.laboratory.comparison import compare
from know_hf.laboratory.protocol import Protocol, fine_tune
from know_hf.laboratory.result import ComparisonResult
from know_hf.laboratory.statistics import paired_difference
from know_hf.models.building import load_with_new_head
from know_hf.models.loading import load_model
from know_hf.report.comparison import comparison_markdown
from know_hf.settings import options_of
from know_hf.tasks import TASKS, Score, find_columns, get_task
from know_hf.training.data import make_preprocessing
from know_hf.training.examples import Examples
from know_hf.training.options import DataOptions
from know_hf.trajectory.identity import describe_model

SHORT = Protocol(head_epochs=1, epochs=1, batch_size=4, examples=8, validation_examples=4, evaluations=1)
random = np.random.default_rng(0)


def picture(side: int = 16, mode: str = "RGB") -> Pillow.Image:
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return Pillow.fromarray(random.integers(0, 256, shape, dtype=np.uint8))


def mask(side: int = 16) -> Pillow.Image:
    values = random.integers(0, 3, (side, side), dtype=np.uint8)
    values[0, 0], values[-1, -1] = 255, 2
    return Pillow.fromarray(values)


@pytest.fixture(scope="module")
def masks() -> Dataset:
    rows = {"mask": [mask() for _ in range(20)], "photo": [picture() for _ in range(20)]}
    return Dataset.from_dict(rows, features=Features({"mask": Image(), "photo": Image()}))


@pytest.fixture(scope="module")
def captions() -> Dataset:
    words = ["red", "green", "blue"]
    rows = {
        "image": [picture() for _ in range(20)],
        "caption": [" ".join(random.choice(words, random.integers(1, 5))) for _ in range(20)],
    }
    return Dataset.from_dict(rows, features=Features({"image": Image(), "caption": Value("string")}))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[BOS]", "[EOS]", "red", "green", "blue"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=8, **names)


def segmenter(classes: int = 3) -> SegformerForSemanticSegmentation:
    set_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(
        num_labels=classes, num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], patch_sizes=[3],
        strides=[2], num_attention_heads=[1], mlp_ratios=[1], decoder_hidden_size=8,
    ))  # fmt: skip


def captioner(tokenizer) -> VisionEncoderDecoderModel:
    set_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ids = {"bos_token_id": 2, "eos_token_id": 3}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(image_size=8, patch_size=4, **size),
        GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=12, **ids),
    )
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    return VisionEncoderDecoderModel(config)


def language_model(tokenizer) -> GPT2LMHeadModel:
    set_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, **sizes))


def texts(**columns) -> Dataset:
    return Dataset.from_dict(columns)


def test_the_task_is_read_off_the_columns(masks, captions, images, sentences):
    found = find_columns(masks)
    assert (found.task, found.inputs, found.label) == ("image-segmentation", ["photo"], "mask")
    assert found.class_names == ["0", "1", "2"], "255 is no class"
    found = find_columns(captions)
    assert (found.task, found.inputs, found.label) == ("image-to-text", ["image"], "caption")
    found = find_columns(texts(text=["a", "b"]))
    assert (found.task, found.inputs, found.class_names) == ("text-generation", ["text"], [])
    assert find_columns(images).task == "image-classification" and find_columns(sentences).task == "text-classification"
    # Classes win: an image with its class and a text is no captioning unless asked for.
    features = Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    both = Dataset.from_dict({"image": [picture()], "text": ["red"], "label": [1]}, features=features)
    assert find_columns(both).task == "image-classification"
    assert find_columns(both, task="image-to-text").label == "text"
    assert find_columns(both, task="text-generation").inputs == ["text"]


def test_what_is_ambiguous_is_asked_for(masks):
    plain = masks.rename_columns({"mask": "left", "photo": "right"})
    with pytest.raises(ValueError, match="No column can be the mask.*label_column"):
        find_columns(plain)
    assert find_columns(plain, label="left").inputs == ["right"]
    assert find_columns(plain, inputs=["right"], task="image-segmentation").label == "left"
    with pytest.raises(ValueError, match="Unknown task 'dreaming'; there are image-classification"):
        find_columns(plain, task="dreaming")
    assert all(name in options_of(DataOptions)["task"].help for name in TASKS), "the command line names them all"


def test_images_and_masks_stay_in_register(masks):
    model = segmenter()
    columns = find_columns(masks)
    made = make_preprocessing(model, None, columns, image_size=32)
    rows = made.apply(masks)
    batch = made.collator([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and batch["labels"].shape == (2, 32, 32)
    assert batch["labels"].dtype == torch.int64
    expected = np.kron(np.asarray(masks[0]["mask"]), np.ones((2, 2)))
    assert np.array_equal(batch["labels"][0].numpy(), expected), "every class pixel at its place, 255 included"
    few = make_preprocessing(segmenter(2), None, columns, image_size=16).apply(masks)
    with pytest.raises(ValueError, match="holds class 2; the model knows 0 to 1"):
        few[0]
    swapped = replace(columns, inputs=["mask"], label="photo")
    with pytest.raises(ValueError, match="colour images"):
        make_preprocessing(model, None, swapped, image_size=16).apply(masks)[0]


def test_captions_end_and_are_filled_up(captions, tokenizer):
    made = make_preprocessing(captioner(tokenizer), None, find_columns(captions), processing_class=tokenizer)
    rows = made.apply(captions)
    batch = made.collator([rows[i] for i in range(20)])
    longest = max(len(caption.split()) for caption in captions["caption"])
    assert batch["labels"].shape == (20, longest + 1) and batch["pixel_values"].shape == (20, 3, 8, 8)
    for row, caption in zip(batch["labels"], captions["caption"], strict=True):
        words = tokenizer(caption)["input_ids"]
        assert row[: len(words) + 1].tolist() == [*words, 3] and (row[len(words) + 1 :] == -100).all()
    short = make_preprocessing(
        captioner(tokenizer), None, find_columns(captions), processing_class=tokenizer, max_length=2
    ).apply(captions)
    assert all(len(short[i]["labels"]) == 2 and short[i]["labels"][-1] == 3 for i in range(20)), "cut, but ended"


def test_blocks_hold_the_whole_text(tokenizer):
    lines = ["red green", "blue", "red red red", "green blue"] * 5
    columns = find_columns(texts(text=lines))
    rows = make_preprocessing(language_model(tokenizer), None, columns, processing_class=tokenizer, max_length=6).apply(
        texts(text=lines)
    )
    whole = tokenizer("\n".join(lines))["input_ids"]
    assert [token for row in rows["input_ids"] for token in row] == whole[: len(whole) // 6 * 6]
    assert rows["labels"][:] == rows["input_ids"][:]
    short = make_preprocessing(language_model(tokenizer), None, columns, processing_class=tokenizer)
    with pytest.raises(ValueError, match="less than one block of 8 tokens"):
        short.apply(texts(text=["red"]))


def test_scores_of_what_is_kept(tokenizer):
    from transformers import EvalPrediction

    scores = torch.randn(2, 5, 7)
    labels = torch.randint(0, 7, (2, 5))
    labels[1, 3:] = -100
    kept = get_task("text-generation").keep((scores, "cache"), labels)
    found = get_task("text-generation").metrics(0)(EvalPrediction(kept.numpy(), labels.numpy()))["perplexity"]
    loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert found == pytest.approx(math.exp(loss), rel=1e-5)
    words = get_task("image-to-text").keep(scores, labels)
    found = get_task("image-to-text").metrics(0)(EvalPrediction(words.numpy(), labels.numpy()))["masked_accuracy"]
    assert found == pytest.approx((scores.argmax(-1) == labels)[labels >= 0].float().mean().item())
    maps = get_task("image-segmentation").keep(torch.eye(3).view(1, 3, 3, 1).expand(1, 3, 3, 3), torch.zeros(1, 6, 6))
    assert maps.shape == (1, 6, 6) and maps[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2]
    truth = maps.long().clone()
    truth[0, :2] = 255
    perfect = get_task("image-segmentation").metrics(3)(EvalPrediction(maps.numpy(), truth.numpy()))
    assert perfect == {"mean_iou": 1.0, "mean_class_accuracy": 1.0}


def test_every_model_names_the_class_that_loads_its_head(tokenizer):
    found = [describe_model(model) for model in (language_model(tokenizer), captioner(tokenizer), segmenter())]
    assert [(m["auto_class"], m["task"]) for m in found] == [
        ("AutoModelForCausalLM", "text-generation"),
        ("AutoModelForImageTextToText", "image-to-text"),
        ("AutoModelForSemanticSegmentation", "image-segmentation"),
    ]
    for model, task in zip(found, ("text-generation", "image-to-text", "image-segmentation"), strict=True):
        assert TASKS[task].auto_class == model["auto_class"]


def test_a_segmenter_keeps_classes_that_the_data_lack(tmp_path):
    segmenter(5).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, "image-segmentation", ["0", "1", "2"])
    assert loaded.model.config.num_labels == 5 and not loaded.new_head
    loaded = load_model(tmp_path, "image-segmentation", list("abcdefg"))
    assert loaded.model.config.num_labels == 7 and loaded.new_head
    with pytest.raises(ValueError, match="2 outputs, the data have 3 classes"):
        load_model(segmenter(2), "image-segmentation", ["0", "1", "2"])


def test_new_heads(tmp_path, masks, captions, tokenizer):
    segmenter(5).save_pretrained(tmp_path / "maps")
    one, two, other = (load_with_new_head(tmp_path / "maps", find_columns(masks), seed) for seed in (0, 0, 1))
    head = "decode_head.classifier.weight"
    assert one.state_dict()[head].shape[0] == 3 and torch.equal(one.state_dict()[head], two.state_dict()[head])
    assert not torch.equal(one.state_dict()[head], other.state_dict()[head])

    model = captioner(tokenizer)
    model.save_pretrained(tmp_path / "captions")
    fresh = load_with_new_head(tmp_path / "captions", find_columns(captions), 0)
    again = load_with_new_head(tmp_path / "captions", find_columns(captions), 0)
    kept = load_with_new_head(tmp_path / "captions", find_columns(captions), 0, new_head=False)
    name = "decoder.transformer.h.0.attn.c_attn.weight"
    before = model.state_dict()
    assert not torch.equal(fresh.state_dict()[name], before[name]), "the decoder is new"
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in fresh.state_dict().items()), "the seed decides it"
    assert all(torch.equal(v, before[n]) for n, v in fresh.state_dict().items() if n.startswith("encoder."))
    assert all(torch.equal(v, before[n]) for n, v in kept.state_dict().items())

    language_model(tokenizer).save_pretrained(tmp_path / "text")
    words = load_with_new_head(tmp_path / "text", find_columns(texts(text=["red"])), 0)
    assert torch.equal(words.lm_head.weight, language_model(tokenizer).lm_head.weight), "its vocabulary stays"


def test_first_only_head_and_norms_are_trained(tmp_path, monkeypatch, captions, tokenizer):
    captioner(tokenizer).save_pretrained(tmp_path / "arm")
    columns = find_columns(captions)
    made = make_preprocessing(captioner(tokenizer), None, columns, processing_class=tokenizer)
    rows = made.apply(captions)
    data = Examples(made.collator([rows[i] for i in range(20)]))
    seen = {}

    train = protocol_module._train

    def spy(model, *args, **kwargs):
        seen[len(seen)] = {name for name, p in model.named_parameters() if p.requires_grad}
        return train(model, *args, **kwargs)

    monkeypatch.setattr(protocol_module, "_train", spy)
    found = fine_tune(tmp_path / "arm", data, data, columns, 1e-3, 0, SHORT, tmp_path / "scratch")
    assert 0 <= found["test"] <= 1
    encoder = {name for name in seen[0] if name.startswith("encoder.")}
    assert encoder and all("layernorm" in name for name in encoder) and encoder < seen[1]
    assert any(name.startswith("decoder.transformer.h") for name in seen[0])


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tokenizer):
    """A language model that knows its text against one that does not."""
    folder = tmp_path_factory.mktemp("language")
    lines = ["red green blue"] * 60
    model = language_model(tokenizer)
    tokenizer.save_pretrained(folder / "naive")
    tokenizer.save_pretrained(folder / "trained")
    model.save_pretrained(folder / "naive")
    tokens = torch.tensor(tokenizer("red green blue " * 2)["input_ids"]).view(1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "trained")
    arms = {"naive": folder / "naive", "known": folder / "trained"}
    return compare(
        arms, texts(text=lines), folder / "out", test_dataset=texts(text=lines), protocol=SHORT, learning_rates=(1e-4,),
        seeds=2, max_length=6,
    )  # fmt: skip


def test_less_perplexity_is_better(compared):
    assert compared.metric == "perplexity" and not compared.score.percent
    assert np.mean(compared.best("known")) < 2 < np.mean(compared.best("naive")) < 20, "as it is, not in percent"
    assert compared.against("known", "naive").mean < 0 and compared.against("known", "naive").verdict == "better"
    assert compared.best_control == "naive"
    text = comparison_markdown(compared)
    assert "Test perplexity, mean" in text and "Less perplexity is better." in text and "percent" not in text
    assert ComparisonResult.load(compared.output_dir).score == compared.score
    assert paired_difference([3.0, 3.1], [1.0, 1.1], higher_is_better=False).verdict == "worse"


def test_learning_rates_are_chosen_by_the_better_score(tmp_path):
    runs = {("naive", rate, seed): {"test": score, "validation": score, "curve": [(1, score + 1), (2, score)]}
            for rate, score in ((0.1, 5.0), (0.2, 4.0)) for seed in (0, 1)}  # fmt: skip
    less, more = (
        ComparisonResult(
            tmp_path, {"naive": Arm("naive")}, [0.1, 0.2], 2, runs, Score("s", percent=False, higher_is_better=better)
        )
        for better in (False, True)
    )
    assert less.chosen_rates == {"naive": 0.2} and more.chosen_rates == {"naive": 0.1}
    assert less.epochs_to("naive", 4.5) == 2 and more.epochs_to("naive", 5.5) == 1 and less.area("naive") == 4.5


def test_segmentation_in_the_laboratory(tmp_path, masks):
    set_seed(0)
    model = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(num_labels=5, depth_multiplier=0.1, image_size=32))
    for name in ("naive", "other"):
        model.save_pretrained(tmp_path / name)
    result = compare(
        {"naive": tmp_path / "naive", "other": tmp_path / "other"}, masks.select(range(14)), tmp_path / "out",
        test_dataset=masks.select(range(14, 20)), protocol=replace(SHORT, head_epochs=0), learning_rates=(1e-3,),
        seeds=2, image_size=32,
    )  # fmt: skip
    assert result.metric == "mean_iou" and result.best("naive") == result.best("other")
    assert all(0 < score < 100 for score in result.best("naive"))


def test_an_adapter_is_continued(tmp_path, sentences, text_model_folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    columns = find_columns(sentences)
    base = AutoModelForSequenceClassification.from_pretrained(text_model_folder, num_labels=len(columns.class_names))
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    for name in ("naive", "other"):
        adapted.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(text_model_folder).save_pretrained(tmp_path / name)
    loaded = load_with_new_head(tmp_path / "naive", columns, 0, new_head=False)
    trained = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name or "modules_to_save" in name for name in trained)
    result = compare(
        {"naive": tmp_path / "naive", "other": tmp_path / "other"}, sentences, tmp_path / "out",
        test_dataset=sentences, protocol=SHORT, learning_rates=(1e-3,), seeds=2,
    )  # fmt: skip
    assert result.best("naive") == result.best("other")


def test_an_encoders_own_processor_goes_with_the_captioner(tmp_path, captions, tokenizer):
    from transformers import AutoModel, ViTImageProcessor, ViTModel

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **size)).save_pretrained(tmp_path / "encoder")
    own = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 8, "width": 8}}
    ViTImageProcessor(**own).save_pretrained(tmp_path / "encoder")
    encoder = AutoModel.from_pretrained(tmp_path / "encoder")
    decoder = captioner(tokenizer).config.decoder
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder)
    model = VisionEncoderDecoderModel(config=config, encoder=encoder)
    columns = find_columns(captions)
    made = make_preprocessing(model, None, columns, processing_class=tokenizer)
    pixels = made.apply(captions)[0]["pixel_values"]
    raw = np.asarray(captions[0]["image"].resize((8, 8), Pillow.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    expected = (raw - np.array(own["image_mean"])[:, None, None]) / np.array(own["image_std"])[:, None, None]
    assert np.allclose(pixels.numpy(), expected, atol=0.05)
    model.save_pretrained(tmp_path / "stage")
    made.processing_class.save_pretrained(tmp_path / "stage")
    again = make_preprocessing(model, tmp_path / "stage", columns).apply(captions)[0]
    assert torch.equal(again["pixel_values"], pixels) and len(again["labels"])
