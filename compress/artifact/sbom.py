"""sbom.cdx.json: what an artifact was made of, as a CycloneDX bill of materials.

The model that came out, the model and the data that went in (by fingerprint), and every library that took part, with
what it needs in turn, versions and licences where their metadata have them. Law (``tests/artifact/test_sbom.py``):
equal inputs and equal libraries give equal bytes; there is no date in it, and its serial number is made from its
content.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress._version import __version__
from compress.artifact.files import BILL_OF_MATERIALS
from compress.core.errors import ConfigError
from compress.core.parsing import Unreadable, read_text

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

NAME = BILL_OF_MATERIALS
# Names serial numbers of these documents; any fixed UUID would do.
_NAMESPACE = uuid.UUID("b0a1c1f6-4f0e-5d0b-9d53-6a7f6d3c2e11")
_NO_LIBRARY = ("compress", "python")
# A licence field may hold the whole text of the licence.
_LONGEST_LICENCE = 80


def sbom_text(facts: Mapping[str, Any], model_sha256: str) -> str:
    """The document.

    Args:
        facts: of the manifest: ``model``, ``data``, ``versions``, ``configuration``.
        model_sha256: of ``model.onnx``.

    Raises:
        ConfigError: the library for it is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise ConfigError(
            "a bill of materials needs cyclonedx-python-lib, which is not installed: pip install cyclonedx-python-lib"
        ) from None

    given = str(facts["model"]["name"])
    name = Path(given).name or given
    made = Component(
        name=f"{name}, compressed",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="artifact",
        version=model_sha256[:12],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model_sha256)],
    )
    dense = Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        licenses=_licences([model_licence(given)]),
        properties=[Property(name="compress:fingerprint:sha256", value=str(facts["model"]["sha256"]))],
    )
    data = [
        Component(
            name=f"{kind} data",
            type=ComponentType.DATA,
            bom_ref=f"data:{kind}",
            properties=[
                Property(name="compress:fingerprint:sha256", value=str(part["sha256"])),
                Property(name="compress:examples", value=str(part["examples"])),
            ],
        )
        for kind, part in sorted(facts["data"].items())
        if part["examples"]
    ]
    tool = Component(
        name="compress",
        type=ComponentType.APPLICATION,
        bom_ref="compress",
        version=__version__,
        licenses=_licences(["Apache-2.0"]),
    )
    needs = requirements(name for name in facts["versions"] if name not in _NO_LIBRARY)
    libraries = {name: _library(name) for name in needs}
    bom = Bom(components=[dense, *data, tool, *libraries.values()])
    bom.metadata.component = made
    bom.register_dependency(made, [dense, *data, tool])
    bom.register_dependency(tool, [libraries[name] for name in needs if name in facts["versions"]])
    for name, others in needs.items():
        bom.register_dependency(libraries[name], [libraries[other] for other in others])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    # Both would differ from run to run.
    document["metadata"].pop("timestamp", None)
    document.pop("serialNumber", None)
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def requirements(roots: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Installed distributions that some rest on, themselves included, by canonical name; of each what it needs.

    Extras are left out: what an extra brought is there by itself if it took part.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, tuple[str, ...]] = {}
    waiting = [str(canonicalize_name(root)) for root in roots]
    while waiting:
        name = waiting.pop()
        if name in found or not _installed(name):
            continue
        needed = set()
        for text in metadata.requires(name) or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            other = str(canonicalize_name(requirement.name))
            if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and _installed(other):
                needed.add(other)
        found[name] = tuple(sorted(needed - {name}))
        waiting += found[name]
    return dict(sorted(found.items()))


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _library(name: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    version = metadata.version(name)
    return Component(
        name=name,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{name}",
        version=version,
        purl=PackageURL("pypi", None, name, version),
        licenses=_licences(licences_of(metadata.metadata(name))),
    )


def licences_of(about: Any) -> list[str]:
    """Licences in a distribution's metadata: the expression, else the short field, else the classifiers."""
    for field in ("License-Expression", "License"):
        value = (about.get(field) or "").strip()
        if value and value.upper() != "UNKNOWN" and "\n" not in value and len(value) <= _LONGEST_LICENCE:
            return [value]
    names = [str(entry).split("::")[-1].strip() for entry in about.get_all("Classifier") or () if "License ::" in entry]
    return sorted({name for name in names if name != "OSI Approved"})


def model_licence(model: str) -> str | None:
    """The licence in the front matter of a checkpoint's model card; None where there is none to read."""
    try:
        card = read_text(Path(model) / "README.md")
    except Unreadable:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^license:[ \t]*([\w.+-]{1,60})[ \t]*$", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def _licences(names: Iterable[str | None]) -> list[Any]:
    """As the document has them: an SPDX identifier or expression where it is one, else a name."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import LicenseExpression

    made = [LicenseFactory().make_from_string(name) for name in names if name]
    # The format takes one expression, or any number of others.
    expressions = [licence for licence in made if isinstance(licence, LicenseExpression)]
    return expressions[:1] or made
