"""Checks of examples, and of a chain's distributions, where they enter the library.

Every public function that takes examples calls one of these once. Inside the library examples are tensors of the
spec's own type, and nothing is checked again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ancestral._internal.randomness import own_randomness
from ancestral.core import walk
from ancestral.core.batch import Batch
from ancestral.core.features import map_features
from ancestral.core.spec import DataSpec

if TYPE_CHECKING:
    from ancestral.core.chain import Chain

Given = Tensor | np.ndarray[Any, Any]
"""Examples as a user may give them."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""Types with which torch does not compute, and types that hold their values."""
_PROBED = 2
"""Examples whose distributions are looked at: with one, a missing batch axis would not show."""
_AT_ONCE = 1 << 22
"""Numbers whose support is checked at once."""


# Examples -------------------------------------------------------------------------------------------


def checked(spec: DataSpec, x: Given, *, what: str = "x", dtype: torch.dtype | None = None) -> Tensor:
    """The examples x, (n, *shape), as a tensor of the spec's type: uint8 or int32 for integers, else ``dtype``.

    Whole numbers may be of any type, and arrays of NumPy are taken as tensors are. Without ``dtype`` real numbers
    stay of their type. ``TypeError`` for anything but numbers. ``ValueError`` for another shape, no examples,
    values that are not finite and, for integers, fractions and values outside the grey levels.
    """
    x = _tensor(x, what)
    check_shape(spec, tuple(x.shape), what=what)
    if x.dtype == torch.bool and spec.levels not in (None, 2):
        raise TypeError(
            f"{what} is of booleans, and the model is for {spec.levels} grey levels. Give whole numbers from 0 to "
            f"{spec.top}."
        )
    x = x.to(_WIDER.get(x.dtype, torch.uint8 if x.dtype == torch.bool else x.dtype))
    _check_values(spec, x, what)
    if spec.levels is not None:
        return x.to(torch.uint8 if spec.levels <= 256 else torch.int32)
    if dtype is None:
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    found = x.to(dtype)
    if found.dtype.itemsize < x.dtype.itemsize:
        _check_finite(found, what)
    return found


def checked_means(spec: DataSpec, x: Given, *, what: str = "x") -> Tensor:
    """As ``checked`` for samples, which may be means of p(x|z_1): within the grey levels, and not always whole."""
    found = checked(replace(spec, levels=None), x, what=what)
    if spec.levels is not None:
        low, high = torch.stack(torch.aminmax(found.detach())).tolist()
        if low < 0 or high > spec.top:
            raise ValueError(
                f"{what} has values from {low:g} to {high:g}, and the data have {spec.levels} grey levels: "
                f"give values from 0 to {spec.top}, as ancestral.draw returns them."
            )
    return found


def check_shape(spec: DataSpec, shape: tuple[int, ...], *, what: str = "x") -> None:
    """Raise ``ValueError`` unless this is the shape of at least one example of ``spec``."""
    if shape[1:] == spec.shape and shape[0] > 0:
        return
    wanted = ", ".join(map(str, ("n", *spec.shape)))
    given = f"{what} has the shape {shape}, and the model takes {spec.words}, so ({wanted})"
    if shape[1:] == spec.shape:
        raise ValueError(f"{given} with n of at least 1: there are no examples. Give at least one.")
    raise ValueError(f"{given}. {_remedy(spec, shape)}")


def _remedy(spec: DataSpec, shape: tuple[int, ...]) -> str:
    """How examples of ``shape`` become those of ``spec``."""
    if shape == spec.shape:
        return "For one example, add the axis of examples: x[None]."
    if spec.is_image:
        channels, height, width = spec.shape
        if shape[1:] == (height, width, channels):
            return "Its channels are last; move them to the front, as with permute(0, 3, 1, 2)."
        if channels == 1 and shape[1:] == (height, width):
            return "Add the axis of channels: x[:, None]."
        if shape[1:] == (spec.dims,):
            sizes = f"{channels}, {height}, {width}"
            return f"Its images are flat; give them their shape, as with reshape(-1, {sizes})."
    return "Give examples of the shape that the model was built for; nothing is broadcast or cropped."


