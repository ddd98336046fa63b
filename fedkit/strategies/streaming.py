"""Strategies that need no more than the weighted mean of a round's updates: one update at a time, one pass.

A round costs memory for the model, the running mean and one chunk, whatever the number of sites. The steps are those
of Flower's classes of the same names (equal to 1e-6); Flower's own work on full models and hold all of them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.storage.mapped import CHUNK, slices
from fedkit.types import Float32

Chunk = NDArray[np.float64]
_A_THREAD = 2**20
"""Parameters that are worth a thread of their own."""

ServerState = Mapping[str, Float32]
"""What a strategy keeps from round to round: named float32 [d] arrays."""

Step = Callable[[Chunk, Chunk, dict[str, Chunk], int], Chunk]
"""(model, mean update, state, round) to the next model, all float64 [chunk]; the state is replaced in the dict."""


@dataclass(frozen=True)
class Streaming:
    """A server's step after the mean of a round's updates is known.

    Attributes:
        init: number of parameters d to the state before round 1.
        finish: (parameters, mean update, state, round from 1) to (parameters, state). It consumes the last two
            arrays: the result lies in the mean's memory, and the state is changed in place.
        proximal_mu: FedProx's mu, which the sites apply.
        precise: the mean is to be made in float64: the step divides by moments that may be small, which would
            magnify what float32 rounds away. A step that adds the mean gains nothing from that, and waits for it.

    >>> mean = np.zeros(2, np.float32)
    >>> total = fold(mean, 0.0, np.array([1, 2], np.float32), 1.0)
    >>> total = fold(mean, total, np.array([4, 8], np.float32), 2.0)
    >>> strategy = fed_avg()
    >>> strategy.finish(np.ones(2, np.float32), mean, strategy.init(2), 1)[0]
    array([4., 7.], dtype=float32)
    """

    name: str
    init: Callable[[int], ServerState]
    finish: Callable[[Float32, Float32, ServerState, int], tuple[Float32, ServerState]]
    proximal_mu: float = 0.0
    precise: bool = False


def fold(mean: Float32, total: float, delta: Float32, weight: float, *, precise: bool = False) -> float:
    """Take one more update into a running weighted mean, in place.

    The mean of what has come is right at every moment, so a site that stays away needs no rescaling. Its bits follow
    from the updates and their order alone; call it in the fixed order of sites.

    Args:
        mean: float32 [d], zero before the first update.
        total: the weight of all updates before; 0 for the first.
        delta: float32 [d]; may be mapped from a file.
        precise: see ``Streaming``.

    Returns:
        The weight of all updates with this one.
    """
    after = total + weight
    share, size = weight / after, len(delta)
    if size <= CHUNK and not precise:
        # Below one chunk the cutting costs more than the sum.
        step = np.subtract(delta, mean)
        step *= np.float32(share)
        mean += step
        return after
    blend = _blend_in_float64 if precise else _blend
    threads = min(_cores(), size // _A_THREAD)
    if threads < 2:
        blend(mean, delta, share)
        return after
    ends = [size * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        # Parameter by parameter: in how many parts it is done changes no bit.
        for done in [pool.submit(blend, mean[a:b], delta[a:b], share) for a, b in itertools.pairwise(ends)]:
            done.result()
    return after


def _blend(mean: Float32, delta: Float32, share: float) -> None:
    """mean <- mean + share (delta - mean), at the speed of memory."""
    step, part_of = np.empty(min(CHUNK, len(delta)), np.float32), np.float32(share)
    for part in slices(delta):
        by, into = step[: part.stop - part.start], mean[part]
        np.subtract(delta[part], into, out=by)
        by *= part_of
        into += by


def _blend_in_float64(mean: Float32, delta: Float32, share: float) -> None:
    """The same, rounded once as it is kept."""
    widest = min(CHUNK, len(delta))
    step, old = np.empty(widest), np.empty(widest)
    for part in slices(delta):
        by, before = step[: part.stop - part.start], old[: part.stop - part.start]
        # Copied first: arithmetic on mixed types converts in small pieces, at two thirds of the speed.
        by[...] = delta[part]
        before[...] = mean[part]
        by -= before
        by *= share
        by += before
        mean[part] = by


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fed_avg() -> Streaming:
    """FedAvg (McMahan et al. 2017)."""
    return _streaming("fedavg", (), lambda x, delta, _state, _round: x + delta)


def fed_prox(*, proximal_mu: float = 0.0) -> Streaming:
    """FedProx (Li et al. 2020): FedAvg at the server, a proximal term at the sites."""
    return _streaming("fedprox", (), lambda x, delta, _state, _round: x + delta, proximal_mu)


def fed_avg_m(*, server_learning_rate: float = 1.0, server_momentum: float = 0.0) -> Streaming:
    """FedAvg with momentum at the server (Hsu et al. 2019): m <- mu m + delta,  x <- x + lr m."""

    def step(x: Chunk, delta: Chunk, state: dict[str, Chunk], _: int) -> Chunk:
        if server_momentum:
            delta = state["m"] = server_momentum * state["m"] + delta
        return x + server_learning_rate * delta

    return _streaming("fedavgm", ("m",) if server_momentum else (), step)


def fed_adagrad(*, eta: float = 0.1, eta_l: float = 0.1, beta_1: float = 0.0, tau: float = 1e-3) -> Streaming:
    """Adagrad at the server: v <- v + delta^2 (Reddi et al. 2021, Algorithm 2).

    ``eta_l`` is taken and unused, here and below, as in Flower: the sites' rate is training.learning_rate.
    """
    return _adaptive("fedadagrad", lambda v, square: v + square, lambda _: eta, beta_1, tau)


def fed_adam(
    *, eta: float = 0.1, eta_l: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3
) -> Streaming:
    """Adam at the server with Flower's bias correction, which counts from the second step on."""

    def rate(number: int) -> float:
        return float(eta * np.sqrt(1 - beta_2 ** (number + 1.0)) / (1 - beta_1 ** (number + 1.0)))

    return _adaptive("fedadam", lambda v, square: beta_2 * v + (1 - beta_2) * square, rate, beta_1, tau)


