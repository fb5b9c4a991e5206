//! `[notify.NAME]` of pinrail.toml: where a project's notices go; and `[notify.on]`: who is told of what where a workflow
//! does not say.

use std::collections::BTreeMap;

use pinrail_model::names::{ChannelName, SecretName};
use pinrail_model::near::nearest;
use pinrail_model::notify::{Address, Channel, NoticeEvent, On};

use crate::project::{FILE, ProjectError};

/// The channels of a project and its defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Channels {
    pub channels: BTreeMap<ChannelName, Channel>,
    pub on: On,
}

/// The name that is no channel's.
const ON: &str = "on";
/// Each kind of channel with its settings, all of which it may have.
const KINDS: &[(&str, &[&str])] = &[
    ("email", &["kind", "to"]),
    ("webhook", &["kind", "url", "url_secret", "secret"]),
    ("chat", &["kind", "url", "url_secret"]),
];
/// One letter goes to all of them.
const MOST_ADDRESSES: usize = 50;

impl Channels {
    /// Reads the sections below `[notify]`.
    ///
    /// # Errors
    /// What is wrong with them, with line and remedy.
    pub(crate) fn read(text: &str, notify: &toml::Table) -> Result<Self, ProjectError> {
        let mut found = Self::default();
        for (name, value) in notify.iter().filter(|(name, _)| *name != ON) {
            let at = Place { text, section: name };
            let Some(table) = value.as_table() else {
                let message = format!("\"{name}\" in [notify] must be a section of its own: [notify.{name}]");
                return Err(at.wrong(name, message));
            };
            let channel = name.parse().map_err(|e: pinrail_model::names::BadName| at.wrong(name, e.to_string()))?;
            found.channels.insert(channel, at.channel(table)?);
        }
        let at = Place { text, section: ON };
        match notify.get(ON) {
            None => {}
            Some(toml::Value::Table(on)) => found.on = at.on(on, &found.channels)?,
            Some(_) => {
                return Err(at.wrong(ON, "\"on\" in [notify] must be a section of its own: [notify.on]".to_owned()));
            }
        }
        Ok(found)
    }

    /// What the compiler of workflow files is to know.
    pub(crate) fn for_compiler(&self) -> serde_json::Value {
        let names: Vec<&ChannelName> = self.channels.keys().collect();
        serde_json::json!({"channels": names, "on": self.on})
    }
}

/// A channel that was sent as JSON, read as strictly as one of the file.
pub(crate) fn channel_of(
    name: &str,
    channel: &serde_json::Map<String, serde_json::Value>,
) -> Result<Channel, ProjectError> {
    let at = Place { text: "", section: name };
    let table = toml::Table::try_from(channel).map_err(|e| at.wrong(name, e.to_string()))?;
    at.channel(&table)
}

/// A section below `[notify]`.
struct Place<'a> {
    text: &'a str,
    section: &'a str,
}

