"""Update constraints.txt to the newest versions of the given packages and their dependencies.

    make constraints

pip resolves the requirements without installing them. CUDA packages, which PyTorch requires only on some platforms,
are left out, as are this package and the packaging tools. The comment at the top of the file is kept.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "constraints.txt"
LEFT_OUT = re.compile(r"(nvidia|cuda)-.*|triton|keras-resattn|pip|setuptools|wheel")


def resolve(requirements):
    """Return `{name: version}` for all packages that pip would install for the requirements."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run([*command, *requirements], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = (item["metadata"] for item in json.loads(report)["install"])
    versions = {package["name"].lower().replace("_", "-"): package["version"] for package in found}
    # Builds for one device, such as 2.13.0+cpu, satisfy the version without their suffix.
    return {name: version.split("+")[0] for name, version in versions.items() if not LEFT_OUT.fullmatch(name)}


def main():
    comment = [line for line in FILE.read_text().splitlines() if line.startswith("#")]
    pins = [f"{name}=={version}" for name, version in sorted(resolve(sys.argv[1:]).items())]
    FILE.write_text("\n".join([*comment, *pins]) + "\n")


if __name__ == "__main__":
    main()
