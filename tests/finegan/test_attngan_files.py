"""AttnGAN's published files: every tensor lands, what does not fit is said in a sentence, and all goes back again."""

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from finegan.checkpoints import (
    import_attngan,
    load_discriminator,
    load_encoders,
    load_generator,
    read_published,
    read_vocabulary,
)
from finegan.discriminators import Discriminator
from finegan.model import FineGAN
from finegan.networks import Generator
from finegan.serving import export_attngan
from tests.peers.old_weights import Trap, flat, norm, python2, save_like_python2
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings

Shapes = dict[str, tuple[int, ...]]
WORDS = 5450


def generator_shapes(ngf: int = 32, code: int = 256, z: int = 100, c: int = 100) -> Shapes:
    """bird_AttnGAN2.pth and netG_epoch_600.pth."""
    wide = 16 * ngf
    shapes: Shapes = {"ca_net.fc.weight": (4 * c, code), "ca_net.fc.bias": (4 * c,)}
    shapes |= {"h_net1.fc.0.weight": (32 * wide, c + z), **norm("h_net1.fc.1", 32 * wide)}
    for i in range(4):
        width = wide >> i
        shapes |= {f"h_net1.upsample{i + 1}.1.weight": (width, width, 3, 3), **norm(f"h_net1.upsample{i + 1}.2", width)}
    for net in ("h_net2", "h_net3"):
        shapes |= {f"{net}.att.conv_context.weight": (ngf, code, 1, 1)}
        for block in (f"{net}.residual.{i}.block" for i in (0, 1)):
            shapes |= {f"{block}.0.weight": (4 * ngf, 2 * ngf, 3, 3), **norm(f"{block}.1", 4 * ngf)}
            shapes |= {f"{block}.3.weight": (2 * ngf, 2 * ngf, 3, 3), **norm(f"{block}.4", 2 * ngf)}
        shapes |= {f"{net}.upsample.1.weight": (2 * ngf, 2 * ngf, 3, 3), **norm(f"{net}.upsample.2", 2 * ngf)}
    return shapes | {f"img_net{k}.img.0.weight": (3, ngf, 3, 3) for k in (1, 2, 3)}


