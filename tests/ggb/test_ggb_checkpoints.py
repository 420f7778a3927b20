"""pix2pix's U-Net and ours: with the same weights the same images, to the bit, in both directions."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.weights import read_state
from ggb.checkpoints import from_pix2pix, is_pix2pix, to_pix2pix
from tests.worlds.pose_networks import generator
from tests.worlds.tiny_pairs import make


class Nested(nn.Module):
    """A block of pix2pix's U-Net round the next one, with its numbering of layers: down, inner block, up."""

    def __init__(self, outer: int, inner: int, block: "Nested | None", norm: str, inputs: int = 0) -> None:
        super().__init__()
        bias, last = norm != "batch", bool(inputs)
        normed = nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d
        down: list[nn.Module] = [] if last else [nn.LeakyReLU(0.2, True)]
        down += [nn.Conv2d(inputs or outer, inner, 4, 2, 1, bias=bias)]
        down += [normed(inner)] if block is not None and not last else []
        up = [nn.ReLU(True), nn.ConvTranspose2d(inner * (1 + (block is not None)), outer, 4, 2, 1, bias=bias or last)]
        up += [nn.Tanh() if last else normed(outer)]
        self.last, self.model = last, nn.Sequential(*down, *([] if block is None else [block]), *up)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.last else torch.cat([x, self.model(x)], 1)


class Pix2Pix(nn.Module):
    def __init__(self, depth: int = 7, width: int = 2, norm: str = "batch") -> None:
        super().__init__()
        widths = [3, *(width * min(2**k, 8) for k in range(depth))]
        block = None
        for k in range(depth, 0, -1):
            block = Nested(widths[k - 1], widths[k], block, norm, inputs=21 if k == 1 else 0)
        self.model = block

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def theirs(**options: object) -> Pix2Pix:
    torch.manual_seed(0)
    net = Pix2Pix(**options)  # type: ignore[arg-type]
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.weight, norm.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (norm.bias, norm.running_mean):
                nn.init.normal_(value)
    return net.eval()


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("parallel", ["", "module."])
def test_the_same_weights_draw_the_same_images(norm: str, parallel: str, tmp_path: Path) -> None:
    net = theirs(norm=norm)
    torch.save({parallel + name: value for name, value in net.state_dict().items()}, tmp_path / "latest_net_G.pth")
    ours = generator(ngf=2, levels=(), norm=norm).eval()
    ours.load_state_dict(from_pix2pix(read_state(tmp_path / "latest_net_G.pth")))
    x, c = torch.randn(1, 3, 256, 256), torch.randn(1, 18, 256, 256)
    with torch.no_grad():
        (image,) = ours(x, c)
        assert torch.equal(image, net(torch.cat([x, c], 1)))
    assert image.std() > 0.01


def test_there_and_back() -> None:
    state = theirs().state_dict()
    again = to_pix2pix(from_pix2pix(state))
    assert list(again) != []
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    with torch.device("meta"):
        whole = generator()
    heads = to_pix2pix(whole.state_dict())
    assert heads.keys() == state.keys()
    assert sum(value.numel() for value in heads.values()) == 41_855_246


@pytest.mark.parametrize("depth", [8, 6])
def test_another_depth_is_refused(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save(theirs(depth=depth).state_dict(), path)
    with pytest.raises(
        UserError, match=rf"latest_net_G\.pth holds a U-Net of {depth} levels, and GGB's has 7: .*unet_128"
    ):
        from_pix2pix(read_state(path), path)


def test_a_model_is_restored_from_such_a_file(tmp_path: Path) -> None:
    net = theirs()
    torch.save(net.state_dict(), tmp_path / "latest_net_G.pth")
    assert is_pix2pix(net.state_dict())
    assert not is_pix2pix(generator(image_size=64, ngf=4).state_dict())
    model = make(image_size=256, ngf=2, ndf=2, levels=[])
    model.restore(tmp_path / "latest_net_G.pth")
    x, joints = torch.randn(1, 3, 256, 256), torch.full((1, 18, 2), 100)
    with torch.no_grad():
        assert torch.equal(model.x_hat(x, joints), net(torch.cat([x, model.pose(joints)], 1)))
    with_heads = make(image_size=256, ngf=2, ndf=2)
    with_heads.restore(tmp_path / "latest_net_G.pth")
    assert torch.equal(with_heads.x_hat(x, joints), model.x_hat(x, joints))
    assert with_heads.coarse_names() == []  # pix2pix has no heads, and those that nobody trained draw nothing
    with pytest.raises(UserError, match="of another shape enc"):
        make(image_size=256, ngf=4, ndf=2, levels=[]).restore(tmp_path / "latest_net_G.pth")
