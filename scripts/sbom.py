#!/usr/bin/env python3
"""A software bill of materials of the proxy, as CycloneDX 1.5 JSON, from cargo's own metadata.

Only what is linked into the image's binary: normal dependencies of `podpin` without default features, for Linux. Hashes are
those of Cargo.lock. Two runs on one commit write the same bytes.

    scripts/sbom.py [FILE]          standard output without FILE
"""

import json
import pathlib
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLATFORMS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def metadata(platform):
    """Cargo's metadata of the proxy as the image has it."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline", "--no-default-features",
               "--filter-platform", platform, "--manifest-path", str(ROOT / "crates/podpin/Cargo.toml")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def linked(data):
    """The ids of the packages that are linked into the proxy, each with those that it needs itself."""
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    waiting, found = [data["resolve"]["root"]], {}
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        needs = [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        found[package] = sorted(needs)
        waiting += needs
    return found


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    """A package as CycloneDX describes it."""
    is_ours = package["source"] is None
    described = {
        "type": "application" if package["name"] == "podpin" else "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
        "scope": "required",
    }
    if package.get("description"):
        described["description"] = " ".join(package["description"].split())
    if package.get("license"):
        described["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package.get("repository") and not is_ours:
        described["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return described


def bill():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    packages, needs, root = {}, {}, None
    for platform in PLATFORMS:
        data = metadata(platform)
        packages.update({package["id"]: package for package in data["packages"]})
        root = data["resolve"]["root"]
        for package, its in linked(data).items():
            needs[package] = sorted(set(needs.get(package, [])) | set(its))
    main = component(packages[root], checksums)
    parts = [component(packages[one], checksums) for one in needs if one != root]
    graph = [{"ref": reference(packages[one]), "dependsOn": sorted({reference(packages[its]) for its in needs[one]})} for one in needs]
    # The same packages are the same bill: no time and no chance in it.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, "podpin:" + ",".join(sorted(part["bom-ref"] for part in parts)) + main["bom-ref"])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": main, "tools": {"components": [{"type": "application", "name": "podpin scripts/sbom.py"}]}},
        "components": sorted(parts, key=lambda part: part["bom-ref"]),
        "dependencies": sorted(graph, key=lambda entry: entry["ref"]),
    }


def main():
    text = json.dumps(bill(), indent=1) + "\n"
    if len(sys.argv) > 1:
        pathlib.Path(sys.argv[1]).write_text(text)
        print(f"{sys.argv[1]}: {text.count('bom-ref') - 1} packages", file=sys.stderr)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
