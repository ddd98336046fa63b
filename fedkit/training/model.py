"""A run's model, built from its config before any row is read, and tried on two zero examples.

::

    FK402  a name or arguments that no model has     FK411  examples of another shape than the model takes
    FK410  a module where a function is needed       FK412  outputs of another shape than the task needs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fedkit.config.experiment import ExperimentConfig
from fedkit.data.declared import input_shape, task_of
from fedkit.errors import TrainingError, first_line
from fedkit.models import build
from fedkit.models.catalogue import initialise
from fedkit.types import Task

ModelFactory = Callable[[], nn.Module]


def declared_model(
    config: ExperimentConfig, models: Mapping[str, Callable[..., nn.Module]] | None = None, *, values: bool = True
) -> nn.Module:
    """The model of a run over a declared table: shapes follow from the declaration alone.

    Args:
        models: further models by name, each a function as those of `fedkit.models.MODELS`.
        values: as in `fedkit.models.build`.

    Raises:
        TrainingError: see the module.
        DataError: FK211, a declaration without a task.

    >>> from fedkit.config.compose import compose
    >>> sum(p.numel() for p in declared_model(compose("heart_disease")).parameters())
    14
    """
    task = task_of(config.data)
    shape = input_shape(config.data)
    module = build(config.model, shape, task.num_outputs, config.seed, models or {}, values=values)
    check_output(module, shape, task)
    return module


def given_model(factory: ModelFactory, input_shape: tuple[int, ...], task: Task, seed: int) -> nn.Module:
    """The model that a function given in Python makes.

    Raises:
        TrainingError: see the module.
    """
    if isinstance(factory, nn.Module):
        raise TrainingError(
            f"model is a {type(factory).__name__}, not a function",
            code="FK410",
            remedy="pass a function that returns the module, so that the seed decides its first weights",
        )
    module = initialise(factory, seed)
    check_output(module, input_shape, task)
    return module


def check_output(module: nn.Module, input_shape: tuple[int, ...], task: Task) -> None:
    """Two zero examples through the model: wrong shapes are found before anything trains.

    Raises:
        TrainingError: FK411, FK412.
    """
    example = torch.zeros((2, *input_shape))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            output = module(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(
            f"the model cannot take examples of shape {input_shape}: {first_line(error)}", code="FK411"
        ) from None
    finally:
        module.train(was_training)
    wanted = (2, task.num_outputs)
    if tuple(output.shape) != wanted:
        raise TrainingError(
            f"the model maps 2 examples to shape {tuple(output.shape)}; task {task.kind} needs {wanted}",
            code="FK412",
            remedy=f"end the model in {task.num_outputs} outputs (logits, no sigmoid or softmax)",
        )
