//! What a notice looks like on its way, and the ways that it takes: HTTP and SMTP.

use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, MessageBuilder};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use pinrail_model::notify::Notice;
use pinrail_model::time::Micros;
use serde_json::{Value, json};
use sha2::Sha256;

/// The shape of the document that webhooks get.
const VERSION: u32 = 1;
/// How long an endpoint may take to answer, from the look-up of its name to the end of its answer.
const LIMIT: Duration = Duration::from_secs(10);
/// A mail server is spoken with in several steps, and some delay their greeting on purpose.
const MAIL_LIMIT: Duration = Duration::from_secs(30);
/// As much of an endpoint's answer as is kept, in bytes.
const ANSWER: u64 = 200;

/// Sends to endpoints.
#[derive(Debug, Default)]
pub struct Sender {
    mail: Option<Mail>,
    /// Where people reach this server; known when it listens.
    url: OnceLock<String>,
}

#[derive(Debug)]
struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Sender {
    /// A sender that knows a mail server, such as `smtps://user:password@mail.example.org`, and who letters are from.
    ///
    /// # Errors
    /// What of the two is wrong, without the password.
    pub fn with_mail(url: &str, from: &str) -> Result<Self, String> {
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url);
        // The error may quote the URL, which has a password in it.
        let builder = builder.map_err(|_| "it is not a URL like smtps://user:password@mail.example.org".to_owned())?;
        let from = from.parse().map_err(|_| format!("\"{from}\" is not an address like pinrail@example.org"))?;
        let transport = builder.timeout(Some(LIMIT)).build();
        Ok(Self { mail: Some(Mail { transport, from }), url: OnceLock::new() })
    }

    /// Says where people reach this server. The first time counts.
    pub fn is_at(&self, url: &str) {
        let _ = self.url.set(url.trim_end_matches('/').to_owned());
    }

    /// The address of a run, for programs and people.
    fn link(&self, notice: &Notice) -> String {
        format!("{}/api/v1/runs/{}", self.url.get().map_or("", String::as_str), notice.run)
    }

    /// Posts a document; gives what was answered, or why it is no success.
    pub(super) async fn post(
        &self,
        url: String,
        body: Value,
        id: &str,
        key: Option<&str>,
        now: Micros,
    ) -> Result<String, String> {
        let body = body.to_string();
        let signature = key.map(|key| signature(key, now, &body));
        let id = id.to_owned();
        let posted = tokio::task::spawn_blocking(move || post(&url, &body, &id, signature.as_deref()));
        posted.await.map_err(|e| e.to_string())?
    }

    /// Sends a letter; gives what the mail server answered, or why it was not taken.
    pub(super) async fn mail(&self, to: &[String], message: &Message<'_>) -> Result<String, String> {
        let Some(mail) = &self.mail else {
            return Err(
                "this server has no mail server: start it with PINRAIL_SMTP_URL and PINRAIL_SMTP_FROM".to_owned()
            );
        };
        let domain = mail.from.email.domain().to_owned();
        let mut letter = MessageBuilder::new()
            .from(mail.from.clone())
            .subject(format!("[{}] {}", message.notice.project, message.subject()))
            .message_id(Some(format!("<{}@{domain}>", message.id)))
            .header(ContentType::TEXT_PLAIN);
        for address in to {
            letter = letter.to(address.parse().map_err(|_| format!("\"{address}\" is not an address"))?);
        }
        let letter = letter.body(message.text(self)).map_err(|e| e.to_string())?;
        let sent = tokio::time::timeout(MAIL_LIMIT, mail.transport.send(letter)).await;
        let sent = sent.map_err(|_| format!("the mail server did not take it within {} s", MAIL_LIMIT.as_secs()))?;
        let answer = sent.map_err(|e| format!("the mail server did not take it: {}", chain(&e)))?;
        let said: Vec<&str> = answer.message().collect();
        Ok(format!("{} {}", answer.code(), said.join(" ")).trim().to_owned())
    }
}

/// An error with all that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

fn post(url: &str, body: &str, id: &str, signature: Option<&str>) -> Result<String, String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .http_status_as_error(false)
        // What is signed for one endpoint is not for another.
        .max_redirects(0)
        .user_agent(concat!("pinrail/", env!("CARGO_PKG_VERSION")));
    let agent: ureq::Agent = config.build().into();
    let mut request = agent.post(url).header("content-type", "application/json").header("pinrail-notice", id);
    if let Some(signature) = signature {
        request = request.header("pinrail-signature", signature);
    }
    let mut response = request.send(body).map_err(|error| match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", LIMIT.as_secs()),
        other => format!("it cannot be reached: {}", chain(&other)),
    })?;
    let mut said = Vec::new();
    // The status counts; an answer that breaks off is one as far as it goes.
    let _ = response.body_mut().as_reader().take(ANSWER).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let status = response.status();
    let answer = format!("{status} {}", said.split_whitespace().collect::<Vec<_>>().join(" ")).trim().to_owned();
    if status.is_success() { Ok(answer) } else { Err(answer) }
}

