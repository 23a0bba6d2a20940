//! The key that everything at rest is encrypted under.

use std::path::Path;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use crate::error::StartError;
use crate::files::{DataDir, read, shared_mode, write_private};

/// Where the key is when nothing else is said.
const FILE: &str = "db.key";
/// The environment variable that holds the key itself.
pub(crate) const VARIABLE: &str = "QPC_DB_KEY";

/// Where to look for the key.
pub(crate) struct Sources<'a> {
    /// What `QPC_DB_KEY` holds.
    pub(crate) text: Option<&'a Zeroizing<String>>,
    /// The file that the settings name.
    pub(crate) file: Option<&'a Path>,
    /// A key may be made if there is none: a development server with nothing stored yet.
    pub(crate) may_make: bool,
}

/// The key: from the environment, else from the file named, else from the data directory.
pub(crate) fn obtain(
    dir: &DataDir,
    sources: &Sources<'_>,
) -> Result<Zeroizing<[u8; 32]>, StartError> {
    if let Some(text) = sources.text {
        return parse(text.as_bytes()).ok_or_else(|| malformed(VARIABLE));
    }
    let default = dir.join(FILE);
    let file = sources.file.unwrap_or(&default);
    let shown = file.display();
    if let Some(text) = read(file)? {
        if let Some(mode) = shared_mode(file)? {
            return Err(StartError::DatabaseKey(format!(
                "{shown} has mode {mode:o}: other users may read the database's key\nRun: chmod 600 {shown}"
            )));
        }
        return parse(&text).ok_or_else(|| malformed(&shown.to_string()));
    }
    if !sources.may_make {
        return Err(StartError::DatabaseKey(format!(
            "the database's key is missing: neither {VARIABLE} is set nor is there a file {shown}\n\
             Bring the key back from where it is kept, or name its file with --db-key-file. For a new server, \
             make one: (umask 077; head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n' > {shown})"
        )));
    }
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice()).map_err(|error| StartError::System(error.into()))?;
    let mut text = Zeroizing::new(HEXLOWER.encode(key.as_slice()).into_bytes());
    text.reserve_exact(1);
    text.push(b'\n');
    write_private(file, &text)?;
    tracing::info!(file = %shown, "made a key for the database; whoever has it can read the database: keep a copy apart");
    Ok(key)
}

fn parse(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim_ascii();
    let mut key = Zeroizing::new([0; 32]);
    if text.len() != 2 * key.len() {
        return None;
    }
    HEXLOWER_PERMISSIVE.decode_mut(text, key.as_mut_slice()).ok()?;
    Some(key)
}

fn malformed(place: &str) -> StartError {
    StartError::DatabaseKey(format!("{place} must hold 64 hexadecimal digits and nothing else"))
}
