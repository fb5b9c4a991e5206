//! What each statement does to tables.

use pinrail_model::seam::lake::Catalog;

use crate::support::{Bench, head, json};

#[tokio::test]
async fn a_table_is_made_filled_and_read() {
    let b = Bench::default();
    b.rows(
        "create schema if not exists raw; create table raw.t (id bigint, name string, price decimal(10, 2), day date)",
    )
    .await;
    b.rows("insert into raw.t values (1, 'a', 1.50, '2013-01-01'), (2, null, 2.25, '2013-01-02')").await;
    assert_eq!(
        b.rows("select * from raw.t order by id").await,
        json(r#"[[1,"a","1.50","2013-01-01"],[2,null,"2.25","2013-01-02"]]"#)
    );
    assert_eq!(b.rows("select sum(price), avg(price) from raw.t").await, json(r#"[["3.75","1.875000"]]"#));
    assert_eq!(b.rows("describe raw.t").await[2], json(r#"["price","decimal(10, 2)",null]"#));
    assert_eq!(b.rows("show tables").await, json(r#"[["raw","t"]]"#));
    assert_eq!(b.rows("show tables in raw").await, json(r#"[["raw","t"]]"#));
    assert_eq!(b.rows("show tables in other").await, json("[]"));
    assert_eq!(b.rows("show schemas").await, json(r#"[["raw"]]"#));
}

#[tokio::test]
async fn unqualified_tables_are_in_main() {
    let b = Bench::default();
    b.rows("create table T as select 1 as x").await;
    assert_eq!(b.rows("select x from main.t").await, json("[[1]]"));
    assert_eq!(b.rows("select main.t.x from T").await, json("[[1]]"));
}

#[tokio::test]
async fn create_table_as_replaces_only_when_told() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    assert_eq!(b.error("create table t as select 2 as x").await.code, "table-exists");
    b.rows("create table if not exists t as select 2 as x").await;
    assert_eq!(b.rows("select x from t").await, json("[[1]]"));
    b.rows("create or replace table t as select 'a' as y, 3 as x").await;
    assert_eq!(b.rows("select * from t").await, json(r#"[["a",3]]"#));
    let metadata = b.metadata("t");
    let current = &metadata["current-schema-id"];
    let schema = metadata["schemas"].as_array().unwrap().iter().find(|s| s["schema-id"] == *current).unwrap();
    let fields = &schema["fields"];
    assert_eq!(fields[1]["id"], 1, "x keeps its id");
    assert_eq!(fields[0]["id"], 2, "y has a new one");
    assert_eq!(b.snapshots("t").len(), 2, "history is kept");
}

#[tokio::test]
async fn drop_and_truncate() {
    let b = Bench::default();
    b.rows("create table a as select 1 as x; create table b as select 1 as x").await;
    b.rows("truncate table a").await;
    assert_eq!(b.rows("select count(*) from a").await, json("[[0]]"));
    assert_eq!(b.error("drop schema main").await.code, "schema-not-empty");
    b.rows("drop table a; drop table if exists a").await;
    assert_eq!(b.error("drop table a").await.code, "table-not-found");
    assert_eq!(b.error("select * from a").await.code, "table-not-found");
    b.rows("drop table b; drop schema if exists main").await;
    assert_eq!(b.error("drop schema main").await.code, "schema-not-found");
    b.rows("create table a as select 2 as x").await;
    assert_eq!(b.rows("select x from a").await, json("[[2]]"));
}

/// The case in which the published glue of DataFusion and Iceberg puts rows into wrong partitions.
#[tokio::test]
async fn partitioned_insert_with_permuted_columns() {
    let b = Bench::default();
    b.rows("create table src as select * from (values (10, 1), (20, 2), (30, 1)) as v(b, a)").await;
    b.rows("create table t (a int, b int) partitioned by (a)").await;
    b.rows("insert into t (a, b) select a, b from src; insert into t (b, a) select b, a from src where b = 20").await;
    assert_eq!(b.rows("select count(*) from t where a = 1").await, json("[[2]]"));
    assert_eq!(b.rows("select a, b from t order by a, b").await, json("[[1,10],[1,30],[2,20],[2,20]]"));
    let planned = b.rows("explain select * from t where a = 1").await.to_string();
    assert_eq!(planned.matches(".parquet").count(), 1, "one of three files: {planned}");
}

#[tokio::test]
async fn inserted_columns_go_by_name_or_by_position() {
    let b = Bench::default();
    b.rows("create table t (a long, b string, c double)").await;
    b.rows("insert into t values (1, 'x', 0.5); insert into t (c, a) values (1.5, 2)").await;
    assert_eq!(b.rows("select * from t order by a").await, json(r#"[[1,"x",0.5],[2,null,1.5]]"#));
    assert_eq!(b.error("insert into t values (1, 'x')").await.code, "column-count");
    let error = b.error("insert into t (a, bb) values (1, 'x')").await;
    assert_eq!((error.code, error.place), ("column-not-found", Some((1, 19))));
}

#[tokio::test]
async fn values_that_do_not_fit_are_refused() {
    let b = Bench::default();
    b.rows("create table t (i int, d decimal(4, 1), day date, f float, ok boolean, s string)").await;
    for (column, value, code) in [
        ("i", "3000000000", "cast-lossy"),
        ("i", "1.5", "cast-lossy"),
        ("i", "1.5e0", "cast-lossy"),
        ("i", "'abc'", "cast-lossy"),
        ("i", "true", "cast-failed"),
        ("d", "1.25", "cast-lossy"),
        ("d", "10000.0", "cast-lossy"),
        ("day", "timestamp '2013-01-01 10:00:00'", "cast-lossy"),
        ("day", "1", "cast-failed"),
        ("f", "cast(0.1 as double)", "cast-lossy"),
        ("ok", "1", "cast-failed"),
        ("s", "[1]", "cast-failed"),
    ] {
        let error = b.error(&format!("insert into t ({column}) values ({value})")).await;
        assert_eq!(error.code, code, "{column} = {value}: {error}");
        assert!(error.to_string().contains(&format!("\"{column}\"")), "{error}");
    }
    b.rows("insert into t (i, d, day, f, ok, s) values ('12', 1.50, timestamp '2013-01-01', 0.5, 'true', 7)").await;
    assert_eq!(b.rows("select * from t").await, json(r#"[[12,"1.5","2013-01-01",0.5,true,"7"]]"#));
}

#[tokio::test]
async fn overwrite_static_dynamic_and_whole() {
    let b = Bench::default();
    b.rows("create table t (x int, day date, kind string) partitioned by (day, kind)").await;
    b.rows("insert into t values (1, '2013-01-01', 'a'), (2, '2013-01-02', 'a'), (3, '2013-01-02', 'b')").await;
    b.rows("insert overwrite t partition (day = {{ ds }}, kind = 'a') select 20").await;
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[3],[20]]"));
    b.rows("insert overwrite table t partition (day = '2013-01-02', kind = 'a') select x from t where false").await;
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[3]]"), "no rows empty a static partition");
    b.rows("insert overwrite t values (30, '2013-01-02', 'b')").await;
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[30]]"), "only partitions with rows");
    b.rows("insert overwrite t select x, day, kind from t where false").await;
    assert_eq!(b.rows("select count(*) from t").await, json("[[2]]"), "no rows replace nothing");
    b.rows("insert overwrite t partition (day = date '2013-01-02', kind) select 31, 'c'").await;
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[30],[31]]"));
    let error = b.error("insert overwrite t partition (x = 1) select date '2013-01-01', 'a'").await;
    assert_eq!(error.code, "partition-mismatch");
    b.rows("create table u as select 1 as x; insert overwrite u select 2").await;
    assert_eq!(b.rows("select x from u").await, json("[[2]]"));
}

#[tokio::test]
async fn every_transform_partitions_and_prunes() {
    let b = Bench::default();
    for (cut, filter) in [
        ("id", "id = 7"),
        ("bucket(4, id)", "id = 7"),
        ("truncate(10, id)", "id between 0 and 9"),
        ("year(at)", "at < timestamp '2014-01-01'"),
        ("month(at)", "at < timestamp '2013-02-01'"),
        ("day(at)", "at < timestamp '2013-01-02'"),
        ("hour(at)", "at < timestamp '2013-01-01 01:00:00'"),
    ] {
        b.rows(&format!(
            "create or replace table t partitioned by ({cut}) as
             select i as id, to_timestamp_seconds(1356998400 + i * 61200) as at from generate_series(0, 999) as s(i)"
        ))
        .await;
        let plain = b.rows(&format!("select count(*), min(id) from (select id + 0 as id, at + interval '0 hours' as at from t) where {filter}")).await;
        assert_eq!(b.rows(&format!("select count(*), min(id) from t where {filter}")).await, plain, "{cut}");
        let all = b.rows("explain select * from t").await.to_string();
        let some = b.rows(&format!("explain select * from t where {filter}")).await.to_string();
        let files = |plan: &str| {
            let listed = plan.matches(".parquet").count();
            let more: usize = plan.split("...").count() - 1;
            listed + more
        };
        assert!(files(&some) < files(&all), "{cut}: {some}");
    }
    let error = b.error("create table u (x double) partitioned by (day(x))").await;
    assert_eq!(error.code, "sql-invalid");
    assert_eq!(b.error("create table u (x int) partitioned by (y)").await.code, "column-not-found");
    assert_eq!(b.error("create table u (x int) partitioned by (week(x))").await.code, "sql-syntax");
}

#[tokio::test]
async fn time_travel() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let first = b.snapshots("t")[0].clone();
    b.rows("insert into t values (2)").await;
    b.rows("create table u as select x, x + 1 as y from t").await;
    let id = first["snapshot-id"].as_i64().unwrap();
    assert_eq!(b.rows(&format!("select count(*) from t for version as of {id}")).await, json("[[1]]"));
    let at = first["timestamp-ms"].as_i64().unwrap();
    let text = chrono::DateTime::from_timestamp_millis(at).unwrap().format("%Y-%m-%d %H:%M:%S%.3f");
    assert_eq!(b.rows(&format!("select count(*) from T for timestamp as of '{text}'")).await, json("[[1]]"));
    assert_eq!(
        b.rows(&format!("select count(*) from main.t for system_time as of timestamp '{text}' as old")).await,
        json("[[1]]")
    );
    assert_eq!(
        b.rows(&format!("select t.x, new.x from t for version as of {id} join t as new on t.x = new.x - 1")).await,
        json("[[1,2]]")
    );
    assert_eq!(b.error("select * from t for version as of 12").await.code, "snapshot-not-found");
    assert_eq!(b.error("select * from t for timestamp as of '2001-01-01'").await.code, "snapshot-not-found");
}

#[tokio::test]
async fn other_statements_are_refused_by_name() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    for text in [
        "update t set x = 2",
        "delete from t",
        "merge into t using t as s on t.x = s.x when matched then delete",
        "copy t to '/tmp/x.csv'",
        "copy (select 1) to 'x.csv'",
        "set datafusion.execution.batch_size = 1",
        "create external table e stored as csv location '/etc/passwd'",
        "create table e (x int) location '/etc'",
        "create view v as select 1",
        "create function f() returns int return 1",
        "alter table t add column y int",
        "prepare p as select 1",
        "execute p",
        "explain insert into t values (1)",
        "select 1 into u",
        "with a as (select 1) insert into t select * from a",
        "show all",
        "begin",
        "create table u (x int not null)",
        "create table u (x int default 1)",
        "create table u (x int primary key)",
        "insert into t values (1) returning x",
        "load data inpath '/etc/passwd' into table t",
        "analyze table t compute statistics",
        "use other",
        "grant select on t to x",
    ] {
        let error = b.error(text).await;
        assert!(matches!(error.code, "statement-unsupported" | "sql-syntax"), "{text}: {error:?}");
        assert!(error.place.is_some(), "{text}");
    }
    for text in
        ["select * from information_schema.tables", "select * from '/etc/passwd'", "select * from \"/etc/passwd\""]
    {
        let error = b.error(text).await;
        assert!(matches!(error.code, "table-not-found" | "name-invalid" | "sql-syntax"), "{text}: {error:?}");
    }
    assert_eq!(b.rows("select x from t").await, json("[[1]]"));
}

#[tokio::test]
async fn counters_count() {
    let b = Bench::default();
    let made =
        b.done("create table t partitioned by (p) as select i % 2 as p, i from generate_series(1, 100) as s(i)").await;
    assert_eq!(made.counters["rows_written"], 100.0);
    assert_eq!(made.counters["files_written"], 2.0);
    assert!(made.counters["bytes_written"] > 0.0);
    assert_eq!(made.written.len(), 1);
    let read = b.done("select sum(i) from t where p = 0").await;
    assert_eq!(read.counters["rows_read"], 50.0);
    assert!(read.counters["bytes_read"] > 0.0);
}

#[tokio::test]
async fn schemas_of_nested_types_hold_their_values() {
    let b = Bench::default();
    b.rows("create table t (a array<int>, s struct<x int, y string>, at timestamptz, bin binary)").await;
    b.rows("insert into t select [1, null, 2], struct(1 as x, 'b' as y), timestamp '2013-01-01 00:00:00' at time zone 'UTC', x'ff00'").await;
    let rows = b.rows("select a, s, s.y, bin from t").await;
    assert_eq!(rows, json(r#"[[[1,null,2],{"x":1,"y":"b"},"b","/wA="]]"#));
    b.rows("create table u as select a, s from t").await;
    assert_eq!(b.rows("select a[1], s.x from u").await, json("[[1,1]]"));
    assert_eq!(b.rows("describe u").await, json(r#"[["a","list<int>",null],["s","struct<x: int, y: string>",null]]"#));
}

#[tokio::test]
async fn many_commits_merge_their_manifests() {
    let b = Bench::default();
    b.rows("create table t (x long)").await;
    for i in 0..105 {
        b.rows(&format!("insert into t values ({i})")).await;
    }
    assert_eq!(b.rows("select count(*), sum(x) from t").await, json("[[105,5460]]"));
    let last = b.snapshots("t").pop().unwrap();
    assert_eq!(last["summary"]["total-data-files"], "105");
    assert_eq!(last["summary"]["total-records"], "105");
}

#[tokio::test]
async fn the_size_of_a_table_follows_what_is_replaced() {
    let b = Bench::default();
    b.rows("create table t as select i, 'x' as s from generate_series(1, 100) as g(i)").await;
    let size = async || b.lake.list(&head()).await.unwrap()[0].bytes;
    let before = size().await;
    assert!(before.is_some_and(|bytes| bytes > 0));
    b.rows("insert overwrite t select i, 'x' from generate_series(1, 100) as g(i)").await;
    assert_eq!(size().await, before);
    b.rows("truncate table t").await;
    assert_eq!(size().await, Some(0));
}
