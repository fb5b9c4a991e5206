//! Targets: what one writes is its own, and what it lacks it reads from where it may.

use std::sync::Arc;

use pinrail_model::seam::lake::{Catalog, QueryEngine, View, WriteMode};
use pinrail_model::target::Target;

use crate::support::{Bench, head, head_at, json, writes};

/// An attempt of a run at a target.
fn attempt_at(b: &Bench, target: &str, declared: Vec<pinrail_model::seam::lake::Writes>) -> View {
    View { target: head_at(target).target, ..b.attempt(declared) }
}

async fn names(b: &Bench, view: &View) -> Vec<String> {
    let tables = b.lake.list(view).await.unwrap();
    let name = |from: Option<String>| from.map_or_else(String::new, |from| format!(" of {from}"));
    tables.into_iter().map(|t| format!("{}{}", t.table, name(t.read_from.map(|t| t.to_string())))).collect()
}

#[tokio::test]
async fn a_target_reads_what_it_lacks_and_writes_its_own() {
    let b = Bench::default();
    let dev = head_at("dev");
    b.rows("create table marts.t as select 1 as x; create table marts.u as select 5 as x").await;
    assert_eq!(b.rows_of(&dev, "select x from marts.t").await, json("[[1]]"));
    assert_eq!(names(&b, &dev).await, ["marts.t of prod", "marts.u of prod"]);
    let (done, _) = b.try_run(&b.query("select t.x from marts.t cross join marts.u"), &dev).await.unwrap();
    let read: Vec<String> = done.read_from.iter().map(|(table, target)| format!("{table} of {target}")).collect();
    assert_eq!(read, ["marts.t of prod", "marts.u of prod"]);
    // Making it takes nothing away from the other.
    b.rows_of(&dev, "create table marts.t as select x + 10 as x from marts.t").await;
    assert_eq!(b.rows_of(&dev, "select x from marts.t").await, json("[[11]]"));
    assert_eq!(b.rows("select x from marts.t").await, json("[[1]]"));
    assert_eq!(names(&b, &dev).await, ["marts.t", "marts.u of prod"]);
    assert_eq!(names(&b, &head()).await, ["marts.t", "marts.u"]);
    // One that is dropped is read from there again.
    b.rows_of(&dev, "drop table marts.t").await;
    assert_eq!(b.rows_of(&dev, "select x from marts.t").await, json("[[1]]"));
    // Another target sees neither.
    b.rows_of(&dev, "create table marts.own as select 1 as x").await;
    assert_eq!(names(&b, &head_at("ci")).await, ["marts.t of prod", "marts.u of prod"]);
}

#[tokio::test]
async fn no_statement_changes_a_table_that_is_only_read_from() {
    let b = Bench::default();
    b.rows("create table marts.t partitioned by (p) as select 1 as x, 1 as p").await;
    for view in [head_at("dev"), attempt_at(&b, "dev", vec![])] {
        for statement in [
            "insert into marts.t values (2, 1)",
            "insert overwrite marts.t select 2, 1",
            "insert overwrite marts.t partition (p = 1) select 2",
            "truncate table marts.t",
            "drop table marts.t",
        ] {
            let error = b.error_of(&view, statement).await;
            assert_eq!(error.code, "table-not-found", "{statement}");
            assert_eq!(
                error.to_string(),
                "target \"dev\" has no table \"marts.t\"; that of target \"prod\" is read and never written"
            );
        }
        b.rows_of(&view, "drop table if exists marts.t").await;
        assert_eq!(b.error_of(&view, "drop schema marts").await.code, "schema-not-found");
        for reaching in ["prod__marts", "dev__marts", "\"prod__marts\"", "__marts"] {
            for statement in ["select * from N.t", "insert into N.t values (1, 1)", "create table N.t as select 1 as x"]
            {
                let error = b.error_of(&view, &statement.replace('N', reaching)).await;
                assert!(error.to_string().contains("reserved for the prefix of a target"), "{reaching}: {error}");
            }
        }
    }
    assert_eq!(b.rows("select x, p from marts.t").await, json("[[1,1]]"));
    assert_eq!(b.snapshots("marts.t").len(), 1);
}

#[tokio::test]
async fn an_attempt_publishes_where_its_run_belongs() {
    let b = Bench::default();
    b.rows("create table marts.t as select 1 as x").await;
    let view = attempt_at(&b, "dev", vec![writes("marts.t", &[], WriteMode::Replace)]);
    let mut query = b.query("select x + 1 as x from marts.t");
    query.writes = Some(vec![writes("marts.t", &[], WriteMode::Replace)]);
    b.try_run(&query, &view).await.unwrap();
    assert_eq!(b.rows_of(&view, "select x from marts.t").await, json("[[2]]"), "it sees its own");
    assert_eq!(b.rows_of(&head_at("dev"), "select x from marts.t").await, json("[[1]]"), "nobody else does yet");
    b.publish(&view).await.unwrap();
    assert_eq!(b.rows_of(&head_at("dev"), "select x from marts.t").await, json("[[2]]"));
    assert_eq!(b.rows("select x from marts.t").await, json("[[1]]"));
    // What a text would do is told by the names that it uses.
    let checked = b.lake.check(&b.query("insert into marts.t select x from marts.t"), &head_at("dev")).await.unwrap();
    assert_eq!((checked.reads, checked.writes), (vec!["marts.t".parse().unwrap()], vec!["marts.t".parse().unwrap()]));
}

#[tokio::test]
async fn a_protected_target_is_read_by_queries_and_written_by_attempts() {
    let b = Bench::default();
    let at = |target: Target| Some(Arc::new(Target { protected: true, prefix: None, ..target }));
    let target = at(head_at("prod").target.unwrap().as_ref().clone());
    let (query, attempt) = (View { target: target.clone(), ..head() }, View { target, ..b.attempt(vec![]) });
    b.rows_of(&attempt, "create table marts.t as select 1 as x").await;
    b.publish(&attempt).await.unwrap();
    assert_eq!(b.rows_of(&query, "select x from marts.t").await, json("[[1]]"));
    for statement in ["insert into marts.t values (2)", "drop table marts.t", "create table marts.v as select 1 as x"] {
        let error = b.error_of(&query, statement).await;
        assert_eq!(error.code, "target-protected", "{statement}");
    }
    assert_eq!(b.rows("select x from marts.t").await, json("[[1]]"));
}
