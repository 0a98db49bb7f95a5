"""The ground that forgetting, meta-training and the laboratory share: data, prepared examples, workers, scoring."""
