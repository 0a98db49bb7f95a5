"""Whether a model's loss heeds the number of items that Trainer hands to it."""

import logging
from typing import TYPE_CHECKING, Any

import torch

from know_hf.training.taking import take

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)


def settle_loss_scale(trainer: "Trainer") -> None:
    """Makes a loss count once, however many processes and accumulated batches there are.

    Trainer takes every model whose ``forward`` accepts any keyword for one that divides its loss by
    ``num_items_in_batch``. It multiplies such a loss by the number of processes, and does not divide it by the
    accumulated batches. Models that swallow the number, as BERT's classifier does, and return a mean are then trained
    with gradients that are as many times too large, and two processes are not one. The loss of two examples tells:
    where it is the same for another number of items, the model is treated as one that does not take the number.

    Args:
        trainer: Any Trainer with training data; its model may be anywhere but not be wrapped.
    """
    counted = trainer.args.gradient_accumulation_steps * trainer.args.world_size * max(trainer.args.n_gpu, 1)
    apart = trainer.is_deepspeed_enabled or trainer.compute_loss_func is not None or trainer.label_smoother is not None
    if counted == 1 or apart or not trainer.model_accepts_loss_kwargs:
        return
    losses = _losses(trainer)
    if losses is not None and losses[0] == losses[1] != 0:
        logger.info(
            "The loss of %s does not heed num_items_in_batch: it is averaged over processes and accumulated batches.",
            type(trainer.accelerator.unwrap_model(trainer.model)).__name__,
        )
        trainer.model_accepts_loss_kwargs = False


@torch.no_grad()
def _losses(trainer: "Trainer") -> list[float] | None:
    """Losses of the same examples, said to be some items and then twice as many; None where there is no telling."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    data: Any = trainer.train_dataset
    was_training = model.training
    model.eval()  # the same twice
    try:
        first = range(min(2, len(data)))
        few = take(data, first)
        inputs = trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader(few))))
        return [float(model(**inputs, num_items_in_batch=torch.tensor(items))["loss"]) for items in (2, 4)]
    except Exception:  # a model or data of which this cannot be asked so; the training itself says what is wrong
        logger.debug("What the loss makes of num_items_in_batch was not found out.", exc_info=True)
        return None
    finally:
        model.train(was_training)
