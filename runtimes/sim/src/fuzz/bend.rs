//! Frames that are well-formed and say something else.

use bytes::Bytes;
use qpc_protocol::id::Digest;
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Entries, Frame, Part, Push, Reply, Request};

use super::script::Script;

/// The bytes of a frame, after whatever the script does to it: nothing, something to its fields, or something to its
/// bytes.
pub(super) fn bent(script: &mut Script, mut frame: Frame) -> Vec<u8> {
    let how = script.byte() % 4;
    if how == 1 || how == 2 {
        bend(script, &mut frame);
    }
    let mut bytes = Vec::new();
    encode(&frame, &mut bytes);
    if how == 3 { script.edited(&bytes) } else { bytes }
}

/// Changes one or more fields of a frame.
pub(super) fn bend(script: &mut Script, frame: &mut Frame) {
    match &mut frame.body {
        Body::Request(request) => self::request(script, request),
        Body::Reply(reply) => self::reply(script, reply),
        Body::Push(Push::Entries(entries)) => self::entries(script, entries),
        Body::Push(push) => {
            *push = match script.pick(3) {
                0 => Push::KeyPackagesLow { available: script.number() as u32 },
                1 => Push::SessionEnded,
                _ => Push::Draining,
            }
        }
        Body::Failure(failure) => {
            let codes = qpc_protocol::error::ErrorCode::ALL;
            failure.code = codes[script.pick(codes.len())];
            failure.epoch = script.number();
            failure.retry_after_ms = script.number() as u32;
        }
        Body::Open(_) => frame.call = script.number() as u32,
    }
}

fn bytes(script: &mut Script, bytes: &mut Bytes) {
    *bytes = script.edited(bytes).into();
}

fn array<const N: usize>(script: &mut Script, array: &mut [u8; N]) {
    let edited = script.edited(array);
    array.iter_mut().zip(edited).for_each(|(old, new)| *old = new);
}

fn part(script: &mut Script, part: &mut Part) {
    match part {
        Part::Inline(inline) if script.byte() != 0xFF => bytes(script, inline),
        Part::Inline(inline) => {
            let (hash, len) = (Digest::of(&[inline]), script.number());
            *part = Part::Blob { hash, len };
        }
        Part::Blob { hash, len } => {
            array(script, &mut hash.0);
            *len = script.number();
        }
    }
}

fn request(script: &mut Script, request: &mut Request) {
    use Request as R;
    match request {
        R::Ping(payload) => bytes(script, payload),
        R::RegisterStart { request, .. } => bytes(script, request),
        R::RegisterFinish { upload, account, sealed_account_key, proof, .. } => {
            match script.pick(4) {
                0 => bytes(script, upload),
                1 => array(script, &mut account.0),
                2 => bytes(script, sealed_account_key),
                _ => array(script, proof),
            }
        }
        R::LoginStart { ke1, .. } => bytes(script, ke1),
        R::LoginFinish { ke3, device, device_key, .. } => match script.pick(3) {
            0 => bytes(script, ke3),
            1 => array(script, &mut device.0),
            _ => array(script, device_key),
        },
        R::DeviceRegister { record, envelope_keys } => match script.pick(4) {
            0 => array(script, &mut record.account.0),
            1 => array(script, &mut record.device_key),
            2 => record.sequence = script.number() as u32,
            _ => envelope_keys.sequence = script.number() as u32,
        },
        R::Resume { token, sender, state_version, .. } => match script.pick(3) {
            0 => *token.0 = script.edited(&token.0),
            1 => array(script, &mut sender.account.0),
            _ => *state_version = script.number(),
        },
        R::Refresh { token, sender, .. } => match script.pick(2) {
            0 => *token.0 = script.edited(&token.0),
            _ => array(script, &mut sender.device.0),
        },
        R::DeviceRevoke { revocation } => array(script, &mut revocation.device.0),
        R::KeyPackageUpload { packages, last_resort } => {
            let at = script.pick(packages.len() + 1);
            match packages.get_mut(at).or(last_resort.as_mut()) {
                Some(package) => bytes(script, package),
                None => packages.push(script.text().into()),
            }
        }
        R::ChannelCreate { channel, generation, group_info, tree, .. } => match script.pick(4) {
            0 => array(script, &mut channel.0),
            1 => *generation = script.number() as u32,
            2 => bytes(script, group_info),
            _ => bytes(script, tree),
        },
        R::Submit(submit) => {
            fresh(script, &mut submit.message.0);
            match script.pick(4) {
                0 => submit.epoch = script.number(),
                1 => submit.generation = script.number() as u32,
                _ => bytes(script, &mut submit.payload),
            }
        }
        R::Commit(bundle) => {
            fresh(script, &mut bundle.message.0);
            match script.pick(6) {
                0 => bundle.epoch = script.number(),
                1 => bundle.generation = script.number() as u32,
                2 => bytes(script, &mut bundle.group_info),
                3 => bundle.welcome.iter_mut().for_each(|welcome| part(script, welcome)),
                _ => part(script, &mut bundle.commit),
            }
        }
        R::Fetch { after, limit, wait_ms, .. } => {
            *after = script.number();
            *limit = script.number() as u16;
            *wait_ms = script.number() as u32;
        }
        R::Subscribe { after, .. } => *after = script.number(),
        R::Ack { seq, .. } => *seq = script.number(),
        R::BlobPut { hash, total, offset, chunk } => match script.pick(4) {
            0 => array(script, &mut hash.0),
            1 => *total = script.number(),
            2 => *offset = script.number(),
            _ => bytes(script, chunk),
        },
        R::BlobGet { offset, .. } => *offset = script.number(),
        _ => {}
    }
}

