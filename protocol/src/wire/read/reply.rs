//! Replies and pushes.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{
    Accepted, ChannelInfo, ClaimedKeyPackage, DeviceEntry, Entries, Entry, EntryKind, Origin, Push,
    Reply, Tokens,
};
use super::field::{
    account, any, array, blob_len, bounded, channel, channel_kind, device, digest, exact,
    malformed, message, part, payload, sender, signature, some, text, time, token, unreadable,
    username,
};
use super::request::{device_record, envelope_keys, revocation};
use crate::error::PeerFault;
use crate::id::ServerId;
use crate::limits;

type Read<T> = Result<T, PeerFault>;

pub(super) fn reply(from: schema::reply::Reader<'_>) -> Read<Reply> {
    use schema::reply::Which;
    match from.which().map_err(|_| malformed("unknown reply"))? {
        Which::Done(()) => Ok(Reply::Done),
        Which::Pong(payload) => any(payload, limits::PING_BYTES, "ping").map(Reply::Pong),
        Which::Health(of) => health(of),
        Which::Hello(of) => hello(of),
        Which::RegisterStart(of) => {
            Ok(Reply::RegisterStart { response: exact(of, 64, "OPAQUE registration response")? })
        }
        Which::LoginStart(of) => Ok(Reply::LoginStart { ke2: exact(of, 320, "OPAQUE KE2")? }),
        Which::LoginFinish(of) => login_finish(of),
        Which::Tokens(of) => tokens(of.map_err(unreadable)?).map(Reply::Tokens),
        Which::Session(of) => session(of),
        Which::Devices(of) => devices(of.map_err(unreadable)?),
        Which::Account(of) => Ok(Reply::Account {
            username: username(of.get_username())?,
            account: account(of.get_account())?,
        }),
        Which::KeyPackages(of) => Ok(Reply::KeyPackages {
            available: of.get_available(),
            last_resort: of.get_last_resort(),
        }),
        Which::ClaimedKeyPackages(of) => claimed_key_packages(of.map_err(unreadable)?),
        Which::Channel(of) => channel_info(of.map_err(unreadable)?).map(Reply::Channel),
        Which::Channels(of) => channels(of),
        Which::Accepted(of) => accepted(of.map_err(unreadable)?).map(Reply::Accepted),
        Which::Entries(of) => entries(of.map_err(unreadable)?).map(Reply::Entries),
        Which::Subscribed(head) => Ok(Reply::Subscribed { head }),
        Which::GroupInfo(of) => group_info(of.map_err(unreadable)?),
        Which::BlobPut(received) => Ok(Reply::BlobPut { received }),
        Which::Blob(of) => Ok(Reply::Blob {
            total: of.get_total(),
            chunk: any(of.get_chunk(), limits::BLOB_CHUNK, "blob chunk")?,
        }),
    }
}

fn health(from: schema::reply::health::Reader<'_>) -> Read<Reply> {
    Ok(Reply::Health {
        healthy: from.get_healthy(),
        version: text(from.get_version(), limits::VERSION_BYTES, "version text")?,
        time: time(from.get_time()),
    })
}

fn hello(from: schema::reply::hello::Reader<'_>) -> Read<Reply> {
    Ok(Reply::Hello {
        nonce: array(from.get_nonce(), "nonce")?,
        server: ServerId(array(from.get_server(), "server")?),
        time: time(from.get_time()),
    })
}

fn login_finish(from: schema::reply::login_finish::Reader<'_>) -> Read<Reply> {
    Ok(Reply::LoginFinish {
        account: account(from.get_account())?,
        sealed_account_key: some(
            from.get_sealed_account_key(),
            limits::SEALED_KEY_BYTES,
            "sealed account key",
        )?,
        tokens: tokens(from.get_tokens().map_err(unreadable)?)?,
    })
}

fn tokens(from: schema::tokens::Reader<'_>) -> Read<Tokens> {
    Ok(Tokens {
        access: token(from.get_access())?,
        access_expires: time(from.get_access_expires()),
        refresh: token(from.get_refresh())?,
        refresh_expires: time(from.get_refresh_expires()),
    })
}

fn session(from: schema::reply::session::Reader<'_>) -> Read<Reply> {
    Ok(Reply::Session {
        username: username(from.get_username())?,
        state_version: from.get_state_version(),
        time: time(from.get_time()),
        token_expires: time(from.get_token_expires()),
    })
}

fn devices(from: capnp::struct_list::Reader<'_, schema::device_entry::Owned>) -> Read<Reply> {
    bounded(from.len(), limits::DEVICES_LISTED, "devices")?;
    from.iter().map(device_entry).collect::<Result<_, _>>().map(Reply::Devices)
}

fn device_entry(from: schema::device_entry::Reader<'_>) -> Read<DeviceEntry> {
    let revocation = from.has_revocation().then(|| revocation(from.get_revocation()));
    Ok(DeviceEntry {
        record: device_record(from.get_record())?,
        envelope_keys: envelope_keys(from.get_envelope_keys())?,
        revocation: revocation.transpose()?,
        last_seen: time(from.get_last_seen()),
    })
}

