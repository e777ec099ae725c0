"""A critic that tells decoded patches from artwork, so that a decoder learns crisp edges and not their average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

WARM_UP = 200  # steps in which its word comes to count


class Critic(nn.Module):
    """Scores for patches of about a third of a picture (Isola et al. 2017, 1611.07004), with its own optimizer.

    It learns by the hinge loss. The decoder is to raise the score and to match the features of the true picture (Wang
    et al. 2018, 1711.11585, section 3.2).
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), rate: float = 4e-4) -> None:
        super().__init__()
        channels = (3, *widths)
        self.stages = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in zip(channels, widths, strict=False)
        )
        self.last = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=rate, betas=(0.5, 0.9))
        self.step = 0

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pictures (B, 3, H, W) to scores (B, 1, H/8, W/8), high for artwork, and the features before them."""
        features: list[Tensor] = []
        for stage in self.stages:
            pictures = F.leaky_relu(stage(pictures), 0.2)
            features.append(pictures)
        return self.last(pictures), features

    def complaint(self, made: Tensor, true: Tensor, loss: Tensor, end: Tensor, weight: float) -> Tensor:
        """What is added to the decoder's `loss`: at the weights `end` its gradient is `weight` times as strong (Esser
        et al. 2021, 2012.09841, equation 7)."""
        score, features = self(made)
        with torch.no_grad():
            _, wanted = self(true)
        far = torch.stack([(a - b).abs().mean() for a, b in zip(features, wanted, strict=True)]).sum()
        complaint = 4 * far - score.mean()
        (own,) = torch.autograd.grad(loss, end, retain_graph=True)
        (other,) = torch.autograd.grad(complaint, end, retain_graph=True)
        share = (own.norm() / (other.norm() + 1e-6)).clamp(max=100)
        return weight * min(1.0, self.step / WARM_UP) * share * complaint

    def learn(self, made: Tensor, true: Tensor) -> float:
        """One step on both; the hinge loss, which is 2 where they look alike."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.relu(1 - self(true)[0]).mean() + F.relu(1 + self(made.detach())[0]).mean()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def state(self) -> dict[str, Any]:
        return {"weights": self.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
