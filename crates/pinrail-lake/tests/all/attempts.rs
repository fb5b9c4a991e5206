//! An attempt is a transaction: what it wrote is its own until it is published, as one snapshot per table.

use std::collections::BTreeMap;

use pinrail_model::fault::Fault;
use pinrail_model::seam::lake::{Catalog, View, WriteMode};

use crate::support::{Bench, attempt_of, head, json, read_metadata, writes};

async fn count(b: &Bench, view: &View, table: &str) -> i64 {
    b.rows_of(view, &format!("select count(*) from {table}")).await[0][0].as_i64().unwrap()
}

#[tokio::test]
async fn an_attempt_sees_its_own_writes_and_nobody_else_does() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "insert into t values (2); create table u as select * from t; drop table if exists v").await;
    let other = b.attempt(vec![]);
    assert_eq!((count(&b, &view, "t").await, count(&b, &other, "t").await, count(&b, &head(), "t").await), (2, 1, 1));
    assert_eq!(count(&b, &view, "u").await, 2);
    assert_eq!(b.error("select * from u").await.code, "table-not-found");
    let staged: Vec<_> =
        b.lake.list(&view).await.unwrap().into_iter().map(|t| (t.table.to_string(), t.staged)).collect();
    assert_eq!(staged, [("main.t".to_owned(), true), ("main.u".to_owned(), true)]);
    assert_eq!(b.lake.list(&head()).await.unwrap().len(), 1);

    let swaps = b.publish(&view).await.unwrap();
    assert_eq!(swaps.len(), 2);
    assert_eq!((count(&b, &head(), "t").await, count(&b, &head(), "u").await), (2, 2));
    assert_eq!((b.snapshots("t").len(), b.snapshots("u").len()), (2, 1));
    let summary = &b.snapshots("t")[1]["summary"];
    let attempt = view.attempt.as_ref().unwrap();
    assert_eq!(summary["pinrail.run-id"], attempt.run.to_string());
    assert_eq!(summary["pinrail.attempt-id"], attempt.attempt.to_string());
    assert_eq!(summary["pinrail.generation"], "3");
    assert_eq!((&summary["added-records"], &summary["total-records"]), (&json("\"1\""), &json("\"2\"")));
    assert!(b.snapshots("t")[0]["summary"].get("pinrail.run-id").is_none(), "made by no attempt");
}

#[tokio::test]
async fn files_of_an_attempt_lie_in_its_own_folder() {
    let b = Bench::default();
    let view = b.attempt(vec![]);
    b.rows_of(&view, "create table t as select 1 as x").await;
    let part = format!("/data/{}/", attempt_of(&view));
    let files = crate::support::files_below(&b.warehouse());
    let data: Vec<_> = files.iter().filter(|f| f.extension().is_some_and(|e| e == "parquet")).collect();
    assert!(data.iter().all(|f| f.to_str().unwrap().contains(&part)), "{data:?}");
    assert!(files.iter().all(|f| !f.to_str().unwrap().contains("main")), "no path is built from a table's name");
}

#[tokio::test]
async fn several_writes_become_one_snapshot() {
    let b = Bench::default();
    b.rows("create table t (x int, p int) partitioned by (p); insert into t values (1, 1), (2, 2)").await;
    let before = b.snapshots("t").len();
    let view = b.attempt(vec![]);
    b.rows_of(
        &view,
        "insert into t values (3, 1); insert overwrite t partition (p = 1) select 10; insert into t values (11, 1)",
    )
    .await;
    assert_eq!(b.rows_of(&view, "select x from t order by x").await, json("[[2],[10],[11]]"));
    b.publish(&view).await.unwrap();
    assert_eq!(b.rows("select x from t order by x").await, json("[[2],[10],[11]]"));
    let snapshots = b.snapshots("t");
    assert_eq!(snapshots.len(), before + 1);
    let summary = &snapshots[before]["summary"];
    assert_eq!(summary["operation"], "overwrite");
    assert_eq!((&summary["added-data-files"], &summary["deleted-data-files"]), (&json("\"2\""), &json("\"1\"")));
    assert_eq!(snapshots[before]["parent-snapshot-id"], snapshots[before - 1]["snapshot-id"]);
}

