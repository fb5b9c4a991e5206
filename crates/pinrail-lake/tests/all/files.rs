//! Files of the project as tables, and everything that is refused.

use std::os::unix::fs::symlink;

use pinrail_model::fault::Fault;

use crate::support::{Bench, files_below, head, json};

#[tokio::test]
async fn csv_types_are_inferred_over_the_whole_file_and_markers_count() {
    let b = Bench::default();
    let mut text = String::from("n,d,s,day,at,zoned,flag,code,none,q\n");
    for _ in 0..5_000 {
        text.push_str("NA,NA,NA,NA,NA,NA,NA,NA,NA,\"\"\n");
    }
    text.push_str("-12,1.5,x y,2013-01-02,2013-01-02 03:04:05,2013-01-02T03:04:05Z,true,007,NA,\"a,\"\"b\"\"\nc\"\r\n");
    b.file("data/x.csv", text);
    let rows = b.rows("select * from read_csv('data/x.csv', nullstr => 'NA') where n is not null").await;
    assert_eq!(
        rows,
        json(
            r#"[[-12,1.5,"x y","2013-01-02","2013-01-02T03:04:05.000000","2013-01-02T03:04:05.000000Z",true,"007",null,"a,\"b\"\nc"]]"#
        )
    );
    let columns = b.check("select * from read_csv('data/x.csv', nullstr => 'NA')").await.unwrap().columns;
    let kinds: Vec<_> = columns.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["long", "double", "string", "date", "timestamp", "timestamptz", "boolean", "string", "string", "string"]
    );
    let done = b.done("select count(*), count(q), count(n) from read_csv('data/x.csv', nullstr => ['NA', '-'])").await;
    assert_eq!(done.counters["rows_read"], 5_001.0);
    assert!(done.counters["bytes_read"] > 100_000.0);
    assert_eq!(
        b.rows("select count(q), count(n) from read_csv('data/x.csv', nullstr => 'NA')").await,
        json("[[5001,1]]")
    );
}

