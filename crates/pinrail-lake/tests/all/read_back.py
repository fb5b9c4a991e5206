"""Reads tables with pyiceberg, an independent reader: argv[1] is a JSON list of [location, filter or null].

Prints for each: rows of the filtered table, files planned for the filter, files in all, and the snapshot chain.
"""

import json
import sys

from pyiceberg.table import StaticTable

out = []
for location, row_filter in json.loads(sys.argv[1]):
    table = StaticTable.from_metadata(location)
    scan = table.scan(row_filter=row_filter) if row_filter else table.scan()
    rows = scan.to_arrow().to_pylist()
    history = sorted(table.metadata.snapshots, key=lambda s: s.sequence_number)
    out.append(
        {
            "rows": rows,
            "planned": len(list(scan.plan_files())),
            "files": len(list(table.scan().plan_files())),
            "spec": [f"{f.name}:{f.transform}" for f in table.spec().fields],
            "types": {f.name: str(f.field_type) for f in table.schema().fields},
            "snapshots": [[s.snapshot_id, s.parent_snapshot_id, s.summary.operation.value] for s in history],
        }
    )
print(json.dumps(out, default=str))
