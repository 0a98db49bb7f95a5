"""What the metric modules read."""

import datasets


def sequences(predictions: str = "int64") -> datasets.Features:
    """Features of metrics that read lists of sequences, such as tokens or flattened class maps."""
    return datasets.Features(
        {
            "predictions": datasets.Sequence(datasets.Value(predictions)),
            "references": datasets.Sequence(datasets.Value("int64")),
        }
    )
