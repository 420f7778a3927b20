"""SISGAN's released files: every tensor lands, and what does not fit is said in a sentence."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from simgan.checkpoints import load_sisgan, read_vse, read_vse_judge
from tests.agree import agree
from tests.peers.old_weights import flat, norm, save_like_python2

pytestmark = pytest.mark.usefixtures("float64")

VGG_BN = {0: (64, 3), 3: (64, 64), 7: (128, 64), 10: (128, 128), 14: (256, 128), 17: (256, 256), 20: (256, 256)}
VGG_BN |= {23: (512, 256), 26: (512, 512), 29: (512, 512)}


def sisgan_shapes(encoder: str) -> dict[str, tuple[int, ...]]:
    """{birds,flowers}.pth of woozzu/dong_iccv_2017."""
    if encoder == "vgg":
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (width, before) in VGG_BN.items():
            shapes |= {f"encoder.{i}.weight": (width, before, 3, 3), f"encoder.{i}.bias": (width,)}
            shapes |= norm(f"encoder.{i + 1}", width)
    else:
        shapes = {"encoder.0.weight": (128, 3, 3, 3), "encoder.0.bias": (128,)}
        shapes |= {"encoder.2.weight": (256, 128, 4, 4), **norm("encoder.3", 256)}
        shapes |= {"encoder.5.weight": (512, 256, 4, 4), **norm("encoder.6", 512)}
    shapes |= {"residual_blocks.0.weight": (512, 640, 3, 3), **norm("residual_blocks.1", 512)}
    for unit in (f"residual_blocks.{i}.encoder" for i in (2, 3, 4, 5)):
        for conv, bn in ((0, 1), (3, 4)):
            shapes |= {f"{unit}.{conv}.weight": (512, 512, 3, 3), **norm(f"{unit}.{bn}", 512)}
    shapes |= {"decoder.1.weight": (256, 512, 3, 3), **norm("decoder.2", 256)}
    shapes |= {"decoder.5.weight": (128, 256, 3, 3), **norm("decoder.6", 128)}
    shapes |= {"decoder.8.weight": (3, 128, 3, 3), "decoder.8.bias": (3,)}
    return shapes | {"mu.0.weight": (128, 300), "log_sigma.0.weight": (128, 300)}


@pytest.mark.parametrize("encoder", ["conv", "vgg"])
def test_every_tensor_of_a_released_sisgan_lands(encoder: str, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    state = {key: torch.rand(shape, generator=rng) for key, shape in sisgan_shapes(encoder).items()}
    save_like_python2(state, tmp_path / "birds.pth")
    generator = load_sisgan(tmp_path / "birds.pth")
    loaded = {k: v for k, v in generator.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(loaded) == len(state)
    for key, value in state.items():
        ours = key.replace("encoder.", "encoder.net.", 1) if encoder == "vgg" and key.startswith("encoder.") else key
        assert torch.equal(loaded[ours], value), key
    assert not any(module.training for module in generator.modules())
    assert torch.equal(generator.mean.flatten(), torch.zeros(3))  # released weights expect [0, 1]
    assert torch.equal(generator.std.flatten(), torch.ones(3))


def test_a_misfit_is_named(tmp_path: Path) -> None:
    good = flat(sisgan_shapes("conv"))
    bad = {
        r"missing mu\.0\.weight": {k: v for k, v in good.items() if k != "mu.0.weight"},
        r"unexpected encoder\.8\.weight": {**good, "encoder.8.weight": torch.zeros(1)},
        r"log_sigma\.0\.weight \(128, 299\) for \(128, 300\)": {**good, "log_sigma.0.weight": torch.zeros(128, 299)},
    }
    path = tmp_path / "birds.pth"
    for sentence, state in bad.items():
        torch.save(state, path)
        with pytest.raises(UserError, match=sentence) as caught:
            load_sisgan(path)
        assert str(path) in str(caught.value)


VGG16 = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
VGG16 |= {17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


def vse_shapes() -> dict[str, tuple[int, ...]]:
    """text_embedding_{birds,flowers}.pth of woozzu/dong_iccv_2017."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (width, before) in VGG16.items():
        shapes[f"img_encoder.features.{i}.weight"] = (width, before, 3, 3)
        shapes[f"img_encoder.features.{i}.bias"] = (width,)
    for layer, (width, before) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        for part in ("img_encoder.classifier", "feat_extractor")[: 1 if layer == 6 else 2]:
            shapes |= {f"{part}.{layer}.weight": (width, before), f"{part}.{layer}.bias": (width,)}
    shapes |= {"W.weight": (300, 4096)}
    shapes |= {"txt_encoder.weight_ih_l0": (900, 300), "txt_encoder.weight_hh_l0": (900, 300)}
    return shapes | {"txt_encoder.bias_ih_l0": (900,), "txt_encoder.bias_hh_l0": (900,)}


