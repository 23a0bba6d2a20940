//! Replies and pushes.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{
    Accepted, ChannelInfo, ClaimedKeyPackage, DeviceEntry, Entries, Entry, EntryKind, Origin, Push,
    Reply, Tokens,
};
use super::request::channel_kind;
use super::{count, part, sender, shortened};
use crate::limits;

pub(super) fn reply(reply: &Reply, mut to: schema::reply::Builder<'_>) {
    match reply {
        Reply::Done => to.set_done(()),
        Reply::Pong(payload) => to.set_pong(payload),
        Reply::Health { .. }
        | Reply::Hello { .. }
        | Reply::RegisterStart { .. }
        | Reply::LoginStart { .. }
        | Reply::LoginFinish { .. }
        | Reply::Tokens(_)
        | Reply::Session { .. } => entrance(reply, to),
        Reply::Devices(devices) => {
            let mut list = to.init_devices(count(devices.len()));
            for (index, device) in (0..).zip(devices) {
                device_entry(device, list.reborrow().get(index));
            }
        }
        Reply::Account { username, account } => {
            let mut to = to.init_account();
            to.set_username(username.as_str());
            to.set_account(&account.0);
        }
        Reply::KeyPackages { available, last_resort } => {
            let mut to = to.init_key_packages();
            to.set_available(*available);
            to.set_last_resort(*last_resort);
        }
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
        Reply::GroupInfo { generation, epoch, group_info, tree, tree_len, seq, chain } => {
            let mut to = to.init_group_info();
            to.set_generation(*generation);
            to.set_epoch(*epoch);
            to.set_group_info(group_info);
            to.set_tree(&tree.0);
            to.set_tree_len(*tree_len);
            to.set_seq(*seq);
            to.set_chain(&chain.0);
        }
        Reply::BlobPut { received } => to.set_blob_put(*received),
        Reply::Blob { total, chunk } => {
            let mut to = to.init_blob();
            to.set_total(*total);
            to.set_chunk(chunk);
        }
    }
}

/// Registration, login, sessions.
fn entrance(reply: &Reply, mut to: schema::reply::Builder<'_>) {
    match reply {
        Reply::Health { healthy, version, time } => {
            let mut to = to.init_health();
            to.set_healthy(*healthy);
            to.set_version(shortened(version, limits::VERSION_BYTES));
            to.set_time(time.0);
        }
        Reply::Hello { nonce, server, time } => {
            let mut to = to.init_hello();
            to.set_nonce(nonce);
            to.set_server(&server.0);
            to.set_time(time.0);
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
        Reply::Session { username, state_version, time, token_expires } => {
            let mut to = to.init_session();
            to.set_username(username.as_str());
            to.set_state_version(*state_version);
            to.set_time(time.0);
            to.set_token_expires(token_expires.0);
        }
        _ => {}
    }
}

fn tokens(tokens: &Tokens, mut to: schema::tokens::Builder<'_>) {
    to.set_access(&tokens.access.0);
    to.set_access_expires(tokens.access_expires.0);
    to.set_refresh(&tokens.refresh.0);
    to.set_refresh_expires(tokens.refresh_expires.0);
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

fn channel_info(info: &ChannelInfo, mut to: schema::channel_info::Builder<'_>) {
    to.set_channel(&info.channel.0);
    to.set_kind(channel_kind(info.kind));
    to.set_generation(info.generation);
    to.set_epoch(info.epoch);
    to.set_head(info.head);
    to.set_cursor(info.cursor);
    to.set_members(info.members);
}

fn accepted(accepted: &Accepted, mut to: schema::accepted::Builder<'_>) {
    to.set_seq(accepted.seq);
    to.set_chain(&accepted.chain.0);
    to.set_time(accepted.time.0);
    to.set_proof(&accepted.proof);
}

fn entries(entries: &Entries, mut to: schema::entries::Builder<'_>) {
    to.set_channel(&entries.channel.0);
    to.set_head(entries.head);
    to.set_behind(entries.behind);
    to.set_first(entries.first);
    let mut list = to.init_entries(count(entries.entries.len()));
    for (index, one) in (0..).zip(&entries.entries) {
        entry(one, list.reborrow().get(index));
    }
}

fn entry(entry: &Entry, mut to: schema::entry::Builder<'_>) {
    to.set_seq(entry.seq);
    to.set_kind(match entry.kind {
        EntryKind::Application => schema::EntryKind::Application,
        EntryKind::Proposal => schema::EntryKind::Proposal,
        EntryKind::Commit => schema::EntryKind::Commit,
        EntryKind::Welcome => schema::EntryKind::Welcome,
        EntryKind::Note => schema::EntryKind::Note,
    });
    to.set_generation(entry.generation);
    to.set_epoch(entry.epoch);
    sender(entry.sender, to.reborrow().init_sender());
    to.set_message(&entry.message.0);
    to.set_time(entry.time.0);
    if let Some(of) = &entry.origin {
        origin(of, to.reborrow().init_origin());
    }
    part(&entry.payload, to.init_payload());
}

fn origin(origin: &Origin, mut to: schema::origin::Builder<'_>) {
    to.set_channel(&origin.channel.0);
    to.set_seq(origin.seq);
    to.set_chain(&origin.chain.0);
    to.set_tree(&origin.tree.0);
    to.set_tree_len(origin.tree_len);
}

pub(super) fn push(push: &Push, mut to: schema::push::Builder<'_>) {
    match push {
        Push::Entries(of) => entries(of, to.init_entries()),
        Push::KeyPackagesLow { available } => to.set_key_packages_low(*available),
        Push::SessionEnded => to.set_session_ended(()),
        Push::Draining => to.set_draining(()),
    }
}
