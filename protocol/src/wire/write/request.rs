//! Requests.

use super::super::generated::qpc_capnp as schema;
use super::super::message::{ChannelKind, CommitBundle, Request, Submit, SubmitKind};
use super::{count, part, sender};
use crate::mls::suite::Suite;

/// One table of all requests, so that the compiler misses none.
pub(super) fn request(request: &Request, mut to: schema::request::Builder<'_>) {
    match request {
        Request::Ping(payload) => to.set_ping(payload),
        Request::Health => to.set_health(()),
        Request::Hello => to.set_hello(()),
        Request::RegisterStart { username, request } => set!(
            to.init_register_start(),
            set_username: username.as_str(),
            set_request: request,
        ),
        Request::RegisterFinish { username, upload, account, sealed_account_key, proof } => set!(
            to.init_register_finish(),
            set_username: username.as_str(),
            set_upload: upload,
            set_account: &account.0,
            set_sealed_account_key: sealed_account_key,
            set_proof: proof,
        ),
        Request::LoginStart { username, ke1 } => set!(
            to.init_login_start(),
            set_username: username.as_str(),
            set_ke1: ke1,
        ),
        Request::LoginFinish { ke3, device, device_key, signature } => set!(
            to.init_login_finish(),
            set_ke3: ke3,
            set_device: &device.0,
            set_device_key: device_key,
            set_signature: signature,
        ),
        Request::DeviceRegister { record, envelope_keys } => set!(
            to.init_device_register(),
            set_record: &record.encode(),
            set_envelope_keys: &envelope_keys.encode(),
        ),
        Request::Resume { token, sender: of, state_version, signature } => {
            let mut to = to.init_resume();
            sender(*of, to.reborrow().init_sender());
            set!(
                to,
                set_token: &token.0,
                set_state_version: *state_version,
                set_signature: signature,
            );
        }
        Request::Refresh { token, sender: of, signature } => {
            let mut to = to.init_refresh();
            sender(*of, to.reborrow().init_sender());
            set!(to, set_token: &token.0, set_signature: signature);
        }
        Request::Logout => to.set_logout(()),
        Request::DeviceList { account } => to.init_device_list().set_account(&account.0),
        Request::DeviceRevoke { revocation } => to.set_device_revoke(&revocation.encode()),
        Request::AccountLookup { username } => to.set_account_lookup(username.as_str()),
        Request::AccountDelete { proof } => to.set_account_delete(proof),
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
        Request::KeyPackageStatus { suite } => {
            to.set_key_package_status(suite.map_or(0, Suite::number));
        }
        Request::KeyPackageFetch { account, suite, device } => {
            let mut to = to.init_key_package_fetch();
            set!(to.reborrow(), set_account: &account.0, set_suite: suite.number());
            if let Some(device) = device {
                to.set_device(&device.0);
            }
        }
        Request::ChannelCreate { channel, kind, generation, group_info, tree, with } => {
            let mut to = to.init_channel_create();
            set!(
                to.reborrow(),
                set_channel: &channel.0,
                set_kind: channel_kind(*kind),
                set_generation: *generation,
                set_group_info: group_info,
                set_tree: tree,
            );
            if let Some(with) = with {
                to.set_with(&with.0);
            }
        }
        Request::ChannelInfo { channel } => to.set_channel_info(&channel.0),
        Request::ChannelList { after } => {
            to.set_channel_list(after.as_ref().map_or(&[], |after| &after.0));
        }
        Request::Submit(of) => submit(of, to.init_submit()),
        Request::Commit(of) => commit(of, to.init_commit()),
        Request::Fetch { channel, after, limit, wait_ms } => set!(
            to.init_fetch(),
            set_channel: &channel.0,
            set_after: *after,
            set_limit: *limit,
            set_wait_ms: *wait_ms,
        ),
        Request::Subscribe { channel, after } => {
            set!(to.init_subscribe(), set_channel: &channel.0, set_after: *after);
        }
        Request::Unsubscribe { channel } => to.set_unsubscribe(&channel.0),
        Request::Ack { channel, seq } => {
            set!(to.init_ack(), set_channel: &channel.0, set_seq: *seq);
        }
        Request::GroupInfoFetch { channel } => to.set_group_info_fetch(&channel.0),
        Request::BlobPut { hash, total, offset, chunk } => set!(
            to.init_blob_put(),
            set_hash: &hash.0,
            set_total: *total,
            set_offset: *offset,
            set_chunk: chunk,
        ),
        Request::BlobGet { hash, offset } => {
            set!(to.init_blob_get(), set_hash: &hash.0, set_offset: *offset);
        }
    }
}

pub(super) fn channel_kind(kind: ChannelKind) -> schema::ChannelKind {
    match kind {
        ChannelKind::Group => schema::ChannelKind::Group,
        ChannelKind::Direct => schema::ChannelKind::Direct,
        ChannelKind::Inbox => schema::ChannelKind::Inbox,
    }
}

fn submit(submit: &Submit, to: schema::submit::Builder<'_>) {
    set!(
        to,
        set_channel: &submit.channel.0,
        set_generation: submit.generation,
        set_epoch: submit.epoch,
        set_message: &submit.message.0,
        set_kind: match submit.kind {
            SubmitKind::Application => schema::SubmitKind::Application,
            SubmitKind::Proposal => schema::SubmitKind::Proposal,
        },
        set_payload: &submit.payload,
    );
}

fn commit(bundle: &CommitBundle, mut to: schema::commit_bundle::Builder<'_>) {
    part(&bundle.commit, to.reborrow().init_commit());
    if let Some(welcome) = &bundle.welcome {
        part(welcome, to.reborrow().init_welcome());
    }
    set!(
        to,
        set_channel: &bundle.channel.0,
        set_generation: bundle.generation,
        set_epoch: bundle.epoch,
        set_message: &bundle.message.0,
        set_group_info: &bundle.group_info,
    );
}
