//! How many words a message takes in a frame, exactly: what the encoder asks for once instead of growing.

use capnp::traits::HasStructSize;

use super::generated::qpc_capnp as schema;
use super::message::{
    Body, CommitBundle, Entries, Entry, Failure, Frame, Origin, Part, Push, Reply, Request, Tokens,
};
use super::write::shortened;
use crate::crypto::identity::{DeviceRecord, EnvelopeKeys, Revocation};
use crate::limits;

/// Bytes of a word.
pub(super) const WORD: usize = 8;

const ACCOUNT: usize = data(32);
const DEVICE: usize = data(16);
const CHANNEL: usize = data(16);
const MESSAGE: usize = data(16);
const DIGEST: usize = data(32);
const SIGNATURE: usize = data(64);
const SENDER: usize = structure::<schema::sender::Builder<'static>>() + ACCOUNT + DEVICE;
const CHANNEL_INFO: usize = structure::<schema::channel_info::Builder<'static>>() + CHANNEL;

/// Words of a struct itself, without what it points to.
const fn structure<T: HasStructSize>() -> usize {
    T::STRUCT_SIZE.data as usize + T::STRUCT_SIZE.pointers as usize
}

/// Words of `len` bytes of `Data`.
const fn data(len: usize) -> usize {
    len.div_ceil(WORD)
}

/// Words of a `Text`, its final NUL included.
const fn text(text: &str) -> usize {
    data(text.len() + 1)
}

/// Words of a list of structs: its tag and its elements.
const fn structures<T: HasStructSize>(len: usize) -> usize {
    1 + len * structure::<T>()
}

/// Words of a frame, root pointer included, segment table not.
pub(super) fn frame(frame: &Frame) -> usize {
    let body = match &frame.body {
        Body::Open(_) => 0,
        Body::Request(of) => structure::<schema::request::Builder<'static>>() + request(of),
        Body::Reply(of) => structure::<schema::reply::Builder<'static>>() + reply(of),
        Body::Failure(of) => structure::<schema::failure::Builder<'static>>() + failure(of),
        Body::Push(of) => structure::<schema::push::Builder<'static>>() + push(of),
    };
    1 + structure::<schema::frame::Builder<'static>>() + body
}

fn request(request: &Request) -> usize {
    match request {
        Request::Ping(payload) => data(payload.len()),
        Request::Health | Request::Hello | Request::Logout | Request::KeyPackageStatus { .. } => 0,
        Request::RegisterStart { username, request } => {
            text(username.as_str()) + data(request.len())
        }
        Request::RegisterFinish { username, upload, sealed_account_key, .. } => {
            structure::<schema::register_finish::Builder<'static>>()
                + text(username.as_str())
                + data(upload.len())
                + ACCOUNT
                + data(sealed_account_key.len())
                + SIGNATURE
        }
        Request::LoginStart { username, ke1 } => text(username.as_str()) + data(ke1.len()),
        Request::LoginFinish { ke3, .. } => data(ke3.len()) + DEVICE + data(32) + SIGNATURE,
        Request::DeviceRegister { .. } => data(DeviceRecord::LEN) + data(EnvelopeKeys::LEN),
        Request::Resume { token, .. } => {
            structure::<schema::resume::Builder<'static>>()
                + data(token.0.len())
                + SENDER
                + SIGNATURE
        }
        Request::Refresh { token, .. } => data(token.0.len()) + SENDER + SIGNATURE,
        Request::DeviceList { .. } => ACCOUNT,
        Request::KeyPackageFetch { device, .. } => ACCOUNT + device.map_or(0, |_| DEVICE),
        Request::DeviceRevoke { .. } => data(Revocation::LEN),
        Request::AccountLookup { username } => text(username.as_str()),
        Request::AccountDelete { .. } => SIGNATURE,
        Request::KeyPackageUpload { packages, last_resort } => {
            packages.iter().map(|package| 1 + data(package.len())).sum::<usize>()
                + last_resort.as_ref().map_or(0, |package| data(package.len()))
        }
        Request::ChannelCreate { group_info, tree, with, .. } => {
            structure::<schema::channel_create::Builder<'static>>()
                + CHANNEL
                + data(group_info.len())
                + data(tree.len())
                + with.map_or(0, |_| ACCOUNT)
        }
        Request::ChannelList { after } => after.map_or(0, |_| CHANNEL),
        Request::Submit(submit) => {
            structure::<schema::submit::Builder<'static>>()
                + CHANNEL
                + MESSAGE
                + data(submit.payload.len())
        }
        Request::Commit(of) => commit(of),
        Request::ChannelInfo { .. }
        | Request::Fetch { .. }
        | Request::Subscribe { .. }
        | Request::Unsubscribe { .. }
        | Request::Ack { .. }
        | Request::GroupInfoFetch { .. } => CHANNEL,
        Request::BlobPut { chunk, .. } => DIGEST + data(chunk.len()),
        Request::BlobGet { .. } => DIGEST,
    }
}

