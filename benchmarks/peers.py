"""The peers' side: diffusers and denoising-diffusion-pytorch, as their users run them and at their best.

diffusers' loop is that of its example ``train_unconditional.py``: noise, ``add_noise``, squared error,
clipping at 1.0, AdamW with the example's options, ``EMAModel``, the loss read at every step.
denoising-diffusion-pytorch's is that of its ``Trainer``: its own ``GaussianDiffusion``, Adam, clipping at
1.0, its EMA, the loss read at every step. At their best neither reads the loss, so that a GPU need not
wait, and optimisers are fused. Batches come from float images in memory, which is kinder to both than a
DataLoader.

denoising-diffusion-pytorch imports torchvision for its data sets and picture grids only; where
torchvision is not there, an empty module stands in for it.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from itertools import product
from typing import Any

import torch
from ours import random_images
from paired import Contender
from torch import Tensor, nn
from torch.nn import functional as F
from worker import imported

from ancestral.experiments.bench import count_work

BEST = ("layout", "bf16", "compiled")
"""What a peer at its best may have on: channels-last memory, bf16 autocast, torch.compile."""


def variants(*, compiled: bool = True) -> Iterator[tuple[str, dict[str, bool]]]:
    """Every combination of ``BEST``, with a name each; without torch.compile where that is not wanted."""
    for layout, bf16, compile_ in product((False, True), repeat=3):
        if compiled or not compile_:
            on = dict(zip(BEST, (layout, bf16, compile_), strict=True))
            names = [name for name, is_on in on.items() if is_on]
            yield "at its best" + (f" ({', '.join(names)})" if names else " (fused optimiser only)"), on


def diffusers_unet(*, shape: list[int], channels: list[int], blocks: int, attention: list[int]) -> nn.Module:
    """``UNet2DModel``; ``attention`` names the sides that have it."""
    from diffusers import UNet2DModel

    has = [shape[1] >> level in attention for level in range(len(channels))]
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=blocks,
        block_out_channels=tuple(channels),
        down_block_types=tuple("AttnDownBlock2D" if at else "DownBlock2D" for at in has),
        up_block_types=tuple("AttnUpBlock2D" if at else "UpBlock2D" for at in has[::-1]),
    )


def scaled(x: Tensor, device: torch.device) -> Tensor:
    """Grey levels to [−1, 1]."""
    return (x.float() / 127.5 - 1.0).to(device)


def lower(on: bool, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bf16, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if on else nullcontext()


def diffusers_loss(model: Any, scheduler: Any, clean: Tensor) -> Tensor:
    """The example's loss."""
    noise = torch.randn_like(clean)
    steps = scheduler.config.num_train_timesteps
    t = torch.randint(0, steps, (len(clean),), device=clean.device).long()
    noisy = scheduler.add_noise(clean, noise, t)
    return F.mse_loss(model(noisy, t).sample.float(), noise)


