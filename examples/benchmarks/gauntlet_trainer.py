"""The Trainer of Hugging Face's transformers in the gauntlet: `save_steps`, and `train(resume_from_checkpoint=True)`.

The rows that were seen are skipped (`ignore_data_skip=False`, the default), and `restore_callback_states_from_checkpoint` is
set: its documentation has it for callbacks such as early stopping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from gauntlet_probe import BATCH, EPOCHS, LEAST, PATIENCE, RATE, SAVE_EVERY, SEED, Probe, problem
from gauntlet_torch import Network, moments_of, params_of, tensors
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset


class Rows(Dataset[Any]):
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = tensors(x, y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"x": self.x[row], "labels": self.y[row]}


class Classifier(nn.Module):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.network = Network(probe)

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        logits = self.network(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class Probing(transformers.TrainerCallback):
    trainer: Any

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.waited(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        optimizer, epoch = given["optimizer"], int(state.epoch + 1e-6) + 1
        step, rate = state.global_step, optimizer.param_groups[0]["lr"]
        self.probe.state(step=step, epoch=epoch, rate=rate, params=params_of(given["model"]), moments=moments_of(optimizer))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.waited(state)

    def waited(self, state: Any) -> None:
        """The counter after the last whole epoch. At a resume the trainer replaces the callback that counts."""
        (stopping,) = (c for c in self.trainer.callback_handler.callbacks if isinstance(c, transformers.EarlyStoppingCallback))
        if epochs := int(state.epoch + 1e-6):
            self.probe.epoch(epochs, stopping.early_stopping_patience_counter)


def run(variant: str, folder: Path, probe: Probe) -> None:
    transformers.set_seed(SEED)
    x, y, x_held, y_held = problem()
    stopping = transformers.EarlyStoppingCallback(early_stopping_patience=PATIENCE, early_stopping_threshold=LEAST)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=len(x_held),
        learning_rate=RATE,
        save_strategy="steps",
        save_steps=SAVE_EVERY,
        eval_strategy="epoch",
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        seed=SEED,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model, probing = Classifier(probe), Probing(probe)
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=Rows(x, y),
        eval_dataset=Rows(x_held, y_held),
        callbacks=[stopping, probing],
    )
    probing.trainer = trainer
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    probe.end(params_of(model))
