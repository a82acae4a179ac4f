"""Run in an image: its list of packages (SBOM) must name every installed distribution in its version, and no other."""

import importlib.metadata
import json
from pathlib import Path

sbom = json.loads(Path("/opt/msr/sbom.cdx.json").read_text(encoding="utf-8"))
assert sbom["bomFormat"] == "CycloneDX", sbom["bomFormat"]
listed = sorted((each["name"], each["version"]) for each in sbom["components"])
installed = sorted((each.name, each.version) for each in importlib.metadata.distributions())
assert installed
assert listed == installed, set(listed) ^ set(installed)
print(f"SBOM: CycloneDX {sbom['specVersion']}, {len(listed)} components, as installed")