impl Place<'_> {
    /// An error at the line of a key of this section, or at its heading.
    fn wrong(&self, key: &str, message: String) -> ProjectError {
        let heading = |line: &str| line.trim().trim_matches(['[', ']']).replace([' ', '"', '\''], "");
        let is_key = |line: &str| line.split('=').next().is_some_and(|left| left.trim().trim_matches('"') == key);
        let (mut inside, mut found, mut line) = (false, None, 1);
        for (at, text) in self.text.lines().enumerate() {
            if text.trim_start().starts_with('[') {
                inside = heading(text) == format!("notify.{}", self.section);
                line = if inside || heading(text) == "notify" { at + 1 } else { line };
            } else if (inside || heading(text).starts_with(self.section)) && is_key(text) && found.is_none() {
                found = Some(at + 1);
            }
        }
        ProjectError { file: FILE.to_owned(), line: found.unwrap_or(line), message, hint: None }
    }

    fn text(&self, table: &toml::Table, key: &str) -> Result<Option<String>, ProjectError> {
        match table.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(key, format!("\"{key}\" in [notify.{}] must be a text", self.section))),
        }
    }

    fn texts(&self, table: &toml::Table, key: &str) -> Result<Vec<String>, ProjectError> {
        let list = match table.get(key) {
            None => return Ok(Vec::new()),
            Some(toml::Value::String(text)) => return Ok(vec![text.clone()]),
            Some(toml::Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        list.ok_or_else(|| self.wrong(key, format!("\"{key}\" in [notify.{}] must be a list of texts", self.section)))
    }

    fn secret(&self, table: &toml::Table, key: &str) -> Result<Option<SecretName>, ProjectError> {
        let name = self.text(table, key)?;
        let parsed = name.map(|name| name.parse()).transpose();
        parsed.map_err(|e: pinrail_model::names::BadName| self.wrong(key, e.to_string()))
    }

    fn channel(&self, table: &toml::Table) -> Result<Channel, ProjectError> {
        let section = self.section;
        let kind = self.text(table, "kind")?;
        let kinds = || KINDS.iter().map(|(kind, _)| *kind);
        let hint = |word: &str| nearest(word, kinds()).map(|near| format!("did you mean \"{near}\"?"));
        let Some((kind, known)) = kind.as_deref().and_then(|kind| KINDS.iter().find(|(known, _)| *known == kind))
        else {
            let what = kind.as_deref().map_or_else(|| "has none".to_owned(), |kind| format!("has \"{kind}\""));
            let message =
                format!("[notify.{section}] needs a kind of {}, and {what}", kinds().collect::<Vec<_>>().join(", "));
            return Err(ProjectError { hint: kind.as_deref().and_then(hint), ..self.wrong("kind", message) });
        };
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            let hint = Some(nearest(key, known.iter().copied()).map_or_else(
                || format!("it may have {}", known.join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            ));
            let message = format!("unknown setting \"{key}\" in [notify.{section}], which is of kind {kind}");
            return Err(ProjectError { hint, ..self.wrong(key, message) });
        }
        if *kind == "email" {
            return Ok(Channel::Email { to: self.addresses(table)? });
        }
        let url = match (self.text(table, "url")?, self.secret(table, "url_secret")?) {
            (Some(url), None) => Address::Url(self.url(url)?),
            (None, Some(secret)) => Address::UrlSecret(secret),
            (Some(_), Some(_)) => {
                let message = format!("[notify.{section}] has both \"url\" and \"url_secret\"");
                return Err(self.wrong("url_secret", message));
            }
            (None, None) => {
                let hint = Some("A URL that nobody may know is a secret: url_secret = \"NAME\".".to_owned());
                return Err(ProjectError { hint, ..self.wrong("url", format!("[notify.{section}] needs a \"url\"")) });
            }
        };
        Ok(match *kind {
            "chat" => Channel::Chat { url },
            _ => Channel::Webhook { url, secret: self.secret(table, "secret")? },
        })
    }

    fn url(&self, url: String) -> Result<String, ProjectError> {
        if is_url(&url) {
            return Ok(url);
        }
        let message = format!("\"{url}\" in [notify.{}] is not a URL like https://example.org/path", self.section);
        Err(self.wrong("url", message))
    }

    fn addresses(&self, table: &toml::Table) -> Result<Vec<String>, ProjectError> {
        let to = self.texts(table, "to")?;
        let wrong = |message| Err(self.wrong("to", message));
        if let Some(bad) = to.iter().find(|address| address.parse::<lettre::Address>().is_err()) {
            return wrong(format!("\"{bad}\" in [notify.{}] is not an address like anna@example.org", self.section));
        }
        if !(1..=MOST_ADDRESSES).contains(&to.len()) {
            let message = format!("[notify.{}] needs from 1 to {MOST_ADDRESSES} addresses in \"to\"", self.section);
            return wrong(message);
        }
        Ok(to)
    }

    fn on(&self, table: &toml::Table, channels: &BTreeMap<ChannelName, Channel>) -> Result<On, ProjectError> {
        let mut on = On::new();
        for key in table.keys() {
            let event: NoticeEvent = key.parse().map_err(|message: String| {
                let hint = nearest(key, NoticeEvent::ALL.map(NoticeEvent::name))
                    .map(|near| format!("did you mean \"{near}\"?"));
                ProjectError { hint, ..self.wrong(key, message) }
            })?;
            let mut names = Vec::new();
            for name in self.texts(table, key)? {
                let Some(known) = channels.keys().find(|known| known.as_str() == name) else {
                    let near = nearest(&name, channels.keys().map(ChannelName::as_str));
                    let hint = near.map(|near| format!("did you mean \"{near}\"?"));
                    return Err(ProjectError { hint, ..self.wrong(key, format!("there is no channel \"{name}\"")) });
                };
                names.push(known.clone());
            }
            on.insert(event, names);
        }
        Ok(on)
    }
}

/// Whether a text is a URL that can be sent to.
pub(crate) fn is_url(url: &str) -> bool {
    let parsed: Result<axum::http::Uri, _> = url.parse();
    parsed.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Channels, ProjectError> {
        let table: toml::Table = text.parse().unwrap();
        Channels::read(text, table["notify"].as_table().unwrap())
    }

    #[test]
    fn channels_are_sections_and_who_is_told_by_default_is_one_too() {
        let found = read(
            "[notify.ops]\nkind = \"webhook\"\nurl = \"https://example.org/x\"\nsecret = \"KEY\"\n\
             [notify.team]\nkind = \"chat\"\nurl_secret = \"CHAT\"\n\
             [notify.anna]\nkind = \"email\"\nto = [\"anna@example.org\"]\n\
             [notify.on]\nfailure = [\"ops\", \"anna\"]\nslow = \"team\"\n",
        )
        .unwrap();
        let kinds: Vec<_> = found.channels.iter().map(|(name, channel)| (name.as_str(), channel.kind())).collect();
        assert_eq!(kinds, [("anna", "email"), ("ops", "webhook"), ("team", "chat")]);
        let on: Vec<_> = found.on.iter().map(|(event, names)| (event.name(), names.len())).collect();
        assert_eq!(on, [("failure", 2), ("slow", 1)]);
    }

    #[test]
    fn mistakes_are_named_with_line_and_remedy() {
        let say = |text: &str| {
            let e = read(text).unwrap_err();
            format!("{e}{}", e.hint.as_ref().map_or_else(String::new, |h| format!(" ({h})")))
        };
        let good = "[notify.a]\nkind = \"chat\"\nurl = \"http://x/\"\n";
        assert_eq!(
            say(&format!("{good}[notify.b]\nkind = \"slak\"")),
            "pinrail.toml:5: [notify.b] needs a kind of email, webhook, chat, and has \"slak\""
        );
        assert_eq!(
            say(&format!("{good}[notify.b]\nkind = \"chat\"\nulr = \"x\"")),
            "pinrail.toml:6: unknown setting \"ulr\" in [notify.b], which is of kind chat (it may have kind, url, url_secret)"
        );
        assert_eq!(
            say(&format!("{good}[notify.b]\nkind = \"chat\"\nurl = \"example.org\"")),
            "pinrail.toml:6: \"example.org\" in [notify.b] is not a URL like https://example.org/path"
        );
        assert_eq!(
            say("[notify.b]\nkind = \"email\"\nto = [\"anna\"]"),
            "pinrail.toml:3: \"anna\" in [notify.b] is not an address like anna@example.org"
        );
        assert_eq!(
            say("[notify.b]\nkind = \"webhook\""),
            "pinrail.toml:1: [notify.b] needs a \"url\" (A URL that nobody may know is a secret: url_secret = \"NAME\".)"
        );
        assert_eq!(
            say(&format!("{good}[notify.on]\nfailed = \"a\"")),
            "pinrail.toml:5: \"failed\" is nothing to be told of; there are failure, first-failure, recovery, slow, \
             sla-at-risk, sla-missed (did you mean \"failure\"?)"
        );
        assert_eq!(
            say("[notify.ops]\nkind = \"chat\"\nurl = \"http://x/\"\n[notify.on]\nslow = [\"opps\"]"),
            "pinrail.toml:5: there is no channel \"opps\" (did you mean \"ops\"?)"
        );
        assert_eq!(
            say("[notify]\nops = 3"),
            "pinrail.toml:2: \"ops\" in [notify] must be a section of its own: [notify.ops]"
        );
    }
}
