//! Masks the values of an attempt's secrets in what people see of it: logs, failures, counters, outputs.
//!
//! A value is found as it is, line by line when it has several, and in the spellings of JSON and Python, in which it
//! stands in a traceback or a printed structure. Not responsible for a job that disguises a value on purpose.
//!
//! Invariant: of a stream that is cut anywhere, no part of a value is let through before it is certain that the rest
//! does not follow; what is held back is shorter than the longest spelling.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use pinrail_model::fault::Evidence;
use pinrail_model::run::{Report, Verdict};
use serde_json::Value;

/// What stands where a value was.
const MASK: &[u8] = b"***";
/// Values shorter than this would be found everywhere, and masking them would tell what they are. So they are refused,
/// and of a value with several lines the short ones are not masked by themselves.
pub const SHORTEST: usize = 4;

/// What must not be seen of an attempt.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    found: Option<Arc<Found>>,
}

#[derive(Debug)]
struct Found {
    /// None: the values are too many to be searched for, so everything is masked.
    search: Option<AhoCorasick>,
    spellings: Vec<Vec<u8>>,
}

impl Masks {
    /// Masks for these values.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut spellings: Vec<Vec<u8>> = values.into_iter().flat_map(spellings).collect();
        spellings.sort_unstable();
        spellings.dedup();
        if spellings.is_empty() {
            return Self::default();
        }
        Self { found: Some(Arc::new(Found { search: AhoCorasick::new(&spellings).ok(), spellings })) }
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_none()
    }

    /// Whether a text holds a value.
    #[must_use]
    pub fn hides(&self, text: &str) -> bool {
        let Some(found) = &self.found else { return false };
        found.search.as_ref().is_none_or(|search| search.is_match(text))
    }

    /// A whole text, masked.
    #[must_use]
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.hides(text) {
            let masked = StreamMask::new(self).push(text.as_bytes(), true).into_owned();
            // Only whole spellings, which are texts, were taken out of a text.
            Cow::Owned(String::from_utf8_lossy(&masked).into_owned())
        } else {
            Cow::Borrowed(text)
        }
    }

    fn in_place(&self, text: &mut String) {
        if let Cow::Owned(masked) = self.text(text) {
            *text = masked;
        }
    }

    /// Masks every text of a JSON value, the names of fields included.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.in_place(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                let taken = std::mem::take(fields);
                fields.extend(taken.into_iter().map(|(name, mut value)| {
                    self.value(&mut value);
                    (self.text(&name).into_owned(), value)
                }));
            }
            // A value may consist of digits.
            Value::Number(number) if self.hides(&number.to_string()) => {
                *value = Value::String(self.text(&number.to_string()).into_owned());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn outputs(&self, outputs: &mut BTreeMap<String, Value>) {
        outputs.retain(|name, _| !self.hides(name));
        outputs.values_mut().for_each(|value| self.value(value));
    }

    fn evidence(&self, evidence: &mut Evidence) {
        let Evidence { message, reason: _, remedy, code, facts } = evidence;
        self.in_place(message);
        remedy.iter_mut().for_each(|text| self.in_place(text));
        for place in code {
            self.in_place(&mut place.file);
            place.function.iter_mut().chain(&mut place.code).for_each(|text| self.in_place(text));
        }
        for (name, text) in facts {
            self.in_place(name);
            self.in_place(text);
        }
    }

    fn verdict(&self, verdict: &mut Verdict) {
        self.evidence(&mut verdict.evidence);
    }

    /// Masks what a report says to people. What one phase hands to the next (state, result, spec) stays as it is: it is
    /// shown nowhere, and the job needs it whole.
    pub fn report(&self, report: &mut Report) {
        if self.is_empty() {
            return;
        }
        match report {
            Report::Executed(executed) | Report::Specified(executed) => self.outputs(&mut executed.outputs),
            Report::EngineEnded { outputs, .. } | Report::Completed { outputs } => self.outputs(outputs),
            Report::Failed(verdict) => self.verdict(verdict),
            Report::Warned { text } => self.in_place(text),
            Report::CleanupEnded(end) => end.detail.iter_mut().for_each(|text| self.in_place(text)),
            Report::Equipped { .. }
            | Report::PhaseStarted(_)
            | Report::Left { .. }
            | Report::PhaseEnded { .. }
            | Report::Viewed { .. }
            | Report::Submitted { .. } => {}
        }
    }
}

/// The ways in which a value is written.
fn spellings(value: &str) -> Vec<Vec<u8>> {
    let value = value.trim();
    let json = Value::from(value).to_string();
    let json = json[1..json.len() - 1].to_owned();
    let ascii = json.chars().fold(String::new(), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
        text
    });
    // Python quotes with ' where it can, and then escapes no ".
    let python = json.replace("\\\"", "\"");
    let quoted = python.replace('\'', "\\'");
    let lines = value.lines().map(str::trim).map(str::to_owned);
    let whole = [value.to_owned(), json, ascii, python, quoted];
    lines.chain(whole).filter(|text| text.len() >= SHORTEST).map(String::into_bytes).collect()
}

/// Masks a stream that arrives in pieces.
#[derive(Debug)]
pub struct StreamMask {
    masks: Masks,
    /// What may be the beginning of a value.
    held: Vec<u8>,
    /// So many bytes of what is held belong to a value that was found already.
    covered: usize,
    /// The last thing let through was a mask, which adjacent finds share.
    masking: bool,
}