def fed_adam_uncorrected(
    *, eta: float = 0.01, beta_1: float = 0.9, beta_2: float = 0.999, tau: float = 1e-8
) -> Streaming:
    """Adam at the server without bias correction, as published and as FLamby runs it."""
    return _adaptive(
        "fedadam_uncorrected", lambda v, square: beta_2 * v + (1 - beta_2) * square, lambda _: eta, beta_1, tau
    )


def fed_yogi(
    *, eta: float = 0.01, eta_l: float = 0.0316, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3
) -> Streaming:
    """Yogi at the server: v <- v - (1 - beta_2) delta^2 sign(v - delta^2)."""
    return _adaptive(
        "fedyogi", lambda v, square: v - (1 - beta_2) * square * np.sign(v - square), lambda _: eta, beta_1, tau
    )


STREAMING: Mapping[str, Callable[..., Streaming]] = {
    "fedavg": fed_avg,
    "fedavgm": fed_avg_m,
    "fedprox": fed_prox,
    "fedadagrad": fed_adagrad,
    "fedadam": fed_adam,
    "fedadam_uncorrected": fed_adam_uncorrected,
    "fedyogi": fed_yogi,
}
"""The strategies that a config may name and that stream; any other holds all updates of a round."""


def _adaptive(
    name: str, second: Callable[[Chunk, Chunk], Chunk], rate: Callable[[int], float], beta_1: float, tau: float
) -> Streaming:
    # m <- beta_1 m + (1 - beta_1) delta,   x <- x + rate m / (sqrt(v) + tau)
    def step(x: Chunk, delta: Chunk, state: dict[str, Chunk], number: int) -> Chunk:
        m = state["m"] = beta_1 * state["m"] + (1 - beta_1) * delta
        v = state["v"] = second(state["v"], delta**2)
        return x + rate(number) * m / (np.sqrt(v) + tau)

    return _streaming(name, ("m", "v"), step, precise=True)


def _streaming(
    name: str, keeps: tuple[str, ...], step: Step, proximal_mu: float = 0.0, *, precise: bool = False
) -> Streaming:
    def init(size: int) -> ServerState:
        return {key: np.zeros(size, dtype=np.float32) for key in keeps}

    def finish(
        parameters: Float32, mean_update: Float32, state: ServerState, number: int
    ) -> tuple[Float32, ServerState]:
        # What leaves float32's range becomes infinite, which the loop names; numpy's own warning says less.
        with np.errstate(over="ignore", invalid="ignore"):
            for part in slices(mean_update):
                kept = {key: state[key][part].astype(np.float64) for key in keeps}
                after = step(parameters[part].astype(np.float64), mean_update[part].astype(np.float64), kept, number)
                mean_update[part] = after
                for key in keeps:
                    state[key][part] = kept[key]
        return mean_update, state

    return Streaming(name, init, finish, proximal_mu, precise)
