"""Public GAN-CLS and ours: with the same weights the same images and logits (papers/jem.md, Sec. 8).

Theirs is written here from names and shapes: TensorFlow's arithmetic by loops over N,H,W,C, Torch's layer by layer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.readers.old_formats import TorchObject
from jem.checkpoints import Published, is_port, is_published, load_published, read_published
from jem.networks import Discriminator, Generator
from jem.reed import PortDiscriminator, PortGenerator, ReedDiscriminator, ReedGenerator
from tests.agree import agree
from tests.jem.test_jem_step import gan_cls
from tests.worlds.layouts import refusal, t7

pytestmark = pytest.mark.usefixtures("float64")
S, T, WIDTH, Z, NF = 32, 5, 3, 2, 2  # sides, widths of sentence, projection and noise, ngf and ndf
NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "dcgan": (Generator, Discriminator),
    "reed": (ReedGenerator, ReedDiscriminator),
    "port": (PortGenerator, PortDiscriminator),
}


def built(found: Published) -> tuple[nn.Module, nn.Module]:
    """The networks of a file, made of its settings, with its weights."""
    shared = {"image_size": found.settings["image_size"], "text_dim": found.settings["sentence"]["dim"]}
    assert found.settings["sentence"]["norm"] == "none"
    sizes = dict(found.settings["generator"])
    kinds = NETWORKS[sizes.pop("arch")]
    g, d = kinds[0](**shared, code=None, **sizes), kinds[1](**shared, **found.settings["discriminator"])
    load_published(found, [g], d, "a file")
    return g.eval(), d.eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(5)
    return torch.randn(2, Z, generator=rng), torch.randn(2, T, generator=rng)


# ---- TensorFlow


class Variables:
    """Makes the variables as they are asked for; `float32` as the file keeps them, float64 to compute with."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.float32: dict[str, np.ndarray] = {"global_step": np.array(7)}

    def __call__(self, name: str, *shape: int, low: float = -0.5, high: float = 0.5) -> np.ndarray:
        if name not in self.float32:
            self.float32[name] = self.rng.uniform(low, high, shape).astype(np.float32)
            self.float32[f"{name}/Adam"] = np.zeros(1, np.float32)
        return self.float32[name].astype(np.float64)

    def linear(self, name: str, x: np.ndarray, width: int) -> np.ndarray:
        return x @ self(f"{name}/Matrix", x.shape[1], width) + self(f"{name}/bias", width)

    def conv(self, name: str, x: np.ndarray, width: int, side: int = 5, stride: int = 2) -> np.ndarray:
        """SAME: ceil(H / stride) outputs; of an odd padding the larger half comes last."""
        w, n = self(f"{name}/w", side, side, x.shape[3], width), -(-x.shape[1] // stride)
        whole = max((n - 1) * stride + side - x.shape[1], 0)
        pads = whole // 2, whole - whole // 2
        padded = np.pad(x, ((0, 0), pads, pads, (0, 0)))
        out = np.zeros((len(x), n, n, width)) + self(f"{name}/biases", width)
        for i, j in np.ndindex(side, side):
            out += padded[:, i : i + n * stride : stride, j : j + n * stride : stride][:, :n, :n] @ w[i, j]
        return out

    def deconv(self, name: str, x: np.ndarray, width: int) -> np.ndarray:
        """The gradient of that convolution with respect to its input. w: h,w,out,in."""
        w, n = self(f"{name}/w", 5, 5, width, x.shape[3]), x.shape[1]
        out = np.zeros((len(x), 2 * n + 3, 2 * n + 3, width))
        for i, j in np.ndindex(5, 5):
            out[:, i : i + 2 * n : 2, j : j + 2 * n : 2] += x @ w[i, j].T
        return out[:, 1 : 2 * n + 1, 1 : 2 * n + 1] + self(f"{name}/biases", width)  # of 3 pixels of SAME 1 is first

    def bn(self, name: str, x: np.ndarray, average: str) -> np.ndarray:
        c = x.shape[-1]
        mean, var = (self(average.format(name, kind), c, low=0.1) for kind in ("Squeeze", "Squeeze_1"))
        gamma, beta = self(f"{name}/gamma", c, low=0.5, high=1.5), self(f"{name}/beta", c)
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


AVERAGE = "{0}/{0}/moments/{1}/ExponentialMovingAverage"


def lrelu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.2 * x)


