//! How commands show things: lines for people, one JSON document for programs.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Where progress goes and whether it may be coloured.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    colour: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let colour = !json && std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal();
        Self { json, colour }
    }

    /// A line for people: on standard output, or on standard error when a program reads the output.
    pub fn say(self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            // A reader that has gone wants no more.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    /// The one document for programs.
    pub fn document(self, value: &Value) {
        if self.json {
            let _ = writeln!(std::io::stdout(), "{value}");
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Seconds between two ISO 8601 times of the API, as people read them.
pub fn seconds(from: &Value, to: &Value) -> Option<f64> {
    let parse = |value: &Value| serde_json::from_value::<pinrail_model::time::Micros>(value.clone()).ok();
    Some(parse(to)?.since(parse(from)?).as_secs_f64())
}

/// A duration as people read it.
pub fn human(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A number of things: `1 file`, `336,776 rows`.
pub fn plural(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A number with a comma between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// Rows in columns, the first row being the heads. Cells are one line each, and the widest are cut.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let cut = rows.iter().flatten().any(|cell| cell.width() > WIDEST_CELL);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| fitting(cell)).collect()).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded = |(cell, width): (&String, &usize)| format!("{cell}{}", " ".repeat(width - cell.width()));
        row.iter().zip(&widths).map(padded).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if cut {
        lines.push(format!("(… ends what is wider than {WIDEST_CELL} characters; --json prints all of it)"));
    }
    lines.join("\n")
}

/// Columns of a terminal for one cell: more would push all others out of sight.
const WIDEST_CELL: usize = 120;

/// A cell, cut where it is too wide.
fn fitting(cell: &str) -> String {
    if cell.width() <= WIDEST_CELL {
        return cell.to_owned();
    }
    let mut room = WIDEST_CELL - 1;
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= room;
        room = room.saturating_sub(width);
        fits
    };
    cell.chars().take_while(fits).chain(['…']).collect()
}

/// A text with its control characters to be seen instead of obeyed, so that nothing that a job printed or a table holds
/// moves the cursor, changes colours or turns the reading direction. Line ends and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && !matches!(c, '\n' | '\t');
    if text.contains(obeyed) { Cow::Owned(escaped(&text.replace("\r\n", "\n"), obeyed)) } else { Cow::Borrowed(text) }
}

/// The same on one line.
fn one_line(text: &str) -> String {
    escaped(text, is_obeyed)
}

fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, wanted: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a text cannot fail.
        let _ = match c {
            c if !wanted(c) => shown.write_char(c),
            '\n' => shown.write_str("\\n"),
            '\r' => shown.write_str("\\r"),
            '\t' => shown.write_str("\\t"),
            c if c.is_ascii() => write!(shown, "\\x{:02x}", u32::from(c)),
            c => write!(shown, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    shown
}

/// The options without which a command that is suggested would mean another place.
static GIVEN: OnceLock<String> = OnceLock::new();

/// Remembers the state folder that was named on the command line, for what is suggested.
pub fn remember_state(folder: &Path) {
    let shown = folder.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@".contains(c);
    let word = if shown.chars().all(plain) { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) };
    let _ = GIVEN.set(format!("--state {word} "));
}

/// A suggested command as it has to be typed.
pub fn command(text: &str) -> String {
    match (GIVEN.get(), text.strip_prefix("pinrail ")) {
        (Some(given), Some(rest)) => format!("pinrail {given}{rest}"),
        _ => text.to_owned(),
    }
}

/// A text for people with the commands in it, between backquotes, as they have to be typed.
pub fn hint(text: &str) -> String {
    match GIVEN.get() {
        Some(given) => text.replace("`pinrail ", &format!("`pinrail {given}")),
        None => text.to_owned(),
    }
}

/// A JSON value as a cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An amount of bytes as people read it.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes < 10.0 * unit => format!("{:.1} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.0} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_one_line_as_wide_as_they_look_and_not_too_wide() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let shown = table(&[row(["a", "b"]), row(["日本", "x\ny"]), row(["\u{1b}[31m", "\0\u{202e}"])]);
        assert_eq!(shown, "a         b\n日本      x\\ny\n\\x1b[31m  \\x00\\u{202e}");
        let wide = table(&[row(["a", "b"]), row([&"日".repeat(40_000), "end"])]);
        let lines: Vec<&str> = wide.lines().collect();
        assert_eq!(lines[1], format!("{}…  end", "日".repeat(59)));
        assert_eq!(lines[2], "(… ends what is wider than 120 characters; --json prints all of it)");
    }

    #[test]
    fn what_is_printed_is_not_obeyed() {
        assert_eq!(visible("a\tb\n"), "a\tb\n");
        assert_eq!(visible("a\r\nb\rc\u{1b}[2J"), "a\nb\\rc\\x1b[2J");
    }
}
