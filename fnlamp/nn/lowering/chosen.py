"""The form of a convolution, and of each of its gradients, by its sizes: the one that was the fastest where it was measured.

Each form of each operation was measured inside a loop, on two cores with AVX-512 (`docs/explanation/convolution.md`): 8 to 64
images of 4x4 to 224x224, 3 to 512 channels, windows of 1, 3, 5 and 7, strides 1 and 2.  In short:

- outputs: native, always (for 64 images of 32x32x16, 3.3 ms, patches 7.6; of 28x28x64, 11 and 17);
- the gradient of the images: native; patches if a stride leaves holes between the pixels that native would multiply (7.8 ms
  and 28), for up to 8 channels (2.4 and 6.8), and for a window of one pixel;
- the gradient of the weight: native; patches for a window of one pixel (15 ms and 23).
"""

from __future__ import annotations

from typing import Any

from fnlamp.arrays import Array
from fnlamp.nn.lowering import forms, grouped
from fnlamp.nn.lowering.geometry import Geometry


def outputs(x: Array, w: Array, g: Geometry) -> Array:
    """The convolution."""
    if in_parts(g):
        return grouped.outputs(x, w, g, outputs)
    form = {"shifts": forms.outputs_by_shifts, "patches": forms.outputs_by_patches, "native": forms.outputs_by_native}
    return form[for_outputs(g, x.dtype)](x, w, g)


def images(d: Array, w: Array, g: Geometry) -> Array:
    """Its gradient of the images."""
    if in_parts(g):
        return grouped.images(d, w, g, images)
    form = {"shifts": forms.images_by_shifts, "patches": forms.images_by_patches, "native": forms.images_by_native}
    return form[for_images(g, d.dtype)](d, w, g)


def weight(x: Array, d: Array, g: Geometry) -> Array:
    """Its gradient of the weight."""
    if in_parts(g):
        return grouped.weight(x, d, g, weight)
    form = {"shifts": forms.weight_by_shifts, "patches": forms.weight_by_patches, "native": forms.weight_by_native}
    return form[for_weight(g, x.dtype)](x, d, g)


def in_parts(g: Geometry) -> bool:
    """Whether it is computed for some groups at a time."""
    return g.groups > 1 and g.weight[2] > 1


def for_outputs(g: Geometry, dtype: Any) -> str:
    """The name of a form."""
    if not _native(g, dtype):
        return "shifts" if g.groups > 1 else "patches"
    return "native"


def for_images(g: Geometry, dtype: Any) -> str:
    """The name of a form."""
    if not _native(g, dtype):
        return "shifts" if g.groups > 1 else "patches"
    inside = all(max(sides) < span for sides, span in zip(g.sides, g.window.span, strict=True))
    return "native" if g.stride == (1, 1) and inside and g.images[3] > 8 and g.weight[:2] != (1, 1) else "patches"


def for_weight(g: Geometry, dtype: Any) -> str:
    """The name of a form."""
    if not _native(g, dtype):
        return "shifts" if g.groups > 1 else "patches"
    return "patches" if g.weight[:2] == (1, 1) else "native"


def _native(g: Geometry, dtype: Any) -> bool:
    """Whether XLA:CPU has a fast kernel: of float32 alone, and not for depthwise convolution."""
    return dtype == "float32" and g.groups == 1 and 0 not in (*g.outputs, *g.weight)
