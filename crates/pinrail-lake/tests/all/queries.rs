//! Names, errors, headers, checks and bounds of queries.

use pinrail_model::fault::Fault;
use pinrail_model::seam::lake::{LakeError, QueryEngine, QueryLimits, ResultFormat, ResultSink};

use crate::support::{Bench, Collect, head, json};

async fn flights() -> Bench {
    let b = Bench::default();
    b.rows("create table raw.flights as select 'AA' as carrier, date '2013-01-02' as flight_day, 5 as dep_delay").await;
    b
}

#[tokio::test]
async fn a_misspelt_name_is_told_with_place_and_the_name_that_is_meant() {
    let b = flights().await;
    let error = b.error("select carrier\nfrom raw.flights\nwhere flight_dat = {{ ds }}").await;
    assert_eq!((error.code, error.fault, error.place), ("column-not-found", Fault::User, Some((3, 7))));
    assert_eq!(error.to_string(), "column \"flight_dat\" not found in raw.flights");
    assert_eq!(error.evidence.remedy.unwrap(), "Did you mean flight_day?");

    let error = b.error("select f.carier from raw.flights f").await;
    assert_eq!((error.to_string().as_str(), error.place), ("column \"carier\" not found in f", Some((1, 10))));

    let error = b.error("select 1;\nselect *\n  from raw.flight").await;
    assert_eq!((error.code, error.place), ("table-not-found", Some((3, 8))));
    assert_eq!(error.evidence.remedy.unwrap(), "Did you mean raw.flights?");
    let error = b.error("select * from flights").await;
    assert_eq!(error.evidence.remedy.unwrap(), "Did you mean raw.flights?");

    let error = b.error("select '{{ ds }}', cuont(*) from raw.flights").await;
    assert_eq!((error.code, error.place), ("function-not-found", Some((1, 20))));
    assert_eq!(error.evidence.remedy.unwrap(), "Did you mean count?");

    let error = b.error("select *\nfrom raw.flights\nwhere order by 1").await;
    assert_eq!((error.code, error.place), ("sql-syntax", Some((3, 13))), "{error}");
    for (text, place) in
        [("selec 1", (1, 1)), ("select 'a", (1, 8)), ("select (1", (1, 10)), ("", (1, 1)), ("select 1 2 3", (1, 10))]
    {
        let error = b.error(text).await;
        assert_eq!(error.code, "sql-syntax", "{text}: {error}");
        if !text.is_empty() {
            assert_eq!(error.place, Some(place), "{text}: {error}");
        }
    }
    assert_eq!(b.error("select dep_delay from raw.flights a, raw.flights b").await.code, "column-ambiguous");
    assert_eq!(b.error("select a.b.c.d from raw.flights").await.fault, Fault::User);
    assert_eq!(b.error("select * from x.y.z").await.code, "name-invalid");
    assert_eq!(b.error("select * from a__b.c").await.code, "name-invalid");
}

#[tokio::test]
async fn an_error_names_file_and_line() {
    let b = flights().await;
    let mut query = b.query("select carrier,\n   flight_dat\nfrom raw.flights");
    query.file = Some("sql/daily.sql".to_owned());
    let error = b.try_run(&query, &head()).await.unwrap_err();
    let code = &error.evidence.code[0];
    assert_eq!((code.file.as_str(), code.line, code.code.as_deref()), ("sql/daily.sql", 2, Some("flight_dat")));
}

#[tokio::test]
async fn errors_of_running_are_the_users_and_readable() {
    let b = flights().await;
    for text in ["select 1 / (dep_delay - 5) from raw.flights", "select cast(carrier as int) from raw.flights"] {
        let error = b.error(text).await;
        assert_eq!((error.code, error.fault), ("query-failed", Fault::User), "{text}: {error}");
        let first = error.to_string().chars().next().unwrap();
        assert!((first.is_lowercase() || first == '"') && !error.to_string().ends_with('.'), "{error}");
    }
}

