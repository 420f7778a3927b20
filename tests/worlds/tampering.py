"""Files of weights as a hand or a bad disk leaves them: a part missing, of another type or shape, the file cut."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError

OTHERS: tuple[object, ...] = (None, 3, "word", [1], {"a": 1}, torch.zeros(2, 1, 3))


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """What is wrong, and a copy of a file's content with that one fault; of many tensors the first and the last."""
    yield from ((f"is {other!r}", other) for other in OTHERS if type(other) is not type(value))
    if isinstance(value, Tensor):
        yield "is of another shape", value.new_zeros(7, 1)
        yield "is of another type", value.bool() if value.is_floating_point() else value.double()
    elif isinstance(value, Mapping):
        tensors = [name for name, part in value.items() if isinstance(part, Tensor)]
        for name in [name for name in value if name not in tensors[1:-1]]:
            yield f"lacks {name}", {key: part for key, part in value.items() if key != name}
            for what, other in changed(value[name]):
                yield f"{name} {what}", {**value, name: other}
    elif isinstance(value, list) and value:
        yield "is short", value[:-1]
        yield "holds something else", [*value[:-1], {}]


def surprises(load: Callable[[Path], object], path: Path, folder: Path, model: nn.Module | None = None) -> list[str]:
    """Loads a file with one fault after another. -> faults that are not refused in a sentence, or that leave the model
    changed. Faults in what nobody reads may be taken; a file that is cut may not."""
    content, found, refused = torch.load(path, weights_only=True), [], 0
    file = folder / f"tampered{path.suffix}"
    for what, other in changed(content):
        torch.save(other, file)
        before = {} if model is None else {name: part.clone() for name, part in model.state_dict().items()}
        try:
            load(file)
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                found.append(f"{what}: several lines")
            if model is not None and not all(
                torch.equal(part, before[name]) for name, part in model.state_dict().items()
            ):
                found.append(f"{what}: half loaded")
        except Exception as error:
            found.append(f"{what}: {type(error).__name__}: {error}")
    for size in (0, 1, path.stat().st_size // 2, path.stat().st_size - 1):
        file.write_bytes(path.read_bytes()[:size])
        try:
            load(file)
        except UserError:
            continue
        except Exception as error:
            found.append(f"{size} bytes: {type(error).__name__}: {error}")
        else:
            found.append(f"{size} bytes: taken")
    return found if refused else ["no fault is refused"]
