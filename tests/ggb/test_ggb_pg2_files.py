"""PG2's public code and ours: with the same weights the same images. Theirs is written here from names and shapes."""

from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from ggb.checkpoints import convolutions
from ggb.pg2 import PG2
from tests.agree import agree
from tests.worlds.layouts import refusal
from tests.worlds.pose_networks import pg2_generator
from tests.worlds.tiny_pairs import make_pg2

S, WIDTH, CODE = 32, 2, 3  # three blocks in stage 1: 32, 16 and 8 px
BLOCKS, LEVELS = 3, 4


def ours(**options: Any) -> PG2:
    return make_pg2(**{"image_size": S, "width": WIDTH, "code_dim": CODE, "ndf": 2} | options)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.rand(2, 3, S, S) * 2 - 1, torch.rand(2, 18, S, S) * 2 - 1


@torch.no_grad()
def drawn(model: PG2, inputs: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(model.generator.eval()(*inputs))


# ---- TensorFlow: N,H,W,C, kernels H,W,I,O, SAME padding, layers numbered in the order of their calls


def rounded(value: np.ndarray) -> np.ndarray:
    """What a file of float32 keeps of it, as float64."""
    return value.astype(np.float32).astype(np.float64)


class Scope:
    """Makes the variables of a scope as they are called for, as slim does."""

    def __init__(self, name: str, variables: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        self.name, self.variables, self.rng = name, variables, rng
        self.numbers = {"Conv": count(), "fully_connected": count()}

    def layer(self, kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        number = next(self.numbers[kind])
        name = f"{self.name}/{kind}_{number}" if number else f"{self.name}/{kind}"
        weights = rounded(self.rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape))
        biases = rounded(self.rng.normal(0, 0.3, shape[-1]))
        for what, value in (("weights", weights), ("biases", biases)):
            self.variables[f"{name}/{what}"] = value.astype(np.float32)
            self.variables[f"{name}/{what}/Adam"] = np.zeros(1, np.float32)
        return weights, biases

    def conv(self, x: np.ndarray, width: int, side: int = 3, stride: int = 1, *, relu: bool = True) -> np.ndarray:
        kernel, biases = self.layer("Conv", (side, side, x.shape[-1], width))
        y = same(x, kernel, stride) + biases
        return np.maximum(y, 0) if relu else y

    def linear(self, x: np.ndarray, width: int) -> np.ndarray:
        weights, biases = self.layer("fully_connected", (x.shape[-1], width))
        return x @ weights + biases


def same(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A convolution whose side is ceil(side / stride); of an odd padding the larger half comes last."""
    k, n = kernel.shape[0], x.shape[1]
    whole = max((-(-n // stride) - 1) * stride + k - n, 0)
    pads = (whole // 2, whole - whole // 2)
    windows = sliding_window_view(np.pad(x, ((0, 0), pads, pads, (0, 0))), (k, k), (1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)


def twofold(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, 1).repeat(2, 2)


def tensorflow(x: np.ndarray, c: np.ndarray, variables: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """x, c: B,S,S,*. Both images; fills in the variables."""
    rng = np.random.default_rng(3)
    one, two = Scope("Pose_AE/G", variables, rng), Scope("UAEnoFC/G", variables, rng)
    h, skips = one.conv(np.concatenate([x, c], -1), WIDTH), []
    for i in range(BLOCKS):
        h = h + one.conv(one.conv(h, WIDTH * (i + 1)), WIDTH * (i + 1))
        skips.append(h)
        h = one.conv(h, WIDTH * (i + 2), 3, 2) if i < BLOCKS - 1 else h
    h = one.linear(one.linear(h.reshape(len(h), -1), CODE), 8 * 8 * WIDTH).reshape(-1, 8, 8, WIDTH)
    for i in range(BLOCKS):
        h = np.concatenate([h, skips[-1 - i]], -1)
        h = h + one.conv(one.conv(h, h.shape[-1]), h.shape[-1])
        h = one.conv(twofold(h), WIDTH * (BLOCKS - i - 1), 1) if i < BLOCKS - 1 else h
    coarse = one.conv(h, 3, relu=False)
    h, skips = two.conv(np.concatenate([coarse, x], -1), WIDTH), []
    for i in range(LEVELS):
        h = two.conv(two.conv(h, WIDTH * (i + 1)), WIDTH * (i + 1))
        skips.append(h)
        h = two.conv(h, WIDTH * (i + 1), 3, 2) if i < LEVELS - 1 else h
    for i in range(LEVELS):
        h = two.conv(two.conv(np.concatenate([h, skips[-1 - i]], -1), WIDTH), WIDTH)
        h = twofold(h) if i < LEVELS - 1 else h
    return coarse, coarse + two.conv(h, 3, relu=False)


def tensorflow_judge(x: np.ndarray, variables: dict[str, np.ndarray]) -> np.ndarray:
    """D's logits with its moving statistics; its linear layer reads C,H,W."""
    rng = np.random.default_rng(4)
    widths = (3, 2, 4, 8, 16, 16)
    for k in range(1, 6):
        name = f"Discriminator.{k}"
        kernel, biases = (rounded(rng.normal(0, 0.2, size)) for size in ((5, 5, *widths[k - 1 : k + 1]), widths[k]))
        variables |= {f"{name}.Filters": kernel.astype(np.float32), f"{name}.Biases": biases.astype(np.float32)}
        x = same(x, kernel, 2) + biases
        if k > 1:
            offset, scale, mean, variance = rounded(rng.uniform(0.5, 1.5, (4, widths[k])))
            x = (x - mean) / np.sqrt(variance + 1e-5) * scale + offset
            for what, value in zip(
                ("offset", "scale", "moving_mean", "moving_variance"), (offset, scale, mean, variance), strict=True
            ):
                variables[f"Discriminator.BN{k}.{what}"] = value.astype(np.float32)
        x = np.maximum(0.2 * x, x)
    weights, bias = rounded(rng.normal(0, 1, (x[0].size, 1))), rounded(rng.normal(0, 1, 1))
    variables |= {"Discriminator.Output.W": weights.astype(np.float32), "Discriminator.Output.b": bias.astype("f4")}
    return (x.transpose(0, 3, 1, 2).reshape(len(x), -1) @ weights + bias)[:, 0]


def last(image: Tensor) -> np.ndarray:
    return image.permute(0, 2, 3, 1).double().numpy()


@pytest.fixture
def dump(tmp_path: Path, inputs: tuple[Tensor, Tensor]) -> tuple[Path, dict[str, np.ndarray], list[Tensor]]:
    """The file, its variables, and both images of the code that it is of."""
    variables: dict[str, np.ndarray] = {"step": np.int64(80_000), "beta1_power": np.float32(0.5)}  # type: ignore[dict-item]
    images = tensorflow(*(last(value) for value in inputs), variables)
    tensorflow_judge(last(inputs[0]), variables)
    np.savez(tmp_path / "pg2.npz", **variables)
    return tmp_path / "pg2.npz", variables, [torch.from_numpy(image).permute(0, 3, 1, 2) for image in images]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("ema", [None, 0.5])
def test_tensorflow_draws_the_same(dump: Any, inputs: Any, ema: float | None) -> None:
    path, variables, images = dump
    names = [name for name in variables if name.startswith("Pose_AE") and name.endswith("weights")]
    assert len(names) == 20  # 8 up, 8 down, first and last convolution, two linear layers; 38 at 256 px
    model = ours(tf_padding=True, decay=ema)
    model.restore(path)
    for mine, theirs in zip(drawn(model, inputs), images, strict=True):
        assert theirs.std() > 0.1
        agree(mine, theirs)
    if model.ema_generator is not None:
        states = (model.generator.state_dict(), model.ema_generator.module.state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    told = model.discriminator.eval()(inputs[0])
    wanted = tensorflow_judge(last(inputs[0]), {})
    agree(told.detach(), torch.from_numpy(wanted))


def test_the_convolutions_at_full_size() -> None:
    """Pose_AE/G/Conv to Conv_35, and UAEnoFC/G/Conv to Conv_20."""
    with torch.device("meta"):
        net = pg2_generator()
    found = [convolutions(net.stage1), convolutions(net.stage2)]
    assert [len(names) for names in found] == [36, 21]
    assert [found[0][k] for k in (0, 3, 17, 18, 20, 34, 35)] == [
        *("start", "down.0", "enc.5.2", "dec.0.0", "up.0", "dec.5.2", "out")
    ]
    for stage, names in zip((net.stage1, net.stage2), found, strict=True):
        assert sorted(names) == sorted(name for name, part in stage.named_modules() if isinstance(part, nn.Conv2d))


@pytest.mark.usefixtures("float64")
def test_a_dump_of_a_generator_alone(dump: Any, inputs: Any) -> None:
    """Names may end as TensorFlow's variables do; D stays as it was."""
    path, variables, images = dump
    np.savez(path, **{f"{name}:0": value for name, value in variables.items() if "Discriminator" not in name})
    model = ours(tf_padding=True)
    before = [p.clone() for p in model.discriminator.parameters()]
    model.restore(path)
    agree(drawn(model, inputs)[1], images[1])
    assert all(torch.equal(a, b) for a, b in zip(before, model.discriminator.parameters(), strict=True))


def test_other_dumps_are_refused(dump: Any, tmp_path: Path) -> None:
    path, variables, _ = dump
    assert "TensorFlow's padding: add model.tf_padding=true to" in refusal(lambda: ours().restore(path))
    assert "of another shape stage1.start.weight" in refusal(lambda: ours(tf_padding=True, width=4).restore(path))
    assert "unexpected stage1.Conv_12.weight" in refusal(lambda: ours(tf_padding=True, image_size=16).restore(path))
    assert "missing stage1.dec.2.0.weight" in refusal(lambda: ours(tf_padding=True, image_size=64).restore(path))

    def refused(**other: np.ndarray) -> str:
        np.savez(tmp_path / "other.npz", **other)
        return refusal(lambda: ours(tf_padding=True).restore(tmp_path / "other.npz"))

    half = {name: value for name, value in variables.items() if "UAEnoFC" not in name}
    for other in (half, {"images": np.zeros(3)}):
        assert "lacks variables of PG2 such as Pose_AE/G/Conv/weights" in refused(**other)
    assert "Discriminator (missing trunk.0.weight" in refused(
        **{name: value for name, value in variables.items() if name != "Discriminator.1.Filters"}
    )
    objects = variables | {"Pose_AE/G/Conv/weights": np.array([{}], dtype=object)}
    np.savez(tmp_path / "other.npz", **objects)
    for act in (lambda: None, lambda: (tmp_path / "other.npz").write_bytes(b"PK\x03\x04 half")):
        act()
        assert "cannot be read as an .npz" in refusal(lambda: ours(tf_padding=True).restore(tmp_path / "other.npz"))
    assert "no weights file at" in refusal(lambda: ours(tf_padding=True).restore(tmp_path / "absent.npz"))


# ---- PyTorch: Human-Pose-Transfer's names


def pair(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1), nn.ReLU())


class Block(nn.Module):
    """Residual in stage 1 (`res.main`), plain in stage 2 (`main`); then perhaps a convolution."""

    def __init__(self, before: int, after: int, move: nn.Conv2d | None, *, residual: bool) -> None:
        super().__init__()
        if residual:
            self.res = nn.Module()
            self.res.main = pair(before, after)
        else:
            self.main = pair(before, after)
        self.residual = residual
        if move is not None:
            self.conv = nn.Sequential(move, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res.main(x) if self.residual else self.main(x)


def first(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, 1, 1), nn.ReLU())


class G1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH * (i + 1) for i in range(BLOCKS)]
        inner = [WIDTH + widths[-1], *(2 * w for w in reversed(widths[:-1]))]
        downs = [nn.Conv2d(w, w + WIDTH, 3, 2, 1) for w in widths[:-1]]
        ups = [nn.Conv2d(w, to, 1) for w, to in zip(inner, reversed(widths[:-1]), strict=False)]
        self.start_conv = first(21)
        self.encoder = nn.ModuleList(Block(w, w, d, residual=True) for w, d in zip(widths, [*downs, None], strict=True))
        self.down_fc, self.up_fc = nn.Linear(64 * widths[-1], CODE), nn.Linear(CODE, 64 * WIDTH)
        self.decoder = nn.ModuleList(Block(w, w, u, residual=True) for w, u in zip(inner, [*ups, None], strict=True))
        self.end_conv = nn.Conv2d(inner[-1], 3, 3, 1, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h, skips = self.start_conv(torch.cat([x, c], 1)), []
        for block in self.encoder:
            h = block(h)
            skips.append(h)
            h = block.conv(h) if hasattr(block, "conv") else h
        h = self.up_fc(self.down_fc(h.flatten(1))).view(len(h), WIDTH, 8, 8)
        for block in self.decoder:
            h = block(torch.cat([h, skips.pop()], 1))
            h = block.conv(nn.functional.interpolate(h, scale_factor=2)) if hasattr(block, "conv") else h
        return self.end_conv(h)


class G2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH * (i + 1) for i in range(LEVELS)]
        downs = [nn.Conv2d(w, w, 3, 2, 1) for w in widths[:-1]]
        before = [WIDTH, *widths[:-1]]
        self.start_conv = first(6)
        self.encoder = nn.ModuleList(
            Block(b, w, d, residual=False) for b, w, d in zip(before, widths, [*downs, None], strict=True)
        )
        inner = [2 * widths[-1], *(WIDTH + w for w in reversed(widths[:-1]))]
        self.decoder = nn.ModuleList(Block(w, WIDTH, None, residual=False) for w in inner)
        self.end_conv = nn.Conv2d(WIDTH, 3, 3, 1, 1)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        h, skips = self.start_conv(torch.cat([x, coarse], 1)), []  # the source first
        for block in self.encoder:
            h = block(h)
            skips.append(h)
            h = block.conv(h) if hasattr(block, "conv") else h
        for block in self.decoder:
            h = block(torch.cat([h, skips.pop()], 1))
            h = nn.functional.interpolate(h, scale_factor=2) if skips else h
        return self.end_conv(h)


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (3, 2, 4, 8, 16, 16)
        for k, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 5, 2, 2, bias=False))
            layers += [nn.BatchNorm2d(after)] if k else []
            layers.append(nn.LeakyReLU(0.2))
        self.main, self.fc = nn.Sequential(*layers), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.main(x).flatten(1)).flatten()