#[tokio::test]
async fn no_number_of_a_csv_file_loses_a_digit() {
    let b = Bench::default();
    for (values, kind, read) in [
        ("1\n9223372036854775807", "long", r#"[[1],[9223372036854775807]]"#),
        (
            "12345678901234567890\n12345678901234567891",
            "decimal(38, 0)",
            r#"[["12345678901234567890"],["12345678901234567891"]]"#,
        ),
        ("10000000000000000000\n1", "decimal(38, 0)", r#"[["10000000000000000000"],["1"]]"#),
        ("12.50\n.5\n-3\n1e3", "double", "[[12.5],[0.5],[-3.0],[1000.0]]"),
        ("10.357019999999999\n0.10000000000000001", "double", "[[10.357019999999999],[0.1]]"),
        ("9007199254740993\n0.5", "decimal(38, 1)", r#"[["9007199254740993.0"],["0.5"]]"#),
        ("12345678901.123456789\n-1", "decimal(38, 9)", r#"[["12345678901.123456789"],["-1.000000000"]]"#),
        ("9007199254740993\n1e3", "string", r#"[["9007199254740993"],["1e3"]]"#),
        ("1e400\n1", "string", r#"[["1e400"],["1"]]"#),
        ("1e-400\n1", "string", r#"[["1e-400"],["1"]]"#),
        ("1.5\n007", "string", r#"[["1.5"],["007"]]"#),
        (
            "1\n123456789012345678901234567890123456789",
            "string",
            r#"[["1"],["123456789012345678901234567890123456789"]]"#,
        ),
    ] {
        b.file("n.csv", format!("n\n{values}\n"));
        let columns = b.check("select n from read_csv('n.csv')").await.unwrap().columns;
        assert_eq!(columns[0].kind, kind, "{values}");
        assert_eq!(b.rows("select n from read_csv('n.csv')").await, json(read), "{values}");
    }
    b.file("d/1.csv", "id,none\n9007199254740993,NA\n");
    b.file("d/2.csv", "id,none\n0.5,7\n");
    assert_eq!(
        b.rows("select id, none from read_csv('d/**', nullstr => 'NA') order by id").await,
        json(r#"[["0.5",7],["9007199254740993.0",null]]"#),
        "the values of all files count"
    );
}

#[tokio::test]
async fn csv_options() {
    let b = Bench::default();
    b.file("a.csv", "1;'x;y'\n2;\n");
    assert_eq!(
        b.rows(
            "select column1, column2 from read_csv('a.csv', header => false, delim => ';', quote => '''') order by 1"
        )
        .await,
        json(r#"[[1,"x;y"],[2,null]]"#)
    );
    b.file("b.tsv", "id\tprice\n01\t1.10\n");
    let text =
        "select id, price, price * 2 from read_csv('b.tsv', delim => '\\t', types => 'id string, price decimal(6, 2)')";
    assert_eq!(b.rows(text).await, json(r#"[["01","1.10","2.20"]]"#));
    assert_eq!(
        b.rows("select id + 1 from read_csv('b.tsv', sep => '\\t', types => {'id': 'bigint'})").await,
        json("[[2]]")
    );
    let error = b.error("select * from read_csv('a.csv', nulstr => 'NA')").await;
    assert_eq!(error.evidence.remedy.unwrap(), "Did you mean nullstr?");
    assert_eq!(
        b.error("select * from read_csv('b.tsv', delim => '\\t', types => 'idd long')").await.code,
        "column-not-found"
    );
    for text in [
        "read_csv()",
        "read_csv(1)",
        "read_csv('a.csv', delim => 'ab')",
        "read_csv('a.csv', header => 'yes')",
        "read_json('a.csv', header => true)",
    ] {
        assert_eq!(b.error(&format!("select * from {text}")).await.code, "sql-syntax", "{text}");
    }
    assert_eq!(b.rows("select r.id from read_csv('b.tsv', delim => '\\t') as r").await, json(r#"[["01"]]"#));
    assert_eq!(b.rows("select read_csv.id from read_csv('b.tsv', delim => '\\t')").await, json(r#"[["01"]]"#));
}

#[tokio::test]
async fn mistakes_in_a_csv_file_have_a_line() {
    let b = Bench::default();
    b.file("ragged.csv", "a,b\n1,2\n\n3\n4,5\n");
    let error = b.error("select * from read_csv('ragged.csv')").await;
    assert_eq!((error.code, error.fault), ("file-malformed", Fault::Data));
    assert!(error.to_string().contains("ragged.csv:4: 1 fields where 2 are expected"), "{error}");
    b.file("quote.csv", "a,b\n1,\"2\n3,4\n");
    assert!(
        b.error("select * from read_csv('quote.csv')").await.to_string().contains("quote.csv:2: a quote is not closed")
    );
    b.file("after.csv", "a,b\n1,\"2\"3\n");
    assert!(b.error("select * from read_csv('after.csv')").await.to_string().contains("after.csv:2: text follows"));
    b.file("type.csv", "a,b\n1,2\nNA,3\n");
    let error = b.error("select * from read_csv('type.csv', types => 'a long')").await;
    assert!(error.to_string().contains("type.csv:3: \"NA\" in column \"a\" is not a long"), "{error}");
    assert!(error.evidence.remedy.unwrap().contains("nullstr => 'NA'"));
    assert_eq!(error.place, Some((1, 15)));
    b.file("decimal.csv", "a,b\n1,1e3\n\n\"2\n2\",1.5\n3,1.25\n");
    let rows = b.rows("select b from read_csv('decimal.csv', types => {'b': 'decimal(6, 2)'})").await;
    assert_eq!(rows, json(r#"[["1000.00"],["1.50"],["1.25"]]"#));
    let error = b.error("select * from read_csv('decimal.csv', types => {'b': 'decimal(5, 1)'})").await;
    let expected = "decimal.csv:6: \"1.25\" in column \"b\" cannot be held exactly by a decimal(5, 1)";
    assert_eq!((error.to_string().as_str(), error.place), (expected, Some((1, 15))));
    // A type whose values are cast in batches.
    b.file("int.csv", "a,b\n1,2\n\n\"x\ny\",3000000000\n");
    let error = b.error("select b from read_csv('int.csv', types => 'b int')").await;
    assert_eq!(error.to_string(), "int.csv:4: \"3000000000\" in column \"b\" is not an int");
    b.file("double.csv", "a\n1\n1e999\n");
    let error = b.error("select * from read_csv('double.csv', types => 'a double')").await;
    assert_eq!(error.to_string(), "double.csv:3: \"1e999\" in column \"a\" is not a double");
    b.file("latin.csv", b"a,b\n1,caf\xe9\n");
    let error = b.error("select * from read_csv('latin.csv')").await;
    assert_eq!(error.to_string(), "latin.csv:2: \"caf\u{fffd}\" in column \"b\" is not UTF-8");
    b.file("empty.csv", "");
    assert_eq!(b.error("select * from read_csv('empty.csv')").await.code, "file-malformed");
    b.file("twice.csv", "a,a\n1,2\n");
    assert_eq!(b.error("select * from read_csv('twice.csv')").await.code, "file-malformed");
    b.file("header.csv", "a,b\n");
    assert_eq!(b.rows("select * from read_csv('header.csv')").await, json("[]"));
    b.file("bom.csv", "\u{feff}a\n1\n");
    assert_eq!(b.rows("select a from read_csv('bom.csv')").await, json("[[1]]"));
}

#[tokio::test]
async fn json_lines_and_arrays() {
    let b = Bench::default();
    b.file("lines.json", "{\"a\": 1, \"b\": {\"c\": [1, 2]}}\n{\"a\": 2, \"n\": null}\n");
    assert_eq!(
        b.rows("select a, b, n from read_json('lines.json') order by a").await,
        json(r#"[[1,{"c":[1,2]},null],[2,null,null]]"#)
    );
    b.file("array.json", "\n [{\"a\": 1.5}, {\"a\": 2, \"s\": \"x\"}]");
    assert_eq!(b.rows("select a, s from read_json('array.json') order by a").await, json(r#"[[1.5,null],[2.0,"x"]]"#));
    b.file("bad.json", "{\"a\": 1}\n{\"a\": }\n");
    let error = b.error("select * from read_json('bad.json')").await;
    assert!(error.code == "file-malformed" && error.to_string().contains("bad.json:2:"), "{error}");
    b.file("bad_array.json", "[{\"a\": 1},\n {]");
    assert!(b.error("select * from read_json('bad_array.json')").await.to_string().contains("bad_array.json:2:"));
    b.rows("create table t as select * from read_json('lines.json')").await;
    assert_eq!(b.rows("describe t").await[2], json(r#"["n","string",null]"#));
}

#[tokio::test]
async fn parquet_files() {
    let b = Bench::default();
    b.rows("create table t as select i as id, 'v' || i as name from generate_series(1, 1000) as s(i)").await;
    let data = files_below(&b.warehouse()).into_iter().find(|f| f.extension().is_some_and(|e| e == "parquet")).unwrap();
    std::fs::create_dir(b.project().join("d")).unwrap();
    std::fs::copy(&data, b.project().join("d/one.parquet")).unwrap();
    std::fs::copy(&data, b.project().join("d/two.parquet")).unwrap();
    let done = b
        .try_run(&b.query("select count(*), max(name) from read_parquet('d/*.parquet') where id > 990"), &head())
        .await
        .unwrap();
    assert_eq!(done.1, json(r#"[[20,"v999"]]"#));
    assert!(done.0.counters["bytes_read"] > 0.0);
    b.file("d/three.parquet", "not parquet");
    let error = b.error("select * from read_parquet('d/three.parquet')").await;
    assert!(error.code == "file-malformed" && error.to_string().contains("d/three.parquet"), "{error}");
}

#[tokio::test]
async fn patterns_take_files_in_order() {
    let b = Bench::default();
    for name in ["data/a1.csv", "data/a2.csv", "data/b1.csv", "data/deep/er/a3.csv", "data/.hidden.csv"] {
        b.file(name, format!("f\n{name}\n"));
    }
    let found = |text: &str| format!("select f from read_csv('{text}') order by f");
    assert_eq!(b.rows(&found("data/a*.csv")).await, json(r#"[["data/a1.csv"],["data/a2.csv"]]"#));
    assert_eq!(b.rows(&found("data/[ab]1.csv")).await, json(r#"[["data/a1.csv"],["data/b1.csv"]]"#));
    assert_eq!(b.rows(&found("data/?2.csv")).await, json(r#"[["data/a2.csv"]]"#));
    assert_eq!(b.rows(&found("**/a?.csv")).await, json(r#"[["data/a1.csv"],["data/a2.csv"],["data/deep/er/a3.csv"]]"#));
    assert_eq!(b.rows(&found("./data/[!b]1.csv")).await, json(r#"[["data/a1.csv"]]"#));
    assert_eq!(b.error(&found("data/c*.csv")).await.code, "file-not-found");
    b.file("data/b2.csv", "g\nx\n");
    assert_eq!(b.error(&found("data/b*.csv")).await.code, "file-malformed", "other columns");
    b.file("num/1.csv", "x\n1\n");
    b.file("num/2.csv", "x\n1.5\n");
    assert_eq!(b.rows("select sum(x) from read_csv('num/*.csv')").await, json("[[2.5]]"));
}

#[tokio::test]
async fn no_path_leads_out_of_the_project() {
    let b = Bench::default();
    let outside = b.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret.csv"), "x\n1\n").unwrap();
    b.file("data/in.csv", "x\n2\n");
    b.file(".pinrail/state.csv", "x\n3\n");
    b.file(".git/config.csv", "x\n4\n");
    let project = b.project();
    symlink(outside.join("secret.csv"), project.join("data/link.csv")).unwrap();
    symlink("../../outside/secret.csv", project.join("data/relative.csv")).unwrap();
    symlink(&outside, project.join("out")).unwrap();
    symlink("../.pinrail/state.csv", project.join("data/state.csv")).unwrap();
    symlink("loop.csv", project.join("data/loop.csv")).unwrap();
    symlink("in.csv", project.join("data/inside.csv")).unwrap();
    symlink("/dev/zero", project.join("data/zero.csv")).unwrap();
    symlink("/proc/self", project.join("data/self")).unwrap();
    symlink("../.pinrail", project.join("data/state")).unwrap();

    let absolute = outside.join("secret.csv");
    for path in [
        "",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        "../outside/secret.csv",
        "data/../../outside/secret.csv",
        "data/..",
        "file:///etc/passwd",
        "file:data/in.csv",
        "http://127.0.0.1/x.csv",
        "s3://bucket/x.csv",
        "~/x.csv",
        "data//in.csv",
        "data/./in.csv",
        "data\\in.csv",
        "data/in.csv\0",
        "data/link.csv",
        "data/relative.csv",
        "out/secret.csv",
        "data/state.csv",
        "data/loop.csv",
        "data/zero.csv",
        ".pinrail/state.csv",
        "data/../.pinrail/state.csv",
        "data/state/state.csv",
        ".git/config.csv",
        "/proc/self/environ",
        "/proc/self/mem",
        "data/self/environ",
        "data/self/root/etc/passwd",
        "data/l*.csv",
        "../*/secret.csv",
        "data",
    ] {
        for function in ["read_csv", "read_json", "read_parquet"] {
            let mut query = b.query(&format!("select * from {function}({})", "{{ path }}"));
            query.values.insert("path".to_owned(), pinrail_model::seam::lake::Value::String(path.to_owned()));
            query.files.forbidden = vec![project.join(".pinrail"), ".git".into()];
            let error = b.try_run(&query, &head()).await.unwrap_err();
            // A NUL cannot even become part of the statement.
            let expected = if path.contains('\0') { "template-value" } else { "path-refused" };
            assert_eq!(error.code, expected, "{function} {path:?}: {error}");
            assert!(error.place.is_some());
        }
    }
    assert_eq!(b.rows("select x from read_csv('data/inside.csv')").await, json("[[2]]"), "a link within the project");
    assert_eq!(b.error("select * from read_csv('data/nothing.csv')").await.code, "file-not-found");
    assert_eq!(
        b.error("select * from read_csv('out/*.csv')").await.code,
        "file-not-found",
        "links to folders are not walked"
    );
}

#[tokio::test]
async fn files_come_from_the_bundle_first_and_from_the_project_as_listed() {
    let b = Bench::default();
    b.file("data/x.csv", "x\nproject\n");
    b.file("data/raw.csv", "x\nraw\n");
    // An unpacked bundle lies inside of the state folder.
    b.file(".pinrail/bundles/1/data/x.csv", "x\nbundle\n");
    let mut query = b.query("select x from read_csv('data/x.csv')");
    query.files.root = Some(b.project().join(".pinrail/bundles/1"));
    query.files.forbidden = vec![b.project().join(".pinrail")];
    query.files.patterns = Some(vec!["data/r*.csv".to_owned()]);
    assert_eq!(b.try_run(&query, &head()).await.unwrap().1, json(r#"[["bundle"]]"#));
    query.text = "select x from read_csv('data/raw.csv')".to_owned();
    assert_eq!(b.try_run(&query, &head()).await.unwrap().1, json(r#"[["raw"]]"#));
    query.text = "select x from read_csv('data/*.csv') order by x".to_owned();
    assert_eq!(b.try_run(&query, &head()).await.unwrap().1, json(r#"[["bundle"],["raw"]]"#));
    query.files.patterns = Some(vec![]);
    query.text = "select x from read_csv('data/raw.csv')".to_owned();
    let error = b.try_run(&query, &head()).await.unwrap_err();
    assert_eq!(error.code, "path-refused");
    assert!(error.evidence.remedy.unwrap().contains("raw = \"data/raw.csv\""));
    query.files.project = None;
    assert_eq!(b.try_run(&query, &head()).await.unwrap_err().code, "file-not-found");
}

#[tokio::test]
async fn a_check_lets_missing_files_and_tables_pass() {
    let b = Bench::default();
    let checked = b
        .check("create table t as select * from read_csv('later.csv'); select a from t join raw.u using (a)")
        .await
        .unwrap();
    let names = |tables: &[pinrail_model::names::TableRef]| tables.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&checked.writes), ["main.t"]);
    assert_eq!(names(&checked.reads), ["main.t", "raw.u"]);
    assert!(checked.columns.is_empty());
    assert_eq!(b.check("select * from read_csv('../x.csv')").await.unwrap_err().code, "path-refused");
}
