"""Checkpoint files that do something when they are unpickled or run, and OpenAI's form of weights."""

import pickle
import zipfile
from pathlib import Path

import torch


class Holder(torch.nn.Module):
    """A scripted module with weights under their plain names."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Needed to be scripted."""
        return x


class Evil(torch.nn.Module):
    """A scripted module that writes a file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Needed to be scripted."""
        return x


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


def openai_archive(state: dict[str, torch.Tensor], path: Path, evil: str | None = None) -> Path:
    """Write plain CLIP weights as a TorchScript archive, with OpenAI's three scalars; `evil`: with an Evil module in it."""
    facts = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77), "vocab_size": torch.tensor(1)}
    top = Holder()
    for key, value in (dict(state) | facts).items():
        *folders, name = key.split(".")
        module = top
        for step in folders:
            if not hasattr(module, step):
                module.add_module(step, Holder())
            module = getattr(module, step)
        module.register_buffer(name, value)
    if evil is not None:
        top.add_module("evil", Evil(evil))
    torch.jit.script(top).save(str(path))
    return path


def pickle_before(archive: Path, mark: Path, path: Path) -> Path:
    """A pickle that runs, with an archive behind it: by its end it is a zip file."""
    path.write_bytes(pickle.dumps(Touch(mark), 2) + archive.read_bytes())
    return path


def with_data_pickle(archive: Path, content: bytes, path: Path) -> Path:
    """A copy of an archive with another data.pkl."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith("/data.pkl") else source.read(name))
    return path
