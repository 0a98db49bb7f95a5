"""The options of the command line by name, with their help; recipes use the same names."""

PROGRAM = "know-hf"

PREDICTION = {
    "method": "retrodiction method, several, or all (default: known)",
    "parameters": "NAME=VALUE …: the method's own parameters; with several methods METHOD.NAME=VALUE",
    "iterate": "take single steps and slide the window, whatever the method's own way to further steps",
    "predictor": "folder or Hub id of a predictor (default: the bundled one)",
    "steps": "number of prediction steps (default: 3)",
    "norms": "copy (default) or bias: predict normalisation parameters",
    "embeddings": "copy (default) or fc: predict embedding tables",
    "kinds": "PATTERN=KIND …: kind of the parameters that match a name pattern",
    "device": "where to predict, such as cpu or cuda:0",
}
#: Options of a prediction that training decides.
NOT_WHILE_TRAINING = ("device",)
DATA = {
    "model": "Hub id or folder of the model",
    "dataset": "Hub id or folder of the data set, or a .csv, .tsv, .json, .jsonl or .parquet file",
    "output_dir": "folder of the run",
    "train_split": "split to forget on (default: train)",
    "eval_split": "split to score on, 'none' for no scores (default: validation or test, if there is one)",
    "eval_dataset": "data to score on, where they are no split of the data set: Hub id, folder or file",
    "task": "image-classification, text-classification, image-segmentation, image-to-text or text-generation "
    "(default: from the data)",
    "input_columns": "input column(s) (default: found by type)",
    "label_column": "label column (default: found by type)",
    "image_size": "side of the images in pixels (default: the model's)",
    "max_length": "longest text in tokens",
    "drop_incomplete": "leave out rows that lack a text, an image or a label, instead of refusing them",
    "from_scratch": "take only the architecture; MODEL may be timm/<name>",
    "revision": "revision of the model on the Hub",
    "trust_remote_code": "let code of the model's repository run",
}
PUSH = {"push": "Hub id of a repository to upload the steps to, as its revisions"}
TRANSFER = {
    "arms": "NAME=FOLDER …: the starts to compare, the reference (naive) first",
    "trajectory": "folder of a forgetting run: adds naive and its predictions",
    "method": "with --trajectory: methods to predict by (default: known shrink)",
    "steps": "with --trajectory: number of prediction steps (default: 3)",
    "learning_rates": "grid of peak learning rates (default: 4e-4 1e-3 2.5e-3)",
    "seeds": "number of seeds (default: 5)",
    "head_epochs": "epochs with only head and norms trained (default: 10)",
    "epochs": "epochs with everything trained (default: 100)",
    "batch_size": "examples a step (default: 128)",
    "examples": "training examples of a seed (default: all but the validation examples)",
    "validation_examples": "examples held out to choose learning rates on (default: 1000)",
    "metric": "the task's own score (default), or the path of a metric module as `evaluate` loads it",
    "evaluations": "points of the learning curve (default: 5)",
    "keep_head": "train on with the start's own head",
    "train_split": "split to draw examples from (default: train)",
    "test_split": "split to score on (default: test)",
    "processes": "number of processes (default: 1)",
}
COLLECTION = {
    "data": "Hub ids or folders of image data sets with ten classes",
    "output_dir": "folder of the meta-data set",
    "trials": "number of trials (default: 200)",
    "first_seed": "seed of the first trial; the others follow (default: 0)",
    "architectures": "networks to train (default: all)",
    "examples": "smallest and largest number of training examples of stage 0 (default: 3000 8000)",
    "epochs": "smallest and largest number of epochs of every stage (default: 2 10)",
    "branches": "repetitions of each trial's branches, for further targets of meta-training (default: 0)",
    "processes": "number of processes (default: 1)",
    "push": "Hub id of a data set repository to upload to when all is done",
}
META_TRAINING = {
    "output_dir": "folder of the predictor",
    "history_length": "stages S that the predictor reads, 2 to 6 (default: 5)",
    "held_out_architectures": "networks that are not trained on (default: densenet)",
    "held_out_data": "data sets that are not trained on (default: fashion_mnist)",
    "epochs": "epochs at most (default: 100)",
    "rows": "rows drawn an epoch (default: 2,000,000)",
    "batch_size": "rows a step (default: 8192)",
    "learning_rate": "of Adam (default: 1e-3)",
    "patience": "epochs without a better score after which a kind ends (default: 20)",
    "seed": "of initial values and drawing (default: 0)",
    "inputs": "values (default, the paper's network) or differences (in units of their own size)",
    "conditions": "with differences, what else of a tensor: ratio, horizon, movement, fan_in, profile, agreement",
    "objective": "absolute (default, the paper's) or relative to how far each tensor moved",
    "target": "stage (default, the paper's), repeated or same_compute (both need branches)",
    "functional_epochs": "epochs of the second objective, the loss of predicted networks (default: 0)",
    "inner_steps": "fine-tuning steps before that loss is taken (default: 0)",
    "data": "with functional epochs: Hub ids or folders of the data sets of the trials",
    "processes": "kinds to train side by side (default: 1)",
}
EVALUATION = {
    "predictors": "NAME=FOLDER …: the predictors to compare (default: the bundled one)",
    "held_out_architectures": "networks of the trials to look at (default: densenet)",
    "held_out_data": "data sets of the trials to look at (default: fashion_mnist)",
    "data": "Hub ids or folders of the data sets of the trials, to run retrodicted networks too",
    "output_dir": "folder for evaluation.md and evaluation.json",
}
TRANSFER_DATA = (
    "dataset", "output_dir", "task", "input_columns", "label_column", "image_size", "max_length", "drop_incomplete",
)  # fmt: skip
PROTOCOL = ("head_epochs", "epochs", "batch_size", "examples", "validation_examples", "metric", "evaluations")
