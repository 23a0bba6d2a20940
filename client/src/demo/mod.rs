//! `qpc demo`: a whole conversation on a real server that is killed in the middle of it, every claim checked.

mod device;
mod scan;
mod server;
mod story;

use std::time::Instant;

use serde_json::json;

use crate::output::Output;
use crate::problem::{Local, Problem};

/// Tells the steps and counts the checks.
#[derive(Debug)]
pub(crate) struct Narrator {
    output: Output,
    number: usize,
    began: Instant,
    title: &'static str,
    proved: Vec<String>,
    checks: usize,
}

/// Fails the demo if `holds` does not.
fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem::new(Local::CheckFailed, otherwise())) }
}

impl Narrator {
    fn new(output: Output) -> Self {
        let began = Instant::now();
        Self { output, number: 0, began, title: "", proved: Vec::new(), checks: 0 }
    }

    /// A step begins.
    fn step(&mut self, title: &'static str) {
        self.number += 1;
        (self.title, self.began) = (title, Instant::now());
        self.output.progress(&format!("{}. {title} …", self.number));
    }

    /// A claim that must hold, and did.
    fn prove(&mut self, holds: bool, claim: impl Into<String>) -> Result<(), Problem> {
        let claim = claim.into();
        check(holds, || {
            format!("step {}, {}: this does not hold: {claim}", self.number, self.title)
        })?;
        self.checks += 1;
        self.proved.push(claim);
        Ok(())
    }

    /// Something worth telling.
    fn tell(&mut self, text: impl Into<String>) {
        self.proved.push(text.into());
    }

    /// The step is through.
    fn done(&mut self) -> Result<(), Problem> {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let proved = std::mem::take(&mut self.proved);
        self.output.result(
            || {
                let mut text = format!("{}. {}  ({millis} ms)", self.number, self.title);
                for claim in &proved {
                    text.push_str("\n   - ");
                    text.push_str(claim);
                }
                text
            },
            &json!({
                "type": "step",
                "number": self.number,
                "title": self.title,
                "proved": proved,
                "millis": millis,
            }),
        )
    }
}

/// Runs the demo with that many members.
pub(crate) async fn run(output: Output, members: u32) -> Result<(), Problem> {
    let began = Instant::now();
    let mut narrator = Narrator::new(output);
    story::tell(&mut narrator, usize::try_from(members).unwrap_or(usize::MAX)).await?;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let checks = narrator.checks;
    output.result(
        || format!("All {checks} checks held, in {:.1} s.", began.elapsed().as_secs_f64()),
        &json!({ "type": "demo", "ok": true, "checks": checks, "millis": millis }),
    )
}
