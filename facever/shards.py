"""A classifier that processes have divided, on its way into a checkpoint and out of one.

A checkpoint holds it whole, whatever the number of processes: the weights, and what the optimiser
keeps for each of them.

Letters: C identities, n those of this process.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from facever import distributed
from facever.losses import Loss

State = dict[str, Any]


def whole_weights(loss: Loss) -> State:
    """Give the leader the loss's weights with all C rows of each; all are to call it."""
    state: State = loss.state_dict()
    for name, parameter, rows in _divided(loss):
        state[name] = distributed.collect(parameter, rows)
    return state


def own_weights(loss: Loss, whole: Mapping[str, Any]) -> State:
    """Give the weights of a checkpoint with this process's n rows of what is divided."""
    own = dict(whole)
    for name, parameter, rows in _divided(loss):
        own[name] = _own(whole.get(name), parameter, rows)
    return own


def whole_moments(optimizer: Optimizer, loss: Loss) -> State:
    """Give the leader the optimiser's state with all C rows of each; all are to call it."""
    state: State = optimizer.state_dict()
    for index, parameter, rows in _divided_in(optimizer, loss):
        state["state"][index] = {
            key: distributed.collect(value, rows) if value.shape == parameter.shape else value
            for key, value in state["state"].get(index, {}).items()
        }
    return state


def own_moments(optimizer: Optimizer, loss: Loss, whole: Mapping[str, Any]) -> State:
    """Give the optimiser's state of a checkpoint with this process's n rows of what is divided."""
    state = dict(whole["state"])
    for index, parameter, rows in _divided_in(optimizer, loss):
        kept = state.get(index, {})
        state[index] = {key: _own(value, parameter, rows) for key, value in kept.items()}
    return {**whole, "state": state}


def _divided(loss: Loss) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield name, this process's share and C of each parameter that is divided."""
    shards = loss.shards()
    yield from ((name, p, shards[p]) for name, p in loss.named_parameters() if p in shards)


def _divided_in(optimizer: Optimizer, loss: Loss) -> Iterator[tuple[int, nn.Parameter, int]]:
    """Yield each of them under its index in the optimiser's state."""
    shards = loss.shards()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    yield from ((i, p, shards[p]) for i, p in enumerate(parameters) if p in shards)


def _own(value: Any, parameter: Tensor, rows: int) -> Any:
    """Give the own rows of a tensor that has all; leave others as they are, to be refused."""
    whole = isinstance(value, Tensor) and value.shape == (rows, *parameter.shape[1:])
    return value[distributed.share(rows)] if whole else value