def _tensor(x: object, what: str) -> Tensor:
    """A plain tensor of real numbers or booleans. ``TypeError`` for anything else."""
    if isinstance(x, np.ndarray):
        x = _from_numpy(x, what)
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} is a {type(x).__name__}; give a tensor or a NumPy array of examples.")
    if x.layout != torch.strided or x.is_quantized:
        raise TypeError(f"{what} is sparse or quantised. Give its values: to_dense() or dequantize().")
    if x.dtype not in (*_FLOATS, *_INTEGERS, *_WIDER, torch.bool):
        raise TypeError(
            f"{what} is of the type {x.dtype}; examples are whole or real numbers. Convert it first."
        )
    return x


def _from_numpy(x: np.ndarray[Any, Any], what: str) -> Tensor:
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, and examples have no gaps. Fill it first: x.filled(…).")
    if x.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} is an array of the type {x.dtype}; examples are whole or real numbers. Convert it first, as "
            "with x.astype('float32')."
        )
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        x = x.astype(np.float64)
    native = x.astype(x.dtype.newbyteorder("="), copy=False)
    # Torch takes neither negative strides nor, without a warning, arrays that cannot be written.
    return torch.from_numpy(np.array(native, order="C", copy=None if native.flags.writeable else True))


@torch.no_grad()
def _check_values(spec: DataSpec, x: Tensor, what: str) -> None:
    """The range, and for integers the fractions, with one wait for the device."""
    if spec.levels is None:
        if x.is_floating_point():
            _check_finite(x, what)
        return
    if x.dtype == torch.uint8 and spec.levels >= 256:
        return
    facts = [*torch.aminmax(x)]
    if x.is_floating_point():
        facts.append((x != x.round()).any())
    low, high, *fractions = torch.stack([fact.double() for fact in facts]).tolist()
    if low >= 0 and high <= spec.top and not any(fractions):
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        _check_finite(x, what)
    seen = f"values from {low:g} to {high:g}"
    broken = f"{seen}, not all of them whole numbers" if any(fractions) else seen
    raise ValueError(
        f"{what} has {broken}, and the model is for {spec.levels} grey levels: whole numbers from 0 to "
        f"{spec.top}. Give the examples as load_data reads them, neither scaled nor shifted; for other grey "
        "levels, build a model for those."
    )


@torch.no_grad()
def _check_finite(x: Tensor, what: str) -> None:
    # Of the two ends alone: NaN reaches both, and there is one wait for the device.
    if bool(torch.isfinite(torch.stack(torch.aminmax(x))).all()):
        return
    bad = int((~torch.isfinite(x)).flatten(1).any(dim=1).sum())
    raise ValueError(
        f"{what} has values that are not finite (as {x.dtype}) in {bad} of {len(x)} examples. All must be finite: "
        "leave these examples out, or fill the gaps."
    )


# Chains ---------------------------------------------------------------------------------------------


def batch(chain: Chain, given: Batch | Given, *, what: str = "x") -> Batch:
    """A checked batch of examples for ``chain``, whose distributions are looked at the first time.

    ``ValueError`` and ``TypeError`` as ``checked`` and ``check_chain``, and for labels of another number.
    """
    found = given if isinstance(given, Batch) else Batch(given)  # type: ignore[arg-type]
    found = found.showing(examples(chain, found.x, what=what))
    if found.y is not None and len(found.y) != len(found.x):
        raise ValueError(f"there are {len(found.y)} labels for {len(found.x)} examples; give one for each.")
    if not chain.looked_at:
        check_chain(chain, found.x, chain.condition(found))
    return found


def entered(chain: Chain, x: Given, condition: Any = None) -> Tensor:
    """As ``batch``, with the condition itself in place of labels: the examples."""
    found = examples(chain, x)
    if not chain.looked_at:
        check_chain(chain, found, condition)
    return found


