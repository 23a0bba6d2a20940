//! How a case of the MLS working group's test vectors is run through our provider. Everything goes through the public
//! surface of this crate and of OpenMLS. Formats: mlswg/mls-implementations, `test-vectors.md`.

pub(crate) mod labels;
pub(crate) mod passive;

use data_encoding::HEXLOWER_PERMISSIVE;
use openmls::prelude::{Ciphersuite, OpenMlsCrypto as _, OpenMlsProvider as _};
use qpc_protocol::crypto::Backend;
use qpc_protocol::env::Entropy;
use qpc_protocol::mls::{Overlay, Provider};
use serde_json::Value;

/// Why a case does not hold; an unsupported suite is none.
pub(crate) type Failure = Box<dyn std::error::Error>;

/// One case with this provider.
pub(crate) type Run = fn(&Provider, &Value) -> Result<(), Failure>;

/// How a set went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) held: usize,
    /// Of suites that our provider does not do.
    pub(crate) skipped: usize,
    /// Number of the case, and why it does not hold.
    pub(crate) failed: Vec<(usize, String)>,
}

/// Runs all cases, each with a provider of its own.
pub(crate) fn run_all(backend: Backend, cases: &Value, run: Run) -> Tally {
    let mut tally = Tally::default();
    for (number, case) in cases.as_array().unwrap().iter().enumerate() {
        let mut entropy = Entropy::from_seed([7; 32]);
        let provider = Provider::new(backend, &mut entropy, Overlay::default());
        if suite(case).is_none_or(|suite| provider.crypto().supports(suite).is_err()) {
            tally.skipped += 1;
            continue;
        }
        match run(&provider, case) {
            Ok(()) => tally.held += 1,
            Err(failure) => tally.failed.push((number, failure.to_string())),
        }
    }
    tally
}

/// The suite of a case, if OpenMLS has a name for it.
fn suite(case: &Value) -> Option<Ciphersuite> {
    Ciphersuite::try_from(u16::try_from(case["cipher_suite"].as_u64()?).ok()?).ok()
}

fn unhex(value: &Value) -> Result<Vec<u8>, Failure> {
    let text = value.as_str().ok_or_else(|| format!("not a string: {value}"))?;
    Ok(HEXLOWER_PERMISSIVE.decode(text.as_bytes())?)
}

fn text<'a>(case: &'a Value, field: &str) -> Result<&'a str, Failure> {
    Ok(case[field].as_str().ok_or_else(|| format!("no {field}"))?)
}

fn number(case: &Value, field: &str) -> Result<usize, Failure> {
    Ok(usize::try_from(case[field].as_u64().ok_or_else(|| format!("no {field}"))?)?)
}

fn same(what: &str, ours: &[u8], theirs: &Value) -> Result<(), Failure> {
    if ours == unhex(theirs)? { Ok(()) } else { Err(format!("another {what}").into()) }
}