def discriminator_shapes(k: int, ndf: int = 64, code: int = 256) -> Shapes:
    """netD{0,1,2}.pth, of 64, 128 and 256 px."""
    top = 8 * ndf
    shapes: Shapes = {"img_code_s16.0.weight": (ndf, 3, 4, 4)}
    for i in (1, 2, 3):
        width = ndf << i
        shapes |= {
            f"img_code_s16.{3 * i - 1}.weight": (width, width // 2, 4, 4),
            **norm(f"img_code_s16.{3 * i}", width),
        }
    blocks: dict[int, dict[str, tuple[int, int, int]]] = {0: {}, 1: {"s32": (2, 1, 4), "s32_1": (1, 2, 3)}}
    blocks[2] = {"s32": (2, 1, 4), "s64": (4, 2, 4), "s64_1": (2, 4, 3), "s64_2": (1, 2, 3)}
    for name, (after, before, kernel) in blocks[k].items():
        block = f"img_code_{name}"
        shapes |= {f"{block}.0.weight": (after * top, before * top, kernel, kernel), **norm(f"{block}.1", after * top)}
    shapes |= {"UNCOND_DNET.outlogits.0.weight": (1, top, 4, 4), "UNCOND_DNET.outlogits.0.bias": (1,)}
    shapes |= {"COND_DNET.jointConv.0.weight": (top, top + code, 3, 3), **norm("COND_DNET.jointConv.1", top)}
    return shapes | {"COND_DNET.outlogits.0.weight": (1, top, 4, 4), "COND_DNET.outlogits.0.bias": (1,)}


def text_shapes(words: int = WORDS, code: int = 256, gates: int = 4) -> Shapes:
    """text_encoder200.pth."""
    half = code // 2
    shapes: Shapes = {"encoder.weight": (words, 300)}
    for end in ("", "_reverse"):
        shapes |= {f"rnn.weight_ih_l0{end}": (gates * half, 300), f"rnn.weight_hh_l0{end}": (gates * half, half)}
        shapes |= {f"rnn.bias_{which}_l0{end}": (gates * half,) for which in ("ih", "hh")}
    return shapes


def image_shapes(code: int = 256) -> Shapes:
    """image_encoder200.pth: torchvision's names, without `fc` and `AuxLogits`, and the two heads."""
    with torch.device("meta"):
        inception = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
    trunk = {key: tuple(value.shape) for key, value in inception.state_dict().items() if not key.startswith("fc.")}
    trunk = {key: shape for key, shape in trunk.items() if not key.endswith("num_batches_tracked")}
    heads = {"emb_features.weight": (code, 768, 1, 1), "emb_cnn_code.weight": (code, 2048)}
    return trunk | heads | {"emb_cnn_code.bias": (code,)}


def noise(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {key: torch.rand(shape, generator=rng) / 10 for key, shape in shapes.items()}


def counted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As PyTorch >= 0.4.1 saves it: each batch norm with its counter."""
    norms = [key.removesuffix("running_var") for key in state if key.endswith("running_var")]
    return state | {f"{name}num_batches_tracked": torch.tensor(7) for name in norms}


def save_legacy(state: dict[str, Tensor], path: Path) -> None:
    """As PyTorch 0.4 to 1.5 saved it."""
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)


def save_parallel(state: dict[str, Tensor], path: Path) -> None:
    save_legacy({f"module.{key}": value for key, value in state.items()}, path)


def python2_pickle(content: Any) -> bytes:
    """Protocol 2 with byte strings."""
    file = io.BytesIO()
    python2.dump(content, file, 2)
    return file.getvalue()


def captions_pickle(words: int) -> list:
    """AttnGAN's list of four, two captions each."""
    known = ["<end>", *(f"w{i}" for i in range(1, words))]
    return [[[1, 2], [2]], [[2, 1]], dict(enumerate(known)), {word: i for i, word in enumerate(known)}]


def write_encoders(
    folder: Path, *, words: int = WORDS, known: int = WORDS, code: int = 256, epoch: int = 200, noisy: bool = False
) -> Path:
    """A folder of published encoders, of one number for each tensor unless `noisy`."""
    folder.mkdir(exist_ok=True)
    make = noise if noisy else flat
    save_legacy(make(text_shapes(words, code)), folder / f"text_encoder{epoch}.pth")
    save_legacy(counted(make(image_shapes(code))), folder / f"image_encoder{epoch}.pth")
    (folder / "captions.pickle").write_bytes(python2_pickle(captions_pickle(known)))
    return folder


def same(loaded: nn.Module, state: dict[str, Tensor]) -> None:
    """Every tensor of a file is in the network, and nothing else is but counters."""
    mine = loaded.state_dict()
    assert {key for key in mine if not key.endswith("num_batches_tracked")} == {
        key for key in state if not key.endswith("num_batches_tracked")
    }
    for key, value in state.items():
        assert torch.equal(mine[key], value), key


# ---- generator and discriminators


@pytest.mark.parametrize(
    ("save", "tensors"), [(save_like_python2, 82), (save_legacy, 97), (save_parallel, 97), (torch.save, 82)]
)
def test_every_tensor_of_a_released_generator_lands(
    save: Callable[[dict[str, Tensor], Path], None], tensors: int, tmp_path: Path
) -> None:
    state = noise(generator_shapes())
    state = state if tensors == 82 else counted(state)
    assert len(state) == tensors
    save(state, tmp_path / "bird_AttnGAN2.pth")
    generator = load_generator(tmp_path / "bird_AttnGAN2.pth")
    same(generator, state)
    assert len(generator.state_dict()) == 97
    assert sum(p.numel() for p in generator.parameters()) == 7_084_592
    assert not any(module.training for module in generator.modules())
    assert generator.h_net2.att.legacy  # released weights were scored with the published padding
    assert not load_generator(tmp_path / "bird_AttnGAN2.pth", legacy=False).h_net2.att.legacy


def test_a_loaded_generator_draws_what_its_weights_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Generator(
        **{"image_size": 64, "code_dim": 16, "legacy": False}
        | settings("finegan", ngf=4, z_dim=6, c_dim=5, mask_levels=[16, 32, 64])["generator"]
    ).eval()
    save_legacy(source.state_dict(), tmp_path / "netG.pth")
    z, sent, words, pad = torch.randn(2, 6), torch.randn(2, 16), torch.randn(2, 16, 3), torch.zeros(2, 3).bool()
    given = (z, sent, words, pad, (torch.rand(2, 1, 64, 64) > 0.5).float(), torch.zeros(2, 5))
    loaded = load_generator(tmp_path / "netG.pth", legacy=False)
    for ours, theirs in zip(loaded(*given).images, source(*given).images, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("k", "tensors", "size"), [(0, 25, 6_313_730), (1, 35, 19_424_002), (2, 45, 71_858_946)])
def test_every_tensor_of_a_discriminator_lands(k: int, tensors: int, size: int, tmp_path: Path) -> None:
    state = flat(discriminator_shapes(k))
    assert len(state) == tensors
    save_like_python2(state, tmp_path / f"netD{k}.pth")
    net = load_discriminator(tmp_path / f"netD{k}.pth")
    same(net, state)
    assert sum(p.numel() for p in net.parameters()) == size
    small = counted(noise(discriminator_shapes(k, ndf=1, code=4)))
    save_legacy(small, tmp_path / "small.pth")
    u, c = load_discriminator(tmp_path / "small.pth")(torch.rand(2, 3, 64 << k, 64 << k), torch.rand(2, 4))
    assert u.shape == c.shape == (2,)


# ---- encoders


def test_a_folder_of_released_encoders(tmp_path: Path) -> None:
    folder = write_encoders(tmp_path / "bird", noisy=True)
    text, image = noise(text_shapes()), counted(noise(image_shapes()))
    assert (len(text), len(image)) == (9, 567)
    encoders = load_encoders(folder, legacy=True)
    same(encoders.text.net, text)
    same(encoders.image.net, image)
    assert sum(p.numel() for p in encoders.text.parameters()) == 2_075_320
    assert encoders.names[:3] == ("w1", "w2", "w3")  # word 0, <end>, is padding
    assert len(encoders.names) == WORDS - 1
    assert encoders.inputs == "text"
    assert encoders.image.net.legacy
    encoders.check(inputs="text", code_dim=256)
    with torch.no_grad():  # the file's LSTM over each caption on its own
        words, sent = encoders.text(torch.tensor([[5, 9, 0], [7, 1, 5449]]), torch.tensor([2, 3]))
        lstm = nn.LSTM(300, 128, batch_first=True, bidirectional=True)
        lstm.load_state_dict({key.removeprefix("rnn."): value for key, value in text.items() if key.startswith("rnn.")})
        for row, ids in enumerate(([5, 9], [7, 1, 5449])):
            steps, (last, _) = lstm(pack_sequence([text["encoder.weight"][ids]]))
            torch.testing.assert_close(words[row, :, : len(ids)].T, steps.data)
            torch.testing.assert_close(sent[row], last.flatten())


def test_an_image_encoder_from_before_counters(tmp_path: Path) -> None:
    folder = write_encoders(tmp_path / "bird")
    state = flat(image_shapes())
    assert len(state) == 473
    save_like_python2(state, folder / "image_encoder200.pth")
    assert len(read_published(folder)["image"]) == 473


def test_the_last_epoch_is_read_and_named_apart(tmp_path: Path) -> None:
    folder = write_encoders(tmp_path / "bird")
    first = read_published(folder)
    assert read_published(folder)["hash"] == first["hash"]
    write_encoders(folder, epoch=95, code=64)
    assert read_published(folder)["hash"] == first["hash"]
    write_encoders(folder, epoch=600, code=64)
    latest = read_published(folder)
    assert latest["config"]["code_dim"] == 64
    assert latest["hash"] != first["hash"]


@pytest.mark.parametrize(
    "write",
    [
        python2_pickle,
        lambda content: pickle.dumps(content, protocol=2),
        lambda content: pickle.dumps(content, protocol=0).replace(b"\n", b"\r\n"),  # git's autocrlf
    ],
)
def test_captions_pickle_of_any_python(write: Callable[[Any], bytes], tmp_path: Path) -> None:
    path = tmp_path / "captions.pickle"
    path.write_bytes(write(captions_pickle(4)))
    assert read_vocabulary(path) == ("w1", "w2", "w3")


@pytest.mark.parametrize(
    ("words", "known", "sentence"),
    [
        (5450, 5453, "reads 5,450 words and the vocabulary {} has 5,453: it was built anew from other captions"),
        (5450, 279, "has 279: it was built anew"),
        (5450, 1, "has 1: it is empty"),
        (27297, 5450, "reads 27,297 words and the vocabulary {} has 5,450: COCO's is the one of 27,297"),
        (5450, 27297, "has 27,297: COCO's is the one of 27,297"),
    ],
)
def test_another_vocabulary_than_the_encoders(words: int, known: int, sentence: str, tmp_path: Path) -> None:
    folder = write_encoders(tmp_path / "bird", words=words, known=known)
    message = refusal(lambda: read_published(folder))
    assert message.startswith(str(folder / "text_encoder200.pth"))
    assert sentence.format(folder / "captions.pickle") in message


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "bird"
    folder.mkdir()
    message = refusal(lambda: read_published(folder))
    assert f"{folder} lacks text_encoder*.pth, image_encoder*.pth, captions.pickle: " in message
    write_encoders(folder)
    (folder / "image_encoder200.pth").rename(folder / "image_encoder195.pth")
    (folder / "captions.pickle").unlink()
    assert "lacks image_encoder200.pth, captions.pickle: " in refusal(lambda: read_published(folder))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    folder = write_encoders(tmp_path / "bird")
    text, image = folder / "text_encoder200.pth", folder / "image_encoder200.pth"
    good = {path: path.read_bytes() for path in (text, image)}

    def told(path: Path, state: dict[str, Any]) -> str:
        torch.save(state, path)
        message = refusal(lambda: read_published(folder))
        path.write_bytes(good[path])
        assert str(path) in message
        return message

    assert "holds a text encoder, no image encoder" in told(image, flat(text_shapes()))
    assert "holds something else, no text encoder" in told(text, {"a": torch.zeros(1)})
    assert "pickled objects" in told(text, {"a": Trap(tmp_path / "it_ran")})
    assert not (tmp_path / "it_ran").exists()
    assert "missing emb_cnn_code.bias" in told(
        image, {k: v for k, v in flat(image_shapes()).items() if k != "emb_cnn_code.bias"}
    )
    assert "unexpected fc.weight" in told(image, flat(image_shapes() | {"fc.weight": (9, 9)}))
    assert "lacks encoder.weight" in told(text, {k: v for k, v in flat(text_shapes()).items() if k[0] == "r"})
    assert "of another shape rnn" in told(text, flat(text_shapes(gates=3)))  # a GRU, which AttnGAN's code also offers
    assert "emb_features.weight (64, 768, 1, 1) for (256, 768, 1, 1)" in told(image, flat(image_shapes(64)))
    contents: tuple[Any, ...] = ([[], [], {}], [[], [], {1: "a"}, {}], {"a": 1})
    for content in contents:
        (folder / "captions.pickle").write_bytes(pickle.dumps(content, protocol=2))
        assert "captions.pickle is not [train captions" in refusal(lambda: read_published(folder))


def test_a_wrong_generator_is_named(tmp_path: Path) -> None:
    path = tmp_path / "netG.pth"
    torch.save(flat(discriminator_shapes(0)), path)
    assert f"{path} holds a discriminator, no generator" in refusal(lambda: load_generator(path))
    torch.save(flat(generator_shapes()), path)
    assert "holds a generator, no discriminator" in refusal(lambda: load_discriminator(path))
    torch.save({k: v for k, v in flat(generator_shapes()).items() if not k.startswith("ca_net")}, path)
    assert "lacks ca_net.fc.weight" in refusal(lambda: load_generator(path))
    torch.save({k: v for k, v in flat(generator_shapes()).items() if k != "h_net3.upsample.2.bias"}, path)
    assert "missing h_net3.upsample.2.bias" in refusal(lambda: load_generator(path))


# ---- into a model and back

LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 0.5, "cond_real": 0.5, "fake": 0.3, "cond_fake": 0.3, "mismatch": 0.3},
    "g": {"uncond": 1.0, "cond": 1.0, "damsm": 5.0, "kl": 1.0},
}
PARTS: dict[str, float | None] = {"part": 1.0, "fg": 1.0, "fg_part": 1.0}
ABSENT: dict[str, float | None] = dict.fromkeys(PARTS)
SIZES: dict[str, Any] = {"ngf": 1, "ndf": 1, "code_dim": 8, "z_dim": 5, "c_dim": 4}


