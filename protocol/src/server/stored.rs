//! What goes on when a store operation or a job has a result.

use bytes::Bytes;

use super::Server;
use super::accounts::Registration;
use super::channels::Creation;
use super::connection::{Call, Peer};
use super::groups::Check;
use super::inbound::RETRY_MS;
use super::job::ServerJobOutput;
use super::line::Work;
use super::push::FetchKey;
use super::sessions::{Issue, LoginDone, PendingLogin, Proof, Resuming};
use super::submit::Submitted;
use crate::auth::budget::Admitted;
use crate::crypto::identity::{DeviceRecord, Revocation};
use crate::error::{ErrorCode, StoreFault};
use crate::id::{AccountId, ChannelId, Digest, Sender};
use crate::mls::public::PublicState;
use crate::mls::suite::Suite;
use crate::server::audit::AuditKind;
use crate::server::op::StoreReply;
use crate::wire::message::{Failure, Reply, Token, Username};
use core::time::Duration;

/// What waits for a store operation.
#[derive(Debug)]
pub(super) enum Step {
    RegisterFinish(Call, AccountId),
    LoginFind(Call, Admitted, Username, Bytes),
    LoginTokens(Call, Box<LoginDone>),
    ResumeRead(Call, Resuming),
    ResumeOpen(Call, Resuming),
    RefreshFind(Call, Proof, Token),
    /// The refresh token is not known: is it the one before, and its successor never arrived?
    RefreshAgain(Call, Proof, Token),
    RefreshRotate(Call, Sender, Digest, Issue),
    Logout(Call, Sender),
    DeviceRegister(Call, Box<DeviceRecord>),
    DeviceList(Call),
    /// By whom, and what.
    DeviceRevoke(Call, Sender, Box<Revocation>),
    /// With the moment before which it is not answered.
    Lookup(Call, Username, Duration),
    AccountDelete(Call, AccountId),
    KeyPackageUpload(Call),
    KeyPackages(Call),
    KeyPackageClaim(Call, AccountId, Suite),
    KeyPackageLow(Sender, Suite),
    ChannelCreate(Call, Box<Creation>, Box<PublicState>),
    /// The channel is not founded, for that reason: is it there already, and the same?
    ChannelAgain(Call, Box<Creation>, (ErrorCode, String)),
    ChannelInfo(Call),
    ChannelList(Call),
    Submit(Call, Box<Submitted>),
    /// Work that is to get into a group's line.
    Line(ChannelId, Box<Work>),
    /// The work at the head of a group's line.
    Group(ChannelId),
    Fetch(Call, ChannelId),
    Poll(Call),
    Subscribe(Call, FetchKey),
    Push(FetchKey),
    Ack(Call),
    BlobPut(Call),
    BlobGet(Call),
    Sweep,
}

/// What waits for a job.
#[derive(Debug)]
pub(super) enum Task {
    RegisterStart(Call),
    RegisterFinish(Call, Box<Registration>),
    LoginStart(Call, Box<PendingLogin>),
    LoginFinish(Call, Box<PendingLogin>, Proof),
    KeyPackageUpload(Call, Peer, bool),
    ChannelCreate(Call, Box<Creation>),
    /// The work at the head of a group's line.
    Group(ChannelId),
}

impl Step {
    /// The call that a failed store is told to, where nothing else has to be done.
    fn call(&self) -> Option<Call> {
        Some(match *self {
            Self::RegisterFinish(call, _)
            | Self::LoginFind(call, ..)
            | Self::LoginTokens(call, _)
            | Self::ResumeRead(call, _)
            | Self::ResumeOpen(call, _)
            | Self::RefreshFind(call, ..)
            | Self::RefreshRotate(call, ..)
            | Self::Logout(call, _)
            | Self::DeviceRegister(call, _)
            | Self::DeviceList(call)
            | Self::DeviceRevoke(call, ..)
            | Self::Lookup(call, ..)
            | Self::AccountDelete(call, _)
            | Self::KeyPackageUpload(call)
            | Self::KeyPackages(call)
            | Self::KeyPackageClaim(call, ..)
            | Self::ChannelCreate(call, ..)
            | Self::ChannelAgain(call, ..)
            | Self::RefreshAgain(call, ..)
            | Self::ChannelInfo(call)
            | Self::ChannelList(call)
            | Self::Submit(call, _)
            | Self::Fetch(call, _)
            | Self::Poll(call)
            | Self::Subscribe(call, _)
            | Self::Ack(call)
            | Self::BlobPut(call)
            | Self::BlobGet(call) => call,
            Self::KeyPackageLow(..)
            | Self::Line(..)
            | Self::Group(_)
            | Self::Push(_)
            | Self::Sweep => return None,
        })
    }
}

