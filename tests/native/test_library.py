"""Which library is used, if any."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fedkit.native import library as module
from fedkit.native.library import BASE, OFF, library
from fedkit.privacy.randomness import Seeded
from fedkit.privacy.tap_sum import Explicit, Product, TapSum
from fedkit.training.trunk_compiled import CompiledConvolution


@pytest.fixture(autouse=True)
def _asked_anew():
    library.cache_clear()
    yield
    library.cache_clear()


def test_it_can_be_done_without(monkeypatch):
    monkeypatch.setenv(OFF, "off")
    assert library() is None


def test_one_of_other_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(module, "sources", lambda: "others")
    assert library() is None


def test_what_is_no_library_is_not_used(tmp_path, monkeypatch):
    (tmp_path / BASE).write_bytes(b"no library")
    monkeypatch.setattr(module, "HERE", tmp_path)
    assert library() is None


def test_to_ask_for_it_imports_nothing_heavy():
    asked = (
        "import sys; from fedkit.native.library import library; library(); print({'numpy', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_both_libraries_of_a_machine_give_the_same_bits(monkeypatch):
    """A convolution, a lot's sum and noise, with instructions that every processor has and with wide vectors."""
    if library() is None or not (module.HERE / module.WIDE).exists():
        pytest.skip("one library or none")
    opened = module._opened
    found = []
    for left_out in ("none", module.WIDE):
        library.cache_clear()
        monkeypatch.setattr(
            module, "_opened", lambda name, left_out=left_out: None if name == left_out else opened(name)
        )
        found.append(_bits())
    assert found[0] == found[1]


def _bits():
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    layer = nn.Conv2d(3, 20, 3, padding=1)
    stage = CompiledConvolution(layer, (3, 9, 9), (20, 4, 4), ((2, 2), (2, 2)), relu=True, first=False)
    told, noise = torch.zeros(5, *stage.tells[0]), np.empty((3, 1001))
    with torch.no_grad():
        stage.begin(5, 5)
        given = stage.forward(torch.randn(5, 9, 9, 3, generator=draw), 0)
        slope = stage.backward(torch.randn(5, 4, 4, 20, generator=draw), 0, [told.unbind(0)])
    total = TapSum([Explicit(told[0].numel()), Product(33, 10, True)], 1.0, compiled=True)
    factors = torch.randn(5, 33, generator=draw), torch.randn(5, 10, generator=draw)
    total.add([(told.flatten(1),), factors], torch.ones(5, dtype=torch.bool))
    Seeded("bits").fill_rounded_gaussians(noise, 2.0**40)
    return [part.numpy().tobytes() for part in (given, slope, told, *total.result())] + [noise.tobytes()]
