//! Requests.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{CommitBundle, Request, Submit, SubmitKind};
use super::field::{
    account, any, array, bounded, channel, channel_kind, device, digest, exact, malformed, message,
    part, payload, sender, signature, some, token, unreadable, username,
};
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::error::PeerFault;
use crate::limits;
use crate::mls::suite::Suite;

type Read = Result<Request, PeerFault>;

pub(super) fn request(from: schema::request::Reader<'_>) -> Read {
    use schema::request::Which;
    match from.which().map_err(|_| malformed("unknown request"))? {
        Which::Ping(payload) => any(payload, limits::PING_BYTES, "ping").map(Request::Ping),
        Which::Health(()) => Ok(Request::Health),
        Which::Hello(()) => Ok(Request::Hello),
        Which::RegisterStart(of) => register_start(of),
        Which::RegisterFinish(of) => register_finish(of.map_err(unreadable)?),
        Which::LoginStart(of) => login_start(of),
        Which::LoginFinish(of) => login_finish(of),
        Which::DeviceRegister(of) => device_register(of),
        Which::Resume(of) => resume(of.map_err(unreadable)?),
        Which::Refresh(of) => refresh(of),
        Which::Logout(()) => Ok(Request::Logout),
        Which::DeviceList(of) => Ok(Request::DeviceList { account: account(of.get_account())? }),
        Which::DeviceRevoke(of) => Ok(Request::DeviceRevoke { revocation: revocation(of)? }),
        Which::AccountLookup(of) => Ok(Request::AccountLookup { username: username(of)? }),
        Which::AccountDelete(proof) => Ok(Request::AccountDelete { proof: signature(proof)? }),
        Which::KeyPackageUpload(of) => key_package_upload(of),
        Which::KeyPackageStatus(number) => key_package_status(number),
        Which::KeyPackageFetch(of) => key_package_fetch(of),
        Which::ChannelCreate(of) => channel_create(of.map_err(unreadable)?),
        Which::ChannelInfo(of) => Ok(Request::ChannelInfo { channel: channel(of)? }),
        Which::ChannelList(after) => channel_list(after.map_err(unreadable)?),
        Which::Submit(of) => submit(of.map_err(unreadable)?),
        Which::Commit(of) => commit(of.map_err(unreadable)?),
        Which::Fetch(of) => fetch(of),
        Which::Subscribe(of) => {
            Ok(Request::Subscribe { channel: channel(of.get_channel())?, after: of.get_after() })
        }
        Which::Unsubscribe(of) => Ok(Request::Unsubscribe { channel: channel(of)? }),
        Which::Ack(of) => {
            Ok(Request::Ack { channel: channel(of.get_channel())?, seq: of.get_seq() })
        }
        Which::GroupInfoFetch(of) => Ok(Request::GroupInfoFetch { channel: channel(of)? }),
        Which::BlobPut(of) => blob_put(of),
        Which::BlobGet(of) => Ok(Request::BlobGet {
            hash: digest(of.get_hash(), "blob hash")?,
            offset: of.get_offset(),
        }),
    }
}

fn register_start(from: schema::request::register_start::Reader<'_>) -> Read {
    Ok(Request::RegisterStart {
        username: username(from.get_username())?,
        request: exact(from.get_request(), 32, "OPAQUE registration request")?,
    })
}

fn register_finish(from: schema::register_finish::Reader<'_>) -> Read {
    Ok(Request::RegisterFinish {
        username: username(from.get_username())?,
        upload: exact(from.get_upload(), 192, "OPAQUE registration record")?,
        account: account(from.get_account())?,
        sealed_account_key: some(
            from.get_sealed_account_key(),
            limits::SEALED_KEY_BYTES,
            "sealed account key",
        )?,
        proof: signature(from.get_proof())?,
    })
}

fn login_start(from: schema::request::login_start::Reader<'_>) -> Read {
    Ok(Request::LoginStart {
        username: username(from.get_username())?,
        ke1: exact(from.get_ke1(), 96, "OPAQUE KE1")?,
    })
}

fn login_finish(from: schema::request::login_finish::Reader<'_>) -> Read {
    Ok(Request::LoginFinish {
        ke3: exact(from.get_ke3(), 64, "OPAQUE KE3")?,
        device: device(from.get_device())?,
        device_key: array(from.get_device_key(), "device key")?,
        signature: signature(from.get_signature())?,
    })
}

fn device_register(from: schema::request::device_register::Reader<'_>) -> Read {
    Ok(Request::DeviceRegister {
        record: device_record(from.get_record())?,
        envelope_keys: envelope_keys(from.get_envelope_keys())?,
    })
}

pub(super) fn device_record(field: capnp::Result<&[u8]>) -> Result<DeviceRecord, PeerFault> {
    DeviceRecord::decode(field.map_err(unreadable)?).ok_or(malformed("device record"))
}