/// A submission that was made before is answered before anything is looked at; half of them get another name.
fn fresh(script: &mut Script, message: &mut [u8; 16]) {
    message[0] ^= script.byte() % 2;
}

fn reply(script: &mut Script, reply: &mut Reply) {
    match reply {
        Reply::Hello { nonce, server, .. } => match script.pick(2) {
            0 => array(script, nonce),
            _ => array(script, &mut server.0),
        },
        Reply::RegisterStart { response } => bytes(script, response),
        Reply::LoginStart { ke2 } => bytes(script, ke2),
        Reply::LoginFinish { account, sealed_account_key, .. } => match script.pick(2) {
            0 => array(script, &mut account.0),
            _ => bytes(script, sealed_account_key),
        },
        Reply::Session { state_version, time, token_expires, .. } => match script.pick(3) {
            0 => *state_version = script.number(),
            1 => time.0 = script.number(),
            _ => token_expires.0 = script.number(),
        },
        Reply::Devices(devices) => {
            let at = script.pick(devices.len());
            match devices.get_mut(at) {
                Some(device) if script.byte() < 128 => array(script, &mut device.record.device.0),
                Some(device) => device.record.sequence = script.number() as u32,
                None => {}
            }
        }
        Reply::Account { account, .. } => array(script, &mut account.0),
        Reply::KeyPackages { available, last_resort } => {
            *available = script.number() as u32;
            *last_resort = !*last_resort;
        }
        Reply::ClaimedKeyPackages(claimed) => {
            let at = script.pick(claimed.len());
            match claimed.get_mut(at).map(|claimed| &mut claimed.package) {
                Some(Some(package)) => bytes(script, package),
                Some(none) => *none = Some(script.text().into()),
                None => {}
            }
        }
        Reply::Channel(info) => {
            info.head = script.number();
            info.epoch = script.number();
        }
        Reply::Channels { channels, more } => {
            *more ^= script.byte() == 0xFF;
            let at = script.pick(channels.len());
            match channels.get_mut(at) {
                Some(info) if script.byte() < 128 => array(script, &mut info.channel.0),
                Some(info) => info.head = script.number(),
                None => {}
            }
        }
        Reply::Accepted(accepted) => match script.pick(3) {
            0 => accepted.seq = script.number(),
            1 => array(script, &mut accepted.chain.0),
            _ => array(script, &mut accepted.proof),
        },
        Reply::Entries(entries) => self::entries(script, entries),
        Reply::Subscribed { head } => *head = script.number(),
        Reply::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain } => {
            match script.pick(7) {
                0 => *generation = script.number() as u32,
                1 => *epoch = script.number(),
                2 => array(script, &mut tree.0),
                3 => *tree_len = script.number(),
                4 => *seq = script.number(),
                5 => array(script, &mut chain.0),
                _ => bytes(script, group_info),
            }
        }
        Reply::BlobPut { received } => *received = script.number(),
        Reply::Blob { total, chunk } => match script.pick(2) {
            0 => *total = script.number(),
            _ => bytes(script, chunk),
        },
        _ => {}
    }
}

fn entries(script: &mut Script, entries: &mut Entries) {
    let at = script.pick(entries.entries.len());
    match script.pick(5) {
        0 => entries.head = script.number(),
        1 => entries.first = script.number(),
        2 => entries.behind = script.number(),
        3 => {
            let again = entries.entries.get(at).cloned();
            entries.entries.extend(again);
        }
        _ => {
            let Some(entry) = entries.entries.get_mut(at) else { return };
            match script.pick(9) {
                0 => entry.seq = script.number(),
                1 => entry.epoch = script.number(),
                2 => entry.generation = script.number() as u32,
                3 => array(script, &mut entry.message.0),
                4 => array(script, &mut entry.sender.device.0),
                5 => {
                    let kind = qpc_protocol::wire::message::EntryKind::from_number(script.byte());
                    entry.kind = kind.unwrap_or(entry.kind);
                }
                6 => {
                    if let Some(origin) = &mut entry.origin {
                        origin.seq = script.number();
                        origin.tree_len = script.number();
                        array(script, &mut origin.tree.0);
                    }
                }
                _ => part(script, &mut entry.payload),
            }
        }
    }
}
