"""Train with the Trainer of transformers: ``python with_transformers.py FOLDER``, or under ``torchrun``.

A second run with the same folder goes on from the last checkpoint, optimizer included.
"""

import os
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from matroot_optim import RankEngine
from matroot_optim.torch import Shampoo


class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, k):
        words = (torch.arange(16) * (k % 4 + 1) + k) % 50
        return {"input_ids": words, "labels": words}


if __name__ == "__main__":
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        max_steps=int(os.environ.get("STEPS", "40")),
        per_device_train_batch_size=8,
        save_steps=20,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )  # connects the processes that torchrun has started
    several = torch.distributed.is_initialized()
    optimizer = Shampoo(model, lr=5e-3, engine=RankEngine() if several else None)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + 0.02 * step))
    trainer = Trainer(model, arguments, train_dataset=Words(), optimizers=(optimizer, schedule))
    last = get_last_checkpoint(sys.argv[1]) if os.path.isdir(sys.argv[1]) else None
    found = trainer.train(resume_from_checkpoint=last)
    loss = model(**{name: x[None] for name, x in Words()[0].items()}).loss
    print(f"step {found.global_step}, last loss {loss:.6f}")
    if several:
        torch.distributed.destroy_process_group()
