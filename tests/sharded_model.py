"""Run by torchrun on two processes: a model sharded by FSDP2 is saved whole and loaded whole."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import BertConfig, BertModel, set_seed

from know_hf.forgetting.weights import is_sharded, load_weights, not_finite, save_stage


def bert(seed: int) -> BertModel:
    set_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=50, **sizes)).eval()


def main(folder: Path) -> None:
    init_process_group("gloo")
    rank, mesh = torch.distributed.get_rank(), init_device_mesh("cpu", (2,))
    whole, model = bert(0), bert(0)
    for layer in model.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert is_sharded(model) and not is_sharded(whole)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda model: model), model=model, is_fsdp_enabled=False,
        is_world_process_zero=lambda: rank == 0, processing_class=None,
    )  # fmt: skip
    save_stage(trainer, folder)
    torch.distributed.barrier()
    saved = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in whole.state_dict().items())

    assert not_finite(model) is None
    with torch.no_grad():
        next(model.parameters()).to_local()[-1] = torch.nan
    print(f"rank {rank}: {not_finite(model)}", flush=True)

    if rank == 0:
        bert(1).save_pretrained(folder / "other")
    torch.distributed.barrier()
    load_weights(model, folder / "other")
    ids = torch.arange(8)[None]
    assert torch.allclose(model(ids).last_hidden_state, bert(1)(ids).last_hidden_state, atol=1e-6)

    destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