@pytest.fixture(scope="module")
def vse_state() -> dict[str, Tensor]:
    """Random text side and W_I; VGG-16 as one number for each tensor."""
    rng = torch.Generator().manual_seed(0)
    shapes = vse_shapes()
    trained = {key: shape for key, shape in shapes.items() if key.startswith(("txt", "W."))}
    return flat(shapes) | {key: torch.randn(shape, generator=rng) / 10 for key, shape in trained.items()}


WORDS = ("this", "bird", "is", "red")


def write_vectors(path: Path, width: int = 300, scale: float = 1.0) -> dict[str, Tensor]:
    """A text file of word vectors, and what is in it."""
    vectors = (np.random.default_rng(0).normal(size=(len(WORDS), width)) * scale).round(4)
    lines = [f"{len(WORDS)} {width}", *(" ".join([w, *map(str, row)]) for w, row in zip(WORDS, vectors, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return dict(zip(WORDS, torch.from_numpy(vectors).float(), strict=True))


def last_state(state: dict[str, Tensor], vectors: list[Tensor]) -> Tensor:
    """torch.nn.GRU with the file's weights over one sentence on its own."""
    gru = nn.GRU(300, 300)
    gru.load_state_dict({key.removeprefix("txt_encoder."): v for key, v in state.items() if key.startswith("txt")})
    with torch.no_grad():
        return gru(torch.stack(vectors).double()[:, None])[1].flatten()


def test_sisgan_text_encoder_is_a_gru_over_looked_up_vectors(vse_state: dict[str, Tensor], tmp_path: Path) -> None:
    save_like_python2(vse_state, tmp_path / "text_embedding_birds.pth")
    vectors = write_vectors(tmp_path / "wiki.vec")
    encoder = read_vse(tmp_path / "text_embedding_birds.pth", tmp_path / "wiki.vec")
    phi = encoder.encode(["This bird is RED.", "a bird", "red red"])
    assert encoder.dim == 300
    assert encoder.unknown("a bird") == ["a"]
    nothing = torch.zeros(300)  # an unknown word
    for row, words in zip(phi, (["this", "bird", "is", "red"], ["a", "bird"], ["red", "red"]), strict=True):
        expected = last_state(vse_state, [vectors.get(word, nothing) for word in words])
        agree(row, expected)
    assert phi.abs().max() < 1  # raw state, and not normalised
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_hash_tells_word_vectors_apart(vse_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(vse_state, tmp_path / "a.pth")
    hashes = []
    for scale in (1.0, 1.0, 2.0):
        write_vectors(tmp_path / "wiki.vec", scale=scale)
        hashes.append(read_vse(tmp_path / "a.pth", tmp_path / "wiki.vec").hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_fasttext_binary_gives_any_word_a_vector(
    vse_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vector(word: str) -> np.ndarray:
        return np.random.default_rng(sum(word.encode())).normal(size=300).astype(np.float32)

    package = SimpleNamespace(load_model=lambda path: SimpleNamespace(get_word_vector=vector))
    monkeypatch.setitem(sys.modules, "fasttext", package)
    torch.save(vse_state, tmp_path / "a.pth")
    (tmp_path / "wiki.en.bin").write_bytes(b"8 GB")
    encoder = read_vse(tmp_path / "a.pth", tmp_path / "wiki.en.bin")
    expected = last_state(vse_state, [torch.from_numpy(vector(word)) for word in ("a", "zzyzx", "bird")])
    agree(encoder.encode(["a zzyzx bird"])[0], expected)
    assert encoder.unknown("zzyzx") == []


def test_sisgan_embedding_serves_as_a_judge(vse_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(vse_state, tmp_path / "a.pth")
    write_vectors(tmp_path / "wiki.vec")
    judge = read_vse_judge(tmp_path / "a.pth", tmp_path / "wiki.vec")
    assert torch.equal(judge.net.state_dict()["weight"], vse_state["W.weight"])
    vgg = judge.images.net.state_dict()
    assert len(vgg) == 2 * (len(VGG16) + 3)
    for key, value in vgg.items():
        assert torch.equal(value, vse_state[f"img_encoder.{key}"]), key
    assert judge.encode_sentences(["a red bird"]).norm().item() == pytest.approx(1)


def test_an_embedding_that_does_not_fit_is_named(vse_state: dict[str, Tensor], tmp_path: Path) -> None:
    path, vectors = tmp_path / "a.pth", tmp_path / "wiki.vec"
    write_vectors(vectors)
    bad = {
        r"missing txt_encoder\.bias_hh_l0": {k: v for k, v in vse_state.items() if k != "txt_encoder.bias_hh_l0"},
        r"unexpected embed\.weight": {**vse_state, "embed.weight": torch.zeros(1)},
        r"W\.weight \(300, 512\) for \(300, 4096\)": {**vse_state, "W.weight": torch.zeros(300, 512)},
    }
    for sentence, state in bad.items():
        torch.save(state, path)
        with pytest.raises(UserError, match=sentence):
            read_vse(path, vectors)
    torch.save(vse_state, path)
    write_vectors(vectors, width=200)
    with pytest.raises(UserError, match="200 wide"):
        read_vse(path, vectors)