pub(super) fn envelope_keys(field: capnp::Result<&[u8]>) -> Result<EnvelopeKeys, PeerFault> {
    EnvelopeKeys::decode(field.map_err(unreadable)?).ok_or(malformed("envelope keys"))
}

pub(super) fn revocation(field: capnp::Result<&[u8]>) -> Result<Revocation, PeerFault> {
    Revocation::decode(field.map_err(unreadable)?).ok_or(malformed("revocation"))
}

fn resume(from: schema::resume::Reader<'_>) -> Read {
    Ok(Request::Resume {
        token: token(from.get_token())?,
        sender: sender(from.get_sender())?,
        state_version: from.get_state_version(),
        signature: signature(from.get_signature())?,
    })
}

fn refresh(from: schema::request::refresh::Reader<'_>) -> Read {
    Ok(Request::Refresh {
        token: token(from.get_token())?,
        sender: sender(from.get_sender())?,
        signature: signature(from.get_signature())?,
    })
}

fn key_package_upload(from: schema::request::key_package_upload::Reader<'_>) -> Read {
    let package = |field| some(field, limits::KEY_PACKAGE_BYTES, "key package");
    let list = from.get_packages().map_err(unreadable)?;
    bounded(list.len(), limits::KEY_PACKAGES_PER_DEVICE, "key packages")?;
    let last_resort = from.has_last_resort().then(|| package(from.get_last_resort()));
    Ok(Request::KeyPackageUpload {
        packages: list.iter().map(package).collect::<Result<_, _>>()?,
        last_resort: last_resort.transpose()?,
    })
}

fn key_package_status(number: u16) -> Read {
    let suite = Suite::from_number(number);
    if number != 0 && suite.is_none() {
        return Err(malformed("unknown suite"));
    }
    Ok(Request::KeyPackageStatus { suite })
}

fn key_package_fetch(from: schema::request::key_package_fetch::Reader<'_>) -> Read {
    Ok(Request::KeyPackageFetch {
        account: account(from.get_account())?,
        suite: Suite::from_number(from.get_suite()).ok_or(malformed("unknown suite"))?,
        device: from.has_device().then(|| device(from.get_device())).transpose()?,
    })
}

fn channel_create(from: schema::channel_create::Reader<'_>) -> Read {
    Ok(Request::ChannelCreate {
        channel: channel(from.get_channel())?,
        kind: channel_kind(from.get_kind())?,
        generation: from.get_generation(),
        group_info: payload(from.get_group_info(), "group info")?,
        tree: payload(from.get_tree(), "tree")?,
        with: from.has_with().then(|| account(from.get_with())).transpose()?,
    })
}

fn channel_list(after: &[u8]) -> Read {
    let after = if after.is_empty() { None } else { Some(channel(Ok(after))?) };
    Ok(Request::ChannelList { after })
}

fn submit(from: schema::submit::Reader<'_>) -> Read {
    Ok(Request::Submit(Submit {
        channel: channel(from.get_channel())?,
        generation: from.get_generation(),
        epoch: from.get_epoch(),
        message: message(from.get_message())?,
        kind: match from.get_kind().map_err(|_| malformed("unknown submit kind"))? {
            schema::SubmitKind::Application => SubmitKind::Application,
            schema::SubmitKind::Proposal => SubmitKind::Proposal,
        },
        payload: payload(from.get_payload(), "payload")?,
    }))
}

fn commit(from: schema::commit_bundle::Reader<'_>) -> Read {
    let welcome = from.has_welcome().then(|| part(from.get_welcome(), "welcome"));
    Ok(Request::Commit(CommitBundle {
        channel: channel(from.get_channel())?,
        generation: from.get_generation(),
        epoch: from.get_epoch(),
        message: message(from.get_message())?,
        commit: part(from.get_commit(), "commit")?,
        welcome: welcome.transpose()?,
        group_info: payload(from.get_group_info(), "group info")?,
    }))
}

fn fetch(from: schema::request::fetch::Reader<'_>) -> Read {
    let limit = from.get_limit();
    if !(1..=limits::FETCH_ENTRIES).contains(&usize::from(limit)) {
        return Err(malformed("fetch limit"));
    }
    let wait_ms = from.get_wait_ms();
    if u128::from(wait_ms) > limits::FETCH_WAIT.as_millis() {
        return Err(malformed("fetch wait"));
    }
    Ok(Request::Fetch {
        channel: channel(from.get_channel())?,
        after: from.get_after(),
        limit,
        wait_ms,
    })
}

fn blob_put(from: schema::request::blob_put::Reader<'_>) -> Read {
    let chunk = any(from.get_chunk(), limits::BLOB_CHUNK, "blob chunk")?;
    let (total, offset) = (from.get_total(), from.get_offset());
    if offset.checked_add(chunk.len() as u64).is_none_or(|end| end > total) {
        return Err(malformed("blob chunk past the blob's end"));
    }
    Ok(Request::BlobPut { hash: digest(from.get_hash(), "blob hash")?, total, offset, chunk })
}