def examples(chain: Chain, x: Given, *, what: str = "x") -> Tensor:
    """The examples x as ``checked``, in the type of the chain's weights where they are real numbers.

    Arrays of NumPy go to the chain's device; tensors stay where they are.
    """
    types = {part.dtype for part in (*chain.parameters(), *chain.buffers()) if part.is_floating_point()}
    found = checked(chain.spec, x, what=what, dtype=types.pop() if len(types) == 1 else None)
    return found.to(_device(chain)) if isinstance(x, np.ndarray) else found


@torch.no_grad()
def check_chain(chain: Chain, x: Tensor, condition: Any = None) -> None:
    """Look at the distributions of a chain for a few checked examples, before anything is computed of many.

    ``x`` are all examples that are at hand; of the condition, the first rows suffice. Each distribution must have
    the batch (n,), and p(x|z_1) the shape of an example and the examples in its support. ``ValueError`` names
    the distribution that does not. Afterwards ``Chain.discrete`` has its answer. The random state and all modules
    are left as they were.
    """
    device = _device(chain, x)
    index = torch.arange(_PROBED) % len(x)
    few = x[index.to(x.device)].to(device)
    if condition is not None:
        condition = map_features(condition, lambda part: part[index.to(part.device)].to(device))
    last = None
    with _at_rest(chain, device):
        for name, distribution in _distributions(chain, few, condition):
            _check_batch_shape(name, distribution)
            last = distribution if name == LAST else None
    assert last is not None
    if tuple(last.event_shape) != chain.spec.shape:
        raise ValueError(
            f"{LAST} is {_named(last)} over examples of the shape {tuple(last.event_shape)}, and the data are "
            f"{chain.spec.words}, so {chain.spec.shape}. Give it parameters of that shape."
        )
    support = _entrywise(last)
    mass = None if support is None else bool(support.is_discrete)
    chain.is_mass = bool(mass) and chain.spec.levels is not None
    if chain.discrete and mass is False:
        raise ValueError(
            f"the chain says that it is discrete, and {LAST} is {_named(last)}, a density: it has no bits per "
            "dimension. Use a distribution over the grey levels, or leave out what says so."
        )
    if support is not None:
        _check_support(chain.spec, x, last, support)
    chain.looked_at = True


LAST = "p(x|z_1)"


def is_mass(chain: Chain) -> bool:
    """Whether p(x|z_1) is a distribution over integers, found from one example of zeros."""
    device = _device(chain)
    kind = torch.uint8 if chain.spec.levels is not None else torch.get_default_dtype()
    zeros = torch.zeros((_PROBED, *chain.spec.shape), dtype=kind, device=device)
    labels = torch.zeros(_PROBED, dtype=torch.long, device=device) if chain.conditional else None
    with torch.no_grad(), _at_rest(chain, device):
        *_, (_, last) = _distributions(chain, zeros, chain.condition(Batch(zeros, labels)))
    support = _entrywise(last)
    return support is not None and bool(support.is_discrete) and chain.spec.levels is not None


def _device(chain: nn.Module, x: Tensor | None = None) -> torch.device:
    """Of the chain's weights; without any, of x."""
    parts = [*chain.parameters(), *chain.buffers()]
    if parts:
        return parts[0].device
    return torch.device("cpu") if x is None else x.device


@contextlib.contextmanager
def _at_rest(chain: nn.Module, device: torch.device) -> Iterator[None]:
    """Without dropout, and without a trace in modules and in the random state."""
    modes = [(module, module.training) for module in chain.modules()]
    with own_randomness(device):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _distributions(chain: Any, x: Tensor, condition: Any) -> Iterator[tuple[str, Distribution]]:
    """The distributions of a chain by name, for a few examples; p(x|z_1) is the last."""
    # Raises for features that several paths of an example cannot be drawn from.
    h = map_features(walk.features_of(chain, x, condition), lambda part: part)
    if not chain.single_levels:
        for link in walk.infer(chain, x, h, walk.sample, condition=condition):
            if link.q is not None:
                yield f"q(z_{link.t}|…)", link.q
            yield f"p(z_{link.t}|…)" if link.t else LAST, link.p
        return
    yield f"q(z_{chain.T}|x)", chain.q_top(h)
    yield f"p(z_{chain.T})", walk.top(chain, len(x), condition)
    for t in (2, 1) if chain.T > 1 else (1,):
        level = torch.full((len(x),), t, dtype=torch.long, device=x.device)
        q = chain.q_marginal(h, level)
        yield f"q(z_{t}|x)", q
        z = q.sample()
        state = z if condition is None else walk.State(z, condition)
        if t > 1:
            yield f"q(z_{t - 1}|z_{t}, x)", chain.q_step(state, h, level)
        yield f"p(z_{t - 1}|z_{t})" if t > 1 else LAST, chain.p_step(state, t)