def attngan(damsm: Path | None, **more: Any) -> FineGAN:
    """model=attngan at its own side and tiny widths; `whole` adds FineGAN's masks, parts and foreground."""
    whole = more.pop("whole", False)
    loss = {side: terms | (PARTS if whole else ABSENT) for side, terms in LOSS.items()}
    options: dict[str, Any] = {"image_size": 256, "inputs": "text", "masks": whole, "legacy": True, **SIZES}
    return FineGAN(**settings("attngan", loss=loss, damsm=None if damsm is None else str(damsm), **options | more))


@pytest.fixture(scope="module")
def encoders_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoders(tmp_path_factory.mktemp("published") / "bird", words=6, known=6, code=8, noisy=True)


@pytest.fixture(scope="module")
def exported(encoders_folder: Path) -> tuple[FineGAN, Path]:
    """A whole FineGAN whose average differs from its generator, and the folder it was exported to."""
    torch.manual_seed(0)
    model = attngan(encoders_folder, whole=True)
    assert model.ema_generator is not None
    for value in model.generator.parameters():
        value.data += 0.5
    export_attngan(model, encoders_folder.parent / "ours")
    return model, encoders_folder.parent / "ours"


def test_export_has_the_published_names_and_ours(exported: tuple[FineGAN, Path]) -> None:
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == {
        *("netG.pth", "netD0.pth", "netD1.pth", "netD2.pth", "text_encoder.pth", "image_encoder.pth", "names.json")
    }
    published = {
        "netG": generator_shapes(1, 8, 5, 4),
        "text_encoder": text_shapes(6, 8),
        "image_encoder": image_shapes(8),
    }
    published |= {f"netD{k}": discriminator_shapes(k, 1, 8) for k in range(3)}
    for name, shapes in published.items():
        assert (folder / f"{name}.pth").read_bytes()[:2] != b"PK"  # no zip, which PyTorch before 1.6 cannot read
        state = torch.load(folder / f"{name}.pth", weights_only=True)
        assert set(counted(flat(shapes))) <= set(state), name
        added = {key for key in state if key not in counted(flat(shapes))}
        ours = ("mask_net.down", "PART_DNET.outlogits.0.")
        assert all(key.startswith(ours) for key in added), name
        assert bool(added) == (name[:3] == "net"), name
        widened = {key for key, shape in shapes.items() if tuple(state[key].shape) != shape}
        assert all("upsample" in key for key in widened), name  # where features of the mask enter


