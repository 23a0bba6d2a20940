//! The encoding of stored records: a version byte, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::RestoreError;

/// The newest record version this program writes and reads.
pub const VERSION: u8 = 1;

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Our record types hold no maps with failing keys and no unsized sequences: postcard cannot refuse them.
    postcard::to_extend(record, vec![VERSION]).unwrap_or_default()
}

/// Decodes a record; `name` appears in the error.
pub fn decode<T: DeserializeOwned>(name: &[u8], bytes: &[u8]) -> Result<T, RestoreError> {
    let damaged = || RestoreError::Damaged(name.escape_ascii().to_string());
    let (&version, body) = bytes.split_first().ok_or_else(damaged)?;
    if version > VERSION {
        return Err(RestoreError::Newer { found: version.into(), known: VERSION.into() });
    }
    let (record, rest) = postcard::take_from_bytes(body).map_err(|_| damaged())?;
    if version != VERSION || !rest.is_empty() {
        return Err(damaged());
    }
    Ok(record)
}
