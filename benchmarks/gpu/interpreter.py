"""Triton's interpreter made exact for 16-bit and 8-bit floats, where kernels are run without a GPU.

Triton 3.9 keeps bfloat16 as bare bits in the interpreter: products and matrix products multiply the bit patterns as
integers, and conversions truncate. Here they are numbers: converted by torch, multiplied as float32, and rounded.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton import knobs
from triton.runtime import interpreter

_TORCH: dict[Any, torch.dtype] = {
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
_BITS: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def repair() -> bool:
    """Make it so, and let the interpreter's warnings about masked lanes be; False where triton compiles instead."""
    if not knobs.runtime.interpret:
        return False
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"triton\.runtime\.interpreter")
    builder = interpreter.InterpreterBuilder
    stock_convert, stock_dot, stock_product = interpreter._convert_float, builder.create_dot, builder.create_fmul

    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source not in _TORCH or target not in _TORCH:
            return stock_convert(data, source, target, rounding)
        bits = np.ascontiguousarray(data).view(_BITS[source.primitive_bitwidth])
        values = torch.from_numpy(bits).view(_TORCH[source]).to(_TORCH[target])
        return values.view(getattr(torch, f"uint{target.primitive_bitwidth}")).numpy().reshape(np.shape(data))

    def as_float32(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        values = convert(handle.data, tl.bfloat16, tl.float32, None).view(np.float32)
        return interpreter.TensorHandle(values, tl.float32)

    def dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        return stock_dot(self, as_float32(a), as_float32(b), d, input_precision, max_num_imprecise_acc)

    def product(self: Any, left: Any, right: Any) -> Any:
        if left.dtype.scalar != tl.bfloat16:
            return stock_product(self, left, right)
        values = as_float32(left).data * as_float32(right).data
        return interpreter.TensorHandle(convert(values, tl.float32, tl.bfloat16, None), left.dtype.scalar)

    interpreter._convert_float = convert
    builder.create_dot = dot
    builder.create_fmul = product
    return True