def test_export_is_read_again(exported: tuple[FineGAN, Path], encoders_folder: Path) -> None:
    model, folder = exported
    assert model.ema_generator is not None
    average = model.ema_generator.module
    same(load_generator(folder / "netG.pth"), average.state_dict())
    key = "img_net1.img.0.weight"
    assert not torch.equal(model.generator.state_dict()[key], average.state_dict()[key])
    for k, net in enumerate(model.discriminator):
        assert isinstance(net, Discriminator)
        same(load_discriminator(folder / f"netD{k}.pth"), net.state_dict())
    first, again = (load_encoders(place) for place in (encoders_folder, folder))
    same(again.text.net, first.text.net.state_dict())
    same(again.image.net, first.image.net.state_dict())
    assert (again.names, again.inputs, again.denoised_hash) == (first.names, "text", None)


def test_export_keeps_what_attributes_were_read(encoders_folder: Path, tmp_path: Path) -> None:
    model = attngan(encoders_folder)
    model.read_conditions()
    assert model.encoders is not None
    model.encoders.inputs, model.encoders.denoised_hash = "clean", "0123abcd"
    model.encoders.names = ("has_wing_color::blue", "b", "c", "d", "e")
    export_attngan(model, tmp_path / "ours", discriminators=False)
    assert not list((tmp_path / "ours").glob("netD*"))
    told = json.loads((tmp_path / "ours" / "names.json").read_text())
    assert told["names"][0] == "has_wing_color::blue"  # token 1
    found = read_published(tmp_path / "ours")
    assert (found["inputs"], found["denoised_hash"], found["names"]) == ("clean", "0123abcd", model.encoders.names)
    model.encoders.config["trunk"] = "conv"
    assert "trunk is conv, which AttnGAN has not" in refusal(lambda: export_attngan(model, tmp_path / "ours"))


