"""A function of tensors that stay where they are, handed to a GPU as one piece of work.

A small model's pass is a hundred kernels, each of which takes longer to hand over than to run. What a function of fixed
shapes hands over is recorded once as a CUDA graph, and handed over again by one call: the same kernels on the same
memory, and so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BEFORE = 2
"""Calls before it is recorded, in which libraries choose their kernels and make room."""


def captured(function: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """The function as one piece of work; on a CPU the function itself.

    Args:
        function: reads and writes tensors that are there before it is called, looks at none of their values, and
            changes nothing that its next call would read but the tensors themselves.

    Returns:
        A function whose result the next call overwrites.

    Raises:
        RuntimeError: the function does what cannot be recorded, or what has no deterministic form on the GPU.
    """
    if device.type != "cuda":
        return function
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(_BEFORE):
            function()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads go on with work of their own meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = function()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
