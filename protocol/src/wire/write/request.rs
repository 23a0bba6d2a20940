//! Requests.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{ChannelKind, CommitBundle, Request, Submit, SubmitKind};
use super::{count, part, sender};

pub(super) fn request(request: &Request, mut to: schema::request::Builder<'_>) {
    match request {
        Request::Ping(payload) => to.set_ping(payload),
        Request::Health => to.set_health(()),
        Request::Hello => to.set_hello(()),
        Request::RegisterStart { .. }
        | Request::RegisterFinish { .. }
        | Request::LoginStart { .. }
        | Request::LoginFinish { .. }
        | Request::DeviceRegister { .. }
        | Request::Resume { .. }
        | Request::Refresh { .. } => entrance(request, to),
        Request::Logout => to.set_logout(()),
        Request::DeviceList { account } => to.init_device_list().set_account(&account.0),
        Request::DeviceRevoke { revocation } => to.set_device_revoke(&revocation.encode()),
        Request::AccountLookup { username } => to.set_account_lookup(username.as_str()),
        Request::AccountDelete { proof } => to.set_account_delete(proof),
        Request::KeyPackageUpload { .. }
        | Request::KeyPackageStatus
        | Request::KeyPackageFetch { .. } => key_packages(request, to),
        Request::ChannelCreate { .. }
        | Request::ChannelInfo { .. }
        | Request::ChannelList { .. }
        | Request::Fetch { .. }
        | Request::Subscribe { .. }
        | Request::Unsubscribe { .. }
        | Request::Ack { .. }
        | Request::GroupInfoFetch { .. } => channel(request, to),
        Request::Submit(of) => submit(of, to.init_submit()),
        Request::Commit(of) => commit(of, to.init_commit()),
        Request::BlobPut { hash, total, offset, chunk } => {
            let mut to = to.init_blob_put();
            to.set_hash(&hash.0);
            to.set_total(*total);
            to.set_offset(*offset);
            to.set_chunk(chunk);
        }
        Request::BlobGet { hash, offset } => {
            let mut to = to.init_blob_get();
            to.set_hash(&hash.0);
            to.set_offset(*offset);
        }
    }
}

/// Registration, login, sessions.
fn entrance(request: &Request, to: schema::request::Builder<'_>) {
    match request {
        Request::RegisterStart { username, request } => {
            let mut to = to.init_register_start();
            to.set_username(username.as_str());
            to.set_request(request);
        }
        Request::RegisterFinish { username, upload, account, sealed_account_key, proof } => {
            let mut to = to.init_register_finish();
            to.set_username(username.as_str());
            to.set_upload(upload);
            to.set_account(&account.0);
            to.set_sealed_account_key(sealed_account_key);
            to.set_proof(proof);
        }
        Request::LoginStart { username, ke1 } => {
            let mut to = to.init_login_start();
            to.set_username(username.as_str());
            to.set_ke1(ke1);
        }
        Request::LoginFinish { ke3, device, device_key, signature } => {
            let mut to = to.init_login_finish();
            to.set_ke3(ke3);
            to.set_device(&device.0);
            to.set_device_key(device_key);
            to.set_signature(signature);
        }
        Request::DeviceRegister { record, envelope_keys } => {
            let mut to = to.init_device_register();
            to.set_record(&record.encode());
            to.set_envelope_keys(&envelope_keys.encode());
        }
        Request::Resume { token, sender: of, state_version, signature } => {
            let mut to = to.init_resume();
            to.set_token(&token.0);
            sender(*of, to.reborrow().init_sender());
            to.set_state_version(*state_version);
            to.set_signature(signature);
        }
        Request::Refresh { token, sender: of, signature } => {
            let mut to = to.init_refresh();
            to.set_token(&token.0);
            sender(*of, to.reborrow().init_sender());
            to.set_signature(signature);
        }
        _ => {}
    }
}

fn key_packages(request: &Request, mut to: schema::request::Builder<'_>) {
    match request {
        Request::KeyPackageUpload { packages, last_resort } => {
            let mut to = to.init_key_package_upload();
            if let Some(last_resort) = last_resort {
                to.set_last_resort(last_resort);
            }
            let mut list = to.init_packages(count(packages.len()));
            for (index, package) in (0..).zip(packages) {
                list.set(index, package);
            }
        }
        Request::KeyPackageFetch { account, suite } => {
            let mut to = to.init_key_package_fetch();
            to.set_account(&account.0);
            to.set_suite(suite.number());
        }
        _ => to.set_key_package_status(()),
    }
}

fn channel(request: &Request, mut to: schema::request::Builder<'_>) {
    match request {
        Request::ChannelCreate { channel, kind, generation, group_info, tree } => {
            let mut to = to.init_channel_create();
            to.set_channel(&channel.0);
            to.set_kind(channel_kind(*kind));
            to.set_generation(*generation);
            to.set_group_info(group_info);
            to.set_tree(tree);
        }
        Request::ChannelInfo { channel } => to.set_channel_info(&channel.0),
        Request::ChannelList { after } => {
            to.set_channel_list(after.as_ref().map_or(&[], |after| &after.0));
        }
        Request::Fetch { channel, after, limit, wait_ms } => {
            let mut to = to.init_fetch();
            to.set_channel(&channel.0);
            to.set_after(*after);
            to.set_limit(*limit);
            to.set_wait_ms(*wait_ms);
        }
        Request::Subscribe { channel, after } => {
            let mut to = to.init_subscribe();
            to.set_channel(&channel.0);
            to.set_after(*after);
        }
        Request::Unsubscribe { channel } => to.set_unsubscribe(&channel.0),
        Request::Ack { channel, seq } => {
            let mut to = to.init_ack();
            to.set_channel(&channel.0);
            to.set_seq(*seq);
        }
        Request::GroupInfoFetch { channel } => to.set_group_info_fetch(&channel.0),
        _ => {}
    }
}

pub(super) fn channel_kind(kind: ChannelKind) -> schema::ChannelKind {
    match kind {
        ChannelKind::Group => schema::ChannelKind::Group,
        ChannelKind::Direct => schema::ChannelKind::Direct,
        ChannelKind::Inbox => schema::ChannelKind::Inbox,
    }
}

fn submit(submit: &Submit, mut to: schema::submit::Builder<'_>) {
    to.set_channel(&submit.channel.0);
    to.set_generation(submit.generation);
    to.set_epoch(submit.epoch);
    to.set_message(&submit.message.0);
    to.set_kind(match submit.kind {
        SubmitKind::Application => schema::SubmitKind::Application,
        SubmitKind::Proposal => schema::SubmitKind::Proposal,
    });
    to.set_payload(&submit.payload);
}

fn commit(bundle: &CommitBundle, mut to: schema::commit_bundle::Builder<'_>) {
    to.set_channel(&bundle.channel.0);
    to.set_generation(bundle.generation);
    to.set_epoch(bundle.epoch);
    to.set_message(&bundle.message.0);
    part(&bundle.commit, to.reborrow().init_commit());
    if let Some(welcome) = &bundle.welcome {
        part(welcome, to.reborrow().init_welcome());
    }
    to.set_group_info(&bundle.group_info);
}