fn claimed_key_packages(
    from: capnp::struct_list::Reader<'_, schema::claimed_key_package::Owned>,
) -> Read<Reply> {
    bounded(from.len(), limits::DEVICES_PER_ACCOUNT, "key packages")?;
    from.iter().map(claimed_key_package).collect::<Result<_, _>>().map(Reply::ClaimedKeyPackages)
}

fn claimed_key_package(from: schema::claimed_key_package::Reader<'_>) -> Read<ClaimedKeyPackage> {
    let package = || some(from.get_package(), limits::KEY_PACKAGE_BYTES, "key package");
    Ok(ClaimedKeyPackage {
        device: device(from.get_device())?,
        package: from.has_package().then(package).transpose()?,
        last_resort: from.get_last_resort(),
    })
}

fn channels(from: schema::reply::channels::Reader<'_>) -> Read<Reply> {
    let list = from.get_channels().map_err(unreadable)?;
    bounded(list.len(), limits::CHANNELS_LISTED, "channels")?;
    Ok(Reply::Channels {
        channels: list.iter().map(channel_info).collect::<Result<_, _>>()?,
        more: from.get_more(),
    })
}

fn channel_info(from: schema::channel_info::Reader<'_>) -> Read<ChannelInfo> {
    Ok(ChannelInfo {
        channel: channel(from.get_channel())?,
        kind: channel_kind(from.get_kind())?,
        generation: from.get_generation(),
        epoch: from.get_epoch(),
        head: from.get_head(),
        cursor: from.get_cursor(),
        members: from.get_members(),
    })
}

fn accepted(from: schema::accepted::Reader<'_>) -> Read<Accepted> {
    Ok(Accepted {
        seq: from.get_seq(),
        chain: digest(from.get_chain(), "chain")?,
        time: time(from.get_time()),
        proof: signature(from.get_proof())?,
    })
}

fn group_info(from: schema::group_info::Reader<'_>) -> Read<Reply> {
    Ok(Reply::GroupInfo {
        generation: from.get_generation(),
        epoch: from.get_epoch(),
        group_info: payload(from.get_group_info(), "group info")?,
        tree: digest(from.get_tree(), "tree")?,
        tree_len: blob_len(from.get_tree_len())?,
        seq: from.get_seq(),
        chain: digest(from.get_chain(), "chain")?,
    })
}

fn entries(from: schema::entries::Reader<'_>) -> Read<Entries> {
    let list = from.get_entries().map_err(unreadable)?;
    bounded(list.len(), limits::FETCH_ENTRIES, "entries")?;
    Ok(Entries {
        channel: channel(from.get_channel())?,
        entries: list.iter().map(entry).collect::<Result<_, _>>()?,
        head: from.get_head(),
        behind: from.get_behind(),
        first: from.get_first(),
    })
}

fn entry(from: schema::entry::Reader<'_>) -> Read<Entry> {
    let origin = from.has_origin().then(|| from.get_origin().map_err(unreadable).and_then(origin));
    Ok(Entry {
        seq: from.get_seq(),
        kind: match from.get_kind().map_err(|_| malformed("unknown entry kind"))? {
            schema::EntryKind::Application => EntryKind::Application,
            schema::EntryKind::Proposal => EntryKind::Proposal,
            schema::EntryKind::Commit => EntryKind::Commit,
            schema::EntryKind::Welcome => EntryKind::Welcome,
            schema::EntryKind::Note => EntryKind::Note,
            schema::EntryKind::Device => EntryKind::Device,
            schema::EntryKind::Revocation => EntryKind::Revocation,
            schema::EntryKind::Reset => EntryKind::Reset,
        },
        generation: from.get_generation(),
        epoch: from.get_epoch(),
        sender: sender(from.get_sender())?,
        message: message(from.get_message())?,
        time: time(from.get_time()),
        origin: origin.transpose()?,
        payload: part(from.get_payload(), "payload")?,
    })
}

fn origin(from: schema::origin::Reader<'_>) -> Read<Origin> {
    Ok(Origin {
        channel: channel(from.get_channel())?,
        seq: from.get_seq(),
        chain: digest(from.get_chain(), "chain")?,
        tree: digest(from.get_tree(), "tree")?,
        tree_len: blob_len(from.get_tree_len())?,
    })
}

pub(super) fn push(from: schema::push::Reader<'_>) -> Read<Push> {
    use schema::push::Which;
    match from.which().map_err(|_| malformed("unknown push"))? {
        Which::Entries(of) => entries(of.map_err(unreadable)?).map(Push::Entries),
        Which::KeyPackagesLow(available) => Ok(Push::KeyPackagesLow { available }),
        Which::SessionEnded(()) => Ok(Push::SessionEnded),
        Which::Draining(()) => Ok(Push::Draining),
    }
}