@pytest.fixture
def port(tmp_path: Path) -> dict[str, nn.Module]:
    """Three files of another training, of fewer iterations, and those of these networks."""
    torch.manual_seed(2)
    made: dict[str, nn.Module] = {}
    for iteration in (9_000, 20_000):
        made = {"G1": G1(), "G2": G2(), "D": Judge().eval()}
        for name, net in made.items():
            torch.save(net.state_dict(), tmp_path / f"network_{name}_{iteration}.pth")
    return made


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("given", ["", "network_G1_20000.pth", "network_G2_20000.pth"])
def test_the_port_draws_the_same(given: str, port: Any, inputs: Any, tmp_path: Path) -> None:
    model = ours()
    model.restore(tmp_path / given)
    x, c = inputs
    with torch.no_grad():
        coarse = port["G1"](x, c)
        wanted = (coarse, coarse + port["G2"](x, coarse))
        for mine, theirs in zip(drawn(model, inputs), wanted, strict=True):
            assert theirs.std() > 0.01
            agree(mine, theirs)
        agree(model.discriminator.eval()(x), port["D"](x))


def test_a_file_of_a_stage_is_taken_whatever_its_name(port: Any, inputs: Any, tmp_path: Path) -> None:
    other = {f"module.{name}": value for name, value in G2().state_dict().items()}
    torch.save(other, tmp_path / "best.pth")
    one, two = ours(), ours()
    one.restore(tmp_path / "best.pth")
    two.restore(tmp_path)
    assert torch.equal(drawn(one, inputs)[0], drawn(two, inputs)[0])
    assert not torch.equal(drawn(one, inputs)[1], drawn(two, inputs)[1])