#[tokio::test]
async fn appends_are_replayed_on_what_others_published() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "insert into t values (2)").await;
    b.rows("insert into t values (100)").await;
    let swaps = b.lake.prepare(&view).await.unwrap();
    b.rows("insert into t values (101)").await;
    assert!(b.pointers.publish(&view, swaps).is_err(), "the pointer has moved");
    assert_eq!(count(&b, &head(), "t").await, 3);
    b.publish(&view).await.unwrap();
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[2],[100],[101]]"));
    assert_eq!(b.snapshots("t").len(), 4);
}

#[tokio::test]
async fn what_an_attempt_reads_does_not_move() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x; create table u as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.rows("insert into t values (2); insert into u values (2); create table v as select 1 as x").await;
    assert_eq!((count(&b, &view, "t").await, count(&b, &view, "u").await), (1, 1));
    assert_eq!(b.error_of(&view, "select * from v").await.code, "table-not-found");
    b.rows_of(&view, "insert into t select x + 10 from u").await;
    b.publish(&view).await.unwrap();
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[2],[11]]"));
}

#[tokio::test]
async fn overwriting_what_somebody_else_changed_is_a_conflict() {
    let b = Bench::default();
    b.rows("create table t (x int, p int) partitioned by (p); insert into t values (1, 1), (2, 2)").await;
    let other_partition = b.attempt(vec![]);
    b.rows_of(&other_partition, "insert overwrite t partition (p = 2) select 20").await;
    let added = b.attempt(vec![]);
    b.rows_of(&added, "insert overwrite t partition (p = 1) select 10").await;
    let whole = b.attempt(vec![]);
    b.rows_of(&whole, "truncate table t").await;
    b.rows("insert into t values (5, 1)").await;

    let error = b.lake.prepare(&added).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("conflict", Fault::Conflict));
    assert!(error.to_string().contains("[p=1]"), "{error}");
    assert_eq!(b.lake.prepare(&whole).await.unwrap_err().code, "conflict");
    b.publish(&other_partition).await.unwrap();
    assert_eq!(b.rows("select x from t order by x").await, json("[[1],[5],[20]]"));

    let gone = b.attempt(vec![]);
    b.rows_of(&gone, "insert overwrite t partition (p = 1) select 10").await;
    b.rows("insert overwrite t partition (p = 1) select 50").await;
    let error = b.lake.prepare(&gone).await.unwrap_err();
    assert!(error.code == "conflict" && error.to_string().contains("is gone"), "{error}");
}

#[tokio::test]
async fn tables_made_meanwhile() {
    let b = Bench::default();
    let made = b.attempt(vec![]);
    b.rows_of(&made, "create table t as select 1 as x").await;
    let different = b.attempt(vec![]);
    b.rows_of(&different, "create table t as select 'a' as y").await;
    let added = b.attempt(vec![]);
    b.rows_of(&added, "create table if not exists t (x bigint); insert into t values (3)").await;
    let replaced = b.attempt(vec![]);
    b.rows_of(&replaced, "create or replace table t as select 4 as x; insert into t values (5)").await;
    b.rows("create table t as select 2 as x").await;
    for view in [&made, &different] {
        let error = b.lake.prepare(view).await.unwrap_err();
        assert!(error.code == "conflict" && error.to_string().contains("made by somebody else"), "{error}");
    }
    b.publish(&added).await.unwrap();
    assert_eq!(
        b.rows("select x from t order by x").await,
        json("[[2],[3]]"),
        "an append is one wherever the table comes from"
    );
    b.publish(&replaced).await.unwrap();
    assert_eq!(b.rows("select x from t order by x").await, json("[[4],[5]]"));
}