def test_a_published_generator_restores_a_model(tmp_path: Path) -> None:
    state = noise(generator_shapes(1, 8, 5, 4))
    save_like_python2(state, tmp_path / "bird_AttnGAN2.pth")
    model = attngan(None)
    model.restore(tmp_path / "bird_AttnGAN2.pth")
    assert model.ema_generator is not None
    same(model.generator, state)
    same(model.ema_generator.module, state)
    message = refusal(lambda: attngan(None, image_size=64, z_dim=7).restore(tmp_path / "bird_AttnGAN2.pth"))
    assert "bird_AttnGAN2.pth was made with other settings" in message
    assert "add data.image_size=256 model.generator.z_dim=5 to the command" in message
    message = refusal(lambda: attngan(None, whole=True).restore(tmp_path / "bird_AttnGAN2.pth"))
    assert "add model.generator.masks=false to" in message


def start(model: FineGAN, folder: Path) -> None:
    import_attngan(model.nets().values(), model.discriminator, folder)


def test_a_model_starts_from_published_weights(tmp_path: Path) -> None:
    published = {"netG_epoch_95": generator_shapes(1, 8, 5, 4), "netG_epoch_600": generator_shapes(1, 8, 5, 4)}
    published |= {f"netD{k}": discriminator_shapes(k, 1, 8) for k in (1, 2)}
    states = {name: noise(shapes, seed) for seed, (name, shapes) in enumerate(published.items())}
    for name, state in states.items():
        save_like_python2(state, tmp_path / f"{name}.pth")
    message = refusal(lambda: start(attngan(None), tmp_path))
    assert f"{tmp_path} lacks netD0.pth: " in message
    assert "lacks netG*.pth, netD0.pth, netD1.pth, netD2.pth: " in refusal(
        lambda: start(attngan(None), tmp_path / "nowhere")
    )
    states["netD0"] = noise(discriminator_shapes(0, 1, 8))
    save_like_python2(states["netD0"], tmp_path / "netD0.pth")
    model = attngan(None)
    start(model, tmp_path)
    same(model.generator, states["netG_epoch_600"])
    for k, net in enumerate(model.discriminator):
        same(net, states[f"netD{k}"])
    whole = attngan(None, whole=True)
    key = "PART_DNET.outlogits.0.weight"
    head = whole.discriminator[0].state_dict()[key].clone()
    start(whole, tmp_path)  # the mask enters with weight 0, so both draw the same
    assert torch.equal(whole.discriminator[0].state_dict()[key], head)
    given = (torch.randn(1, 5), torch.randn(1, 8), torch.randn(1, 8, 3), torch.zeros(1, 3).bool())
    mask, eps = (torch.rand(1, 1, 256, 256) > 0.5).float(), torch.zeros(1, 4)
    with torch.no_grad():
        plain, masked = model.serving.eval()(*given, None, eps), whole.serving.eval()(*given, mask, eps)
    for ours, theirs in zip(masked.images, plain.images, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
