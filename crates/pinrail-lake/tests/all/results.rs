//! What values look like on their way out.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use pinrail_model::seam::lake::{QueryEngine, QueryLimits, ResultFormat};

use crate::support::{Bench, Collect, head, json};

async fn bytes(b: &Bench, text: &str, format: ResultFormat) -> Vec<u8> {
    let mut sink = Collect::default();
    let limits = QueryLimits::default();
    b.lake.run(&b.query(text), &head(), &limits, format, &mut sink).await.unwrap();
    sink.0
}

const VALUES: &str = "select 9007199254740993 as l, cast(1 as int) as i, 1.50 as d, cast(0.1 as double) as f, \
    cast(0.1 as float) as r, cast('NaN' as double) as nan, cast('-Infinity' as double) as inf, true as b, \
    'a\"b' as s, null as n, date '1969-12-31' as day, timestamp '2013-01-02 03:04:05.123' as at, \
    timestamp '2013-01-02 03:04:05' at time zone 'UTC' as zoned, x'00ff10' as bin, [1, null] as list, \
    struct(1 as x, 'y' as y) as st, map {'k': 1} as m, time '03:04:05' as t, interval '1 day' as iv";

#[tokio::test]
async fn json_values_and_type_names() {
    let b = Bench::default();
    let text = String::from_utf8(bytes(&b, VALUES, ResultFormat::Json).await).unwrap();
    let result = json(&text);
    let kinds: Vec<_> = result["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "long",
            "int",
            "decimal(3, 2)",
            "double",
            "float",
            "double",
            "double",
            "boolean",
            "string",
            "unknown",
            "date",
            "timestamp",
            "timestamptz",
            "binary",
            "list<long>",
            "struct<x: long, y: string>",
            "map<string, long>",
            "time",
            "interval",
        ]
    );
    assert!(text.contains("9007199254740993"), "an integer is a number with all its digits");
    let row = result["rows"][0].as_array().unwrap();
    let expected = json(
        r#"[9007199254740993,1,"1.50",0.1,0.1,"NaN","-Infinity",true,"a\"b",null,"1969-12-31",
        "2013-01-02T03:04:05.123000","2013-01-02T03:04:05.000000Z","AP8Q",[1,null],{"x":1,"y":"y"},{"k":1},
        "03:04:05.000000"]"#,
    );
    assert_eq!(&row[..18], expected.as_array().unwrap().as_slice());
}

#[tokio::test]
async fn csv_quotes_what_needs_it_and_tells_empty_from_null() {
    let b = Bench::default();
    let text = bytes(&b, "select * from (values (1, 'a,b', 1.5), (2, '', null), (3, null, 2.0), (4, 'q\"', 2.5)) as v(id, s, \"d d\") order by id", ResultFormat::Csv).await;
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "id,s,d d\r\n1,\"a,b\",1.5\r\n2,\"\",\r\n3,,2.0\r\n4,\"q\"\"\",2.5\r\n"
    );
    let text = bytes(&b, "select null a, '' b, cast(null as int) c, [] d", ResultFormat::Csv).await;
    assert_eq!(String::from_utf8(text).unwrap(), "a,b,c,d\r\n,\"\",,[]\r\n");
}

#[tokio::test]
async fn arrow_streams_are_plain() {
    let b = Bench::default();
    let stream = bytes(&b, "select 1 as x, now() as at, arrow_cast('a', 'Utf8View') as s", ResultFormat::Arrow).await;
    let mut reader = arrow::ipc::reader::StreamReader::try_new(stream.as_slice(), None).unwrap();
    let schema = reader.schema();
    assert_eq!(schema.field(1).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())));
    assert_eq!(schema.field(2).data_type(), &DataType::Utf8);
    let batch = reader.next().unwrap().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 1);
    assert!(reader.next().is_none());
}

#[tokio::test]
async fn results_without_rows_and_without_columns_are_well_formed() {
    let b = Bench::default();
    for (text, header) in [("select 1 as x where false", "x\r\n"), ("create table t (x int)", "")] {
        for format in [ResultFormat::Json, ResultFormat::Arrow, ResultFormat::Csv] {
            let found = bytes(&b, &text.replace("table t", &format!("table t{format:?}").to_lowercase()), format).await;
            match format {
                ResultFormat::Json => assert_eq!(json(std::str::from_utf8(&found).unwrap())["rows"], json("[]")),
                ResultFormat::Arrow => {
                    assert_eq!(arrow::ipc::reader::StreamReader::try_new(found.as_slice(), None).unwrap().count(), 0)
                }
                ResultFormat::Csv => assert_eq!(found, header.as_bytes()),
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_or_cut_stream_is_an_error_and_no_whole_result() {
    let b = Bench::default();
    let text = "select i, 'row ' || i as s from generate_series(1, 20000) as g(i)";
    let stream = bytes(&b, text, ResultFormat::Arrow).await;
    let encode = async |stream: Vec<u8>| {
        let mut sink = Collect::default();
        let cursor = Box::new(std::io::Cursor::new(stream));
        b.lake.encode(cursor, ResultFormat::Csv, &mut sink).await.map(|()| sink.0)
    };
    let whole = encode(stream.clone()).await.unwrap();
    assert_eq!(String::from_utf8(whole).unwrap().lines().count(), 20_001);
    let without_end = stream.len() - 8;
    for length in [0, 7, 100, stream.len() / 2, without_end, stream.len() - 1] {
        let error = encode(stream[..length].to_vec()).await.unwrap_err();
        assert_eq!(
            (error.code, error.fault),
            ("query-failed", pinrail_model::fault::Fault::Platform),
            "{length}: {error}"
        );
        assert!(error.to_string().contains("the kept result is damaged"), "{length}: {error}");
    }
    let mut damaged = stream;
    let middle = damaged.len() / 2;
    let next = damaged[middle..].windows(4).position(|bytes| bytes == [0xff; 4]).map(|at| middle + at).unwrap();
    damaged[next..next + 12].fill(0x55);
    assert!(encode(damaged).await.is_err());
}