def _check_batch_shape(name: str, distribution: Distribution) -> None:
    """Raise ``ValueError`` unless there is one log-probability for each example."""
    shape = tuple(distribution.batch_shape)
    if shape == (_PROBED,):
        return
    shown = ", ".join(["n" if size == _PROBED and not i else str(size) for i, size in enumerate(shape)])
    remedy = "Give it parameters with the examples first."
    if shape[:1] == (_PROBED,):
        inner = f"{_named(distribution)}(…), {len(shape) - 1}"
        remedy = f"Wrap it, so that log_prob sums over each example: Independent({inner})."
    raise ValueError(
        f"{name} is {_named(distribution)} with the batch_shape ({shown}); it must be (n,). {remedy}"
    )


def _named(distribution: Distribution) -> str:
    """The name of its class, under what an ``Independent`` wraps."""
    while isinstance(distribution, torch.distributions.Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__


def _entrywise(distribution: Distribution) -> Any:
    """The constraint on the entries of its values; None where it states none."""
    try:
        support: Any = distribution.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        _ = support.is_discrete
    except NotImplementedError:
        return None
    return support


def _check_support(spec: DataSpec, x: Tensor, last: Distribution, support: Any) -> None:
    """Raise ``ValueError`` where p(x|z_1) has no probability for values that the data have.

    Of integers the ends of the range decide, whatever the examples are; of real numbers the examples.
    """
    if spec.levels is not None and support.event_dim == 0:
        # One number at a time, as bounds may differ between entries.
        ends = torch.tensor([0.0, spec.top], device=_bound_device(support, x))
        if not all(bool(support.check(end).all()) for end in ends):
            raise ValueError(
                f"{LAST} is {_named(last)}, which allows {_words(support)}, and the data have {spec.levels} grey "
                f"levels: whole numbers from 0 to {spec.top}. Use a likelihood over {spec.levels} grey levels, "
                f"such as DiscretizedLogistic(…, levels={spec.levels}), or binarise the data: "
                'load_data(…, binarize="threshold").'
            )
        return
    if isinstance(support, type(constraints.real)) or _differs(support):
        return
    device = _bound_device(support, x)
    pieces = x.split(max(1, _AT_ONCE // spec.dims))
    outside = sum(int((~support.check(part.to(device))).sum()) for part in pieces)
    if outside:
        of = "values" if support.event_dim == 0 else "examples"
        raise ValueError(
            f"{LAST} is {_named(last)}, which allows {_words(support)}, and {outside} {of} of the data are not. "
            "Use a distribution over all values of the data."
        )


def _bounds(support: Any) -> list[Tensor]:
    return [part for part in vars(support).values() if isinstance(part, Tensor)]


def _differs(support: Any) -> bool:
    """Whether a support has bounds for each entry, which may depend on the latents."""
    return any(part.numel() > 1 for part in _bounds(support))


def _bound_device(support: Any, x: Tensor) -> torch.device:
    return next((part.device for part in _bounds(support)), x.device)


def _words(support: Any) -> str:
    """A support for a person."""
    if isinstance(support, type(constraints.boolean)):
        return "0 and 1"
    if isinstance(support, constraints.integer_interval):
        low, high = torch.as_tensor(support.lower_bound), torch.as_tensor(support.upper_bound)
        return f"whole numbers from {int(low.max())} to {int(high.min())}"
    found = str(support)
    return "values with " + found.removesuffix("()") if found else "other values"
