"""The lightning module: losses, schedule, averaged weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from models.network import Logits, Network, NetworkSize

Batch = dict[str, Tensor]

NOT_JUDGED = -1
"""In place of a frame's number of lattices, kind or ice: nobody said."""
SOME_LATTICE = -2
"""In place of a frame's number of lattices: it diffracts, and nobody counted."""


def losses(logits: Logits, batch: Batch) -> dict[str, Tensor]:
    """One loss a head, the mean over the frames that have its truth: a blank frame has no resolution, a labelled one what was judged."""
    not_diffracting, resolved, ice = batch["kind"] >= 0, torch.isfinite(batch["s_max"]), batch["ice"] >= 0
    cross_entropy = nn.functional.cross_entropy
    zero = logits.ice.sum() * 0.0
    found = {"lattices": _lattices_loss(logits.lattices.float(), batch["lattices"]), "ice": zero, "kind": zero, "resolution": zero}
    if ice.any():
        found["ice"] = nn.functional.binary_cross_entropy_with_logits(logits.ice[ice].float(), batch["ice"][ice])
    if not_diffracting.any():
        found["kind"] = cross_entropy(logits.kind[not_diffracting].float(), batch["kind"][not_diffracting])
    if resolved.any():
        difference = logits.log_s[resolved].float() - torch.log(batch["s_max"][resolved])
        found["resolution"] = 10.0 * nn.functional.smooth_l1_loss(difference, torch.zeros_like(difference), beta=0.1)
    return found


def _lattices_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy; of a frame that diffracts, lattices uncounted, that of not being empty: -log(1 - p0)."""
    p = nn.functional.log_softmax(logits, dim=1)  # (B, 4)
    counted = p.gather(1, truth.clamp(min=0)[:, None])[:, 0]
    chosen = torch.where(truth == SOME_LATTICE, torch.logsumexp(p[:, 1:], dim=1), counted)
    judged = truth != NOT_JUDGED
    return -(chosen * judged).sum() / judged.sum().clamp(min=1)


WEIGHTS = {"lattices": 1.0, "kind": 0.4, "ice": 0.5, "resolution": 0.5}


class FrameModule(L.LightningModule):
    """Fits a Network of a size, or another of the same inputs and Logits.

    `averaged` holds the exponential moving average of its weights, which is what is validated and released.
    """

    def __init__(
        self, network: NetworkSize | nn.Module, *, learning_rate: float, weight_decay: float, warm_up: float, ema_decay: float
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {"learning_rate": learning_rate, "weight_decay": weight_decay, "warm_up": warm_up, "ema_decay": ema_decay}
        )
        # Channels last: a quarter less time a step on a CPU with bfloat16.
        made = Network(network) if isinstance(network, NetworkSize) else network
        self.network = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One step's loss."""
        logits = self.network(batch["image"], batch["crops"], batch["features"])
        parts = losses(logits, batch)
        total = torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
        size = len(batch["ice"])
        self.log_dict(
            {f"train/{name}": value for name, value in parts.items()}, on_step=False, on_epoch=True, batch_size=size, sync_dist=True
        )
        self.log("train/loss", total, prog_bar=True, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        return total

    def on_train_batch_end(self, *_: Any) -> None:
        """Moves the averaged weights; faster at the start, so that a short run is not stuck with its first step."""
        decay = min(float(self.hparams["ema_decay"]), (1.0 + self.global_step) / (10.0 + self.global_step))
        with torch.no_grad():
            for mean, now in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(now, 1.0 - decay)
                else:
                    mean.copy_(now)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Losses of the averaged network."""
        self.averaged.eval()
        logits = self.averaged(batch["image"], batch["crops"], batch["features"])
        parts = losses(logits, batch)
        total = torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
        size = len(batch["ice"])
        self.log_dict({f"validation/{name}": value for name, value in parts.items()}, batch_size=size, sync_dist=True)
        self.log("validation/loss", total, prog_bar=True, batch_size=size, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises linearly, then falls as a cosine."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.hparams["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["learning_rate"])
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        rise = max(1.0, self.hparams["warm_up"] * steps)

        def factor(step: int) -> float:
            return step / rise if step < rise else 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rise) / max(steps - rise, 1.0))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
