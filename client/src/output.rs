//! What is printed: text for people, or one JSON object per line; safe for terminals whatever others wrote.

use std::io::{self, IsTerminal as _, Write as _};

use qpc_protocol::env::UnixMillis;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::problem::{Local, Problem};

/// Where results, warnings and errors go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    /// Standard error is a terminal: progress may be shown.
    progress: bool,
    /// Warnings and notes are shown.
    asides: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, progress: !json && io::stderr().is_terminal(), asides: true }
    }

    /// For devices whose talk nobody wants.
    pub(crate) fn silent() -> Self {
        Self { json: false, progress: false, asides: false }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// A result: `value` with --json, else `text`; flushed when this returns.
    pub(crate) fn result(
        self,
        text: impl FnOnce() -> String,
        value: &Value,
    ) -> Result<(), Problem> {
        let line = if self.json { json_line(value) } else { text() };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| unwritable(&error))
    }

    /// What is going on, if a person watches.
    pub(crate) fn progress(self, text: &str) {
        if self.progress {
            drop(writeln!(io::stderr(), "{text}"));
        }
    }

    /// Something that a person should know although the command goes on.
    pub(crate) fn warn(self, text: &str) {
        self.aside("warning", text);
    }

    /// Something worth saying that is no result.
    pub(crate) fn note(self, text: &str) {
        self.aside("note", text);
    }

    fn aside(self, kind: &str, text: &str) {
        if !self.asides {
            return;
        }
        let line = if self.json {
            json_line(&json!({ "type": kind, "text": text }))
        } else {
            format!("{kind}: {}", plain(text))
        };
        drop(writeln!(io::stderr(), "{line}"));
    }

    /// Why the command failed.
    pub(crate) fn problem(self, problem: &Problem) {
        if problem.is_silent() {
            return;
        }
        let mut lines = Vec::new();
        if self.json {
            let mut value = json!({
                "type": "error",
                "code": problem.number(),
                "name": problem.name(),
                "message": problem.text(),
                "next": problem.next_step(),
                "exit": problem.exit(),
            });
            if !problem.candidate_list().is_empty() {
                value["candidates"] = problem.candidate_list().into();
            }
            lines.push(json_line(&value));
        } else {
            let (number, name) = (problem.number(), problem.name());
            lines.push(format!("error[{number} {name}]: {}", plain(problem.text())));
            lines.extend(problem.candidate_list().iter().map(|one| format!("  {}", plain(one))));
            if !problem.next_step().is_empty() {
                lines.push(problem.next_step().to_owned());
            }
        }
        drop(writeln!(io::stderr(), "{}", lines.join("\n")));
    }
}

/// Standard output does not take what it should.
pub(crate) fn unwritable(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Problem::broken_pipe(),
        _ => Problem::new(Local::Output, format!("cannot write to standard output: {error}")),
    }
}

/// One line of JSON. Characters that could steer a terminal are written as escapes.
fn json_line(value: &Value) -> String {
    let text = value.to_string();
    if !text.chars().any(steers) {
        return text;
    }
    // Below U+0020 is escaped already, so what steers here is inside a string and in the basic plane.
    let mut line = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if steers(char) {
            line.push_str(&format!("\\u{:04x}", u32::from(char)));
        } else {
            line.push(char);
        }
    }
    line
}

/// Text from elsewhere on one line: what could steer a terminal or pass for another line is shown as an escape.
pub(crate) fn plain(text: &str) -> String {
    escaped(text, |char| steers(char) || char == '\n' || char == '\t')
}

/// A message's text: its own line breaks stay, each further line is set in by four spaces so that none of them can
/// pass for a line of ours.
pub(crate) fn indented(text: &str) -> String {
    let lines: Vec<_> =
        text.lines().map(|line| escaped(line, |char| steers(char) && char != '\t')).collect();
    lines.join("\n    ")
}

fn escaped(text: &str, bad: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if bad(char) {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and what turns the direction of text
/// (Unicode TR 9: embeddings, overrides, isolates, marks).
fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
        || matches!(char, '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{FEFF}')
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn moment(time: UnixMillis) -> String {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{} ms", time.0))
}

#[cfg(test)]
mod tests;
