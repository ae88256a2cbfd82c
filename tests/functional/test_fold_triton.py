"""The Triton kernel: what it computes, in Triton's interpreter and on a GPU where there is one, and that it compiles."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
ON_A_DEVICE = Path(__file__).with_name("fold_triton_on_this_device.py")


@pytest.mark.parametrize(
    "interpreted",
    [True, pytest.param(False, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))],
    ids=["interpreted", "on a GPU"],
)
def test_the_kernel_agrees_with_the_twin_and_with_torch(interpreted: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    if interpreted:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ON_A_DEVICE)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("capability", "dtype", "constraints"),
    [
        *((90, dtype, k) for dtype in ("bf16", "fp32") for k in (0, 1, 2, 3)),
        (80, "bf16", 1),
        (80, "fp32", 2),
        (80, "bf16", 5),
    ],
)
def test_it_compiles_without_a_gpu_and_fits_into_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, dtype: str, constraints: int
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    compiled = _compiled(capability, dtype, constraints)
    assert f".target sm_{capability}" in compiled.asm["ptx"]
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (stack,) = re.findall(r"Function _fold:\s+REG:\d+ STACK:(\d+) ", used)
    assert int(stack) <= 64  # bytes of a thread that found no register


def _compiled(capability: int, dtype: str, constraints: int) -> Any:
    """With everything in it: a reference, soft-caps and the gradient."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from adhere.functional.fold_triton import _fold, launch

    padded = triton.next_power_of_2(max(1, constraints))
    options = launch(padded)
    constants = {
        "CONSTRAINTS": constraints, "PADDED": padded, "CAPPED": True, "KEPT": True, "REFERENCE_CAPPED": True, "GRADIENT": True,
        "TILE": options.pop("TILE"),
    }  # fmt: skip
    kinds = dict.fromkeys(constants, "constexpr") | dict.fromkeys(
        ("logits_NV", "term_KNV", "reference_NV"), f"*{dtype}"
    )
    kinds |= {"target_N": "*i64", "token_KN": "*i64", "held_KN": "*i8"}
    kinds |= dict.fromkeys(("start", "positions", "term_stride", "vocabulary"), "i32")
    signature = {name: kinds.get(name, "*fp32" if name.endswith("N") else "fp32") for name in _fold.arg_names}
    aligned = {"term_stride", "vocabulary", *(name for name, kind in signature.items() if kind.startswith("*"))}
    attributes = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(_fold.arg_names) if name in aligned}
    source = ASTSource(_fold, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
