"""What steers a gated graph to its targets, step by step, in any training loop."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from vibfx.budgets import Budget, check_reachable, parse_target, smallest
from vibfx.errors import PlanError
from vibfx.gates import gates_of, information
from vibfx.latency import Step, nominal_latency, unit_steps
from vibfx.planning import Keep, cover
from vibfx.training.brake import Brake
from vibfx.training.controller import Controller
from vibfx.training.landing import Landing
from vibfx.training.ranks import costs_on_all, current
from vibfx.training.shrinking import alive, cut, measured, some_of_each, unshrink, whole_of
from vibfx.weighting import Weighting, Weights

# The share of the steps in which the cost comes down to its targets. The rest is for what is left
# to settle.
WAY = 0.4

# How often the prices move on the way; but on a long one after so many steps, in which gates move
# a good part of their way. Where somebody has to be asked whether the network is good enough, that
# takes time, and it stays at the first.
_UPDATES = 60
_LONGEST_INTERVAL = 50

# About where prices come to half way down, for a data term that was 1 before anything was learnt.
# From there at once, all gates would shut that can, before the network has adapted to any of it: at
# first prices are so much lower that they are there half way, but not less than this share.
_HALF_WAY = 0.02
_LEAST_FIRST = 0.3

# Adam moves a gate by about its learning rate a step, and log(alpha) has some 9 to fall to shut it.
# In units of that rate: how fast the logarithm of a price may rise, so that it is not far too high
# before the first gates shut; and how far the prices look ahead.
_FASTEST = 0.25
_HORIZON = 3.0
_LEAST_RATE = 1e-3

# The prices' share that stays when the targets are met.
_SETTLED = 0.2

# log(sigma^2) of a unit that is held shut. Less of it than float32 can see beside 1, but not so
# little that what passes two such gates is too small for full precision.
_NO_NOISE = -45.0

# The graph is cut when so much of its work would go: a cut takes as long as a step or two.
_WORTH_A_CUT = 0.05


class Compressor:
    """Brings the cost of a gated graph down to its targets while a loop of any kind trains it.

        optimizer = torch.optim.Adam(parameter_groups(gated, lr=1e-3))
        compressor = Compressor(gated, optimizer, target="flops=0.3", steps=epochs * len(loader))
        for x, labels in batches:
            loss = F.cross_entropy(gated(x), labels) + compressor.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            compressor.step()
        compressor.finish()

    For two fifths of the steps a ``Controller`` moves the gates' prices so that the cost follows a
    path down to the targets; it works best at a constant learning rate. Gates take their time to
    shut: where the cost is far behind its path, units are shut in the order of their ``log_alpha``.
    Where the targets are met, single units are shut or opened again in that order until they are
    just met. For the rest of the steps those are the network, and the prices are a fifth, or less
    where a unit shuts nevertheless.

    Args:
        gated: A graph with gates, in training mode.
        optimizer: What trains it; goes on with what is left where the graph is cut.
        target: Such as ``"flops=0.5"`` or ``"flops=0.3,params=0.1"``; None to let ``gamma`` decide.
        gamma: One fixed weight for all gates in units of the data term, for all steps.
        is_good: Whether a graph in evaluation mode is good enough, in place of a target: the cost
            falls, more slowly, for as long as this is so; where it is not for long, the network is
            what it was when it last was.
        weights: What the gates weigh beside each other, for prices and for a fixed gamma: what a
            unit costs, all alike, or a weight for each group by its name. By default what a unit
            costs where there is a target, else all alike, as equation (9) with one gamma has it.
        steps: How many steps there will be.
        scale: What the data term is where nothing is learnt, such as 2.3 for the cross-entropy of
            ten classes: prices are in proportion to it.
        shrinking: Whether units that are shut for good leave the graph, which then gets faster.
        round_to: How many channels the widths that are landed on are multiples of, as far as the
            targets can then be used up; 1 for any width. By default what ONNX Runtime computes at
            once on this machine's CPU (see ``unit_steps``), and 1 with a gamma.
        copies: Copies of the graph that follow it, such as an average of its weights; what leaves
            the graph leaves them.

    Raises:
        TargetError: The target cannot be read or reached.
        PlanError: The graph has no gates, there is not one of a target, a gamma and ``is_good``, or
            the optimizer does not train the gates.
    """

    def __init__(
        self,
        gated: fx.GraphModule,
        optimizer: torch.optim.Optimizer,
        *,
        target: str | Sequence[Budget] | None = None,
        gamma: float | None = None,
        is_good: Callable[[fx.GraphModule], bool] | None = None,
        weights: Weights | None = None,
        steps: int,
        scale: float = 1.0,
        shrinking: bool = True,
        round_to: int | None = None,
        copies: Sequence[fx.GraphModule] = (),
    ) -> None:
        self._budgets = parse_target(target) if isinstance(target, str) else tuple(target or ())
        if [bool(self._budgets), gamma is not None, is_good is not None].count(True) != 1:
            raise PlanError(
                "nothing says which gates are to shut, or too much does",
                hint="Pass one of a target, a gamma and is_good.",
            )
        if round_to is not None and round_to < 1:
            raise PlanError(f"widths cannot be multiples of {round_to}", hint="1 allows any width.")
        whole, self._coupling = whole_of(gated).module, whole_of(gated).coupling
        self._costs = costs_on_all(gated, self._coupling, whole=whole)
        self._brake = Brake(is_good) if is_good else None
        if self._brake:
            self._budgets = (smallest("flops", self._coupling, self._costs),)
        check_reachable(self._budgets, self._coupling, self._costs)
        self._gated, self._optimizer, self._shrinking = gated, optimizer, shrinking
        self._copies = copies
        self._gates = gates_of(gated)
        self._steps, self._done = max(steps, 1), 0
        way = max(1, round(WAY * self._steps))
        self._interval = max(1, round(way / _UPDATES))
        if not self._brake:
            self._interval = min(self._interval, _LONGEST_INTERVAL)
        weights = weights or ("cost" if gamma is None else "uniform")
        self._weighting = Weighting(weights, self._coupling, self._costs)
        self._controller = Controller(
            self._budgets,
            self._costs,
            self.units,
            shares=self._weighting.shares,
            updates=max(1, round(way / self._interval)),
            start=scale * _first_price(way * self._rate()),
        )
        if gamma is not None:  # the gates alone decide
            round_to = round_to or 1

        def find_steps() -> list[list[Step]]:
            shares = self._costs.flops_shares()
            return unit_steps(whole, self._coupling, shares, round_to)

        self._landing = Landing(
            self._coupling,
            self._costs,
            self._budgets,
            self._controller,
            # For the first process's machine, so that all land alike.
            steps=lambda: current().of_first(find_steps),
            latency=lambda: current().of_first(lambda: nominal_latency(whole, self._coupling)),
            measured=lambda keep: measured(gated, keep),
        )
        self._fixed = gamma
        self._gamma = dict.fromkeys(self._gates, 0.0)
        self._before = self._above()
        self._held: Keep | None = None
        self._masks: list[tuple[Tensor, Tensor]] = []
        self._reprice()

    @property
    def units(self) -> int:
        """All units of the graph as it was."""
        return self._coupling.units

    @property
    def arrived(self) -> bool:
        """Whether the targets are met and what is left is settled."""
        return self._held is not None

    @property
    def steps_left(self) -> int:
        """How many steps there are still to be."""
        return max(self._steps - self._done, 0)

    def penalty(self) -> Tensor:
        """What is added to the data term, which makes it equation (9) divided by L."""
        return information(self._gated, self._gamma)

    def step(self) -> None:
        """Take note of a step of the optimizer: call it after each."""
        self._done += 1
        with torch.no_grad():
            # Below zero a gate would flip its channel's sign, which a ReLU or a max pool behind it
            # does not let pass. At zero it is shut.
            torch._foreach_clamp_min_([gate.mu for gate in self._gates.values()], 0.0)
            for mu, stays in self._masks:
                mu.mul_(stays)
        if self._done % self._interval:
            return
        if self._held is not None:
            self._reopen(self._held)
            return
        if self._fixed is None:
            self._follow_path()
        else:
            self._reprice()
        if self._shrinking and self._is_worth_a_cut(left := alive(self._gated)):
            if self._fixed is None:
                left = self._landing.with_reserve(left, self._above())
            left = self._landing.aligned(left, self._above())
            if self._is_worth_a_cut(left):
                self._cut(left)

    def left(self) -> tuple[int, float]:
        """Units that are open, and the share of all multiply-accumulates that goes with them."""
        keep = self._open()
        full = self._costs.cost("flops", np.ones(self.units, dtype=bool))
        return int(keep.sum()), self._costs.cost("flops", keep) / full

    def finish(self, *, to_target: bool = True) -> None:
        """Give the graph its full shape back, all units shut that are not to stay.

        Args:
            to_target: Whether, before the targets were met, units are shut or opened so that they
                just are. If not, the gates alone decide, as where training was broken off.
        """
        for module in (self._gated, *self._copies):
            unshrink(module)
        if self._held is not None:
            keep = self._held
        elif to_target and self._budgets:
            keep = self._landed()
        else:
            keep = self._rounded_up(self._open())
        for module in (self._gated, *self._copies):
            _open_exactly(module, keep)

    def state_dict(self) -> dict[str, Any]:
        """What it has to go on with: tensors and plain values."""
        return {
            "done": self._done,
            "keep": torch.from_numpy(whole_of(self._gated).keep),
            "held": None if self._held is None else torch.from_numpy(self._held),
            "before": torch.from_numpy(self._before),
            "controller": self._controller.state(),
            "brake": self._brake and self._brake.state_dict(),
            "gamma": self._gamma,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; cuts the graph to its shape of then."""
        self._cut(state["keep"].numpy())
        self._done, self._before = state["done"], state["before"].numpy()
        self._held = None if state["held"] is None else state["held"].numpy()
        self._controller.load_state(state["controller"])
        if self._brake:
            self._brake.load_state_dict(state["brake"])
        self._gamma = state["gamma"]
        self._mask()

    def _follow_path(self) -> None:
        passes = self._brake is None or self._brake.lets_pass(self._gated, self._open())
        if passes:
            self._keep_up()
        is_late = self._done >= WAY * self._steps
        is_stuck = self._brake is not None and self._brake.is_worn
        if is_late or is_stuck or self._controller.met(self._open()):
            self._arrive()
        else:
            self._reprice(waiting=not passes)

    def _keep_up(self) -> None:
        """Shut the worst units where the cost is too far behind its path."""
        keep = self._open()
        if not self._controller.keeps_up(keep):
            _shut(self._gated, self._landing.shut(keep, self._above()))

    def _arrive(self) -> None:
        """From now on the network is what meets the targets best."""
        self._held = self._landed()
        _open_exactly(self._gated, self._held)
        self._gamma = {name: _SETTLED * gamma for name, gamma in self._gamma.items()}
        if self._shrinking:
            self._cut(some_of_each(self._gated, self._held))
        self._mask()

    def _reopen(self, held: Keep) -> None:
        """Open those again that have shut and are to stay, at half the price."""
        stays = np.append(held, True)  # STAYS is the last one
        for name, units in whole_of(self._gated).gate_units(self._gated).items():
            gate, chosen = self._gates[name], torch.from_numpy(stays[units])
            if bool((chosen & ~gate.open().cpu()).any()):
                gate.open_exactly(chosen)
                self._gamma[name] *= 0.5

    def _mask(self) -> None:
        """Hold units shut that are in the graph and not to stay; they let no noise through."""
        if self._held is None:
            return
        stays = np.append(self._held, True)  # STAYS is the last one
        self._masks = []
        for name, units in whole_of(self._gated).gate_units(self._gated).items():
            if not stays[units].all():
                gate = self._gates[name]
                chosen = torch.from_numpy(stays[units]).to(gate.mu.device)
                gate.log_sigma2.detach()[~chosen] = _NO_NOISE
                self._masks.append((gate.mu, chosen))

    def _cut(self, keep: Keep) -> None:
        cut(self._gated, keep, self._optimizer, copies=self._copies)

    def _landed(self) -> Keep:
        """The best units that are just within all budgets; or those that were good enough."""
        if self._brake:
            best = np.ones(self.units, dtype=bool) if self._brake.best is None else self._brake.best
            return self._rounded_up(best)
        return self._landing.landed(self._open(), self._above())

    def _rounded_up(self, keep: Keep) -> Keep:
        keep = cover(self._coupling, keep, self._above())
        return self._landing.rounded_up(keep, self._above())

    def _is_worth_a_cut(self, left: Keep) -> bool:
        if self._brake and (self._brake.best is None or (self._brake.best & ~left).any()):
            return False  # what is cut could not be opened again
        if self._budgets and self._controller.met(left):
            return False  # nor here, to land on the target
        now = self._costs.cost("flops", whole_of(self._gated).keep)
        return self._costs.cost("flops", left) < (1 - _WORTH_A_CUT) * now

    def _open(self) -> Keep:
        keep: Keep = self._above() > 0
        return keep

    def _foreseen(self, steps: float) -> Keep:
        """The units that will be open so many steps from now if each goes on as since last time."""
        now = self._above()
        with np.errstate(invalid="ignore"):  # infinite before as now: it is shut
            trend = (now - self._before) / self._interval
        self._before = now
        coming: Keep = now + steps * trend > 0
        return coming

    def _above(self) -> npt.NDArray[np.float64]:
        return whole_of(self._gated).above(self._gated)

    def _rate(self) -> float:
        """The gates' learning rate; one of a warm-up may be next to nothing."""
        gate = next(iter(self._gates.values()))
        for group in self._optimizer.param_groups:
            if any(gate.mu is known for known in group["params"]):
                return max(float(group["lr"]), _LEAST_RATE)
        raise PlanError(
            "the optimizer does not train the gates",
            hint="Give it parameter_groups(gated, lr), or all of the graph's parameters.",
        )

    def _reprice(self, *, waiting: bool = False) -> None:
        keep = cover(self._coupling, self._open())
        if self._fixed is None:
            rate = self._rate()
            prices = self._controller.update(
                keep,
                foreseen=cover(self._coupling, self._foreseen(_HORIZON / rate)),
                largest_step=_FASTEST * rate * self._interval,
                waiting=waiting,
            )
        else:
            prices = self._fixed * self._weighting.relative(keep)
        prices = np.append(prices, 0.0)
        entries = whole_of(self._gated).gate_units(self._gated)
        self._gamma = {name: float(prices[units].mean()) for name, units in entries.items()}


def _first_price(way: float) -> float:
    """Prices at first on a way so long, in steps times the gates' learning rate."""
    return _HALF_WAY * max(math.exp(-_FASTEST * way / 2), _LEAST_FIRST)


def _shut(module: fx.GraphModule, keep: Keep) -> None:
    stays, gates = np.append(keep, True), gates_of(module)  # STAYS is the last one
    for name, units in whole_of(module).gate_units(module).items():
        gates[name].mu.detach()[torch.from_numpy(~stays[units])] = 0.0


def _open_exactly(module: fx.GraphModule, keep: Keep) -> None:
    stays, gates = np.append(keep, True), gates_of(module)  # STAYS is the last one
    for name, units in whole_of(module).gate_units(module).items():
        gates[name].open_exactly(torch.from_numpy(stays[units]))
