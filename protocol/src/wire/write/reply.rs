//! Replies and pushes.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{
    Accepted, ChannelInfo, ClaimedKeyPackage, DeviceEntry, Entries, Entry, EntryKind, Origin, Push,
    Reply, Tokens,
};
use super::request::channel_kind;
use super::{count, part, sender, shortened};
use crate::limits;

/// One table of all replies, so that the compiler misses none.
pub(super) fn reply(reply: &Reply, mut to: schema::reply::Builder<'_>) {
    match reply {
        Reply::Done => to.set_done(()),
        Reply::Pong(payload) => to.set_pong(payload),
        Reply::Health { healthy, version, time } => set!(
            to.init_health(),
            set_healthy: *healthy,
            set_version: shortened(version, limits::VERSION_BYTES),
            set_time: time.0,
        ),
        Reply::Hello { nonce, server, time } => {
            set!(to.init_hello(), set_nonce: nonce, set_server: &server.0, set_time: time.0);
        }
        Reply::RegisterStart { response } => to.set_register_start(response),
        Reply::LoginStart { ke2 } => to.set_login_start(ke2),
        Reply::LoginFinish { account, sealed_account_key, tokens: of } => {
            let mut to = to.init_login_finish();
            to.set_account(&account.0);
            to.set_sealed_account_key(sealed_account_key);
            tokens(of, to.init_tokens());
        }
        Reply::Tokens(of) => tokens(of, to.init_tokens()),
        Reply::Session { username, state_version, time, token_expires } => set!(
            to.init_session(),
            set_username: username.as_str(),
            set_state_version: *state_version,
            set_time: time.0,
            set_token_expires: token_expires.0,
        ),
        Reply::Devices(devices) => {
            let mut list = to.init_devices(count(devices.len()));
            for (index, device) in (0..).zip(devices) {
                device_entry(device, list.reborrow().get(index));
            }
        }
        Reply::Account { username, account } => {
            set!(to.init_account(), set_username: username.as_str(), set_account: &account.0);
        }
        Reply::KeyPackages { available, last_resort } => set!(
            to.init_key_packages(),
            set_available: *available,
            set_last_resort: *last_resort,
        ),
        Reply::ClaimedKeyPackages(claimed) => {
            let mut list = to.init_claimed_key_packages(count(claimed.len()));
            for (index, one) in (0..).zip(claimed) {
                claimed_key_package(one, list.reborrow().get(index));
            }
        }
        Reply::Channel(info) => channel_info(info, to.init_channel()),
        Reply::Channels { channels, more } => {
            let mut to = to.init_channels();
            to.set_more(*more);
            let mut list = to.init_channels(count(channels.len()));
            for (index, info) in (0..).zip(channels) {
                channel_info(info, list.reborrow().get(index));
            }
        }
        Reply::Accepted(of) => accepted(of, to.init_accepted()),
        Reply::Entries(of) => entries(of, to.init_entries()),
        Reply::Subscribed { head } => to.set_subscribed(*head),
        Reply::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain } => set!(
            to.init_group_info(),
            set_generation: *generation,
            set_epoch: *epoch,
            set_group_info: group_info,
            set_tree: &tree.0,
            set_tree_len: *tree_len,
            set_seq: *seq,
            set_chain: &chain.0,
        ),
        Reply::BlobPut { received } => to.set_blob_put(*received),
        Reply::Blob { total, chunk } => {
            set!(to.init_blob(), set_total: *total, set_chunk: chunk);
        }
    }
}

fn tokens(tokens: &Tokens, to: schema::tokens::Builder<'_>) {
    set!(
        to,
        set_access: &tokens.access.0,
        set_access_expires: tokens.access_expires.0,
        set_refresh: &tokens.refresh.0,
        set_refresh_expires: tokens.refresh_expires.0,
    );
}

fn device_entry(device: &DeviceEntry, mut to: schema::device_entry::Builder<'_>) {
    to.set_record(&device.record.encode());
    to.set_envelope_keys(&device.envelope_keys.encode());
    if let Some(revocation) = &device.revocation {
        to.set_revocation(&revocation.encode());
    }
    to.set_last_seen(device.last_seen.0);
}

fn claimed_key_package(
    claimed: &ClaimedKeyPackage,
    mut to: schema::claimed_key_package::Builder<'_>,
) {
    to.set_device(&claimed.device.0);
    if let Some(package) = &claimed.package {
        to.set_package(package);
    }
    to.set_last_resort(claimed.last_resort);
}

fn channel_info(info: &ChannelInfo, to: schema::channel_info::Builder<'_>) {
    set!(
        to,
        set_channel: &info.channel.0,
        set_kind: channel_kind(info.kind),
        set_generation: info.generation,
        set_epoch: info.epoch,
        set_head: info.head,
        set_cursor: info.cursor,
        set_members: info.members,
    );
}

fn accepted(accepted: &Accepted, to: schema::accepted::Builder<'_>) {
    set!(
        to,
        set_seq: accepted.seq,
        set_chain: &accepted.chain.0,
        set_time: accepted.time.0,
        set_proof: &accepted.proof,
    );
}

fn entries(entries: &Entries, mut to: schema::entries::Builder<'_>) {
    let mut list = to.reborrow().init_entries(count(entries.entries.len()));
    for (index, one) in (0..).zip(&entries.entries) {
        entry(one, list.reborrow().get(index));
    }
    set!(
        to,
        set_channel: &entries.channel.0,
        set_head: entries.head,
        set_behind: entries.behind,
        set_first: entries.first,
    );
}

fn entry(entry: &Entry, mut to: schema::entry::Builder<'_>) {
    sender(entry.sender, to.reborrow().init_sender());
    if let Some(of) = &entry.origin {
        origin(of, to.reborrow().init_origin());
    }
    part(&entry.payload, to.reborrow().init_payload());
    set!(
        to,
        set_seq: entry.seq,
        set_kind: match entry.kind {
            EntryKind::Application => schema::EntryKind::Application,
            EntryKind::Proposal => schema::EntryKind::Proposal,
            EntryKind::Commit => schema::EntryKind::Commit,
            EntryKind::Welcome => schema::EntryKind::Welcome,
            EntryKind::Note => schema::EntryKind::Note,
            EntryKind::Device => schema::EntryKind::Device,
            EntryKind::Revocation => schema::EntryKind::Revocation,
            EntryKind::Reset => schema::EntryKind::Reset,
        },
        set_generation: entry.generation,
        set_epoch: entry.epoch,
        set_message: &entry.message.0,
        set_time: entry.time.0,
    );
}

fn origin(origin: &Origin, to: schema::origin::Builder<'_>) {
    set!(
        to,
        set_channel: &origin.channel.0,
        set_seq: origin.seq,
        set_chain: &origin.chain.0,
        set_tree: &origin.tree.0,
        set_tree_len: origin.tree_len,
    );
}

pub(super) fn push(push: &Push, mut to: schema::push::Builder<'_>) {
    match push {
        Push::Entries(of) => entries(of, to.init_entries()),
        Push::KeyPackagesLow { available } => to.set_key_packages_low(*available),
        Push::SessionEnded => to.set_session_ended(()),
        Push::Draining => to.set_draining(()),
    }
}