impl StreamMask {
    #[must_use]
    pub fn new(masks: &Masks) -> Self {
        Self { masks: masks.clone(), held: Vec::new(), covered: 0, masking: false }
    }

    /// What may be seen after another piece; after the last one, everything.
    pub fn push<'a>(&mut self, piece: &'a [u8], last: bool) -> Cow<'a, [u8]> {
        let Some(found) = self.masks.found.clone() else { return Cow::Borrowed(piece) };
        let text = [std::mem::take(&mut self.held).as_slice(), piece].concat();
        let runs = found.runs(&text, std::mem::take(&mut self.covered));
        let keep = if last { 0 } else { found.beginning(&text) };
        let cut = text.len() - keep;
        let mut seen = Vec::with_capacity(cut);
        let mut at = 0;
        for (start, end) in runs {
            if start <= cut {
                self.covered = end.saturating_sub(cut);
            }
            if start >= cut {
                break;
            }
            self.show(&mut seen, &text[at..start]);
            if !self.masking {
                seen.extend_from_slice(MASK);
                self.masking = true;
            }
            at = end.min(cut);
        }
        self.show(&mut seen, &text[at..cut]);
        self.held = text[cut..].to_vec();
        if last {
            self.masking = false;
        }
        Cow::Owned(seen)
    }

    fn show(&mut self, seen: &mut Vec<u8>, plain: &[u8]) {
        if !plain.is_empty() {
            seen.extend_from_slice(plain);
            self.masking = false;
        }
    }
}

impl Found {
    /// What values cover of a text, as ranges in order that do not touch; `covered` bytes at its start are known to be.
    fn runs(&self, text: &[u8], covered: usize) -> Vec<(usize, usize)> {
        let Some(search) = &self.search else { return vec![(0, text.len())] };
        let mut ranges = vec![(0, covered)];
        ranges.extend(search.find_overlapping_iter(text).map(|found| (found.start(), found.end())));
        ranges.sort_unstable();
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (start, end) in ranges {
            match runs.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => runs.push((start, end)),
            }
        }
        runs.retain(|(start, end)| start < end);
        runs
    }

    /// How much of the end of a text may be the beginning of a value.
    fn beginning(&self, text: &[u8]) -> usize {
        let longest = |spelling: &Vec<u8>| {
            let most = text.len().min(spelling.len() - 1);
            (1..=most).rev().find(|length| text.ends_with(&spelling[..*length])).unwrap_or(0)
        };
        self.spellings.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Masks a text that arrives in pieces of one size, and says how much was held back at most.
    fn streamed(masks: &Masks, text: &str, size: usize) -> (String, usize) {
        let mut stream = StreamMask::new(masks);
        let (mut seen, mut most) = (Vec::new(), 0);
        for piece in text.as_bytes().chunks(size) {
            seen.extend_from_slice(&stream.push(piece, false));
            most = most.max(stream.held.len());
        }
        seen.extend_from_slice(&stream.push(b"", true));
        (String::from_utf8_lossy(&seen).into_owned(), most)
    }

    #[test]
    fn a_value_is_masked_wherever_the_stream_is_cut() {
        let masks = Masks::new(["hunter22", "ab-ab-ab", "ab-cd"]);
        for (text, seen) in [
            ("x hunter22 y\n", "x *** y\n"),
            ("hunter2 hunter22", "hunter2 ***"),
            ("hunhunter22ter22", "hun***ter22"),
            ("ab-ab-ab-ab-ab", "***"),
            ("ab-ab-cd.", "ab-***."),
            ("ab-ab-ab-cd.", "***."),
            ("hunter22hunter22", "***"),
            ("", ""),
        ] {
            for size in 1..=text.len().max(1) {
                let (found, held) = streamed(&masks, text, size);
                assert_eq!(found, seen, "{text:?} in pieces of {size}");
                assert!(held < 8, "{held} bytes were held back");
            }
        }
    }

    #[test]
    fn what_cannot_become_a_value_is_let_through_at_once() {
        let mut stream = StreamMask::new(&Masks::new(["hunter22"]));
        assert_eq!(&*stream.push(b"hello\n", false), b"hello\n");
        assert_eq!(&*stream.push(b"it is hun", false), b"it is ");
        assert_eq!(&*stream.push(b"gry\xff", false), b"hungry\xff");
    }

    #[test]
    fn other_spellings_are_masked_too() {
        let key = "-----BEGIN KEY-----\nqu\"o'té\\x\nEND\n";
        let masks = Masks::new([key]);
        let python = "'-----BEGIN KEY-----\\nqu\"o\\'té\\\\x\\nEND\\n'";
        let json = json!({"a": key}).to_string();
        let ascii = json.replace('é', "\\u00e9");
        for text in [key, &json, &ascii, python, "qu\"o'té\\x"] {
            let seen = masks.text(text);
            assert!(!seen.contains("qu") && !seen.contains("BEGIN"), "{seen}");
        }
        assert_eq!(masks.text("the END"), "the END", "a short line is not masked by itself");
    }

    #[test]
    fn json_is_masked_in_values_names_and_numbers() {
        let masks = Masks::new(["hunter22", "12345678"]);
        let mut value = json!({"a": ["x hunter22"], "hunter22": 1, "n": 912_345_678, "m": 5});
        masks.value(&mut value);
        assert_eq!(value, json!({"a": ["x ***"], "***": 1, "n": "9***", "m": 5}));
    }
}
