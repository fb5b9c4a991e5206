//! What an analyst gets wrong on an ordinary day: each error says where, what, and what to write instead.

use crate::support::{Bench, json};

async fn bench() -> Bench {
    let b = Bench::default();
    b.rows("create table m.t (id int, name string, price double, day date)").await;
    b.rows("insert into m.t values (1, 'a', 1.5, date '2024-01-01')").await;
    b.file("ok.csv", "id,name,price\n1,a,1.5\n");
    b.file("ragged.csv", "id,name\n1,a\n2\n");
    b.file("bad.csv", "id,price\n1,1.5\n2,x\n");
    b
}

/// Text, place, a part of the message, a part of the remedy.
type Mistake = (&'static str, (u32, u32), &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    // Names.
    ("select nam from m.t", (1, 8), "column \"nam\" not found in m.t", "Did you mean name?"),
    ("select t.nam from m.t", (1, 10), "column \"nam\" not found in t", "Did you mean name?"),
    ("select x.name from m.t", (1, 8), "no table is called \"x\" here", "The tables are m.t."),
    ("select * from m.tt", (1, 15), "table \"m.tt\" not found", "Did you mean m.t?"),
    ("select coutn(*) from m.t", (1, 8), "function \"coutn\" does not exist", "Did you mean count?"),
    ("select * from read_cvs('ok.csv')", (1, 15), "function \"read_cvs\" does not exist", "Did you mean read_csv?"),
    ("select * from m.t where name = \"a\"", (1, 32), "column \"a\" not found", "single quotes: 'a'"),
    ("select cast(name as itn) from m.t", (1, 21), "type \"itn\" is not supported", "Use boolean, int"),
    ("create table m.u (id itn)", (1, 19), "type \"itn\" is not supported", "Use boolean, int"),
    ("with a as (select 1) select * from b", (1, 36), "table \"main.b\" not found", "SHOW TABLES"),
    ("select nam", (1, 8), "column \"nam\" not found", "FROM is missing"),
    ("select id from m.t a join m.t b on a.id = b.id", (1, 8), "in more than one table", "table.column"),
    ("select name, id, count(*) as id from m.t group by name, id", (1, 14), "two columns are called \"id\"", "AS name"),
    ("select c from (select id, name from m.t) as s(a, b)", (1, 8), "not found in s", "The columns are a, b."),
    // Grouping.
    ("select name, count(*) from m.t", (1, 8), "\"name\" in SELECT is neither in GROUP BY", "max(name)"),
    ("select name from m.t group by name order by price", (1, 45), "\"price\" in ORDER BY is neither", "max(price)"),
    ("select id from m.t having id > 1", (1, 1), "HAVING without GROUP BY", "WHERE"),
    ("select * from m.t where sum(id) > 1", (1, 1), "aggregate function stands in WHERE", "HAVING"),
    ("select max(sum(id)) from m.t", (1, 1), "aggregate function stands where none may be", "subquery"),
    // Types.
    ("select id, id + name from m.t", (1, 12), "\"+\" does not take int and string", "cast(x as type)"),
    ("select * from m.t where day = 'notadate'", (1, 31), "\"notadate\" is not a date", "try_cast(x as date)"),
    ("select * from m.t where name > 5", (1, 1), "\"a\" is not a long", "try_cast(x as long)"),
    ("select cast(name as int) from m.t", (1, 13), "\"a\" is not an int", "try_cast(name as int)"),
    ("select sum(name) from m.t", (1, 8), "function \"sum\" does not take (string)", "cast"),
    ("select avg(day) from m.t", (1, 8), "function \"avg\" does not take (date)", "avg(cast(x as double))"),
    ("select * from m.t where name like 5", (1, 1), "LIKE compares text", "cast(x as string)"),
    ("select substr(name) from m.t", (1, 1), "substring needs a start", "substring(text, start, length)"),
    ("select interval '1 dya'", (1, 17), "\"1 dya\" is not an interval", "'1 day'"),
    ("select extract(yaer from day) from m.t", (1, 1), "\"yaer\" is not a part of a date", "year"),
    ("select 'a' + 'b'", (1, 1), "\"+\" does not take string and string", "||"),
    (
        "select upper(id, 2) from m.t",
        (1, 8),
        "function \"upper\" does not take (int, long)",
        "upper(cast(x as string))",
    ),
    ("select * from m.t where (select count(*) from m.t)", (1, 1), "condition of WHERE is long", "comparison"),
    ("select * from m.t a join m.t b on a.id", (1, 1), "condition of JOIN is int", "USING (id)"),
    ("select 1 / 0", (1, 1), "division by zero", "nullif(y, 0)"),
    // Shapes.
    ("select 1 union select 1, 2", (1, 1), "queries of UNION have different numbers", "same columns"),
    ("select (select id, name from m.t)", (1, 1), "gives 2 columns instead of one: id, name", "one column"),
    // Syntax.
    ("set x = 1", (1, 1), "SET x is not supported", "Supported are SELECT"),
    ("selct * from m.t", (1, 1), "selct", "Did you mean SELECT?"),
    ("select * form m.t", (1, 10), "unexpected \"form\"", "Did you mean FROM?"),
    ("select * from m.t wehre id = 1", (1, 25), "unexpected \"id\"", "Did you mean WHERE?"),
    ("select id name price from m.t", (1, 16), "unexpected \"price\"", "comma"),
    ("select id, from m.t where", (1, 26), "the end of the statement", ""),
    ("select case when id = 1 then 'a' from m.t", (1, 18), "unexpected \"id\"", "END"),
    ("select (1 + 2 from m.t", (1, 15), "", "opened, but not closed"),
    ("select 1)", (1, 9), "unexpected \")\"", "closed, but not opened"),
    ("select * from m.t where name = 'a", (1, 32), "the text is not closed", "'it''s'"),
    ("select \"name from m.t", (1, 8), "the quoted name is not closed", "quote"),
    ("select 1 /* from m.t", (1, 21), "the comment is not closed", "*/"),
    ("select * from ok.csv/x", (1, 21), "unexpected \"/\"", "read_csv"),
    ("select * from 'data/orders.csv'", (1, 15), "'data/orders.csv' is a text", "read_csv('data/orders.csv')"),
    ("select 1 from m.t, 'x.JSONL'", (1, 20), "'x.JSONL' is a text", "read_json('x.JSONL')"),
    ("select 'a.parquet' from 'a.parquet'", (1, 25), "is a text", "read_parquet('a.parquet')"),
    ("insert into 'x' select 1", (1, 13), "'x' is a text, not a table", "without quotes"),
    ("select * from \"data/ok.csv\"", (1, 15), "\"data/ok.csv\" is not allowed", "read_csv('data/ok.csv')"),
    ("select * from m.t limit ten", (1, 25), "column \"ten\" not found", "only constants"),
    ("select distinct on id from m.t", (1, 20), "found: id", "comma"),
    ("select (1 +) from m.t", (1, 12), "found: )", ""),
    ("select id,, name from m.t", (1, 11), "found: ,", "comma"),
    ("select id order name from m.t", (1, 11), "unexpected \"order\"", "in double quotes"),
    ("select top 5 * from m.t", (1, 1), "TOP and FETCH are not supported", "LIMIT n"),
    ("select * from m.t tablesample 10", (1, 15), "TABLESAMPLE is not supported", "LIMIT n"),
    ("select (select i from generate_series(1, 2) as s(i))", (1, 1), "gives more than one row", "IN (SELECT"),
    // Writing.
    ("insert into m.t values (1, 'a')", (1, 1), "gives 2 columns, but 4", "INSERT INTO m.t (id, name)"),
    ("insert into m.t (id, nam) values (1, 'a')", (1, 22), "column \"nam\" not found", "Did you mean name?"),
    ("insert into m.t (id) values ('x')", (1, 1), "\"x\" cannot be written to column \"id\"", "int"),
    ("insert overwrite m.t partition (dya = 1) select 1", (1, 33), "column \"dya\" not found", "The columns are id"),
    (
        "insert overwrite m.t partition (id = 1) select 1",
        (1, 1),
        "is not partitioned by",
        "INSERT OVERWRITE m.t SELECT",
    ),
    ("insert into m.nope select 1", (1, 1), "table \"m.nope\" not found", "SHOW TABLES"),
    ("update m.t set id = 2", (1, 1), "UPDATE is not supported", "INSERT OVERWRITE"),
    ("create table m.t (id int)", (1, 1), "exists already", "IF NOT EXISTS"),
    // The past.
    ("select * from m.t for version as of 12", (1, 15), "has no snapshot 12", "Its snapshots are"),
    (
        "select * from m.t for timestamp as of '2020-01-01'",
        (1, 15),
        "had no snapshot at 2020-01-01",
        "Its snapshots are",
    ),
    ("select * from m.t for timestamp as of 'yesterday'", (1, 15), "\"yesterday\" is not a time", "Write it like"),
    // Files.
    ("select * from read_csv('nope.csv')", (1, 15), "file \"nope.csv\" not found", "[files]"),
    ("select * from read_csv('/etc/passwd')", (1, 15), "is refused", "relative to the project"),
    ("select * from read_csv('../x.csv')", (1, 15), "it leads upwards", "relative to the project"),
    ("select * from read_csv('ok.csv', headr => true)", (1, 15), "no option \"headr\"", "Did you mean header?"),
    ("select * from read_csv('ok.csv', types => {'pric': 'int'})", (1, 15), "column \"pric\" of types", "price"),
    ("select * from read_csv('ok.csv', types => {'price': 'doubel'})", (1, 15), "type \"doubel\"", "Use boolean"),
    ("select * from read_csv('ragged.csv')", (1, 15), "ragged.csv:3: 1 fields", "delim"),
    (
        "select * from read_csv('bad.csv', types => 'price double')",
        (1, 15),
        "bad.csv:3: \"x\" in column \"price\"",
        "nullstr",
    ),
    ("select * from read_csv()", (1, 15), "the path is missing", "read_csv('path'"),
];

