"""Networks in bf16 and compiled while sampling: near the plain ones, and as they were afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ancestral._internal.randomness import RowNoise
from ancestral.config import DDPMConfig, TrainingConfig
from ancestral.experiments.runs import fit
from ancestral.models.diffusion import Diffusion
from ancestral.sampling import SAMPLERS, Ancestral, Ddim, DpmSolver, Heun, Sampler, computing, draw, engine
from few_steps import chain_of
from tiny import MODELS, built, images, vectors

# Torch's own modules warn while it compiles.
pytestmark = pytest.mark.filterwarnings("default")

IMAGES = DDPMConfig(T=12, channels=(8,), blocks=1)
VECTORS = DDPMConfig(T=12, width=16)


def trained(config: DDPMConfig, *, points: bool = False) -> Diffusion:
    """A diffusion that has seen some batches: its network is no longer the constant 0."""
    torch.manual_seed(0)
    data = vectors() if points else images()
    chain = built(config, data)
    assert isinstance(chain, Diffusion)
    fit(chain, data, TrainingConfig(steps=20, batch_size=16, learning_rate=3e-3, sample_every=0))
    return chain.eval()


@pytest.fixture(scope="module")
def chain() -> Diffusion:
    return trained(IMAGES)


def drawn(
    chain: Diffusion, *, n: int = 7, name: str = "ancestral", backend: str | None = None, **how
) -> Tensor:
    """Means in two batches, the second of them padded, from the same random numbers."""
    how = {"sampler": Sampler.named(name, 6), "final": "mean", "seed": 5, "batch_size": 4, **how}
    if backend is None:
        return draw(chain, n, **how)
    with computing(chain, precision="fp32", compile="on", backend=backend) as computed:
        return draw(computed.chain, n, **how, precision="fp32")


@pytest.mark.parametrize("name", SAMPLERS)
def test_bf16_changes_samples_a_little(name, chain):
    """By less than 0.03 grey levels of 17 on average; bf16 keeps 1 part in 256 of what the network says."""
    full, half = (drawn(chain, name=name, precision=precision) for precision in ("fp32", "bf16"))
    assert not torch.equal(full, half)
    assert half.dtype == full.dtype == torch.float32
    assert float((full - half).abs().mean()) < 0.03
    assert float(full.std()) > 1.0


def test_only_the_network_is_in_bf16():
    one, seen = chain_of(), []
    one.network.inner.register_forward_hook(lambda *args: seen.append((args[1][0].dtype, args[2].dtype)))
    with computing(one, precision="bf16") as computed:
        sampler = DpmSolver(5, stochastic=True)
        *states, last = [state for _, state in sampler.states(computed.chain, 3, RowNoise(0, 0, 3))]
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert computed.chain is one
    assert computed.dtype == torch.bfloat16
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert {state.dtype for state in states} == {torch.float32}
    assert {last.prediction.dtype, last.distribution.loc.dtype, last.distribution.scale.dtype} == {
        torch.float32
    }


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m-sde", "heun"])
def test_a_compiled_network_draws_the_same(name, chain):
    """With aot_eager, which traces as a compiler does and then computes as without one."""
    plain = drawn(chain, name=name, precision="fp32")
    found = drawn(chain, name=name, backend="aot_eager")
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-3)


def test_the_chain_is_left_as_it_was():
    """The compiled network is of another chain, which shares all else."""
    one = trained(VECTORS, points=True).train()
    network, names, facts = one.network, list(one.state_dict()), dict(vars(one.network))
    plain = draw(one, 5, sampler=Ddim(3), seed=1, precision="fp32")
    with computing(one, precision="fp32", compile="on", backend="eager") as computed:
        assert one.network is network
        assert not network.training
        assert computed.chain is not one
        assert computed.chain.network is not network
        assert type(computed.chain) is type(one)
        assert computed.chain.prior is one.prior
        assert torch.equal(draw(computed.chain, 5, sampler=Ddim(3), seed=1, precision="fp32"), plain)
    assert one.network is network
    assert list(one.state_dict()) == names
    assert one.training
    assert all(module.training for module in one.modules())
    assert {name: fact for name, fact in vars(network).items() if name != "_is_torch_compile"} == facts


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inductor_draws_the_same(precision, capsys):
    one = trained(VECTORS, points=True)
    plain = drawn(one, name="dpm++2m-sde", precision=precision)
    found = drawn(one, name="dpm++2m-sde", precision=precision, compile="on")
    tolerance = 1e-4 if precision == "fp32" else 0.005
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance)
    assert capsys.readouterr().err == ""


def test_one_compilation_serves_every_batch(chain):
    """Whatever the layout of z and the size of the last batch, and in the next sampling as well."""
    sizes: list[int] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        sizes.append(max(len(x) for x in inputs if x.shape[1:] == (1, 8, 8)))
        return graph.forward

    torch._dynamo.reset()
    with computing(chain, precision="fp32", compile="on", backend=counted) as computed:
        for n in (5, 12, 2):
            draw(computed.chain, n, sampler=Ancestral(4), batch_size=5, precision="fp32")
        network = computed.chain.network
        z = torch.randn(5, 8, 8, 1).permute(0, 3, 1, 2)
        kept = network(z, torch.full((5,), 0.5))
        expected = kept.clone()
        network(z + 1.0, torch.tensor(0.25).expand(5))
        assert torch.equal(kept, expected)
    assert sizes == [5]
    torch.testing.assert_close(kept, chain.network(z, torch.full((5,), 0.5)), rtol=1e-4, atol=1e-4)


class Looks(nn.Module):
    """A network that looks at its input, which no graph can do; or one that is wrong."""

    def __init__(self, *, wrong: bool = False) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.wrong = wrong

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        if self.wrong or float(z.double().mean()) < -100.0:
            raise RuntimeError("never")
        out: Tensor = self.inner(z)
        return out


def test_where_compiling_fails_sampling_says_so_and_goes_on(caplog):
    one = chain_of()
    one.network = Looks()
    plain = drawn(one, precision="fp32")
    found = drawn(one, precision="fp32", compile="on")
    assert torch.equal(found, plain)
    (record,) = [one for one in caplog.records if one.name.startswith("ancestral")]
    assert (record.levelname, record.name) == ("WARNING", "ancestral.sampling.engine")
    assert record.message.startswith("the network is not compiled (")
    assert record.message.endswith("sampling continues without.")
    one.network.wrong = True
    with pytest.raises(RuntimeError, match="never"):
        drawn(one, compile="on")


def test_an_own_forward_is_compiled_and_kept():
    one = chain_of()
    one.network.forward = own = lambda z, time: z * time.reshape(-1, 1, 1, 1)
    plain = draw(one, 2, sampler=Ddim(3), seed=0, final="mean", precision="fp32")
    with computing(one, compile="on", backend="eager", precision="fp32") as computed:
        found = draw(computed.chain, 2, sampler=Ddim(3), seed=0, final="mean", precision="fp32")
        assert one.network.forward is own
    assert torch.equal(found, plain)


def test_auto_compiles_on_a_gpu_for_many_calls():
    few, many, one = engine.MANY_CALLS - 1, engine.MANY_CALLS, chain_of()

    def compiles(how: str, calls: int, device: str) -> bool:
        found = engine._compiled(one, how, calls, torch.device(device), "inductor")
        assert isinstance(found.network, engine.CompiledNetwork) == (found is not one)
        return found is not one

    for kind, calls, expected in (("cuda", many, True), ("cuda", few, False), ("cpu", many, False)):
        assert compiles("auto", calls, kind) is expected
        assert compiles("on", calls, kind)
        assert not compiles("off", calls, kind)
    vae = built(MODELS["vae-mlp"], images())
    assert engine._compiled(vae, "auto", many, torch.device("cuda"), "inductor") is vae


def test_the_calls_to_come_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(engine, "_compiled", lambda chain, how, calls, *_: told.append(calls) or chain)
    draw(chain_of(), 7, sampler=Heun(5), batch_size=3)
    draw(chain_of(), 3, batch_size=3)
    assert told == [3 * 9, 30]


def test_mistakes():
    one = chain_of()
    with pytest.raises(ValueError, match="precision is 'fp16'; it must be one of auto, fp32, bf16"):
        draw(one, 2, precision="fp16")
    with pytest.raises(ValueError, match="compile is 'yes'; it must be one of auto, on, off"):
        draw(one, 2, compile="yes")
    with pytest.raises(ValueError, match="compile is on for a VAE: only a diffusion model's network"):
        draw(built(MODELS["vae-mlp"], images()), 2, compile="on")
