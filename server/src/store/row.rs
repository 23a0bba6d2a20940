//! How values stand in rows.

use bytes::Bytes;
use qpc_protocol::env::UnixMillis;
use qpc_protocol::error::{StoreFault, StoreFaultKind};
use qpc_protocol::id::{ChannelId, Digest};
use qpc_protocol::wire::message::{ChannelKind, Origin};

use super::Stop;

/// Bits of a place that count positions: 2^35 entries of a channel, 2^28 channels.
const POSITION_BITS: u32 = 35;
const POSITIONS: u64 = 1 << POSITION_BITS;

/// The clustered key of position `n` of a channel, sender or blob of that number.
pub(super) fn place(no: i64, n: u64) -> Result<i64, Stop> {
    let number_fits = (0..1 << (63 - POSITION_BITS)).contains(&no);
    match i64::try_from(n) {
        Ok(position) if number_fits && n < POSITIONS => Ok(no << POSITION_BITS | position),
        _ => Err(Stop::Fault(StoreFault {
            kind: StoreFaultKind::Full,
            detail: "no numbers left for another row".to_owned(),
        })),
    }
}

/// The position in a place.
pub(super) fn position(place: i64) -> u64 {
    place.cast_unsigned() & (POSITIONS - 1)
}

/// The last position there can be.
pub(super) const LAST: u64 = POSITIONS - 1;

/// A time as rows compare it: those past the year 292 million are all the same.
pub(super) fn ordered(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

pub(super) fn kind_number(kind: ChannelKind) -> i64 {
    match kind {
        ChannelKind::Group => 1,
        ChannelKind::Direct => 2,
        ChannelKind::Inbox => 3,
    }
}

pub(super) fn kind_of(number: i64) -> Result<ChannelKind, Stop> {
    match number {
        1 => Ok(ChannelKind::Group),
        2 => Ok(ChannelKind::Direct),
        3 => Ok(ChannelKind::Inbox),
        _ => Err(Stop::corrupt("a channel of no known kind")),
    }
}

/// channel (16) || seq (8) || chain (32) || tree (32) || tree length (8).
pub(super) fn encode_origin(origin: &Origin) -> Vec<u8> {
    [
        origin.channel.0.as_slice(),
        &origin.seq.to_be_bytes(),
        &origin.chain.0,
        &origin.tree.0,
        &origin.tree_len.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn decode_origin(bytes: &[u8]) -> Option<Origin> {
    let (channel, rest) = bytes.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (chain, rest) = rest.split_first_chunk()?;
    let (tree, rest) = rest.split_first_chunk()?;
    Some(Origin {
        channel: ChannelId(*channel),
        seq: u64::from_be_bytes(*seq),
        chain: Digest(*chain),
        tree: Digest(*tree),
        tree_len: u64::from_be_bytes(rest.try_into().ok()?),
    })
}

pub(super) fn bytes(column: Vec<u8>) -> Bytes {
    Bytes::from(column)
}
