"""What happens around the epochs of a training."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

LOG = logging.getLogger(__name__)


class EpochLog(Callback):
    """One line an epoch, for logs without a terminal."""

    def on_validation_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Logs the validation's numbers."""
        numbers = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if name.startswith("validation/")}
        LOG.info("epoch %d: %s", trainer.current_epoch, numbers)


class LegEnd(Callback):
    """Ends a leg before an epoch that would outlast a time of the monotonic clock, judging by the longest so far; the first is always made.

    Whole epochs: Lightning takes an epoch that was broken off for a finished one, and would leave the rest of it out. Its own Timer counts
    the minutes of the legs before, too: a second leg of it would end as it begins.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._begun = 0.0
        self._longest = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Looks at the clock."""
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Asks the clock of rank zero, so that all processes stop together. The epoch's validation is over by now."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._begun)
        over = now + self._longest >= self._deadline
        trainer.should_stop = trainer.should_stop or bool(trainer.strategy.broadcast(over))
