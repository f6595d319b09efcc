"""Renders and lints the chart with Helm's own engine. Standard input: [{"values": {..}, "upgrade": bool}]; standard output: one result for
each, {"objects": [text, ..], "error": text or null, "lint": [text, ..]}; the first argument is the chart's directory."""

import json
import sys

from helm_python import Chart, HelmError, lint


def rendered(directory, request):
    upgrade = request.get("upgrade", False)
    try:
        chart = Chart.load(directory)
        files = chart.render(request["values"], name="podpin", namespace="podpin", is_install=not upgrade,
                             is_upgrade=upgrade, revision=2 if upgrade else 1)
        report = lint(directory, request["values"], strict=True, namespace="podpin", kube_version="v1.27.0")
    except HelmError as error:
        return {"objects": [], "error": str(error), "lint": []}
    hooks = (text for name, text in files.items() if not (upgrade and "helm.sh/hook: pre-install" in text))
    problems = [message["error"] for message in report["messages"] if message["severity"] > 1] + report["errors"]
    return {"objects": [text for text in hooks if "kind:" in text], "error": None, "lint": problems}


json.dump([rendered(sys.argv[1], request) for request in json.load(sys.stdin)], sys.stdout)