impl Server {
    /// A store operation has its answer.
    pub(super) fn stored(&mut self, step: Step, result: Result<StoreReply, StoreFault>) {
        match (step, result) {
            (Step::Group(channel), result) => self.group_stored(channel, result),
            (Step::Line(channel, work), result) => self.line_probed(channel, *work, result),
            (Step::Push(key), Err(_)) => self.push_failed(key),
            (Step::Sweep, Err(_)) => self.swept(0),
            (Step::Subscribe(call, key), Err(_)) => {
                self.drop_subscription(key);
                self.unavailable(call);
            }
            (Step::Poll(call), Err(_)) => {
                self.end_poll(call);
                self.unavailable(call);
            }
            (step, Err(_)) => {
                if let Some(call) = step.call() {
                    self.unavailable(call);
                }
            }
            (step, Ok(reply)) => self.step(step, reply),
        }
    }

    fn step(&mut self, step: Step, reply: StoreReply) {
        match step {
            Step::RegisterFinish(call, account) => self.registered(call, account, reply),
            Step::LoginFind(call, admitted, username, ke1) => {
                self.login_found(call, admitted, username, ke1, reply);
            }
            Step::LoginTokens(call, done) => self.logged_in(call, *done, reply),
            Step::ResumeRead(call, resuming) => self.resume_read(call, resuming, reply),
            Step::ResumeOpen(call, resuming) => self.resumed(call, &resuming, reply),
            Step::RefreshFind(call, proof, next) => self.refresh_found(call, proof, next, reply),
            Step::RefreshAgain(call, proof, next) => self.refresh_again(call, proof, next, reply),
            Step::RefreshRotate(call, sender, old, issue) => {
                self.refreshed(call, sender, old, issue, reply);
            }
            Step::Logout(call, sender) => self.logged_out(call, sender, reply),
            Step::DeviceRegister(call, record) => self.device_registered(call, &record, reply),
            Step::DeviceRevoke(call, by, revocation) => {
                self.device_revoked(call, by, revocation, reply);
            }
            Step::Lookup(call, username, floor) => self.looked_up(call, username, floor, reply),
            Step::AccountDelete(call, account) => self.account_deleted(call, account, reply),
            Step::KeyPackageUpload(call) => self.key_packages_stored(call, reply),
            Step::KeyPackageClaim(call, account, suite) => {
                self.key_packages_claimed(call, account, suite, reply);
            }
            Step::KeyPackageLow(sender, suite) => self.key_packages_counted(sender, suite, &reply),
            Step::ChannelCreate(call, creation, state) => {
                self.channel_created(call, creation, state, reply);
            }
            Step::ChannelAgain(call, creation, refused) => {
                self.channel_found(call, &creation, refused, reply);
            }
            Step::Submit(call, submitted) => self.submitted(call, &submitted, reply),
            Step::Fetch(call, channel) => self.fetched(call, channel, reply),
            Step::Poll(call) => self.polled(call, reply),
            Step::Subscribe(call, key) => self.subscribed(call, key, reply),
            Step::Push(key) => self.push_fetched(key, reply),
            Step::Sweep => {
                let StoreReply::Swept(removed) = reply else { return self.swept(0) };
                self.swept(removed);
            }
            Step::DeviceList(call) => self.devices_listed(call, reply),
            Step::KeyPackages(call)
            | Step::ChannelInfo(call)
            | Step::ChannelList(call)
            | Step::Ack(call)
            | Step::BlobPut(call)
            | Step::BlobGet(call) => self.plain(call, reply),
            Step::Group(_) | Step::Line(..) => {}
        }
    }

