"""What is installed: plugin, hosts and their patch rows, requirements, extras, start-up hook and devices -> findings."""

import contextlib
import importlib
import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator

from open_clip_idplugin.command_line.missing_packages import install_command, lacking_modules, modules_of
from open_clip_idplugin.doctor.findings import NOTE, OK, WRONG, Finding
from open_clip_idplugin.doctor.supported import HOSTS, PURPOSES, Host, checked_with
from open_clip_idplugin.errors import HostMismatchError
from open_clip_idplugin.hosts import autoload
from open_clip_idplugin.hosts.patches import mismatches

_PLUGIN = "open-clip-idplugin"


def plugin() -> Iterator[Finding]:
    """Versions of the plugin and of Python, and whether every requirement that is installed has a version in its range."""
    version = version_of(_PLUGIN)
    if version is None:
        text = (
            f"not installed in {sys.prefix}, found by PYTHONPATH or in this folder; other programs need pip install ."
        )
        yield Finding("plugin", NOTE, text)
        return
    yield Finding("plugin", OK, f"{_PLUGIN} {version}, Python {platform.python_version()} in {sys.prefix}")
    yield from _requirements()


def _requirements() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    unfit, fit = {}, set()
    for line in importlib.metadata.requires(_PLUGIN) or []:
        requirement = Requirement(line)
        version = version_of(requirement.name)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        if version is None and extra is None:
            unfit[requirement.name] = f"{requirement.name} is not installed: pip install '{requirement.name}'"
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            unfit[requirement.name] = (
                f"{requirement.name} {version} is installed, {wanted} needed: pip install '{wanted}'"
            )
        elif version is not None:
            fit.add(requirement.name)
    for text in unfit.values():
        yield Finding("requirements", WRONG, text)
    if not unfit:
        yield Finding("requirements", OK, f"{len(fit)} installed packages have versions in their ranges")


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def hosts() -> Iterator[Finding]:
    """Each host's version, and every patch row that does not fit it."""
    # The plugin's own hook raises where open_clip is another; the rows below say in which way.
    with contextlib.suppress(HostMismatchError, ImportError):
        importlib.import_module("open_clip")
    for host in HOSTS:
        yield from _host(host)


def _host(host: Host) -> Iterator[Finding]:
    version = version_of(host.distribution)
    lacking = lacking_modules(host.extra) if host.extra else []
    if version is None or lacking:
        remedy = install_command(host.extra) if host.extra else f"pip install {host.distribution}"
        text = f"for {host.purpose}; {', '.join(lacking) or host.distribution} not installed: {remedy}"
        yield Finding(host.package, NOTE if host.extra else WRONG, text)
        return
    rows = host.rows()
    reasons = [str(error) for error in mismatches(rows)]
    for reason in reasons:
        yield Finding(host.package, WRONG, reason)
    if not reasons:
        text = f"{host.distribution} {version}: all {len(rows)} patch rows fit (checked with {checked_with(rows)})"
        yield Finding(host.package, OK, text)


def start_up_hook() -> Iterator[Finding]:
    """Whether stock commands of this environment know the models."""
    folder = autoload.hook_folder()
    fine = autoload.state_of(folder) in (autoload.ON, autoload.OFF)
    yield Finding("autoload", OK if fine else WRONG, autoload.describe(folder))


def extras() -> Iterator[Finding]:
    """Optional packages that are there, and those that lack with the line that installs them."""
    for extra, purpose in PURPOSES.items():
        lacking = lacking_modules(extra)
        if lacking:
            some = f"{', '.join(lacking)} not installed" if len(lacking) < len(modules_of(extra)) else "not installed"
            yield Finding(f"extra {extra}", NOTE, f"for {purpose}; {some}: {install_command(extra)}")
        elif extra == "spark" and shutil.which("java") is None:
            yield Finding(
                f"extra {extra}", WRONG, "pyspark is installed, and there is no java on the PATH: install Java 17"
            )
        else:
            yield Finding(f"extra {extra}", OK, f"installed, for {purpose}")


def devices() -> Iterator[Finding]:
    """Where towers and face models can compute."""
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    named = ", ".join(
        f"cuda:{number} {card.name}, {card.total_memory / 1e9:.0f} GB" for number, card in enumerate(cards)
    )
    yield Finding(
        "torch", OK, f"{torch.__version__}: cpu ({torch.get_num_threads()} threads){', ' if named else ''}{named}"
    )
    if lacking_modules("faces"):
        yield Finding("onnxruntime", NOTE, f"face models need it: {install_command('faces')}")
        return
    from open_clip_idplugin.faces.onnx_files import GPU, available_providers

    providers = available_providers()
    text = f"{version_of('onnxruntime-gpu') or version_of('onnxruntime')}: {', '.join(providers)}"
    if cards and GPU not in providers:
        text += "; face models compute on the CPU though there is a GPU: pip install onnxruntime-gpu"
    yield Finding("onnxruntime", NOTE if cards and GPU not in providers else OK, text)
