"""Writes the page of the peers from the reports of the probe: `table.py SCRATCH`."""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

scratch = Path(sys.argv[1])
packages = json.loads((scratch / "peers/package-lock.json").read_text())["packages"]
PEERS = {
    "express-idempotency": f"express-idempotency {packages['node_modules/express-idempotency']['version']}",
    "node-idempotency": f"node-idempotency {packages['node_modules/@node-idempotency/core']['version']}",
    "idemkit": f"idemkit {version('idemkit')}",
    "orders": "Keylatch",
}
MARKS = {"pass": "pass", "fail": "**fail**", "cannot tell": "–"}

reports = {peer: json.loads((scratch / peer / "report.json").read_text()) for peer in PEERS}
cases = reports["orders"]["cases"]
found = {(peer, case["case"]): case for peer, report in reports.items() for case in report["cases"]}

print(f"""# Peers

What [`keylatch probe`](PROBE.md) finds in other projects that make repeated requests safe, and in Keylatch's own
[orders API](../examples/orders). `dev/peers` installs each of them, starts it, probes it and writes this page. This is of
{datetime.now(UTC):%Y-%m-%d}.

The peers guard one handler, which waits 30 ms and appends an order to a file, and keep their records in Redis, as their own
pages say ([testing/probe/peers](../testing/probe/peers)). In the orders API, claim, order and answer are one transaction in
SQLite. A file and Redis cannot be in one transaction, so after a crash a service of this kind must choose between a second run
and a key that stays taken. Keylatch names that choice (`Fenced`, `AtMostOnce`), and keys that are taken for good are told
as an unknown outcome that an operator can resolve.

| case | {" | ".join(PEERS.values())} |
|---|{"---|" * len(PEERS)}""")
for case in cases:
    print(f"| `{case['case']}`: {case['why']} | {' | '.join(MARKS[found[peer, case['case']]['verdict']] for peer in PEERS)} |")
print("""
`–` is what cannot be told: two callers where a service has none, or HTTP/2 where it is not served.

## What fails
""")
for peer, name in PEERS.items():
    failures = [case for case in reports[peer]["cases"] if case["verdict"] == "fail"]
    print(f"**{name}**: {len(failures)} of {len(cases)}\n")
    for case in failures:
        print(f"- `{case['case']}` (required by: {', '.join(case['required_by'])}): {case['text']}")
    if failures:
        print()
