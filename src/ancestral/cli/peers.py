"""Words of other tools, and what they are called here."""

from __future__ import annotations

from collections.abc import Collection

OPTIONS: dict[str, tuple[str, ...]] = {
    "learning-rate": ("lr", "rate", "step-size", "base-lr", "max-lr"),
    "steps": (
        *(
            "epochs",
            "epoch",
            "num-epochs",
            "n-epochs",
            "max-epochs",
            "iterations",
            "iters",
            "iter",
            "max-iters",
        ),
        *("max-steps", "num-steps", "n-steps", "num-iterations", "train-steps", "num-train-steps"),
        *("num-inference-steps", "inference-steps", "sampling-steps"),
    ),
    "batch-size": ("batch", "bs", "b", "batchsize", "train-batch-size", "eval-batch-size", "mini-batch"),
    "device": ("gpu", "gpus", "cuda", "cpu", "no-cuda", "accelerator", "mps"),
    "out": (
        *("o", "output", "output-dir", "outdir", "out-dir", "save", "save-dir", "save-path", "savedir"),
        *("logdir", "log-dir", "dest", "result-dir", "results", "run-dir", "workdir", "output-path", "csv"),
    ),
    "data": ("dataset", "datasets", "data-dir", "data-path", "dataroot", "root", "input", "train-data", "d"),
    "n": ("n-samples", "num-samples", "samples", "num", "count", "nsamples", "num-images", "number", "limit"),
    "seed": ("random-seed", "manual-seed", "random-state", "rng"),
    "threads": ("workers", "num-workers", "num-threads", "nproc", "jobs", "j", "cores", "cpus", "n-jobs"),
    "weight-decay": ("wd", "decay", "l2"),
    "warmup": ("warmup-steps", "lr-warmup", "lr-warmup-steps"),
    "clip": ("grad-clip", "clip-grad", "gradient-clip", "max-grad-norm", "gradient-clip-val"),
    "ema": ("ema-decay", "ema-rate"),
    "precision": ("dtype", "amp", "fp16", "bf16", "half", "mixed-precision"),
    "optimizer": ("optim", "opt", "adam", "adamw", "sgd"),
    "checkpoint-every": ("save-every", "save-interval", "save-steps", "checkpoint-interval", "ckpt-every"),
    "log-every": ("log-interval", "logging-steps", "print-every", "log-steps"),
    "evaluate-every": ("eval-every", "eval-interval", "eval-steps", "validate-every", "val-every"),
    "sample-every": ("sample-interval", "sample-steps"),
    "resume": ("continue", "restart", "resume-from", "restore", "load", "checkpoint-path"),
    "validation": ("val-split", "validation-split", "val-frac", "val-fraction", "val-size"),
    "image-size": ("resolution", "img-size", "size", "imsize", "resize"),
    "augment": ("augmentation", "random-flip", "flip", "hflip"),
    "binarize": ("binary", "binarise", "binarization"),
    "label": ("target", "target-column", "y", "class-column", "labels", "class-label"),
    "model.latent-dims": ("latent-dim", "latent-size", "z-dim", "zdim", "latents", "nz", "latent"),
    "model.beta": ("beta", "kl-weight", "kld-weight"),
    "model.T": ("timesteps", "diffusion-steps", "num-timesteps", "num-train-timesteps", "t"),
    "model.levels": ("layers", "num-layers", "n-layers", "depth", "latent-levels"),
    "model.hidden": ("hidden-dim", "hidden-size", "hidden-dims", "h-dim"),
    "model.dropout": ("dropout", "drop"),
    "model.schedule": ("noise-schedule", "beta-schedule", "schedule"),
    "json": ("format", "output-format"),
    "final": ("mean", "draw", "mode"),
    "sampler": ("scheduler", "solver", "method"),
    "split": ("part", "subset", "test", "train"),
    "importance-samples": ("iwae", "iwae-samples", "k"),
    "samples": ("num-importance-samples", "mc-samples"),
}
"""Options, without dashes, and what other tools call them."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("fit", "run", "learn", "resume"),
    "sample": ("generate", "samples", "draw"),
    "evaluate": ("eval", "test", "elbo", "validate", "loss"),
    "score": ("likelihood", "logp", "log-prob", "anomaly"),
    "reconstruct": ("reconstruction", "encode", "decode"),
    "compare": ("benchmark", "comparison"),
    "report": ("show", "plot", "html"),
    "data": ("dataset", "inspect", "datasets"),
    "info": ("status", "describe", "ls", "list"),
}
"""The same of commands."""
MODELS: dict[str, tuple[str, ...]] = {
    "vae": ("autoencoder", "beta-vae", "betavae", "iwae"),
    "hvae": ("ladder", "lvae", "nvae", "vdvae", "hierarchical", "hierarchical-vae", "ladder-vae"),
    "ddpm": ("diffusion", "ddim", "vdm", "score", "edm"),
}
"""The same of models."""


def meant(word: str, table: dict[str, tuple[str, ...]], offered: Collection[str]) -> str | None:
    """What ``word`` of another tool is called here, if that is among the ``offered`` names and another word."""
    if word in offered:
        return None
    plain = word.lstrip("-").split("=")[0].lower().replace("_", "-")
    if plain in table and plain in offered:
        return plain
    return next((name for name, words in table.items() if plain in words and name in offered), None)


def remark(word: str, name: str) -> str:
    """A sentence on an option whose values differ from those of other tools, after a space; or nothing."""
    if name == "steps" and "epoch" in word:
        return " A step is one batch: an epoch takes (training examples) / (batch size) steps."
    return " It takes auto, cpu or cuda." if name == "device" else ""
