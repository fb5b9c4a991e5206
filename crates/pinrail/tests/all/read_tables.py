"""Reads tables with pyiceberg, an independent reader: argv[1] is a JSON list of metadata locations.

Prints for each location: its rows, and the summaries of its snapshots in their order.
"""

import json
import sys

from pyiceberg.table import StaticTable

found = {}
for location in json.loads(sys.argv[1]):
    table = StaticTable.from_metadata(location)
    snapshots = sorted(table.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number)
    found[location] = {
        "rows": table.scan().to_arrow().to_pylist(),
        "snapshots": [dict(snapshot.summary.additional_properties) for snapshot in snapshots],
    }
print(json.dumps(found, default=str))
