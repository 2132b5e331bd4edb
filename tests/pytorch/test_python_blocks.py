"""The Python of README and docs that needs a module of the reader's own, run on a small one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/export.md",
    "docs/finetune.md",
    "docs/interpreter.md",
    "docs/modules.md",
)


def blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if "pytorch" in code:
                yield page, code


@pytest.mark.parametrize(("page", "code"), list(blocks()), ids=lambda one: one.partition("\n")[0])
def test_a_block_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normsurgery import pytorch

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    loader = [(x, torch.tensor([0, 3]))] * 3
    if "export(" not in code:
        pytorch.export(module, x, dynamic="batch").save("model.onnx")
        pytorch.export(module, x, dynamic="batch").save("gn.onnx")
    names: dict[str, Any] = {"module": module, "example": x, "loader": loader, "torch": torch}
    exec(compile(code, page, "exec"), names)  # noqa: S102  of this repository's own pages