/// Proves who sent a body, and when: `t=SECONDS,v1=HMAC-SHA256 of "SECONDS.BODY"` in hexadecimal digits.
fn signature(key: &str, now: Micros, body: &str) -> String {
    let at = now.0 / 1_000_000;
    let mut code =
        Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap_or_else(|_| unreachable!("any length will do"));
    code.update(format!("{at}.").as_bytes());
    code.update(body.as_bytes());
    format!("t={at},v1={}", hex::encode(code.finalize().into_bytes()))
}

/// A notice with what receivers tell it by.
#[derive(Debug)]
pub struct Message<'a> {
    /// The same each time it is sent.
    pub id: String,
    pub notice: &'a Notice,
    /// Somebody tries the channel; nothing has happened.
    pub test: bool,
}

impl Message<'_> {
    fn subject(&self) -> String {
        let notice = self.notice;
        if self.test { notice.title.clone() } else { format!("{}@{}: {}", notice.workflow, notice.ds, notice.title) }
    }

    /// The notice as people read it.
    fn text(&self, sender: &Sender) -> String {
        let mut text = format!("{}\n", self.subject());
        for line in &self.notice.lines {
            text.push_str(&format!("  {line}\n"));
        }
        if let Some(next) = &self.notice.next {
            text.push_str(&format!("  next: {next}\n"));
        }
        if !self.test {
            text.push_str(&format!("  {}\n", sender.link(self.notice)));
        }
        text
    }

    /// The notice as chat systems take it. These three characters make links and call people there.
    pub(super) fn chat(&self, sender: &Sender) -> Value {
        let text = self.text(sender).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({"text": text.trim_end()})
    }

    /// The notice as webhooks get it.
    pub(super) fn document(&self, sender: &Sender) -> Value {
        let mut document = json!({
            "version": VERSION,
            "id": self.id,
            "test": self.test,
            "run_url": sender.link(self.notice),
        });
        let notice = serde_json::to_value(self.notice).unwrap_or_default();
        if let (Some(all), Value::Object(notice)) = (document.as_object_mut(), notice) {
            all.extend(notice);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use pinrail_model::ids::RunId;
    use pinrail_model::notify::NoticeEvent;
    use pinrail_model::time::Interval;

    use super::*;

    fn notice(line: &str) -> Notice {
        Notice {
            event: NoticeEvent::Failure,
            at: Micros(0),
            project: "p".parse().expect("a name"),
            workflow: "w".parse().expect("a name"),
            run: RunId::from_parts(1, 1),
            interval: Interval { start: Micros(0), end: Micros(0) },
            ds: "2013-01-02".to_owned(),
            job: None,
            fault: None,
            title: "it failed".to_owned(),
            lines: vec![line.to_owned()],
            next: Some("pinrail retry".to_owned()),
        }
    }

    #[test]
    fn the_words_of_a_failure_call_nobody_in_a_chat() {
        let (sender, notice) = (Sender::default(), notice("<!channel> & <@U1>"));
        sender.is_at("https://pinrail.example.org/");
        let message = Message { id: "ntc_1".to_owned(), notice: &notice, test: false };
        let text = message.chat(&sender)["text"].as_str().expect("a text").to_owned();
        let run = notice.run;
        assert_eq!(
            text,
            format!(
                "w@2013-01-02: it failed\n  &lt;!channel&gt; &amp; &lt;@U1&gt;\n  next: pinrail retry\n  \
                 https://pinrail.example.org/api/v1/runs/{run}"
            )
        );
    }

    /// The second case of RFC 4231, with a time before it.
    #[test]
    fn a_signature_is_the_hmac_of_time_and_body() {
        let found = signature("Jefe", Micros(1_700_000_000_000_000), "what do ya want for nothing?");
        assert_eq!(found.split_once(",v1=").map(|(at, code)| (at, code.len())), Some(("t=1700000000", 64)));
        let mut code = Hmac::<Sha256>::new_from_slice(b"Jefe").expect("any length will do");
        code.update(b"what do ya want for nothing?");
        let wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(code.finalize().into_bytes()), wanted);
    }

    #[test]
    fn a_mail_server_that_cannot_be_is_refused_without_its_password() {
        assert!(Sender::with_mail("smtps://u:secret@mail.example.org", "Pinrail <p@example.org>").is_ok());
        let wrong = Sender::with_mail("mail.example.org:secret", "p@example.org").expect_err("no URL");
        assert!(!wrong.contains("secret"), "{wrong}");
        assert!(Sender::with_mail("smtp://mail.example.org", "nobody").is_err());
    }
}
