"""Hatchling's hook: a wheel, or an editable install, gets the libraries that this machine can make."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledKernels(BuildHookInterface[Any]):
    """Compiles into the source tree, from which the wheel takes the files; without a compiler it changes nothing."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is put together; ``version`` is ``standard`` or ``editable``."""
        folder = Path(self.root) / "fedkit" / "native"
        # fedkit cannot be imported yet.
        compiling = runpy.run_path(str(folder / "compiling.py"))
        made = compiling["compile_into"](folder)
        if made and version == "standard":
            build_data["pure_python"] = False
            build_data["tag"] = compiling["wheel_tag"]()
            build_data["artifacts"] += [f"/fedkit/native/{path.name}" for path in made]
