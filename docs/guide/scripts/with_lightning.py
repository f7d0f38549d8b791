"""Train with Lightning: ``python with_lightning.py``, or ``torchrun --nproc-per-node 2 with_lightning.py``."""

import logging
import os
import warnings

import lightning
import torch

from matroot_optim import RankEngine
from matroot_optim.torch import Shampoo

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*num_workers.*|.*LeafSpec.*")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))

    def training_step(self, batch, number):
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):  # called after the processes are connected
        several = self.trainer.world_size > 1
        return Shampoo(self.net, lr=0.02, engine=RankEngine() if several else None)


ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
torch.manual_seed(0)
x = torch.randn(256, 16)
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.sin(x[:, :4])), 32)
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=ranks,
    strategy="ddp" if ranks > 1 else "auto",
    max_epochs=10,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = Module()
trainer.fit(module, batches)
loss = torch.nn.functional.mse_loss(module.net(x), torch.sin(x[:, :4]))
print(f"rank {trainer.global_rank} of {trainer.world_size}: {trainer.global_step} steps, loss {loss:.4f}")
