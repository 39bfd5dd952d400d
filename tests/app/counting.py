"""The toy model, which writes down what it computes: a line for each time that an image goes through the vision
network, that keys and values are projected, and that a fusion layer attends, with where its keys and values lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.compact.fusion import Fusion
from model.compact.model import CompactModel
from model.cross_attention import CrossAttention, KeysValues
from model.registry import load_model

LOADER = "tests.app.counting:load"


def load(name: str, **options: Any) -> CompactModel:
    """`tiny`, which appends to the file ``name``."""
    model = load_model("tiny", **options)
    assert isinstance(model, CompactModel)
    model.use_kernel("reference")  # by the modules, where it can be seen

    def note(line: str) -> None:
        with Path(name).open("a") as file:
            file.write(line + "\n")

    def attended(layer: CrossAttention, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        kv = arguments[1]
        note(f"attend {[x.data_ptr() for x in kv]}" if isinstance(kv, KeysValues) else "attend features")

    class Seen(type(model.image_networks)):  # type: ignore[misc]
        def __call__(self, *given: Any) -> Any:
            note("see")
            return super().__call__(*given)

    model.image_networks.__class__ = Seen
    for module in model.net.modules():
        if isinstance(module, CrossAttention):
            module.register_forward_pre_hook(attended, with_kwargs=True)
        if isinstance(module, CrossAttention | Fusion):
            project = module.project
            module.project = lambda x, project=project: (note("project"), project(x))[1]  # type: ignore[method-assign]
    return model