#[tokio::test]
async fn mistakes_are_told_with_place_thing_and_remedy() {
    let b = bench().await;
    let mut wrong = Vec::new();
    for (text, place, message, remedy) in MISTAKES {
        let error = b.error(text).await;
        let found = error.evidence.remedy.clone().unwrap_or_default();
        let has_remedy = remedy.is_empty() || found.contains(remedy);
        if error.place != Some(*place) || !error.evidence.message.contains(message) || !has_remedy {
            wrong.push(format!("{text}\n  {:?} {}: {}\n  {found}", error.place, error.code, error.evidence.message));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MISTAKES.len(), wrong.join("\n"));
}

#[tokio::test]
async fn an_aggregate_in_order_by_means_the_column_and_not_the_alias_that_hides_it() {
    let b = Bench::default();
    b.rows("create table w (weather string, late int, flights int)").await;
    b.rows("insert into w values ('fog', 1, 2), ('rain', 3, 4), ('rain', 1, 12), ('sun', 2, 20)").await;
    let sorted = |order: &str, from: &str| {
        format!("select weather, sum(late) as late from {from} group by weather order by {order}")
    };
    let by_share = json(r#"[["fog",1],["rain",4],["sun",2]]"#);
    let by_count = json(r#"[["rain",4],["sun",2],["fog",1]]"#);
    for from in ["w", "w as a", "main.w", "(select * from w) as d", "w join (values (1)) as v(one) on true"] {
        let share = sorted("sum(late) * 1.0 / sum(flights) desc", from);
        assert_eq!(b.rows(&share).await, by_share, "{share}");
        assert_eq!(b.rows(&sorted("SUM(LATE) desc", from)).await, by_count, "{from}");
        assert_eq!(b.rows(&sorted("late desc", from)).await, by_count, "{from}");
    }
    let other = "select weather, max(late) as late from w group by weather order by sum(late) desc, weather";
    assert_eq!(b.rows(other).await, json(r#"[["rain",3],["sun",2],["fog",1]]"#));
    // Outside of an aggregate function the alias stays what is meant.
    assert_eq!(
        b.rows("select weather, -sum(late) as late from w group by weather order by abs(late)").await,
        json(r#"[["fog",-1],["sun",-2],["rain",-4]]"#)
    );
}