#[tokio::test]
async fn drops_and_remakes() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x; create table u as select 1 as x; create table w as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.rows_of(
        &view,
        "drop table t; drop table u; create table u as select 'new' as y; create table n (z int); drop table n",
    )
    .await;
    assert_eq!(b.error_of(&view, "select * from t").await.code, "table-not-found");
    assert_eq!(b.rows_of(&view, "select y from u").await, json(r#"[["new"]]"#));
    assert_eq!(count(&b, &head(), "t").await, 1);
    let swaps = b.publish(&view).await.unwrap();
    assert_eq!(swaps.len(), 2);
    assert_eq!(b.rows("show tables").await, json(r#"[["main","u"],["main","w"]]"#));
    assert_eq!(b.rows("select * from u").await, json(r#"[["new"]]"#));
    assert_eq!(b.snapshots("u").len(), 2);

    let view = b.attempt(vec![]);
    b.rows_of(&view, "drop table w").await;
    b.rows("insert into w values (2)").await;
    assert_eq!(b.lake.prepare(&view).await.unwrap_err().code, "conflict");
}

#[tokio::test]
async fn declared_tables_get_a_snapshot_also_when_nothing_changed() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let view = b.attempt(vec![writes("t", &[], WriteMode::Replace), writes("absent", &[], WriteMode::Replace)]);
    let swaps = b.publish(&view).await.unwrap();
    assert_eq!(swaps.len(), 1);
    assert_eq!(count(&b, &head(), "t").await, 1);
    let snapshots = b.snapshots("t");
    assert_eq!(snapshots.len(), 2);
    assert_eq!(snapshots[1]["summary"]["pinrail.generation"], "3");
    assert_eq!(snapshots[1]["summary"]["added-records"], "0");
    assert_eq!(snapshots[1]["summary"]["total-records"], "1");
}

#[tokio::test]
async fn a_made_table_without_rows_has_a_snapshot() {
    let b = Bench::default();
    let view = b.attempt(vec![]);
    b.rows_of(&view, "create table t (x int)").await;
    b.publish(&view).await.unwrap();
    assert_eq!(b.snapshots("t").len(), 1);
    assert_eq!(count(&b, &head(), "t").await, 0);
}

#[tokio::test]
async fn a_stale_owner_may_not_stage() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.pointers.set_epoch(attempt_of(&view), 2);
    let error = b.error_of(&view, "insert into t values (2)").await;
    assert_eq!((error.code, error.fault), ("fenced", Fault::Platform));
}

#[tokio::test]
async fn statements_of_nobody_are_tried_again_when_a_pointer_moves() {
    let b = Bench::default();
    b.rows("create table t (x int, p int) partitioned by (p); insert into t values (1, 1)").await;
    for text in ["insert into t values (2, 2)", "insert overwrite t partition (p = 1) select 3", "truncate table t"] {
        b.pointers.meddle("t");
        b.rows(text).await;
    }
    assert_eq!(count(&b, &head(), "t").await, 0);
    assert_eq!(b.snapshots("t").len(), 5);
}

const DAILY: &str = "-- writes: marts.daily partition (day = {{ ds }})\n";

async fn on_day(b: &Bench, day: &str, text: &str) -> Result<(), pinrail_model::seam::lake::LakeError> {
    let mut query = b.query(text);
    query.values.insert("ds".to_owned(), pinrail_model::seam::lake::Value::Date(day.to_owned()));
    b.try_run(&query, &head()).await.map(|_| ())
}

#[tokio::test]
async fn a_select_says_where_its_rows_go() {
    let b = Bench::default();
    let view = b.attempt(vec![writes("marts.daily", &[("day", "2013-01-02")], WriteMode::Replace)]);
    let done = b.try_run(&b.query(&format!("{DAILY}select 'AA' as carrier, 3 as flights")), &view).await.unwrap().0;
    assert_eq!(done.written[0].to_string(), "marts.daily");
    assert_eq!((done.rows, done.counters["rows_written"]), (0, 1.0));
    b.publish(&view).await.unwrap();
    assert_eq!(
        b.rows("describe marts.daily").await,
        json(r#"[["carrier","string",null],["flights","long",null],["day","date","day"]]"#)
    );
    on_day(&b, "2013-01-03", &format!("{DAILY}select 'BB' as carrier, 4 as flights union all select 'CC', 5"))
        .await
        .unwrap();
    on_day(&b, "2013-01-02", &format!("{DAILY}select 'DD' as carrier, 6 as flights")).await.unwrap();
    assert_eq!(
        b.rows("select * from marts.daily order by carrier").await,
        json(r#"[["BB",4,"2013-01-03"],["CC",5,"2013-01-03"],["DD",6,"2013-01-02"]]"#)
    );
    on_day(&b, "2013-01-03", &format!("{DAILY}select 'x' as carrier, 1 as flights where false")).await.unwrap();
    assert_eq!(b.rows("select carrier from marts.daily").await, json(r#"[["DD"]]"#), "replaced by nothing");
}

#[tokio::test]
async fn a_select_with_the_partition_column_is_checked() {
    let b = Bench::default();
    on_day(&b, "2013-01-02", &format!("{DAILY}select date '2013-01-02' as day, 1 as x")).await.unwrap();
    let error = on_day(
        &b,
        "2013-01-02",
        &format!("{DAILY}select d as day, 1 as x from (values (date '2013-01-02'), (date '2013-01-09')) as v(d)"),
    )
    .await
    .unwrap_err();
    assert_eq!((error.code, error.fault), ("row-outside-partition", Fault::Data));
    assert!(error.to_string().contains("2013-01-09"), "{error}");
    assert_eq!(b.rows("select day, x from marts.daily").await, json(r#"[["2013-01-02",1]]"#));
}

#[tokio::test]
async fn appending_must_be_said() {
    let b = Bench::default();
    for text in ["-- writes: t\nselect 1 as x", "-- writes: t\nselect 2 as x", "-- writes: t append\nselect 3 as x"] {
        b.rows(text).await;
    }
    assert_eq!(b.rows("select x from t order by x").await, json("[[2],[3]]"));
}

#[tokio::test]
async fn a_declared_select_evolves_its_table() {
    let b = Bench::default();
    b.rows("-- writes: t\nselect 1 as id, 'a' as name").await;
    b.rows("-- writes: t append\nselect 'b' as name, 2 as id, 0.5 as extra").await;
    assert_eq!(b.rows("select * from t order by id").await, json(r#"[[1,"a",null],[2,"b","0.5"]]"#));
    let error = b.error("-- writes: t\nselect 1 as id").await;
    assert_eq!(error.code, "column-dropped");
    assert_eq!(error.evidence.remedy.unwrap(), "Add it; where it has no values, as null as name.");
    let error = b.error("-- writes: t\nselect 'x' as id, 'a' as name, 0.5 as extra").await;
    assert_eq!(error.code, "column-retyped");
    assert!(error.evidence.remedy.unwrap().ends_with(", or write to a new table."));
    b.rows("-- writes: t\nselect null as id, 'a' as name, 0.5 as extra").await;
    assert_eq!(b.rows("select * from t").await, json(r#"[[null,"a","0.5"]]"#));
    let error = b.check("-- writes: t\nselect 1 as id").await.unwrap_err();
    assert_eq!(error.code, "column-dropped", "a check says it before anything runs");
}

#[tokio::test]
async fn columns_added_in_an_attempt_are_published_with_its_rows() {
    let b = Bench::default();
    b.rows("create table t as select 1 as id").await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "-- writes: t append\nselect 2 as id, 'new' as note").await;
    b.rows("insert into t values (3)").await;
    b.publish(&view).await.unwrap();
    assert_eq!(b.rows("select * from t order by id").await, json(r#"[[1,null],[2,"new"],[3,null]]"#));

    let (first, second) = (b.attempt(vec![]), b.attempt(vec![]));
    b.rows_of(&first, "-- writes: t append\nselect 4 as id, 'x' as note, 1 as a").await;
    b.rows_of(&second, "-- writes: t append\nselect 5 as id, 'x' as note, 'one' as b").await;
    b.publish(&first).await.unwrap();
    assert_eq!(b.lake.prepare(&second).await.unwrap_err().code, "conflict");
}

#[tokio::test]
async fn only_declared_tables_may_be_written() {
    let b = Bench::default();
    b.rows(
        "create table t (x int, p int) partitioned by (p); create table u (x int); insert into t values (1, 1), (2, 2)",
    )
    .await;
    let view = b.attempt(vec![writes("t", &[("p", "1")], WriteMode::Replace)]);
    assert_eq!(b.error_of(&view, "insert into u values (1)").await.code, "write-not-declared");
    assert_eq!(b.error_of(&view, "create table v as select 1 as x").await.code, "write-not-declared");
    assert_eq!(b.error_of(&view, "truncate table t").await.code, "write-not-declared");
    assert_eq!(b.error_of(&view, "drop table t").await.code, "write-not-declared");
    assert_eq!(b.error_of(&view, "insert into t values (3, 2)").await.code, "row-outside-partition");
    assert_eq!(b.error_of(&view, "insert overwrite t partition (p = 2) select 3").await.code, "row-outside-partition");
    b.rows_of(&view, "insert into t (x) values (10)").await;
    b.rows_of(&view, "insert into t values (11, 1)").await;
    b.publish(&view).await.unwrap();
    assert_eq!(
        b.rows("select x, p from t order by x").await,
        json("[[2,2],[10,1],[11,1]]"),
        "what is owned is replaced once"
    );
    let error = b.error("-- writes: t\ninsert into u values (1)").await;
    assert_eq!(error.code, "write-not-declared");
}

#[tokio::test]
async fn the_workflow_and_the_header_must_agree() {
    let b = Bench::default();
    let mut query = b.query("-- writes: t\nselect 1 as x");
    query.writes = Some(vec![writes("u", &[], WriteMode::Replace)]);
    assert_eq!(b.try_run(&query, &head()).await.unwrap_err().code, "writes-differ");
    query.writes = Some(vec![writes("t", &[], WriteMode::Replace)]);
    b.try_run(&query, &head()).await.unwrap();
    let mut query = b.query("select 1 as x");
    query.writes = Some(vec![writes("u", &[("day", "{{ ds }}")], WriteMode::Replace)]);
    b.try_run(&query, &head()).await.unwrap();
    assert_eq!(b.rows("describe u").await[1], json(r#"["day","date","day"]"#));
    let columns: BTreeMap<_, _> =
        b.lake.list(&head()).await.unwrap().into_iter().map(|t| (t.table.to_string(), t.partitioned_by)).collect();
    assert_eq!(columns["main.u"], ["day"]);
}

#[tokio::test]
async fn partitions_of_one_new_table_are_published_side_by_side() {
    let b = Bench::default();
    let views: Vec<_> = (0..3).map(|_| b.attempt(vec![])).collect();
    for (day, view) in views.iter().enumerate() {
        let mut query = b.query(&format!("{DAILY}select {day} as x"));
        query.values.insert("ds".to_owned(), pinrail_model::seam::lake::Value::Date(format!("2013-01-0{}", day + 1)));
        b.try_run(&query, view).await.unwrap();
    }
    for view in &views {
        b.publish(view).await.unwrap();
    }
    assert_eq!(
        b.rows("select x, day from marts.daily order by x").await,
        json(r#"[[0,"2013-01-01"],[1,"2013-01-02"],[2,"2013-01-03"]]"#)
    );
    assert_eq!(b.snapshots("marts.daily").len(), 3);
}

#[tokio::test]
async fn preparing_twice_is_harmless() {
    let b = Bench::default();
    b.rows("create table t as select 1 as x").await;
    let view = b.attempt(vec![]);
    b.rows_of(&view, "insert into t values (2); insert into t values (3)").await;
    b.lake.prepare(&view).await.unwrap();
    let swaps = b.lake.prepare(&view).await.unwrap();
    let prepared = read_metadata(swaps[0].new.as_ref().unwrap());
    assert_eq!(prepared["snapshots"].as_array().unwrap().len(), 2);
    b.publish(&view).await.unwrap();
    assert_eq!(count(&b, &head(), "t").await, 3);
    assert!(b.lake.prepare(&head()).await.is_err(), "nobody's attempt");
}
