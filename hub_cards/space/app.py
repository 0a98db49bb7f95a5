"""The Space's page: what to give, what would happen, and a button that does it."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import job

ABOUT = f"""
# Predict weights from a model's forgetting

A network is fine-tuned on smaller and smaller parts of its data, so that it forgets step by step; a small network,
KNOWN, then predicts the weights *before* all forgetting: those of more data
([KNOW prediction](https://arxiv.org/abs/2508.05059), Jang, Kim and Kim, CVPR 2026; this is an independent
implementation). Whole runs, which also choose and say whether anything was gained, are made with `know-hf enrich` on
your own machine.

**Limits here:** {job.LIMITS} Uploads and results are deleted after an hour, everything else when the
job ends. Nothing of what you give is run: no code, no pickles.
"""


def _in_words(work, *values):
    try:
        return work(*values)
    except job.Refused as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error


def show_plan(archive, sources, order, ratio, steps):
    """What would be predicted."""
    return _in_words(job.plan, archive, sources, order == ORDERS[0], ratio, steps)


def make_prediction(archive, sources, order, ratio, steps):
    """What was predicted, and the file of it."""
    return _in_words(job.predict, archive, sources, order == ORDERS[0], ratio, steps)


ORDERS = ("the first was trained on all the data", "the last was trained on all the data")


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="know-hf", delete_cache=(600, job.KEPT)) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            archive = gr.File(label="A zip file of checkpoint folders (stage-0, stage-1 …)", file_types=[".zip"])
            sources = gr.Textbox(
                label="or public models on the Hub, one a line", lines=5, max_length=2000,
                placeholder="user/model@main\nuser/model@half",
            )  # fmt: skip
        with gr.Row():
            order = gr.Radio(ORDERS, value=ORDERS[0], label="Order of the checkpoints")
            ratio = gr.Slider(0.1, 0.9, value=0.5, step=0.05, label="Data of a stage as a share of the one before it")
            steps = gr.Slider(1, job.MOST_STEPS, value=1, step=1, label="Steps to predict")
        with gr.Row():
            planning = gr.Button("Show the plan")
            predicting = gr.Button("Predict", variant="primary")
        words = gr.Markdown()
        result = gr.File(label="Enriched checkpoints", interactive=False)
        given = [archive, sources, order, ratio, steps]
        planning.click(show_plan, given, words, concurrency_id="job", concurrency_limit=1)
        predicting.click(make_prediction, given, [words, result], concurrency_id="job", concurrency_limit=1)
    return page.queue(max_size=20)


if __name__ == "__main__":
    build().launch(max_file_size=job.MOST_UPLOADED)