fn commit(bundle: &CommitBundle) -> usize {
    structure::<schema::commit_bundle::Builder<'static>>()
        + CHANNEL
        + MESSAGE
        + part(&bundle.commit)
        + bundle.welcome.as_ref().map_or(0, part)
        + data(bundle.group_info.len())
}

fn part(part: &Part) -> usize {
    structure::<schema::part::Builder<'static>>()
        + match part {
            Part::Inline(bytes) => data(bytes.len()),
            Part::Blob { .. } => DIGEST,
        }
}

fn reply(reply: &Reply) -> usize {
    match reply {
        Reply::Done
        | Reply::KeyPackages { .. }
        | Reply::Subscribed { .. }
        | Reply::BlobPut { .. } => 0,
        Reply::Pong(payload) => data(payload.len()),
        Reply::Health { version, .. } => text(shortened(version, limits::VERSION_BYTES)),
        Reply::Hello { .. } => data(32) + data(32),
        Reply::RegisterStart { response } => data(response.len()),
        Reply::LoginStart { ke2 } => data(ke2.len()),
        Reply::LoginFinish { sealed_account_key, tokens: of, .. } => {
            ACCOUNT + data(sealed_account_key.len()) + tokens(of)
        }
        Reply::Tokens(of) => tokens(of),
        Reply::Session { username, .. } => text(username.as_str()),
        Reply::Devices(devices) => {
            let each = data(DeviceRecord::LEN) + data(EnvelopeKeys::LEN);
            let revoked = devices.iter().filter(|device| device.revocation.is_some()).count();
            structures::<schema::device_entry::Builder<'static>>(devices.len())
                + devices.len() * each
                + revoked * data(Revocation::LEN)
        }
        Reply::Account { username, .. } => text(username.as_str()) + ACCOUNT,
        Reply::ClaimedKeyPackages(claimed) => {
            let package = |package: &bytes::Bytes| data(package.len());
            structures::<schema::claimed_key_package::Builder<'static>>(claimed.len())
                + claimed.len() * DEVICE
                + claimed.iter().filter_map(|one| one.package.as_ref()).map(package).sum::<usize>()
        }
        Reply::Channel(_) => structure::<schema::channel_info::Builder<'static>>() + CHANNEL,
        Reply::Channels { channels, .. } => 1 + channels.len() * CHANNEL_INFO,
        Reply::Accepted(_) => {
            structure::<schema::accepted::Builder<'static>>() + DIGEST + SIGNATURE
        }
        Reply::Entries(of) => entries(of),
        Reply::GroupInfo { group_info, .. } => {
            structure::<schema::group_info::Builder<'static>>()
                + data(group_info.len())
                + DIGEST
                + DIGEST
        }
        Reply::Blob { chunk, .. } => data(chunk.len()),
    }
}

fn tokens(tokens: &Tokens) -> usize {
    structure::<schema::tokens::Builder<'static>>()
        + data(tokens.access.0.len())
        + data(tokens.refresh.0.len())
}

fn entries(entries: &Entries) -> usize {
    structure::<schema::entries::Builder<'static>>()
        + CHANNEL
        + structures::<schema::entry::Builder<'static>>(entries.entries.len())
        + entries.entries.iter().map(entry).sum::<usize>()
}

fn entry(entry: &Entry) -> usize {
    SENDER + MESSAGE + entry.origin.as_ref().map_or(0, origin) + part(&entry.payload)
}

fn origin(_: &Origin) -> usize {
    structure::<schema::origin::Builder<'static>>() + CHANNEL + DIGEST + DIGEST
}

fn failure(failure: &Failure) -> usize {
    text(shortened(&failure.detail, limits::ERROR_DETAIL_BYTES))
}

fn push(push: &Push) -> usize {
    match push {
        Push::Entries(of) => entries(of),
        Push::KeyPackagesLow { .. } | Push::SessionEnded | Push::Draining => 0,
    }
}