def test_other_files_of_the_port_are_refused(port: Any, tmp_path: Path) -> None:
    assert "PyTorch's padding: add model.tf_padding=false" in refusal(lambda: ours(tf_padding=True).restore(tmp_path))
    assert "of another shape stage1.start.weight" in refusal(lambda: ours(width=4).restore(tmp_path))
    assert "missing stage1.enc.3.0.weight" in refusal(lambda: ours(image_size=64).restore(tmp_path))
    market = tmp_path / "network_D_30000.pth"
    torch.save({name: v for name, v in port["D"].state_dict().items() if not name.startswith("main.11")}, market)
    assert "Discriminator (missing trunk.11.weight" in refusal(lambda: ours().restore(tmp_path))
    (tmp_path / "alone").mkdir()
    (tmp_path / "network_G2_20000.pth").rename(tmp_path / "alone" / "network_G2_20000.pth")
    for given in ("alone", "alone/network_G2_20000.pth"):
        assert "alone lacks network_G1_*.pth: PG2 draws in two" in refusal(lambda g=given: ours().restore(tmp_path / g))  # type: ignore[misc]
    (tmp_path / "empty").mkdir()
    assert "lacks network_G1_*.pth and network_G2_*.pth" in refusal(lambda: ours().restore(tmp_path / "empty"))
