"""`idclip models`: which face models are on this disk, and the one command that gets one.

Role: words -> a table, or a fetched or removed folder.
"""

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.model_store.installation import (
    THERE,
    folder_of,
    get_model,
    other_packs,
    remove_model,
    state_of,
)
from open_clip_idplugin.model_store.registry import MODELS, FaceModel

OTHER_LICENCE = "its makers'; see there"  # of a pack that the registry does not know

_ACTIONS = ("list", "get", "remove")
_SHIPPED = ("miniature", "insightface:miniature", "there", "-", "this package's (MIT)")


def models(action: str = "list", *names: str, accept_licence: bool = False, mirror: str | None = None) -> None:
    """List the face models that are here and those that can be fetched, fetch one, or remove it.

    Nothing is ever fetched without this command. CLIP's own weights are open_clip's matter: a pretrained tag is fetched by
    open_clip when it is first used.

    Args:
        action: list, get or remove.
        names: models to get or remove, as the list names them.
        accept_licence: you have read the licence of a model that is not free for every use, and keep to it.
        mirror: address of a folder (http or https) that holds the same files, in the place of their projects' own.
    """
    if action not in _ACTIONS:
        raise IdClipError(f"`idclip models {action}` is nothing; say list, get NAME or remove NAME")
    if action == "list":
        if names:
            raise IdClipError(f"`idclip models list` takes no names; to fetch one say `idclip models get {names[0]}`")
        print(_table())
        return
    if not names:
        raise IdClipError(f"`idclip models {action}` needs a name: {', '.join(MODELS)}")
    for name in names:
        if action == "remove":
            print(f"Removed {remove_model(name)}")
        else:
            print(f"{name} is in {get_model(name, accept_licence, mirror)} ({MODELS[name].licence})")
            print(f"Next: idclip faces --input PICTURES --output TABLE --faces {MODELS[name].spec}")


def _table() -> str:
    rows = [("name", "face engine", "state", "MB", "licence"), _SHIPPED, *map(_row, MODELS.values()), *_others()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]) for row in rows]
    missing = [model for model in MODELS.values() if state_of(model) != THERE]
    lines += ["", *(f"{folder_of(model)}: {model.about}" for model in MODELS.values() if state_of(model) == THERE)]
    lines += [f"{model.command}: {model.about}" for model in missing]
    return "\n".join(lines)


def _row(model: FaceModel) -> tuple[str, str, str, str, str]:
    return model.name, model.spec, state_of(model), f"{model.size / 1e6:.0f}", model.licence


def _others() -> list[tuple[str, str, str, str, str]]:
    rows = []
    for folder in other_packs():
        size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
        rows.append((folder.name, f"insightface:{folder.name}", THERE, f"{size / 1e6:.0f}", OTHER_LICENCE))
    return rows
