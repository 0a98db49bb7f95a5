"""Whether what a comparison is scored on is new to what is fine-tuned."""

import logging

from datasets import Dataset

from know_hf.tasks import Columns, get_task
from know_hf.training.overlap import overlap

logger = logging.getLogger(__name__)


def check_unseen(train: Dataset, test: Dataset, validation: Dataset | None, columns: Columns, name: str) -> list[str]:
    """Looks whether test data are trained on, or chosen on.

    Args:
        train: What is trained on, and what validation examples are drawn from.
        test: What is scored on.
        validation: What learning rates are chosen on, if that is given apart.
        columns: What is read of them.
        name: Whose data they are, for the messages.

    Returns:
        What is to be known of the scores, a sentence each; it is logged as well.

    Raises:
        ValueError: If most of the test examples are training examples.
    """
    by_size = not get_task(columns.task).rows_are_examples
    found = overlap(test, train, columns.inputs, by_size)
    if found.large:
        raise ValueError(
            f"{name}: {found.told} test examples are training examples, too: scores on these would say how well they "
            "are remembered. Give others (test_dataset, test_split), or slices that have none in common, such as "
            "train[:80%] and train[80%:]."
        )
    said = []
    if found.worth_saying:
        said.append(f"{name}: of the test examples {found.told} are training examples, too.")
    if validation is not None:
        chosen, learnt = (overlap(validation, part, columns.inputs, by_size) for part in (test, train))
        if chosen.worth_saying:
            said.append(
                f"{name}: of the validation examples {chosen.told} are test examples, too: these flatter what "
                "was chosen by them."
            )
        if learnt.worth_saying:
            said.append(f"{name}: of the validation examples {learnt.told} are training examples, too.")
    for sentence in said:
        logger.warning("%s", sentence)
    return said