def tensorflow_g(v: Variables, z: np.ndarray, t: np.ndarray) -> np.ndarray:
    """B,S,S,3 in [0, 1]."""
    text = lrelu(v.linear("g_embedding", t, WIDTH))
    h = v.linear("g_h0_lin", np.concatenate([z, text], 1), NF * 8 * (S // 16) ** 2)
    h = np.maximum(v.bn("g_bn0", h.reshape(-1, S // 16, S // 16, NF * 8), AVERAGE), 0)
    for k, width in enumerate((4, 2, 1), 1):
        h = np.maximum(v.bn(f"g_bn{k}", v.deconv(f"g_h{k}", h, NF * width), AVERAGE), 0)
    return np.tanh(v.deconv("g_h4", h, 3)) / 2 + 0.5


def tensorflow_d(v: Variables, image: np.ndarray, t: np.ndarray) -> np.ndarray:
    """image: B,S,S,3 in [0, 1] -> B logits."""
    h = lrelu(v.conv("d_h0_conv", image, NF))
    for k in range(1, 4):
        h = lrelu(v.bn(f"d_bn{k}", v.conv(f"d_h{k}_conv", h, NF * 2**k), AVERAGE))
    text = lrelu(v.linear("d_embedding", t, WIDTH))[:, None, None].repeat(S // 16, 1).repeat(S // 16, 2)
    h = v.conv("d_h3_conv_new", np.concatenate([h, text], 3), NF * 8, 1, 1)
    return v.linear("d_h3_lin", lrelu(v.bn("d_bn4", h, AVERAGE)).reshape(len(h), -1), 1)[:, 0]


@pytest.fixture
def dump(inputs: tuple[Tensor, Tensor]) -> tuple[Variables, np.ndarray, np.ndarray]:
    """[P]'s variables, what its G draws of the inputs, and what its D says of that."""
    v, (z, t) = Variables(), (value.numpy() for value in inputs)
    image = tensorflow_g(v, z, t)
    logits = tensorflow_d(v, image, t)
    for k in range(1, 5):  # D is called for real, wrong and generated images, each with averages of its own
        for call, kind in ((1, "Squeeze"), (2, "Squeeze_1")):
            v.float32[f"d_bn{k}/d_bn{k}_{call}/moments/{kind}/ExponentialMovingAverage"] = np.full(NF, 9, np.float32)
    return v, image, logits


def saved(path: Path, variables: dict[str, np.ndarray]) -> Path:
    np.savez(path, **variables)
    return path


def test_tensorflow_draws_and_judges_the_same(dump: Any, inputs: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """H,W,C flattened, z before the sentence, SAME, and images in [0, 1] for D."""
    v, image, logits = dump
    found = read_published(saved(tmp_path / "p.npz", v.float32))
    assert found.settings["image_size"] == S
    sizes = {"arch": "dcgan", "inject": "none", "ngf": NF, "z_dim": Z, "text_width": WIDTH, "kernel": 5}
    assert found.settings["generator"] == sizes
    assert found.settings["discriminator"] == {"ndf": NF, "text_width": WIDTH, "kernel": 5, "unit": True}
    g, d = built(found)
    z, t = inputs
    with torch.no_grad():
        mine = g(z, t)
        assert 0.1 < mine.std() < 0.95
        agree((mine / 2 + 0.5).permute(0, 2, 3, 1), torch.from_numpy(image))
        assert logits.std() > 1e-3
        agree(d(mine, t), torch.from_numpy(logits))


@pytest.mark.parametrize("kinds", [("mean", "variance"), ("normalize/mean", "normalize/variance")])
def test_names_of_other_tensorflows(dump: Any, kinds: tuple[str, str], tmp_path: Path) -> None:
    """A generator alone, moments by their older names, and `:0` behind each."""
    v, _, _ = dump
    renamed = {}
    for name, value in v.float32.items():
        older = name.replace("Squeeze_1", kinds[1]).replace("Squeeze", kinds[0])
        if name.startswith("g_"):
            renamed[f"{older}:0"] = value
    found = read_published(saved(tmp_path / "g.npz", renamed))
    whole = read_published(saved(tmp_path / "p.npz", v.float32))
    assert not found.discriminator
    assert "discriminator" not in found.settings
    assert found.generator.keys() == whole.generator.keys()
    assert all(torch.equal(value, whole.generator[name]) for name, value in found.generator.items())


def test_other_dumps_are_refused(dump: Any, tmp_path: Path) -> None:
    variables = dump[0].float32

    def refused(**changes: np.ndarray | None) -> str:
        kept = {name: value for name, value in (variables | changes).items() if value is not None}
        return refusal(lambda: read_published(saved(tmp_path / "p.npz", kept)))

    assert "lacks variables of text-to-image such as g_embedding/Matrix" in refused(**{"g_h0_lin/Matrix": None})
    assert "lacks the moving averages of g_bn0/gamma" in refused(**{AVERAGE.format("g_bn0", "Squeeze"): None})
    assert "does not fit Generator (missing deconvs.1.bias" in refused(**{"g_h2/biases": None})
    assert "does not fit Discriminator (missing last.weight" in refused(**{"d_h3_lin/Matrix": None})
    assert "of another shape deconvs.0.weight" in refused(**{"g_h1/w": np.zeros((4, 4, 8, 16))})
    assert "build no network" in refused(**{"g_h0_lin/Matrix": np.zeros(3)})
    assert "build no network" in refused(**{"g_bn0/gamma": np.zeros(0)})
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half")
    assert "cannot be read as an .npz" in refusal(lambda: read_published(tmp_path / "half.npz"))
    assert "no weights file at" in refusal(lambda: read_published(tmp_path / "absent.npz"))


# ---- Torch7


def tensors(**sizes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Weights of a layer, of a size that keeps what goes through it alive."""
    found = {}
    for name, size in sizes.items():
        scale = (2 / np.prod(size[1:])) ** 0.5
        value = (
            torch.randn(size) * scale
            if len(size) > 1
            else torch.rand(size) + (0.5 if name in ("weight", "running_var") else -0.5)
        )
        found[name] = value.numpy().astype(np.float32)
    return found


def layer(kind: str, **fields: Any) -> TorchObject:
    empty = np.zeros(1, np.float32)
    return TorchObject(kind, {"output": empty, "gradInput": empty, "_type": "torch.FloatTensor", **fields})


def linear(before: int, after: int) -> TorchObject:
    return layer("nn.Linear", **tensors(weight=(after, before), bias=(after,)))


def conv(before: int, after: int, side: int, step: int = 1, pad: int = 0) -> TorchObject:
    return layer(
        "nn.SpatialConvolution", dW=step, padW=pad, **tensors(weight=(after, before, side, side), bias=(after,))
    )


def full(before: int, after: int, step: int = 2, pad: int = 1) -> TorchObject:
    sizes = {"weight": (before, after, 4, 4), "bias": (after,)}
    return layer("cudnn.SpatialFullConvolution", dW=step, padW=pad, **tensors(**sizes))


def norm(width: int, kind: str = "cudnn.SpatialBatchNormalization") -> TorchObject:
    names = ("weight", "bias", "running_mean", "running_var")
    return layer(kind, eps=1e-5, **tensors(**{name: (width,) for name in names}))


def container(kind: str, *modules: TorchObject) -> TorchObject:
    return layer(f"nn.{kind}", modules=list(modules))


def block(width: int, inner: int, act: TorchObject) -> list[TorchObject]:
    branch = [conv(width, inner, 1), norm(inner), copy(act), conv(inner, inner, 3, 1, 1), norm(inner), copy(act)]
    branch += [conv(inner, width, 3, 1, 1), norm(width)]
    both = container("ConcatTable", layer("nn.Identity"), container("Sequential", *branch))
    return [both, layer("nn.CAddTable"), copy(act)]


def copy(thing: TorchObject) -> TorchObject:
    return TorchObject(thing.kind, dict(thing.fields))


RELU, LEAKY = layer("cudnn.ReLU", inplace=True), layer("nn.LeakyReLU", negval=0.2)


def torch_g() -> TorchObject:
    """main_cls_int.lua's netG."""
    torch.manual_seed(6)
    text = container("Sequential", linear(T, WIDTH), copy(LEAKY))
    layers = [container("ParallelTable", layer("nn.Identity"), text), layer("nn.JoinTable", dimension=2)]
    layers += [full(Z + WIDTH, 8 * NF, 1, 0), norm(8 * NF), *block(8 * NF, 2 * NF, RELU)]
    layers += [full(8 * NF, 4 * NF), norm(4 * NF), *block(4 * NF, NF, RELU)]
    layers += [full(4 * NF, 2 * NF), norm(2 * NF), copy(RELU), full(2 * NF, NF), norm(NF), copy(RELU)]
    return container("Sequential", *layers, full(NF, 3), layer("cudnn.Tanh"))


def torch_d() -> TorchObject:
    """main_cls_int.lua's netD."""
    torch.manual_seed(7)
    image = [conv(3, NF, 4, 2, 1), copy(LEAKY), conv(NF, 2 * NF, 4, 2, 1), norm(2 * NF), copy(LEAKY)]
    image += [conv(2 * NF, 4 * NF, 4, 2, 1), norm(4 * NF), conv(4 * NF, 8 * NF, 4, 2, 1), norm(8 * NF)]
    text = [linear(T, WIDTH), norm(WIDTH, "nn.BatchNormalization"), copy(LEAKY), layer("nn.Replicate", nfeatures=4)]
    both = (container("Sequential", *image, *block(8 * NF, 2 * NF, LEAKY)), container("Sequential", *text))
    layers = [container("ParallelTable", *both), layer("nn.JoinTable", dimension=2)]
    layers += [conv(8 * NF + WIDTH, 8 * NF, 1), norm(8 * NF), copy(LEAKY), conv(8 * NF, 1, 4)]
    return container("Sequential", *layers, layer("cudnn.Sigmoid"), layer("nn.View", size=np.array([1])))


def run(net: TorchObject, x: Any) -> Any:
    """Torch7's forward in evaluation mode. x: a tensor or a list of them, a Lua table."""
    held = {name: torch.from_numpy(v).double() for name, v in net.fields.items() if isinstance(v, np.ndarray)}
    inside, kind = net.fields.get("modules", []), net.kind.rpartition(".")[2]
    match kind:
        case "Sequential":
            for one in inside:
                x = run(one, x)
            return x
        case "ParallelTable":
            return [run(one, value) for one, value in zip(inside, x, strict=True)]
        case "ConcatTable":
            return [run(one, x) for one in inside]
        case "JoinTable":
            z, t = (value if value.ndim == 4 else value[:, :, None, None] for value in x)
            return torch.cat([z, t.expand(-1, -1, *z.shape[2:])], 1)  # `Replicate` has tiled D's sentences
        case "CAddTable":
            return x[0] + x[1]
        case "Identity" | "Replicate":
            return x
        case "Linear":
            return x @ held["weight"].T + held["bias"]
        case "SpatialConvolution":
            return F.conv2d(x, held["weight"], held["bias"], net.fields["dW"], net.fields["padW"])
        case "SpatialFullConvolution":
            return F.conv_transpose2d(x, held["weight"], held["bias"], net.fields["dW"], net.fields["padW"])
        case "SpatialBatchNormalization" | "BatchNormalization":
            return F.batch_norm(x, held["running_mean"], held["running_var"], held["weight"], held["bias"])
        case "LeakyReLU":
            return F.leaky_relu(x, net.fields["negval"])
        case "View":
            return x.flatten()
    return {"ReLU": torch.relu, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid}[kind](x)


def layers_in(net: TorchObject) -> list[TorchObject]:
    return [net, *(one for part in net.fields.get("modules", []) for one in layers_in(part))]


def flattened(net: TorchObject) -> TorchObject:
    """All weights in one storage, as getParameters leaves them."""
    held = [(one.fields, name) for one in layers_in(net) for name in ("weight", "bias") if name in one.fields]
    storage = np.concatenate([fields[name].ravel() for fields, name in held])
    at = 0
    for fields, name in held:
        size = fields[name].size
        fields[name] = storage[at : at + size].reshape(fields[name].shape)
        at += size
    return net


def without_biases(net: TorchObject) -> TorchObject:
    for one in layers_in(net):
        if one.kind.endswith("Convolution"):
            one.fields["bias"] = np.zeros_like(one.fields["bias"])
    return net


@pytest.mark.parametrize("biased", [True, False])
def test_torch7_draws_and_judges_the_same(biased: bool, inputs: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    nets = [flattened(net if biased else without_biases(net)) for net in (torch_g(), torch_d())]
    for letter, net in zip("GD", nets, strict=True):
        (tmp_path / f"flowers_600_net_{letter}.t7").write_bytes(t7(net))
    found = read_published(tmp_path / "flowers_600_net_G.t7")
    assert found.settings["image_size"] == 64
    assert found.settings["generator"]["conv_bias"] is found.settings["discriminator"]["conv_bias"] is biased
    g, d = built(found)
    z, t = inputs
    with torch.no_grad():
        wanted = run(nets[0], [z[:, :, None, None], t])
        assert 0.05 < wanted.std() < 0.99
        mine = g(z, t)
        agree(mine, wanted)
        sure = run(nets[1], [wanted, t])
        assert sure.std() > 1e-3
        agree(d(mine, t).sigmoid(), sure)


def test_other_torch7_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "flowers_net_G.t7"

    def refused(net: Any) -> str:
        path.write_bytes(t7(net))
        return refusal(lambda: read_published(path))

    more = torch_g()
    more.fields["modules"].insert(4, copy(RELU))  # "mended", or of main_txt_coco.lua
    assert "other layers than ReedGenerator from number 5 on (ReLU for SpatialConvolution)" in refused(more)
    for other in (torch_d(), {"weight": np.zeros(3)}, 7, container("Sequential")):
        assert "*_net_G.t7 of reedscot/icml2016's main_cls_int.lua" in refused(other)
    odd = torch_g()
    odd.fields["modules"][2].fields["weight"] = 3
    assert "whose weight is no tensor" in refused(odd)
    odd.fields["modules"][2].fields["weight"] = None
    assert "'layers.0.weight'" in refused(odd)
    odd.fields["modules"][2].fields["weight"] = np.zeros((Z + WIDTH, 8 * NF, 5, 5), np.float32)
    assert "does not fit ReedGenerator (of another shape layers.0.weight" in refused(odd)
    itself = torch_g()
    itself.fields["modules"].append(itself)
    path.write_bytes(t7(torch_g())[:-8])
    assert "not a readable .t7 file" in refusal(lambda: read_published(path))
    assert "net_G" in refusal(lambda: read_published(tmp_path / "absent_net_G.t7"))


# ---- PyTorch


class Named(nn.Module):
    """A network of the port, by its names; `forward` in the order of its calls."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def port_text() -> nn.Sequential:
    return nn.Sequential(nn.Linear(T, WIDTH), nn.BatchNorm1d(WIDTH), nn.LeakyReLU(0.2))


def port_g() -> Named:
    net: list[nn.Module] = []
    for before, after, step in ((Z + WIDTH, 8 * NF, 1), (8 * NF, 4 * NF, 2), (4 * NF, 2 * NF, 2), (2 * NF, NF, 2)):
        net += [nn.ConvTranspose2d(before, after, 4, step, step - 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net += [nn.ConvTranspose2d(NF, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return Named(projection=port_text(), netG=nn.Sequential(*net))


def port_d() -> Named:
    net: list[nn.Module] = [nn.Conv2d(3, NF, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for before, after in ((NF, 2 * NF), (2 * NF, 4 * NF), (4 * NF, 8 * NF)):
        net += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    last = nn.Sequential(nn.Conv2d(8 * NF + WIDTH, 1, 4, bias=False), nn.Sigmoid())
    return Named(netD_1=nn.Sequential(*net), projector=Named(projection=port_text()), netD_2=last)


@pytest.fixture
def port(tmp_path: Path) -> tuple[Any, Any]:
    """gen_190.pth and disc_190.pth, saved out of a DataParallel."""
    torch.manual_seed(4)
    nets = port_g(), port_d()
    for name, net in zip(("gen", "disc"), nets, strict=True):
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.float() if value.ndim > 1 else torch.rand_like(value).float() + 0.2)
        state = {f"module.{key}": v.float() if v.is_floating_point() else v for key, v in net.state_dict().items()}
        torch.save(state, tmp_path / f"{name}_190.pth")
    return nets[0].eval(), nets[1].eval()


def test_the_port_draws_and_judges_the_same(port: Any, inputs: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """The sentence before z, and BN in both projections."""
    assert is_port(torch.load(tmp_path / "gen_190.pth"))
    assert is_port(torch.load(tmp_path / "disc_190.pth"))
    assert not is_port({"G": 1, "first.weight": 2})
    assert [is_published(name) for name in ("a.npz", "a.t7", "gen_1.pth")] == [True, True, False]
    g, d = built(read_published(tmp_path / "gen_190.pth"))
    (z, t), (theirs, judge) = inputs, port
    with torch.no_grad():
        wanted = theirs.netG(torch.cat([theirs.projection(t), z], 1)[..., None, None])
        assert wanted.std() > 0.01
        mine = g(z, t)
        agree(mine, wanted)
        text = judge.projector.projection(t)[..., None, None].repeat(1, 1, 4, 4)
        agree(d(mine, t).sigmoid(), judge.netD_2(torch.cat([judge.netD_1(wanted), text], 1)).flatten())


def test_of_what_does_not_fit_nothing_is_taken(port: Any, tmp_path: Path) -> None:
    found = read_published(tmp_path / "gen_190.pth")
    g, _ = built(found)
    before = [p.clone() for p in g.parameters()]
    for value in found.generator.values():
        value += 1
    other = PortDiscriminator(image_size=64, text_dim=T, ndf=NF, text_width=WIDTH, conv_bias=True)
    assert "does not fit PortDiscriminator (missing" in refusal(lambda: load_published(found, [g], other, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(before, g.parameters(), strict=True))


def test_other_files_of_the_port_are_refused(port: Any, tmp_path: Path) -> None:
    assert "give its gen_*.pth" in refusal(lambda: read_published(tmp_path / "disc_190.pth"))
    state = torch.load(tmp_path / "gen_190.pth")
    torch.save({k: v for k, v in state.items() if "netG.4" not in k}, tmp_path / "gen_1.pth")
    assert "does not fit PortGenerator (missing netG.4.weight" in refusal(
        lambda: read_published(tmp_path / "gen_1.pth")
    )
    torch.save(state, tmp_path / "gen_2.pth")
    assert not read_published(tmp_path / "gen_2.pth").discriminator
    torch.save({"a": torch.zeros(1)}, tmp_path / "disc_2.pth")
    assert "does not fit PortDiscriminator" in refusal(lambda: read_published(tmp_path / "gen_2.pth"))


# ---- the model that they become


def of_settings(found: Published, **changes: Any) -> Any:
    """model=gan_cls with the settings of a file."""
    groups = {
        f"{group}.{name}": value
        for group in ("sentence", "generator", "discriminator")
        for name, value in found.settings[group].items()
    }
    return gan_cls(**({"image_size": found.settings["image_size"]} | groups | changes))


@pytest.mark.parametrize("file", ["p.npz", "flowers_net_G.t7", "gen_190.pth"])
def test_the_model_restores_them(
    file: str, dump: Any, port: Any, inputs: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """G, its average and D; other settings are refused with the words that fit, and nothing is taken."""
    saved(tmp_path / "p.npz", dump[0].float32)
    for letter, net in zip("GD", (torch_g(), torch_d()), strict=True):
        (tmp_path / f"flowers_net_{letter}.t7").write_bytes(t7(net))
    found = read_published(tmp_path / file)
    model = of_settings(found, **{"average.decay": 0.5})
    model.restore(tmp_path / file)
    g, d = built(found)
    z, t = inputs
    x = g(z, t)
    assert torch.equal(model.infer(z, t), x)
    assert torch.equal(model.generator.eval()(z, t), x)
    assert torch.equal(model.discriminator.eval()(x, t), d(x, t))
    other = of_settings(found, **{"sentence.norm": "rms", "generator.ngf": 3})
    before = other.infer(z, t)
    said = refusal(lambda: other.restore(tmp_path / file))
    assert 'model.sentence.norm="none" model.generator.ngf=2' in said
    assert torch.equal(other.infer(z, t), before)