#[tokio::test]
async fn columns_keep_their_case_and_are_found_whatever_it_is() {
    let b = Bench::default();
    b.rows("create table T (FlightDay int, \"order\" int, ABC int, abc int)").await;
    b.rows("insert into t (flightday, \"order\", ABC, abc) values (1, 2, 3, 4)").await;
    assert_eq!(b.rows("select FLIGHTDAY, FlightDay, \"FlightDay\", ABC, abc from t").await, json("[[1,1,1,3,4]]"));
    assert_eq!(
        b.rows("select T.flightDAY, x.ABC from T join T as X on t.FLIGHTDAY = X.flightday").await,
        json("[[1,3]]")
    );
    assert_eq!(b.rows("select sum(FLIGHTDAY) as Total from t group by \"order\" order by TOTAL").await, json("[[1]]"));
    assert_eq!(b.error("select \"flightday\" from t").await.code, "column-not-found");
    assert_eq!(b.error("select Abc from t").await.code, "column-not-found");
    let checked = b
        .check("with C as (select FLIGHTDAY, 1 as NewName from t) select newname, c.flightday, cast(FLIGHTDAY as string) from c")
        .await
        .unwrap();
    let names: Vec<_> = checked.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["NewName", "FlightDay", "FlightDay_2"]);
    assert_eq!(b.rows("select COUNT(*), Max(flightday) from t a join t b using (FLIGHTDAY)").await, json("[[1,1]]"));
}

