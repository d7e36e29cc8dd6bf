"""JSON lines of a driver to one result: to_json.py FILE COMMIT"""

import datetime
import json
import sys
from pathlib import Path

lines = [json.loads(line) for line in open(sys.argv[1])]
result = {
    "date": datetime.datetime.now().isoformat(timespec="seconds"),
    "commit": sys.argv[2],
    "command": f"bench/cuda/run.sh -s bench {Path(sys.argv[1]).stem}",
    **next(line for line in lines if "device" in line),
    "cases": [line for line in lines if "kernel" in line],
}
print("{")
for name, value in result.items():
    if name != "cases":
        print(f" {json.dumps(name)}: {json.dumps(value)},")
print(' "cases": [')
print(",\n".join("  " + json.dumps(case) for case in result["cases"]))
print(" ]\n}")
