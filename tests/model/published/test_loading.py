"""From a name to a model: folders, hub names, and what is wrong with those that cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.interface import Generation, Item
from model.published.hub import is_hub_name
from model.registry import load_model
from tests.model.published import hub as standin
from tests.model.published.blip2.conftest import save_query
from tests.model.published.checkpoints import make_image
from tests.model.published.conftest import Pair


@pytest.fixture
def folder(answer: Pair, tmp_path: Path) -> Path:
    """A copy of a checkpoint's folder, to be spoilt."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(answer.folder, copy)
    return copy


@pytest.fixture
def hub(answer: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[standin.Hub]:
    """A stand-in for the hub, with an empty cache. The variables are read at import, so constants are set here; that
    the variables work is for the long test with a server of its own."""
    pickled = tmp_path / "pickled"
    shutil.copytree(answer.folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(answer.theirs.state_dict(), pickled / "pytorch_model.bin")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    with standin.serve(blip=answer.folder, pickled=pickled, other=other, empty=empty) as running:
        point_at(running.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def answers(model: Any) -> str:
    """What a model says of one image."""
    image = model.encode([model.info.preprocess(make_image(90, 50))])[0]
    return str(model.run("answer", [Item(image, ("what is it?",))])[0].texts[0].ranking)


def test_a_folder(answer: Pair) -> None:
    model = load_model(str(answer.folder), device="cpu")
    assert model.info.id == answer.folder.name
    assert model.info.revision.startswith("sha256:")
    assert answers(model) == answers(answer.ours)


def test_a_revision_follows_weights_and_configuration(folder: Path) -> None:
    first = load_model(str(folder), device="cpu").info.revision
    assert load_model(str(folder), device="cpu").info.revision == first
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(str(folder), device="cpu").info.revision != first


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(answer: Pair, dtype: str) -> None:
    """The maps stay float32 and sum to 1; the images kept take half the memory; small gradients do not vanish."""
    from model.interface import MapRequest

    half = load_model(str(answer.folder), device="cpu", dtype=dtype)
    image = half.encode([half.info.preprocess(make_image(90, 50))])[0]
    assert image.nbytes * 2 == answer.encode(make_image(90, 50))[0].nbytes
    for kind in ("raw", "rollout", "gradient"):
        text = half.run("answer", [Item(image, ("a red dog",), maps=MapRequest(kind))])[0].texts[0]
        assert text.answer_map.values.dtype == "float32"
        if kind == "gradient":
            assert text.answer_map.values.min() >= 0.0 < text.answer_map.values.max()
        else:
            total = text.answer_map.values.sum() + text.answer_map.elsewhere
            assert total == pytest.approx(1.0, abs=1e-2 if kind == "raw" else 1e-5)


@torch.no_grad()
def test_half_precision_states(answer: Pair) -> None:
    """A question's states are those of float32, to what half precision can hold."""
    from model.rows import Source

    half = load_model(str(answer.folder), device="cpu", dtype="float16")
    states = []
    for model in (half, answer.ours):
        image = model.encode([model.info.preprocess(make_image(90, 50))])[0]
        ids, _ = model.question_ids([model.tokenizer("what is the color of the cat?")])
        states.append(model.stack(model.stack.embed(ids), [Source(image.layers)]).states.float())
    assert (states[0] - states[1]).abs().mean() < 0.02 * states[1].abs().mean()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"not a header"), "weights of .* cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "cannot be"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer of .* cannot be loaded"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is no configuration"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "type 'bert'; known are blip"),
        (lambda f: (f / "config.json").write_text('{"model_type": "blip", "architectures": ["X"]}'), "is a X"),
        (lambda f: (f / "config.json").write_text('{"model_type": "blip"}'), "names no `architectures`"),
        (lambda f: (f / "config.json").write_text('{"model_type": "blip", "architectures": []}'), "tell what a blip"),
        (lambda f: (f / "config.json").unlink(), "no model that crosslook knows"),
    ],
)
def test_a_spoilt_folder_is_refused(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder), device="cpu")


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    """transformers would fill them at random and go on."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_encoder.encoder.layer.1.crossattention.self.key.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*crossattention.self.key.weight"):
        load_model(str(folder), device="cpu")


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(str(folder), device="cpu")


def test_pickled_weights_only_where_allowed(folder: Path, answer: Pair) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(answer.theirs.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="CROSSLOOK_ALLOW_PICKLE"):
        load_model(str(folder), device="cpu")
    assert answers(load_model(str(folder), device="cpu", allow_pickle=True)) == answers(answer.ours)


def test_a_folders_own_code_is_never_run(folder: Path) -> None:
    """``auto_map`` names a class in the folder; importing it would leave a trace."""
    trace = folder / "ran"
    (folder / "code.py").write_text(f"open({str(trace)!r}, 'w')\nclass Model: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {"AutoModel": "code.Model", "AutoTokenizer": ["code.Model", "code.Model"]}
        (folder / name).write_text(json.dumps(content))
    load_model(str(folder), device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("/no/such/folder", "neither"), ("nonsense", "neither"), ("a/b/c", "neither"), ("./gone", "neither")],
)
def test_names_that_are_no_model(name: str, message: str) -> None:
    assert not is_hub_name(name)
    with pytest.raises(ValueError, match=message):
        load_model(name, device="cpu")


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="no CUDA device"):
        load_model("tiny", device="cuda")


def test_a_hub_name(hub: standin.Hub, answer: Pair) -> None:
    """The same model as from its folder; the commit is its revision; only what is needed is fetched, once."""
    model = load_model("owner/blip", device="cpu")
    assert (model.info.id, model.info.revision) == ("owner/blip", standin.COMMIT)
    assert answers(model) == answers(answer.ours)
    fetched = [line for line in hub.asked if line.startswith("GET") and "model.safetensors" in line]
    assert len(fetched) == 1
    hub.asked.clear()
    load_model(f"owner/blip@{standin.COMMIT}", device="cpu")
    assert not any("GET" in line and "resolve" in line for line in hub.asked)


def test_the_second_tokenizer_of_instructblip_is_fetched(hub: standin.Hub, tmp_path: Path) -> None:
    """It is in a folder of its own; other folders, of other formats, stay where they are."""
    folder = save_query(tmp_path / "instructed", "flan")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.json").write_text("{}")
    hub.repositories["owner/instructed"] = folder
    model = load_model("owner/instructed")
    [image] = model.encode([model.info.preprocess(make_image(40, 30))])
    [output] = model.run("answer", [Item(image, ("a dog",), generation=Generation(max_new_tokens=2))])
    assert output.texts[0].answer_token_count <= 2  # type: ignore[union-attr]
    assert any("qformer_tokenizer/" in asked for asked in hub.asked)
    assert not any("onnx/" in asked for asked in hub.asked)


def test_a_hub_that_is_gone_is_not_missed(hub: standin.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is served without a network; what is not gives an error that says so."""
    load_model("owner/blip", device="cpu")
    point_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its tries
    load_model("owner/blip", device="cpu")
    with pytest.raises(OSError, match="not in the local cache, and the hub cannot be reached"):
        load_model("owner/pickled", device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/nope", "no model owner/nope"),
        ("owner/blip@v2", "no revision v2"),
        ("owner/empty", "no config.json"),
        ("owner/other", "type 'bert'"),
        ("owner/pickled", "CROSSLOOK_ALLOW_PICKLE"),
    ],
)
def test_what_the_hub_refuses(hub: standin.Hub, name: str, message: str) -> None:
    """And nothing large is moved before that is known."""
    with pytest.raises(ValueError, match=message):
        load_model(name, device="cpu")
    assert not any(line.startswith("GET") and line.endswith((".safetensors", ".bin")) for line in hub.asked)


def test_a_gated_model(hub: standin.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add("owner/blip")
    with pytest.raises(ValueError, match="gated; it asks for its terms"):
        load_model("owner/blip", device="cpu")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert load_model("owner/blip", device="cpu").info.tasks == ("answer",)


def test_a_pickled_model_of_the_hub_where_allowed(hub: standin.Hub, answer: Pair) -> None:
    assert answers(load_model("owner/pickled", device="cpu", allow_pickle=True)) == answers(answer.ours)