#[tokio::test]
async fn queries_of_every_kind() {
    let b = flights().await;
    assert_eq!(
        b.rows("select carrier, carrier, (select 1), (select 2) from raw.flights").await,
        json(r#"[["AA","AA",1,2]]"#)
    );
    assert_eq!(b.rows("values (1, 'a'), (2, 'b')").await, json(r#"[[1,"a"],[2,"b"]]"#));
    assert_eq!(
        b.rows("with recursive r as (select 1 as n union all select n + 1 from r where n < 3) select n from r").await,
        json("[[1],[2],[3]]")
    );
    assert_eq!(b.rows("select carrier, row_number() over (order by carrier) from raw.flights where exists (select 1 from raw.flights f where f.carrier = flights.carrier)").await, json(r#"[["AA",1]]"#));
    assert_eq!(b.rows("select x from unnest([1, 2]) as u(x)").await, json("[[1],[2]]"));
    assert_eq!(
        b.rows("select count(*) from (select * from raw.flights union all select * from raw.flights)").await,
        json("[[2]]")
    );
    assert!(b.rows("explain select * from raw.flights").await.to_string().contains("DataSourceExec"));
    assert!(b.rows("explain analyze select * from raw.flights").await.to_string().contains("output_rows"));
    assert_eq!(b.rows("select 0.1 + 0.2 = 0.3, 1.10").await, json(r#"[[true,"1.10"]]"#), "fractions are exact");
}

#[tokio::test]
async fn now_is_the_injected_clocks() {
    let b = Bench::default();
    let year = b.rows("select date_part('year', now())").await;
    assert_eq!(year, json("[[2096]]"));
}

#[tokio::test]
async fn a_header_leaves_outputs() {
    let b = flights().await;
    let done = b.done("-- output: rows, carrier\nselect count(*), max(carrier) from raw.flights").await;
    assert_eq!(done.outputs["rows"], 1);
    assert_eq!(done.outputs["carrier"], "AA");
    let error = b.error("-- A comment\n-- output: rows\nselect 1 union all select 2").await;
    assert_eq!((error.code, error.fault, error.place), ("output-invalid", Fault::Data, Some((2, 1))));
    assert_eq!(b.error("-- output: rows\nselect 1 where false").await.code, "output-invalid");
    assert_eq!(b.error("-- output: a, b\nselect 1").await.code, "output-invalid");
    for key in ["after", "owner", "description", "executor", "retries"] {
        let error = b.error(&format!("-- {key}: 2\nselect 1")).await;
        assert_eq!((error.code, error.place), ("header-invalid", Some((1, 1))), "{key}");
    }
    assert_eq!(b.error("-- outptu: a\nselect 1").await.code, "header-invalid");
    assert_eq!(b.error("-- writes: t\n-- output: a\nselect 1 as x").await.code, "header-invalid");
}

#[tokio::test]
async fn templates_are_filled_in_and_the_rendered_text_is_kept() {
    let b = flights().await;
    let text = "select carrier from raw.flights where flight_day = {{ ds }} and '{{ ds }}' <> 'x' and dep_delay < {{ n }} -- {{ kept }}";
    let (done, rows) = b.try_run(&b.query(text), &head()).await.unwrap();
    assert_eq!(rows, json(r#"[["AA"]]"#));
    assert_eq!(
        done.rendered,
        "select carrier from raw.flights where flight_day = DATE '2013-01-02' and '2013-01-02' <> 'x' and dep_delay < 7 -- {{ kept }}"
    );
    let error = b.error("select 1,\n {{ dss }}").await;
    assert_eq!((error.code, error.place), ("template-undefined", Some((2, 2))));
}

#[tokio::test]
async fn a_check_finds_what_a_run_would() {
    let b = flights().await;
    let checked = b.check("-- writes: marts.daily partition (day = {{ ds }})\nselect carrier, count(*) as flights from raw.flights group by carrier").await.unwrap();
    assert_eq!(checked.reads[0].to_string(), "raw.flights");
    assert_eq!(checked.writes[0].to_string(), "marts.daily");
    assert_eq!((checked.columns[1].name.as_str(), checked.columns[1].kind.as_str()), ("flights", "long"));
    assert_eq!(checked.header["writes"], "marts.daily partition (day = {{ ds }})");
    assert_eq!(b.rows("show tables").await, json(r#"[["raw","flights"]]"#), "nothing was made");
    for (text, code) in [
        ("select flight_dat from raw.flights", "column-not-found"),
        ("select carrier + 1 from raw.flights", "sql-invalid"),
        ("create table t as select 1 as a; select b from t", "column-not-found"),
        ("insert into raw.flights select 1", "column-count"),
        ("insert into raw.flights (dep_delay) select true", "cast-failed"),
        ("create table raw.flights (x int)", "table-exists"),
        ("delete from raw.flights", "statement-unsupported"),
    ] {
        let found = b.check(text).await;
        assert_eq!(found.as_ref().map_err(|e| e.code), Err(code), "{text}");
        assert_eq!(b.error(text).await.code, code, "{text}");
    }
}

#[tokio::test]
async fn rows_and_memory_are_bounded() {
    let b = Bench::default();
    let mut sink = Collect::default();
    let limits = QueryLimits { rows: Some(3), ..QueryLimits::default() };
    let query = b.query("select i from generate_series(1, 100000) as s(i)");
    let done = b.lake.run(&query, &head(), &limits, ResultFormat::Csv, &mut sink).await.unwrap();
    assert_eq!((done.rows, done.truncated), (3, true));
    assert_eq!(String::from_utf8(sink.0).unwrap(), "i\r\n1\r\n2\r\n3\r\n");

    let limits = QueryLimits { memory: Some(1 << 20), ..QueryLimits::default() };
    let query = b.query("select array_agg(i), sum(length(s)) from (select i, repeat('x', 1000) || i as s from generate_series(1, 200000) as g(i)) group by s, i limit 1");
    let error = b.lake.run(&query, &head(), &limits, ResultFormat::Csv, &mut Collect::default()).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("out-of-memory", Fault::OutOfMemory), "{error}");
}

#[tokio::test]
async fn a_dropped_query_stops() {
    let b = Bench::default();
    let query = b.query("create table t as select a.i from generate_series(1, 100000000) as a(i) cross join generate_series(1, 1000) as c(j)");
    let view = head();
    let run = b.try_run(&query, &view);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), run).await.is_err());
    assert_eq!(b.rows("show tables").await, json("[]"));
    assert_eq!(b.rows("select 1").await, json("[[1]]"));
}

#[tokio::test]
async fn statements_of_a_script_see_each_other() {
    let b = Bench::default();
    let rows =
        b.rows("create table a as select 1 as x; insert into a values (2);; select sum(x) from a; drop table a;").await;
    assert_eq!(rows, json("[[3]]"), "the last result counts");
    assert_eq!(b.rows("create table a as select 1 as x").await, json("[]"));
}

/// A text as deep, long or wide as this must not end the process, nor take it for long.
const TOO_MUCH: usize = 50_000;

#[tokio::test]
async fn deep_long_and_wide_texts_are_refused_before_they_hurt() {
    let b = Bench::default();
    let many = |part: &str| part.repeat(TOO_MUCH);
    let too_much = [
        format!("select {}1", many("1 + ")),
        format!("select {}1", many("(1) + ")),
        format!("select {}true", many("1 = 1 or ")),
        format!("select a{}", many("[1]")),
        format!("select 1{}", many("::int")),
        format!("select {}true", many("not ")),
        format!("select {}1", many("- ")),
        format!("select 1{}", many(" union all select 1")),
        format!("select timestamp '2013-01-01'{}", many(" at time zone 'UTC'")),
        format!("select {}1{}", many("case when true then "), many(" end")),
        format!("select 1 from a{}", many(" join b using (x)")),
        format!("select {}1{}", many("("), many(")")),
        format!("select {}1{}", many("f("), many(")")),
        format!("select {}1{}", many("{'a': "), many("}")),
        format!("{}select 1{}", many("select * from ("), many(")")),
        format!("with {}a as (select 1) select 1", many("a as (with ")),
        format!("with {}a as (select 1) select 1{}", "a as (with ".repeat(30), ") select 1".repeat(30)),
        format!("create table t (a {}int{})", many("array<"), many(">")),
        format!("select {}", many("(")),
    ];
    for text in too_much {
        let shown = &text[..40];
        let error = b.error(&text).await;
        assert!(matches!(error.code, "sql-syntax" | "statement-unsupported"), "{shown}: {error}");
        let error = b.lake.check(&b.query(&text), &head()).await.unwrap_err();
        assert!(matches!(error.code, "sql-syntax" | "statement-unsupported"), "{shown}: {error}");
    }
}

#[tokio::test]
async fn texts_as_large_as_people_and_programs_write_them_run() {
    let b = Bench::default();
    let sum = format!("select {}1", "1 + ".repeat(200));
    assert_eq!(b.rows(&sum).await, json("[[201]]"));
    let union = format!("select count(*) from (select 1{})", " union all select 1".repeat(200));
    assert_eq!(b.rows(&union).await, json("[[201]]"));
    let nested = |depth: usize| format!("{}select 1{}", "select * from (".repeat(depth), ") as t".repeat(depth));
    assert_eq!(b.rows(&nested(30)).await, json("[[1]]"));
    assert_eq!(b.rows(&format!("select {}1{}", "(".repeat(30), ")".repeat(30))).await, json("[[1]]"));
    let maps = format!("select {}1{}", "{'a': ".repeat(6), "}".repeat(6));
    assert_eq!(b.rows(&maps).await, json(r#"[[{"a":{"a":{"a":{"a":{"a":{"a":1}}}}}}]]"#));
    let wide: Vec<String> = (0..2_000).map(|i| format!("{i} as c{i}")).collect();
    assert_eq!(b.rows(&format!("select c1999 from (select {})", wide.join(", "))).await, json("[[1999]]"));
    let values: Vec<String> = (0..20_000).map(|i| format!("({i}, 'x')")).collect();
    assert_eq!(
        b.rows(&format!("select count(*) from (values {}) as v(a, b)", values.join(", "))).await,
        json("[[20000]]")
    );
    let within: Vec<String> = (0..5_000).map(|i| i.to_string()).collect();
    assert_eq!(b.rows(&format!("select 7 in ({})", within.join(", "))).await, json("[[true]]"));
    let templates = format!("select '{}'", "{{ ds }}".repeat(20_000));
    b.lake.check(&b.query(&templates), &head()).await.unwrap();
}

#[tokio::test]
async fn declared_rows_that_would_go_nowhere_are_refused() {
    let b = flights().await;
    for (text, place) in [
        ("-- writes: marts.two\nselect 1 as a;\nselect 2 as a;", (2, 1)),
        ("-- writes: marts.two\ninsert into marts.two select 1 as a;\n  select {{ n }} as a", (3, 3)),
        ("-- writes: marts.two\nshow tables", (2, 1)),
    ] {
        let error = b.error(text).await;
        assert_eq!(
            (error.code, error.fault, error.place),
            ("writes-nothing", Fault::User, Some(place)),
            "{text}: {error}"
        );
        assert!(error.evidence.remedy.unwrap().contains("INSERT OVERWRITE marts.two SELECT"), "{text}");
        assert_eq!(b.check(text).await.unwrap_err().code, "writes-nothing", "{text}");
    }
    let own =
        "-- writes: marts.two\n-- output: n\ncreate table marts.two as select 1 as a; select count(*) from marts.two";
    assert_eq!(b.done(own).await.outputs["n"], 1, "the rows of the last SELECT are the outputs");
    assert_eq!(b.rows("select * from marts.two").await, json("[[1]]"));
}

#[tokio::test]
async fn whole_numbers_that_do_not_fit_are_an_error_and_never_wrap_around() {
    let b = Bench::default();
    b.rows("create table t as select * from (values (9223372036854775807, 'a'), (1, 'a'), (-5, 'b')) as v(n, g)").await;
    for text in [
        "select 9223372036854775807 + 1",
        "select 5000000000 * 5000000000",
        "select -9223372036854775807 - 2",
        "select n + n from t",
        "select -(n - 9223372036854775803) from t where n < 0",
        "select sum(n) from t where n > 0",
        "select sum(distinct n) from t where n > 0",
        "select g, sum(n) from t group by g",
        "select sum(n) over (partition by g order by n) from t",
        "select sum(n) over (order by n rows between 1 preceding and current row) from t",
        "select cast(2000000000 as int) + cast(2000000000 as int)",
        "select sum(d) from (values (99999999999999999999999999999999999999.), (99999999999999999999999999999999999999.)) as v(d)",
        "select * from t where n * 3 > 5",
        "select count(*) from t a join t b on a.n + b.n = 4",
    ] {
        let error = b.error(text).await;
        assert_eq!((error.code, error.fault), ("number-overflow", Fault::Data), "{text}: {error}");
        assert!(error.to_string().contains("does not fit into a "), "{text}: {error}");
        assert!(error.evidence.remedy.is_some(), "{text}");
    }
    assert_eq!(
        b.error("select 9223372036854775807 + 1").await.to_string(),
        "9223372036854775807 + 1 does not fit into a long"
    );
    assert_eq!(b.rows("insert into t select n + 1, g from t where n < 0; select sum(n), sum(distinct n), min(n) - 1 from t where n < 5").await, json("[[-8,-8,-6]]"));
    assert_eq!(
        b.rows("select sum(cast(n as decimal(38, 0))) from t where n > 0").await,
        json(r#"[["9223372036854775808"]]"#)
    );
    assert_eq!(
        b.rows("select g, sum(n), sum(n) filter (where n > 5) from t where n < 5 group by g order by g").await,
        json(r#"[["a",1,null],["b",-9,null]]"#)
    );
    assert_eq!(b.rows("select sum(n) from t where false").await, json("[[null]]"));
    assert_eq!(
        b.rows(
            "select n, sum(n) over (order by n rows between 1 preceding and current row) from t where n < 5 order by n"
        )
        .await,
        json("[[-5,-5],[-4,-9],[1,-3]]")
    );
    assert_eq!(
        b.rows("select sum(x), sum(y) from (values (1.5, cast(1.5 as double)), (2, 2)) as v(x, y)").await,
        json(r#"[["3.5",3.5]]"#)
    );
    let columns =
        b.check("select n + 1, sum(n) from t group by n + 1 having n + 1 > 0 order by n + 1").await.unwrap().columns;
    assert_eq!(columns.iter().map(|c| c.kind.as_str()).collect::<Vec<_>>(), ["long", "long"]);
}

#[tokio::test]
async fn a_result_is_cut_at_a_number_of_bytes_and_the_text_goes_on() {
    let b = Bench::default();
    let limits = QueryLimits { bytes: Some(200_000), ..QueryLimits::default() };
    let text = "create table t (n int); insert into t values (1); select i, repeat('x', 10) as s from generate_series(1, 100000) as s(i); insert into t values (2)";
    for format in [ResultFormat::Json, ResultFormat::Csv, ResultFormat::Arrow] {
        let mut sink = Collect::default();
        let text = text.replace("table t", "or replace table t");
        let done = b.lake.run(&b.query(&text), &head(), &limits, format, &mut sink).await.unwrap();
        assert!(done.truncated && done.rows > 0 && done.rows < 100_000, "{format:?}: {}", done.rows);
        assert!(sink.0.len() < 201_000, "{format:?}: {}", sink.0.len());
        assert_eq!((done.columns.len(), done.written.len()), (2, 1), "what was done is told");
        assert_eq!(b.rows("select sum(n) from t").await, json("[[3]]"), "statements after it have run");
        if format == ResultFormat::Json {
            assert_eq!(json(std::str::from_utf8(&sink.0).unwrap())["rows"].as_array().unwrap().len() as u64, done.rows);
        }
    }
}

/// Each of these looks at pairs of rows for longer than anybody waits, and none of them passes.
const ENDLESS: [&str; 3] = [
    "select count(*) from generate_series(1, 100000) as a(i) cross join generate_series(1, 100000) as b(j) where i * 2 + j < 0",
    "select i from generate_series(1, 100000) as a(i) where exists (select 1 from generate_series(1, 100000) as b(j) where i + j < 0)",
    "select i from generate_series(1, 100000) as a(i) join generate_series(1, 100000) as b(j) on i % 2 = j % 2 and i + j < 0",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_computes_without_a_pause_ends_when_it_is_stopped() {
    for text in ENDLESS {
        let stop = pinrail_lake::Stop::default();
        let (begun, running) = tokio::sync::oneshot::channel();
        let work = tokio::spawn({
            let stop = stop.clone();
            async move {
                let b = Bench::default();
                let query = b.query(text);
                let mut sink = Begun(Some(begun));
                b.lake.run_until(&stop, (&query, &head()), &QueryLimits::default(), ResultFormat::Csv, &mut sink).await
            }
        });
        // The head of the result is there before the first row is looked for.
        running.await.unwrap();
        stop.stop();
        let error = work.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the query was cancelled", "{text}");
    }
}

/// Says when a result begins.
struct Begun(Option<tokio::sync::oneshot::Sender<()>>);

#[async_trait::async_trait]
impl ResultSink for Begun {
    async fn chunk(&mut self, _bytes: Vec<u8>) -> Result<(), LakeError> {
        if let Some(begun) = self.0.take() {
            begun.send(()).unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_number_with_an_exponent_is_a_double() {
    let b = Bench::default();
    b.rows("create table t as select 1e3 as a, 1.5E-3 as b, -2e300 as c").await;
    assert_eq!(b.rows("select * from t").await, json("[[1000.0,0.0015,-2e300]]"));
    assert_eq!(b.rows("describe t").await[0], json(r#"["a","double",null]"#));
}

#[tokio::test]
async fn columns_without_a_name_are_called_as_they_are_written_and_in_tables_by_their_function() {
    let b = flights().await;
    let names = async |text: &str| {
        let checked = b.check(text).await.unwrap().columns;
        let done = b.done(text).await.columns;
        assert_eq!(checked, done, "{text}");
        done.into_iter().map(|column| column.name).collect::<Vec<_>>()
    };
    assert_eq!(
        names("select 1, COUNT(*), count(distinct carrier), max(dep_delay) + 1 from raw.flights").await,
        ["1", "COUNT(*)", "count(DISTINCT carrier)", "max(dep_delay) + 1"]
    );
    assert_eq!(
        names("select 'x', f.*, cast(dep_delay as string) as late, 0.5 from raw.flights f").await,
        ["'x'", "carrier", "flight_day", "dep_delay", "late", "0.5"]
    );
    assert_eq!(names("select 1, 1, 2 union all select 3, 4, 5").await, ["1", "1_2", "2"]);
    assert_eq!(names("values (1, 'a')").await, ["column1", "column2"]);
    assert_eq!(names("select 1e3, -2E-1 + 1.5e2").await, ["1e3", "-2E-1 + 1.5e2"]);
    b.rows("create table t as select carrier, count(*), SUM(dep_delay) from raw.flights group by carrier").await;
    b.rows("-- writes: u\nselect count(*), carrier as c from raw.flights group by carrier").await;
    assert_eq!(b.rows("select carrier, count, sum from t").await, json(r#"[["AA",1,5]]"#));
    assert_eq!(b.rows("select count, c from u").await, json(r#"[[1,"AA"]]"#));
    b.rows("insert into u select 1 + 1, 'x'").await;
    for text in [
        "create table v as\nselect carrier, dep_delay + 1 from raw.flights",
        "-- writes: v\nselect carrier, dep_delay + 1 from raw.flights",
    ] {
        let error = b.error(text).await;
        assert_eq!((error.code, error.place), ("column-unnamed", Some((2, 17))), "{text}: {error}");
        assert_eq!(error.to_string(), "column 2 has no name: dep_delay + 1");
        assert_eq!(error.evidence.remedy.unwrap(), "Give it one: dep_delay + 1 AS name.");
    }
    assert_eq!(
        b.error("create table v as select count(*), count(carrier) from raw.flights").await.code,
        "column-ambiguous"
    );
}

#[tokio::test]
async fn a_cast_that_fails_is_told_with_its_type_its_place_and_the_way_around() {
    let b = Bench::default();
    b.rows("create table t as select 'gift' as note, 1000.5 as amount, 3000000000 as n").await;
    for (text, place, message, remedy) in [
        (
            "select 1,\n  cast(note as decimal(5,2)) from t",
            (2, 8),
            "\"gift\" is not a decimal(5, 2)",
            "try_cast(note as decimal(5, 2)) gives NULL instead.",
        ),
        (
            "select cast(n as string), note::int from t",
            (1, 27),
            "\"gift\" is not an int",
            "try_cast(note as int) gives NULL instead.",
        ),
        (
            "select cast(amount as decimal(5, 2)) from t",
            (1, 13),
            "1000.50 does not fit into a decimal(5, 2)",
            "Cast to a wider type; try_cast(amount as decimal(5, 2)) gives NULL instead.",
        ),
        (
            "create table u as select cast(n as int) as n from t",
            (1, 31),
            "3000000000 does not fit into an int",
            "Cast to a wider type; try_cast(n as int) gives NULL instead.",
        ),
    ] {
        let error = b.error(text).await;
        assert_eq!((error.to_string().as_str(), error.place), (message, Some(place)), "{text}");
        assert_eq!(error.evidence.remedy.as_deref(), Some(remedy), "{text}");
    }
    // Which of two it was is not known.
    let error = b.error("select cast(note as int), cast(note as int) + 1 from t").await;
    assert_eq!((error.to_string().as_str(), error.place), ("\"gift\" is not an int", Some((1, 1))));
}
