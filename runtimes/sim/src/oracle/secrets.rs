//! Secrets that have done their work: they are on no disk any more.

use core::time::Duration;
use std::collections::BTreeMap;

use memchr::memmem;
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::env::UnixMillis;
use qpc_protocol::id::ChannelId;
use qpc_protocol::limits::{
    ENTRY_TIME, ENVELOPE_KEY_GRACE, LAST_RESORT_GRACE, OLD_DEVICE_KEY_TIME, OLD_DEVICE_KEYS,
};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::store::record;
use serde::Deserialize;

use super::log::Broken;
use super::reader::Reader;
use super::stored::Rotation;
use super::wire::vector;

/// What is due is done with the next deadline.
const SLACK: Duration = Duration::from_secs(60);

/// A device's records.
type Disk = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is known of a key package whose private half is here.
#[derive(Deserialize)]
struct Package {
    _reference: Vec<u8>,
    _suite: Suite,
    expires: UnixMillis,
    last_resort: bool,
    superseded: Option<UnixMillis>,
}

/// The keys that notes are sealed to.
#[derive(Deserialize)]
struct Envelopes {
    _since: UnixMillis,
    _next: Option<EnvelopeSecrets>,
    old: Vec<(EnvelopeSecrets, UnixMillis)>,
}

/// The key package that a welcome for one joiner is sealed to (RFC 9420 §12.4.3.1).
pub(super) fn package_of(welcome: &[u8]) -> Option<&[u8]> {
    // Version, wire format, suite.
    let (secrets, _) = vector(welcome.get(6..)?)?;
    Some(vector(secrets)?.0)
}

/// A group that a device came into, and by which key package.
pub(super) type Joined = (ChannelId, Vec<u8>);

/// The first secret on a disk that should be gone. `wall`: the device's calendar; `ended`: it has no session.
pub(super) fn left_over(
    reader: &Reader,
    disk: &Disk,
    wall: UnixMillis,
    ended: bool,
) -> Option<Broken> {
    if ended {
        let tokens = disk.contains_key(b"d/tokens".as_slice());
        return tokens.then(|| ("tokens go with the session", String::new()));
    }
    let queued = disk.keys().any(|key| key.starts_with(b"d/i/"));
    used_package(reader, disk)
        .or_else(|| old_package(disk, wall))
        .or_else(|| old_device_key(disk, wall, queued))
        .or_else(|| old_envelope_key(disk, wall))
}

fn packages(disk: &Disk) -> impl Iterator<Item = (&[u8], Package)> {
    let of = disk.iter().filter_map(|(key, value)| Some((key.strip_prefix(b"k/P")?, value)));
    of.filter_map(|(reference, value)| Some((reference, record::decode(b"k/P", value).ok()?)))
}

fn used_package(reader: &Reader, disk: &Disk) -> Option<Broken> {
    let again = |reference: &[u8]| {
        packages(disk).any(|(of, package)| of == reference && package.last_resort)
    };
    let (channel, _) = reader.joined_by.iter().find(|(_, reference)| {
        let kept = disk.keys().filter(|key| key.starts_with(b"k/"));
        !again(reference) && kept.into_iter().any(|key| memmem::find(key, reference).is_some())
    })?;
    Some(("a key package that was used is gone", channel.to_string()))
}

fn old_package(disk: &Disk, wall: UnixMillis) -> Option<Broken> {
    let end = |package: &Package| {
        let end = package.expires.plus(ENTRY_TIME);
        package.superseded.map_or(end, |at| end.min(at.plus(LAST_RESORT_GRACE)))
    };
    let (_, package) = packages(disk).find(|(_, package)| end(package).plus(SLACK) < wall)?;
    Some(("key packages go in their time", format!("{:?} at {wall:?}", package.expires)))
}

fn old_device_key(disk: &Disk, wall: UnixMillis, queued: bool) -> Option<Broken> {
    let rotation = Rotation::read(disk.get(b"d/rotation".as_slice())?)?;
    let many = rotation.since().count() > OLD_DEVICE_KEYS;
    let old = |since: &UnixMillis| since.plus(OLD_DEVICE_KEY_TIME).plus(SLACK) < wall;
    // Who has still to bring its new key into a group keeps the old one for that.
    let late = !queued && rotation.since().any(|since| old(&since));
    (many || late).then(|| ("device keys of before go in their time", format!("{wall:?}")))
}

fn old_envelope_key(disk: &Disk, wall: UnixMillis) -> Option<Broken> {
    let envelopes = disk.get(b"d/envelopes".as_slice())?;
    let envelopes: Envelopes = record::decode(b"d/envelopes", envelopes).ok()?;
    let late = |(_, since): &(EnvelopeSecrets, UnixMillis)| {
        since.plus(ENVELOPE_KEY_GRACE).plus(SLACK) < wall
    };
    let late = envelopes.old.iter().any(late);
    late.then(|| ("envelope keys of before go in their time", format!("{wall:?}")))
}
