"""What the networks for faces are made of: residual branches, squeeze-excitation."""

import numpy as np
import pytest
import torch
from backbone_helpers import DEPTHS, NARROW, faces, randomised
from torch import Tensor, nn

from facever.backbones import BACKBONES
from facever.backbones.blocks import DropPath, SqueezeExcitation
from facever.encoder import build_encoder

torch.set_num_threads(1)


def units(network: nn.Module) -> list[nn.Module]:
    """Find the units that have a shortcut."""
    return [m for m in network.modules() if hasattr(m, "drop_path") and getattr(m, "residual", 1)]


@pytest.mark.parametrize("kind", NARROW)
def test_every_unit_begins_as_its_shortcut_where_that_leaves_no_linear_network(kind: str) -> None:
    """After the sums of `iresnet` nothing is not linear; a network of shortcuts learns slowly."""
    torch.manual_seed(0)
    network = NARROW[kind]()
    found = units(network)
    assert len(found) == (12 if kind == "mobilefacenet" else sum(DEPTHS))
    for unit in found:
        channels = next(p for p in unit.parameters() if p.ndim == 4).shape[1]
        if kind == "convnext":
            channels = unit.gamma.numel()  # type: ignore[operator, union-attr]
        x = torch.rand(4, channels, 6, 6)
        along = getattr(unit, "downsample", nn.Identity())(x)
        expected = along.relu() if kind in ("resnet", "bottleneck", "seresnet") else along
        if kind == "iresnet":
            assert (unit(x) - expected).abs().mean() > 0.1
        else:
            torch.testing.assert_close(unit(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", NARROW)
def test_branches_are_dropped_by_torchs_generator_and_in_training_alone(kind: str) -> None:
    torch.manual_seed(0)
    network = randomised(NARROW[kind](drop_path_rate=0.5))

    def forward(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            features: Tensor = network(faces(4))
        return features

    assert torch.equal(forward(0), forward(1))
    network.train()
    assert torch.equal(forward(0), forward(0))
    assert not torch.allclose(forward(0), forward(1), rtol=1e-3)
    rates = [m.rate for m in network.modules() if isinstance(m, DropPath)]
    assert rates[-1] == 0.5
    np.testing.assert_allclose(np.diff(rates), 0.5 / len(rates))


def test_a_branch_is_dropped_per_image_and_keeps_its_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25)(torch.ones(4000, 2, 3, 3))
    per_image = dropped.flatten(1)
    assert torch.equal(per_image.amin(dim=1), per_image.amax(dim=1))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    # Four standard errors of 0.009.
    assert dropped.mean().item() == pytest.approx(1, abs=0.037)


@pytest.mark.parametrize("kind", ["seresnet", "iresnet", "mobilefacenet", "convnext"])
def test_recomputing_activations_changes_neither_gradients_nor_statistics(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches dropped in the forward pass are those dropped when it is done again."""
    monkeypatch.setitem(BACKBONES, "narrow", lambda *, drop_path_rate: NARROW[kind](
        drop_path_rate=drop_path_rate))  # fmt: skip
    encoders = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = build_encoder(
            backbone="narrow", embedding_dim=8, neck="gap-linear", image_size=32,
            drop_path_rate=0.5, checkpointing=checkpointing,
        )  # fmt: skip
        for unit in units(encoder):
            norms = [p for p in unit.parameters() if p.ndim == 1 and p.detach().abs().max() < 1e-5]
            for norm in norms:
                nn.init.constant_(norm, 0.3)
        torch.manual_seed(1)
        encoder(faces(4)).square().mean().backward()
        encoders.append(encoder)
    plain, saving = encoders
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for (name, b), c in zip(plain.named_buffers(), saving.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(b, c, msg=name)


def test_squeeze_excitation_scales_channels_by_the_formula() -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(32, reduction=4)
    x = torch.randn(2, 32, 1, 1) + torch.rand(2, 32, 3, 3)
    w1, b1, w2, b2 = (p.detach().numpy().squeeze() for p in layer.parameters())
    for image, found in zip(x.numpy(), layer(x).detach().numpy(), strict=True):
        hidden = w1 @ image.mean(axis=(1, 2)) + b1
        assert hidden.min() < -0.1 < 0.1 < hidden.max()
        gate = 1 / (1 + np.exp(-(w2 @ np.maximum(hidden, 0) + b2)))
        np.testing.assert_allclose(found, image * gate[:, None, None], rtol=1e-4, atol=1e-6)
