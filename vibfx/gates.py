"""Variational Information Bottleneck gates and the term they add to the loss.

Source of the method and of the equation numbers: Dai, Zhu, Guo, Wipf, "Compressing Neural Networks
using the Variational Information Bottleneck", ICML 2018 (arXiv 1802.10399).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

INITIAL_LOG_SIGMA2 = -9.0

# log(alpha) above the threshold of a unit that is opened again, so that it is clearly open.
_REOPENED = 2.0


class VIBGate(nn.Module):
    """One multiplicative Gaussian gate a unit: ``z = mu + eps * sigma`` (equation 4).

    Called with a tensor, it returns the gate *values* for that tensor's batch; ``apply_gates``
    multiplies them in. In training mode every example draws its own noise. In evaluation mode the
    values are the means, with the units whose ``alpha = mu^2 / sigma^2`` is at or below the
    threshold set to zero (equation 10).

    Setting entries of ``mu`` to 0 shuts those units.

    Args:
        units: How many units the gate governs.
        threshold: A unit is shut where ``log_alpha() <= threshold``.

    Attributes:
        mu: Means, shape ``(units,)``; 1 at the start, so that a new gate changes nothing.
        log_sigma2: Logarithms of the variances, shape ``(units,)``.
    """

    def __init__(self, units: int, *, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.mu = nn.Parameter(torch.ones(units))
        self.log_sigma2 = nn.Parameter(torch.full((units,), INITIAL_LOG_SIGMA2))

    @property
    def units(self) -> int:
        """How many units the gate governs."""
        return self.mu.numel()

    def log_alpha(self) -> Tensor:
        """``log(mu^2 / sigma^2)`` of every unit, shape ``(units,)``; -inf where ``mu`` is 0."""
        return self.mu.square().log() - self.log_sigma2

    def open(self) -> Tensor:
        """Which units still pass anything, booleans of shape ``(units,)``."""
        with torch.no_grad():
            return self.log_alpha() > self.threshold

    def open_exactly(self, chosen: Tensor) -> None:
        """Shut the units that are not chosen, and open those of the chosen ones that are shut.

        Args:
            chosen: Booleans of shape ``(units,)``.
        """
        chosen = chosen.to(self.mu.device)
        with torch.no_grad():
            self.mu[~chosen] = 0.0
            reopened = chosen & ~self.open()
            # One that has lost its mean altogether is as open as in a new gate.
            self.mu[reopened & (self.mu.square() == 0.0)] = 1.0
            alpha = self.threshold + _REOPENED
            self.log_sigma2[reopened] = self.mu[reopened].square().log() - alpha

    def information(self) -> Tensor:
        """``sum_j log(1 + mu_j^2 / sigma_j^2)``, the gate's term of equations (7) and (9)."""
        return torch.log1p(self.mu.square() * torch.exp(-self.log_sigma2)).sum()

    def forward(self, x: Tensor, per_example: bool = True) -> Tensor:
        """The gate values for ``x``.

        Args:
            x: The tensor that will be gated; only its batch size and device are read.
            per_example: Whether dimension 0 of ``x`` is the batch. Where it is not (a parameter),
                one draw serves all.

        Returns:
            Shape ``(x.shape[0], units)`` in training mode with ``per_example``, else
            ``(1, units)``.
        """
        if not self.training:
            return torch.where(self.open(), self.mu, torch.zeros_like(self.mu)).unsqueeze(0)
        rows = x.shape[0] if per_example else 1
        noise = torch.randn(rows, self.units, dtype=self.mu.dtype, device=self.mu.device)
        return self.mu + noise * torch.exp(0.5 * self.log_sigma2)

    def extra_repr(self) -> str:
        """Shown by ``print(module)``."""
        return f"units={self.units}, threshold={self.threshold:g}"


def apply_gates(
    x: Tensor, values: Sequence[Tensor], index: Tensor | None = None, per_example: bool = True
) -> Tensor:
    """Multiply gate values into a tensor.

    Args:
        x: The tensor to gate.
        values: Gate values, each ``(batch or 1, units_k)``; they count as one long row
            ``(batch or 1, U)`` to which a final 1 is appended.
        index: For each element of ``x`` (without its batch dimension, broadcastable), which entry
            of that row it is multiplied by; entry ``U`` is the 1 of what no gate governs. ``None``
            stands for the plain case: entry ``j`` governs index ``j`` of dimension 1.
        per_example: Whether dimension 0 of ``x`` is the batch; if not, ``index`` covers it too.

    Returns:
        The gated tensor, in the shape and type of ``x``.
    """
    row = values[0] if len(values) == 1 else torch.cat(list(values), dim=1)
    if index is None:
        return _times_channels(x, row.to(x.dtype))
    row = torch.cat([row, row.new_ones(row.shape[0], 1)], dim=1).to(x.dtype)
    picked = row[:, index.flatten()].reshape(row.shape[0], *index.shape)
    return x * (picked if per_example else picked[0])


def _times_channels(x: Tensor, row: Tensor) -> Tensor:
    """``x`` times a value for each index of its dimension 1; ``row`` is ``(batch or 1, units)``."""
    if x.dim() != 4 or x.device.type != "cpu" or not _is_channels_last(x):
        return x * row.reshape(row.shape + (1,) * (x.dim() - 2))
    # The channels of one pixel are what a CPU would multiply at once; where they are few, all those
    # of a row of pixels take half the time.
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    gated = pixels * row.repeat(1, width).unsqueeze(1)
    return gated.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def gates_of(module: nn.Module) -> dict[str, VIBGate]:
    """The gates of a module by their dotted path, in the module's order."""
    return {name: gate for name, gate in module.named_modules() if isinstance(gate, VIBGate)}


def information(module: nn.Module, gamma: float | Mapping[str, float] = 1.0) -> Tensor:
    """The gates' part of the objective: ``sum_i gamma_i sum_j log(1 + mu_ij^2 / sigma_ij^2)``.

    Added to the data term it gives equation (9), divided by L: ``loss = data + information``.
    One gate vector per coupled group, so a group's term counts once, however many sites it has.

    Args:
        module: A gated graph.
        gamma: One weight for every gate, or a weight for each gate's path.

    Returns:
        A scalar tensor; 0 for a module without gates.
    """
    terms = [
        gate.information() * (gamma if isinstance(gamma, (int, float)) else gamma[name])
        for name, gate in gates_of(module).items()
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())