def diffusers_optimizer(net: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    """The example's AdamW."""
    return torch.optim.AdamW(
        net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8, fused=fused or None
    )


def diffusers_training(
    *,
    shape: list[int],
    batch: int,
    channels: list[int],
    blocks: int,
    attention: list[int],
    device: str = "cpu",
    best: dict[str, bool] | None = None,
) -> Contender:
    """Training steps as shipped, or with ``best`` (see ``variants``)."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    place = torch.device(device)
    imported(place)
    on = best or dict.fromkeys(BEST, False)
    torch.manual_seed(0)
    net = diffusers_unet(shape=shape, channels=channels, blocks=blocks, attention=attention).to(place)
    data = scaled(random_images(tuple(shape)), place)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    flops = count_work(lambda: diffusers_loss(net, scheduler, data[:2]).backward()).total / 2
    if on["layout"]:
        net = net.to(memory_format=torch.channels_last)
        data = data.contiguous(memory_format=torch.channels_last)
    optimizer = diffusers_optimizer(net, fused=best is not None)
    ema = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
        foreach=best is not None,
    )  # fmt: skip
    model = torch.compile(net) if on["compiled"] else net

    def step() -> None:
        clean = data[torch.randint(len(data), (batch,), device=place)]
        with lower(on["bf16"], place):
            loss = diffusers_loss(model, scheduler, clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        if best is None:
            loss.item()

    return _contender("diffusers", net, step, batch=batch, flops=flops, device=device)


def diffusers_sampling(
    *,
    shape: list[int],
    n: int,
    steps: int,
    channels: list[int],
    blocks: int,
    attention: list[int],
    device: str = "cpu",
    best: dict[str, bool] | None = None,
) -> Contender:
    """n samples by DDIM: its pipeline as shipped, or with ``best`` a loop in inference mode."""
    from diffusers import DDIMPipeline, DDIMScheduler

    place = torch.device(device)
    imported(place)
    on = best or dict.fromkeys(BEST, False)
    torch.manual_seed(0)
    net = diffusers_unet(shape=shape, channels=channels, blocks=blocks, attention=attention).to(place).eval()
    scheduler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    z, t = torch.randn(2, *shape, device=place), torch.zeros(2, dtype=torch.long, device=place)
    with torch.no_grad():
        flops = steps * count_work(lambda: net(z, t)).total / 2
    if best is None:
        pipeline = DDIMPipeline(net, scheduler)
        pipeline.set_progress_bar_config(disable=True)

        def step() -> None:
            pipeline(batch_size=n, num_inference_steps=steps, eta=0.0, output_type="np")
    else:
        if on["layout"]:
            net = net.to(memory_format=torch.channels_last)
        draw = ddim(
            torch.compile(net) if on["compiled"] else net, scheduler, steps=steps, shape=shape, place=place,
            on=on,
        )  # fmt: skip

        def step() -> None:
            draw(n)

    return _contender("diffusers", net, step, batch=n, flops=flops, device=device)


def ddim(
    model: Any, scheduler: Any, *, steps: int, shape: list[int], place: torch.device, on: dict[str, bool]
) -> Callable[[int], Tensor]:
    """A function of n that draws n samples in [−1, 1], on the CPU."""

    @torch.inference_mode()
    def draw(n: int) -> Tensor:
        scheduler.set_timesteps(steps)
        z = torch.randn(n, *shape, device=place)
        if on["layout"]:
            z = z.contiguous(memory_format=torch.channels_last)
        for t in scheduler.timesteps:
            with lower(on["bf16"], place):
                out = model(z, t).sample
            z = scheduler.step(out.float(), t, z, eta=0.0).prev_sample
        return z.clamp(-1.0, 1.0).cpu()

    return draw


def lucidrains_training(
    *,
    shape: list[int],
    batch: int,
    dim: int,
    multipliers: list[int],
    device: str = "cpu",
    best: dict[str, bool] | None = None,
) -> Contender:
    """denoising-diffusion-pytorch: training steps as its ``Trainer`` takes them, or with ``best``."""
    _stand_in_for_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    place = torch.device(device)
    imported(place)
    on = best or dict.fromkeys(BEST, False)
    torch.manual_seed(0)
    unet = Unet(dim=dim, dim_mults=tuple(multipliers), channels=shape[0])
    diffusion = GaussianDiffusion(
        unet, image_size=shape[1], timesteps=1000, objective="pred_noise", beta_schedule="linear"
    ).to(place)
    # It takes images in [0, 1] and scales them itself.
    data = (random_images(tuple(shape)).float() / 255.0).to(place)
    flops = count_work(lambda: diffusion(data[:2]).backward()).total / 2
    if on["layout"]:
        diffusion = diffusion.to(memory_format=torch.channels_last)
        data = data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True if best is not None else None
    )
    ema = EMA(diffusion, beta=0.995, update_every=10)
    if on["compiled"]:
        # In place, so that the average of the weights still sees the same module.
        unet.compile()

    def step() -> None:
        clean = data[torch.randint(len(data), (batch,), device=place)]
        with lower(on["bf16"], place):
            loss = diffusion(clean)
        if best is None:
            loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    return _contender("denoising-diffusion-pytorch", unet, step, batch=batch, flops=flops, device=device)


def _contender(
    package: str, net: nn.Module, step: Callable[[], object], *, batch: int, flops: float, device: str
) -> Contender:
    parameters = sum(p.numel() for p in net.parameters())
    return Contender(batch, step, version(package), parameters, flops, device)


def _stand_in_for_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
        sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
