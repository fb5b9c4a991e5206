//! Other engines: pyiceberg reads what we wrote, and we read what others may write.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::support::{Bench, read_metadata};

/// Runs the reader; a machine without it fails rather than proves nothing.
fn read_back(tables: &[(String, Option<&str>)]) -> Vec<Json> {
    let python = std::env::var("PINRAIL_TEST_PYTHON").expect(
        "PINRAIL_TEST_PYTHON must name a Python with pyiceberg and pyarrow: run the tests through `cargo xtask test`",
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/read_back.py");
    let output = Command::new(python).arg(script).arg(json!(tables).to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn pyiceberg_reads_rows_prunes_partitions_and_follows_snapshots() {
    let b = Bench::default();
    b.rows("create table p (x int, price decimal(10, 2), name string, day date, at timestamptz) partitioned by (day, bucket(4, x))").await;
    b.rows("insert into p (day, x, price, name) select date '2013-01-01' + i % 5, i, i * 1.25, repeat('long', 20) || i from generate_series(1, 50) as s(i)").await;
    b.rows("insert overwrite p partition (day = '2013-01-02') select 1000, 1.5, 'n', null").await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "insert into p values (7, 0.25, null, '2013-02-01', null); insert into p values (8, 0.5, 'b', '2013-02-01', null)").await;
    b.rows("insert into p values (9, 0.75, 'c', '2013-03-01', timestamp '2013-03-01 01:02:03' at time zone 'UTC')")
        .await;
    b.publish(&view).await.unwrap();
    b.rows("create table h partitioned by (hour(at), truncate(2, s)) as select to_timestamp_seconds(1356998400 + i * 1800) as at, 's' || i as s, [i] as l, struct(i as a) as st from generate_series(0, 9) as g(i)").await;
    b.rows("-- writes: e\nselect 1 as id").await;
    b.rows("-- writes: e append\nselect 2 as id, 'new' as note").await;

    let location = |table: &str| b.pointers.location(table).unwrap();
    let found = read_back(&[
        (location("p"), None),
        (location("p"), Some("day = '2013-01-03'")),
        (location("p"), Some("x = 7 and day = '2013-02-01'")),
        (location("h"), Some("at < '2013-01-01T01:00:00+00:00'")),
        (location("e"), None),
    ]);
    let ours = b.rows("select x, cast(price as string), name, cast(day as string) from p order by x, price").await;
    let mut theirs: Vec<_> =
        found[0]["rows"].as_array().unwrap().iter().map(|r| json!([r["x"], r["price"], r["name"], r["day"]])).collect();
    let price = |r: &Json| r[1].as_str().unwrap().parse::<f64>().unwrap();
    theirs.sort_by(|a, b| a[0].as_i64().cmp(&b[0].as_i64()).then(price(a).total_cmp(&price(b))));
    assert_eq!(Json::from(theirs), ours);
    assert_eq!(found[0]["spec"], json!(["day:identity", "x_bucket:bucket[4]"]));
    assert_eq!(found[0]["types"]["price"], "decimal(10, 2)");
    let chain = found[0]["snapshots"].as_array().unwrap();
    let operations: Vec<_> = chain.iter().map(|s| s[2].as_str().unwrap()).collect();
    assert_eq!(operations, ["append", "append", "overwrite", "append", "append"]);
    assert!(chain.windows(2).all(|pair| pair[1][1] == pair[0][0]), "each snapshot's parent is the one before");

    assert_eq!(found[1]["rows"].as_array().unwrap().len(), 10);
    let (planned, files) = (found[1]["planned"].as_i64().unwrap(), found[1]["files"].as_i64().unwrap());
    assert!(planned <= 4 && files > 12, "one day of four buckets: {planned} of {files}");
    assert_eq!(found[2]["planned"], 1, "one bucket of one day");
    assert_eq!(found[2]["rows"][0]["price"], "0.25");
    assert_eq!(
        (found[3]["rows"].as_array().unwrap().len(), &found[3]["rows"][0]["st"]),
        (2, &json!({"a": found[3]["rows"][0]["l"][0]}))
    );
    assert!(found[3]["planned"].as_i64().unwrap() < found[3]["files"].as_i64().unwrap());
    let mut notes: Vec<_> = found[4]["rows"].as_array().unwrap().iter().map(|r| json!([r["id"], r["note"]])).collect();
    notes.sort_by_key(|r| r[0].as_i64());
    assert_eq!(notes, [json!([1, null]), json!([2, "new"])]);
}

/// Writes changed metadata beside the current one, as another engine would.
fn alter(b: &Bench, table: &str, change: impl FnOnce(&mut Json)) {
    let location = b.pointers.location(table).unwrap();
    let mut metadata = read_metadata(&location);
    change(&mut metadata);
    let altered = location.replace("/metadata/", "/metadata/1");
    std::fs::write(altered.strip_prefix("file://").unwrap(), metadata.to_string()).unwrap();
    b.pointers.repoint(table, &altered);
}

#[tokio::test]
async fn columns_that_another_engine_renamed_are_read_by_id() {
    let b = Bench::default();
    b.rows("create table t as select 1 as a, 'x' as b, 10 as c").await;
    alter(&b, "t", |metadata| {
        let mut schema = metadata["schemas"][0].clone();
        schema["schema-id"] = json!(1);
        schema["fields"][0]["name"] = json!("b");
        schema["fields"][1]["name"] = json!("a");
        metadata["schemas"].as_array_mut().unwrap().push(schema);
        metadata["current-schema-id"] = json!(1);
    });
    assert_eq!(b.rows("select a, b, c from t").await, json!([["x", 1, 10]]));
    assert_eq!(b.rows("select count(*) from t").await, json!([[1]]));
    b.rows("insert into t (a, b, c) values ('y', 2, 20)").await;
    assert_eq!(b.rows("select a, b from t where b > 0 order by b").await, json!([["x", 1], ["y", 2]]));
    b.rows("insert overwrite t (a, b, c) select a, b + 100, c from t").await;
    assert_eq!(b.rows("select sum(b) from t").await, json!([[203]]));
}

#[tokio::test]
async fn files_with_deletes_go_through_icebergs_reader() {
    let b = Bench::default();
    b.rows("create table t as select i as id, 'v' || i as v from generate_series(1, 10) as s(i)").await;
    delete_by_id(&b, "t", &[3, 4]).await;
    assert_eq!(b.rows("select count(*), min(id), sum(id) from t").await, json!([[8, 1, 48]]));
    assert_eq!(b.rows("select v from t where id between 2 and 5 order by id").await, json!([["v2"], ["v5"]]));
    b.rows("insert into t values (3, 'again')").await;
    assert_eq!(b.rows("select v from t where id = 3").await, json!([["again"]]), "a delete does not reach later rows");
}

/// Adds an equality delete, as Flink would.
async fn delete_by_id(b: &Bench, table: &str, ids: &[i64]) {
    use iceberg::spec::*;
    use iceberg::writer::base_writer::equality_delete_writer::{
        EqualityDeleteFileWriterBuilder, EqualityDeleteWriterConfig,
    };
    use iceberg::writer::file_writer::ParquetWriterBuilder;
    use iceberg::writer::file_writer::location_generator::{DefaultFileNameGenerator, DefaultLocationGenerator};
    use iceberg::writer::file_writer::rolling_writer::RollingFileWriterBuilder;
    use iceberg::writer::{IcebergWriter, IcebergWriterBuilder};

    let io = iceberg::io::FileIO::new_with_fs();
    let location = b.pointers.location(table).unwrap();
    let metadata = TableMetadata::read_from(&io, &location).await.unwrap();
    let schema = metadata.current_schema().clone();
    let config = EqualityDeleteWriterConfig::new(vec![1], schema.clone()).unwrap();
    let arrow = config.projected_arrow_schema_ref().clone();
    let delete_schema = Arc::new(iceberg::arrow::arrow_schema_to_schema(&arrow).unwrap());
    let rolling = RollingFileWriterBuilder::new_with_default_file_size(
        ParquetWriterBuilder::new(parquet::file::properties::WriterProperties::default(), delete_schema),
        io.clone(),
        DefaultLocationGenerator::new(&metadata).unwrap(),
        DefaultFileNameGenerator::new("deletes".to_owned(), None, DataFileFormat::Parquet),
    );
    let mut writer = EqualityDeleteFileWriterBuilder::new(rolling, config).build(None).await.unwrap();
    let full = Arc::new(iceberg::arrow::schema_to_arrow_schema(&schema).unwrap());
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(arrow::array::Int64Array::from(ids.to_vec())),
        Arc::new(arrow::array::StringArray::from(vec![""; ids.len()])),
    ];
    writer.write(arrow::array::RecordBatch::try_new(full, columns).unwrap()).await.unwrap();
    let deletes = writer.close().await.unwrap();

    let snapshot_id = 77;
    let output = io.new_output(format!("{}/metadata/deletes.avro", metadata.location())).unwrap();
    let spec = metadata.default_partition_spec().as_ref().clone();
    let mut manifest = ManifestWriterBuilder::new(output, Some(snapshot_id), schema, spec).build_v2_deletes();
    for file in deletes {
        manifest.add_file(file, -1).unwrap();
    }
    let manifest = manifest.write_manifest_file().await.unwrap();
    let current = metadata.current_snapshot().unwrap();
    let bytes = io.new_input(current.manifest_list()).unwrap().read().await.unwrap();
    let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2).unwrap();
    let path = format!("{}/metadata/snap-deletes.avro", metadata.location());
    let sequence = metadata.next_sequence_number();
    let output = io.new_output(&path).unwrap().writer().await.unwrap();
    let mut lists = ManifestListWriter::v2(output, snapshot_id, Some(current.snapshot_id()), sequence);
    lists.add_manifests(list.consume_entries().into_iter().chain([manifest])).unwrap();
    lists.close().await.unwrap();
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(Some(current.snapshot_id()))
        .with_sequence_number(sequence)
        .with_timestamp_ms(current.timestamp_ms())
        .with_manifest_list(path)
        .with_summary(Summary { operation: Operation::Delete, additional_properties: Default::default() })
        .with_schema_id(metadata.current_schema_id())
        .build();
    let changed = metadata.into_builder(Some(location.clone())).set_branch_snapshot(snapshot, "main").unwrap();
    let changed = changed.build().unwrap().metadata;
    let next = location.replace("/metadata/", "/metadata/2");
    std::fs::write(next.strip_prefix("file://").unwrap(), serde_json::to_vec(&changed).unwrap()).unwrap();
    b.pointers.repoint(table, &next);
}
