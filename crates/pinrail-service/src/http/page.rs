//! Pages of lists. A cursor is opaque: it names its list and the last item that was given, so that a page begins behind
//! that item whatever was added or removed meanwhile.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::problem::Problem;
use crate::views::Page;

/// Items of a page unless the caller says otherwise, and at most.
pub(super) const PAGE: u32 = 50;
pub(super) const LARGEST_PAGE: u32 = 500;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Where the page begins: `next` of the page before.
    pub cursor: Option<String>,
    /// Items at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
}

/// A checked [`PageQuery`].
#[derive(Debug)]
pub(super) struct Wanted {
    list: &'static str,
    /// The key of the last item before the page.
    pub after: Option<String>,
    pub limit: usize,
}

impl PageQuery {
    /// Checks what is wanted of a list.
    ///
    /// # Errors
    /// A cursor that another list gave, or nobody, and a limit beyond the bounds.
    pub fn of(self, list: &'static str) -> Result<Wanted, Problem> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            let detail = format!("parameter \"limit\": it must be from 1 to {LARGEST_PAGE}, not {limit}");
            return Err(Problem::new("bad-parameter", detail));
        }
        let after = self.cursor.map(|cursor| read(list, &cursor)).transpose()?;
        Ok(Wanted { list, after, limit: limit as usize })
    }
}

fn read(list: &str, cursor: &str) -> Result<String, Problem> {
    let text = hex::decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = text.as_deref().and_then(|text| text.strip_prefix(list)?.strip_prefix(' '));
    key.map(str::to_owned).ok_or_else(|| bad_cursor(cursor))
}

/// The refusal of a cursor.
pub(super) fn bad_cursor(cursor: &str) -> Problem {
    let shown: String = cursor.chars().take(80).collect();
    Problem::new("bad-cursor", format!("the cursor \"{shown}\" is not one that this list gave"))
        .hint("Give back `next` of the page before as it is, or leave the cursor out to begin with the first page.")
}

impl Wanted {
    /// A key of the cursor, read as what it should be.
    pub fn after<T: std::str::FromStr>(&self) -> Result<Option<T>, Problem> {
        let Some(key) = &self.after else { return Ok(None) };
        key.parse().map(Some).map_err(|_| bad_cursor(&self.cursor(key)))
    }

    /// The cursor of the page behind an item.
    pub fn cursor(&self, key: &str) -> String {
        hex::encode(format!("{} {key}", self.list))
    }

    /// A page of a list that is read whole, in the order of its keys.
    pub fn page<T>(self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        items.sort_by_cached_key(&key);
        if let Some(after) = &self.after {
            items.retain(|item| key(item) > *after);
        }
        self.cut(items, key)
    }

    /// A page of a list whose order is its own.
    ///
    /// # Errors
    /// When the item that the cursor names is gone.
    pub fn page_in_order<T>(self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Result<Page<T>, Problem> {
        if let Some(after) = &self.after {
            let last = items.iter().position(|item| key(item) == *after);
            let last = last.ok_or_else(|| bad_cursor(&self.cursor(after)))?;
            items.drain(..=last);
        }
        Ok(self.cut(items, key))
    }

    /// A page of what follows the cursor; one item more than fits says that there is another page.
    pub fn cut<T>(self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next = items.last().filter(|_| more).map(|last| self.cursor(&key(last)));
        Page { items, next }
    }
}
