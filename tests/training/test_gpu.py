"""A GPU gives the numbers of the CPU; everything here is skipped where there is none."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from ancestral.experiments.runs import fit
from ancestral.models.diffusion import GaussianDiffusion
from ancestral.sampling import Ancestral, draw
from ancestral.training import TrainingState, train
from ancestral.training.objective import objective_of
from tiny import MODELS, TRAINING, built, images

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
CUDA = torch.device("cuda")
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@pytest.fixture(autouse=True)
def _compiling_afresh():
    """Torch compiles one function for at most eight sets of arguments in a process; each case is one."""
    torch.compiler.reset()
    counters.clear()


@pytest.fixture
def noise_of_the_cpu(monkeypatch):
    """Random numbers drawn on the CPU wherever they are wanted, so that both devices see the same."""
    for name in ("randn", "rand", "randint", "randn_like", "rand_like"):
        plain = getattr(torch, name)

        def drawn(*args, plain=plain, **options):
            device = options.pop("device", None)
            if args and isinstance(args[0], torch.Tensor):
                device, args = args[0].device, (args[0].cpu(), *args[1:])
            return plain(*args, **options).to(device or "cpu")

        monkeypatch.setattr(torch, name, drawn)


@pytest.fixture
def exact_convolutions(monkeypatch):
    """In fp32, which torch by itself rounds to tf32 on a GPU: by what kernel, would show in the losses."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
def test_a_skipped_step_moves_nothing(optimizer):
    data = images()
    training = replace(TRAINING, optimizer=optimizer, skip=1e-9)
    one = TrainingState(built(MODELS["ladder"], data).to(CUDA), training)
    before = one.tensors()
    list(train(one, data, note=lambda text: None))
    after = one.tensors()
    assert float(after.pop("training/skipped")) == TRAINING.steps
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


@each_model
def test_losses_gradients_and_elbos_agree(model, noise_of_the_cpu):
    data = images()
    torch.manual_seed(0)
    chains = {"cpu": built(model, data).double()}
    chains["cuda"] = copy.deepcopy(chains["cpu"]).to(CUDA)
    losses, gradients, elbos = {}, {}, {}
    for place, chain in chains.items():
        x = data.train.x[:16].to(place)
        torch.manual_seed(1)
        loss = objective_of(chain).to(place)(chain, x).value
        losses[place] = float(loss)
        trained = dict(chain.named_parameters())
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        gradients[place] = [torch.zeros(()) if g is None else g.cpu() for g in found]
        torch.manual_seed(2)
        elbos[place] = chain.elbo(x).total.detach().cpu()
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-9)
    for ours, theirs in zip(gradients["cuda"], gradients["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(elbos["cuda"], elbos["cpu"], rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("model", "recompute"),
    [
        *((model, False) for model in MODELS.values()),
        (MODELS["ddpm"], True),
        (replace(MODELS["ddpm"], dropout=0.2), False),
        (replace(MODELS["ddpm"], dropout=0.2), True),
    ],
    ids=[*MODELS, "ddpm, recomputed", "ddpm, dropout", "ddpm, dropout, recomputed"],
)
def test_replayed_steps_are_the_plain_ones(model, recompute, exact_convolutions):
    """As CUDA graphs, in fp32: the same draws and, up to the order of sums, the same losses."""
    data = images().to(CUDA)
    losses = {}
    notes: list[str] = []
    for compile_ in ("on", "off"):
        torch.manual_seed(0)
        chain = built(model, data).to(CUDA)
        training = replace(TRAINING, steps=20, compile=compile_, precision="fp32", recompute=recompute)
        state = TrainingState(chain, training)
        losses[compile_] = [float(record.loss) for record in train(state, data, note=notes.append)]
        assert state.compiled is (compile_ == "on")
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-3)
    assert not notes
    assert not counters["inductor"]["cudagraph_skips"], "compiled, and not replayed as a CUDA graph"


@pytest.mark.parametrize("n", [8, 7], ids=["whole batches", "a smaller last batch"])
def test_a_replayed_network_draws_what_the_plain_one_does(n, caplog, exact_convolutions):
    chain = built(MODELS["ddpm"], images()).to(CUDA).eval()
    assert isinstance(chain, GaussianDiffusion)
    with torch.no_grad():
        for p in chain.parameters():
            # The last layer's are zeros at first, and so would be all that the network says.
            p.add_(0.05 * torch.randn_like(p))
    drawn = {}
    for compile_ in ("on", "off"):
        torch.manual_seed(1)
        drawn[compile_] = draw(
            chain, n, sampler=Ancestral(6), final="mean", batch_size=4, precision="fp32",
            compile=compile_,
        )  # fmt: skip
    torch.testing.assert_close(drawn["on"], drawn["off"], rtol=1e-3, atol=1e-3)
    assert not caplog.records
    assert not counters["inductor"]["cudagraph_skips"], "compiled, and not replayed as a CUDA graph"


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap"])
@pytest.mark.parametrize("compile_", ["off", "on"])
@each_model
def test_a_run_learns(model, compile_, optimizer):
    data, options = images(), {"compile": compile_, "optimizer": optimizer}
    training = replace(TRAINING, steps=60, learning_rate=3e-3, warmup=5, **options)
    torch.manual_seed(0)
    fitted = fit(built(model, data), data, training, device="cuda")
    losses = [record["loss"] for record in fitted.records if record["kind"] == "train"]
    assert sum(losses[-10:]) < sum(losses[:10])
