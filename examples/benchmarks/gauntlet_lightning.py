"""Lightning in the gauntlet: `ModelCheckpoint(every_n_train_steps=...)`, and `fit(ckpt_path="last")`.

The variant `stateful` has torchdata's `StatefulDataLoader`, whose state Lightning saves with the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as lit
import torch
from gauntlet_probe import BATCH, EPOCHS, LEAST, PATIENCE, RATE, SAVE_EVERY, SEED, Probe, decay, problem
from gauntlet_torch import Network, moments_of, params_of, tensors
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Module(lit.LightningModule):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.network = Network(probe)

    def training_step(self, batch: Any, index: int) -> Any:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Probing(Callback):
    def __init__(self, probe: Probe, stopping: EarlyStopping) -> None:
        self.probe, self.stopping = probe, stopping

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        (optimizer,) = trainer.optimizers
        step, epoch, rate = trainer.global_step, trainer.current_epoch + 1, optimizer.param_groups[0]["lr"]
        self.probe.state(step=step, epoch=epoch, rate=rate, params=params_of(module), moments=moments_of(optimizer))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.probe.epoch(trainer.current_epoch + 1, self.stopping.wait_count)


def loader_of(variant: str) -> Any:
    """The class of the loader."""
    if variant == "plain":
        return DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader


def run(variant: str, folder: Path, probe: Probe) -> None:
    lit.seed_everything(SEED, workers=True)
    x, y, x_held, y_held = problem()
    stopping = EarlyStopping("val_loss", min_delta=LEAST, patience=PATIENCE)
    saving = ModelCheckpoint(folder, every_n_train_steps=SAVE_EVERY, save_last=True)
    trainer = lit.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        callbacks=[saving, stopping, Probing(probe, stopping)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    module = Module(probe)
    batches = loader_of(variant)(TensorDataset(*tensors(x, y)), batch_size=BATCH, shuffle=True)
    held = DataLoader(TensorDataset(*tensors(x_held, y_held)), batch_size=len(x_held))
    trainer.fit(module, batches, held, ckpt_path="last")
    probe.end(params_of(module))