    /// Answers with what the store says, where nothing is to be added.
    pub(super) fn plain(&mut self, call: Call, reply: StoreReply) {
        let reply = match reply {
            StoreReply::Done => Reply::Done,
            StoreReply::Devices(devices) => Reply::Devices(devices),
            StoreReply::KeyPackages { available, last_resort } => {
                Reply::KeyPackages { available, last_resort }
            }
            StoreReply::Channel(info) => Reply::Channel(info),
            StoreReply::Channels(channels, more) => Reply::Channels { channels, more },
            StoreReply::BlobPut(received) => Reply::BlobPut { received },
            StoreReply::Blob { total, chunk } => Reply::Blob { total, chunk },
            StoreReply::Refused { code, epoch } => return self.fail_at(call, code, epoch),
            _ => return self.unavailable(call),
        };
        self.reply(call, reply);
    }

    /// The store failed, or gave an answer to another question.
    pub(super) fn unavailable(&mut self, call: Call) {
        let retry_after_ms = RETRY_MS;
        self.refuse(call, Failure { retry_after_ms, ..ErrorCode::Unavailable.into() });
    }

    /// The refusal in a store's answer, if it is not the one that was expected. Audited where a kind is given.
    pub(super) fn refusal(
        &mut self,
        call: Call,
        kind: Option<AuditKind>,
        channel: Option<ChannelId>,
        reply: &StoreReply,
    ) {
        match *reply {
            StoreReply::Refused { code, epoch } => {
                if let Some(kind) = kind {
                    self.audit(kind, Some(call.conn), channel, Some(code));
                }
                self.fail_at(call, code, epoch);
            }
            _ => self.unavailable(call),
        }
    }

    /// A job has its result.
    pub(super) fn computed(&mut self, task: Task, output: ServerJobOutput) {
        use ServerJobOutput as Out;
        match (task, output) {
            (Task::RegisterStart(call), Out::RegisterStart(response)) => {
                self.register_started(call, response);
            }
            (Task::RegisterFinish(call, row), Out::RegisterFinish(record)) => {
                self.register_checked(call, *row, record);
            }
            (Task::LoginStart(call, login), Out::LoginStart(result)) => {
                self.login_started(call, *login, result);
            }
            (Task::LoginFinish(call, login, proof), Out::LoginFinish(result)) => {
                self.login_checked(call, *login, proof, result);
            }
            (Task::KeyPackageUpload(call, peer, last_resort), Out::KeyPackages(checked)) => {
                self.key_packages_checked(call, peer, last_resort, checked);
            }
            (Task::ChannelCreate(call, creation), Out::Create(result)) => {
                self.channel_checked(call, *creation, result);
            }
            (Task::Group(channel), Out::Restore(result)) => {
                self.group_restored(channel, result);
            }
            (Task::Group(channel), Out::Propose(state, result)) => {
                self.group_checked(channel, state, Check::Propose(result));
            }
            (Task::Group(channel), Out::Commit(state, result)) => {
                self.group_checked(channel, state, Check::Commit(result));
            }
            (Task::Group(channel), Out::Reset(result)) => self.reset_checked(channel, result),
            (Task::Group(channel), Out::Tree(state, result)) => {
                self.group_checked(channel, state, Check::Tree(result));
            }
            // A runtime that mixes up its jobs: the call is not answered with another one's result.
            (Task::Group(channel), _) => self.group_lost(channel),
            (
                Task::RegisterStart(call)
                | Task::RegisterFinish(call, _)
                | Task::LoginStart(call, _)
                | Task::LoginFinish(call, ..)
                | Task::KeyPackageUpload(call, ..)
                | Task::ChannelCreate(call, _),
                _,
            ) => self.unavailable(call),
        }
    }

    /// A job could not even start: too many are under way.
    pub(super) fn too_busy(&mut self, call: Call) {
        self.fail(call, ErrorCode::Busy);
    }
}
