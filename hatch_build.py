"""Compiles proto/ into gateway/v1 and control/v1 whenever the project is built or installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("python", "mypy", "grpc_python", "mypy_grpc")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling finds a hook by this name
    """The path of a .proto is the path of its Python package, so the stubs lie beside the code that uses them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # hatchling's signature
        """Writes the stubs before the files of the wheel are collected."""
        from grpc_tools import protoc

        root = Path(self.root)
        protos = sorted(str(path.relative_to(root / "proto")) for path in root.glob("proto/*/v1/*.proto"))
        # The plugins of mypy-protobuf are scripts beside the interpreter, which need not be on PATH.
        scripts = Path(sys.prefix) / "bin"
        plugins = [
            f"--plugin={p}={scripts / p}" for p in ("protoc-gen-mypy", "protoc-gen-mypy_grpc") if (scripts / p).exists()
        ]
        arguments = ["protoc", f"-I{root / 'proto'}", *plugins, *(f"--{flag}_out={root}" for flag in FLAGS), *protos]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed; its message is above")
        for package in ("gateway", "control"):
            (root / package / "v1" / "__init__.py").write_text('"""The wire contract, compiled from proto/."""\n')
