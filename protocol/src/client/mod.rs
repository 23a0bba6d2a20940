//! The client machine: one per device.

pub mod event;
pub mod job;

use zeroize::Zeroizing;

use crate::crypto::Backend;
use crate::env::{Entropy, Now};
use crate::error::{Fatal, Refused, RestoreError};
use crate::id::{AccountId, ChannelId, DeviceId, Sender, ServerId};
use crate::io::{Input, Output, Target, Ticket};
use crate::mls::suite::Suite;
use crate::store::batch::Records;
use crate::wire::message::Username;
use event::GroupSummary;

/// What a client is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Primitives.
    pub backend: Backend,
    /// Where the server is.
    pub server: Target,
    /// Argon2id for OPAQUE's key stretching.
    pub stretching: Stretching,
    /// Accept a transport without channel binding.
    pub insecure_plain: bool,
    /// Connect by itself and stay connected. Without it, only [`Client::connect`] does.
    pub auto_connect: bool,
}

/// Cost of Argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretching {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Stretching {
    /// 64 MiB, 3 passes, 1 lane (RFC 9106 §4, second choice, on one core).
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// The prefix of the records that [`Client::restore`] needs; all others are loaded on demand.
pub const DIRECTORY: &[u8] = b"d/";

/// The client machine.
#[derive(Debug)]
pub struct Client {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "skeleton")]
impl Client {
    /// A machine from its durable directory records (all records whose key starts with [`DIRECTORY`]; none for a new
    /// device).
    pub fn restore(
        config: Config,
        directory: Records,
        entropy: Entropy,
        now: Now,
    ) -> Result<Self, RestoreError> {
        todo!()
    }
    /// One input.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), Fatal> {
        todo!()
    }
    /// The next output; bytes to send are appended to `buffer`.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Output {
        todo!()
    }

    /// Makes the account `username` and logs this device in. → `Outcome::Account`
    pub fn register(
        &mut self,
        now: Now,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Logs this device in to an existing account: a new device on first use, the same one later. → `Outcome::Account`
    pub fn login(
        &mut self,
        now: Now,
        username: &str,
        password: Zeroizing<String>,
    ) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Ends the session and this device's tokens.
    pub fn logout(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Connects now instead of when the backoff ends.
    pub fn connect(&mut self, now: Now) {
        todo!()
    }
    /// Closes the connection; what is unacknowledged stays in the outbox.
    pub fn disconnect(&mut self, now: Now) {
        todo!()
    }
    /// → `Outcome::Pong`
    pub fn ping(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// → `Outcome::Health`
    pub fn health(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Founds a group with this device as its only member. The name is sealed. → `Outcome::Group`
    pub fn create_group(&mut self, now: Now, name: &str, suite: Suite) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Adds all devices of an account in one commit. → `Outcome::Epoch`
    pub fn invite(
        &mut self,
        now: Now,
        channel: ChannelId,
        username: &str,
    ) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Removes all devices of an account in one commit. → `Outcome::Epoch`
    pub fn remove(
        &mut self,
        now: Now,
        channel: ChannelId,
        account: AccountId,
    ) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Leaves a group: proposes the own removal, which another member commits. → `Outcome::Epoch`
    pub fn leave(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Fresh keys for the own leaf. → `Outcome::Epoch`
    pub fn update(&mut self, now: Now, channel: ChannelId) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Sends content to a group. → `Outcome::Sent`
    pub fn send(&mut self, now: Now, channel: ChannelId, body: &[u8]) -> Result<Ticket, Refused> {
        todo!()
    }
    /// The application has read all messages of a group up to `seq`: they are forgotten here.
    pub fn ack(&mut self, now: Now, channel: ChannelId, seq: u64) -> Result<(), Refused> {
        todo!()
    }
    /// The account of a username, and its safety number with ours. → `Outcome::Lookup`
    pub fn lookup(&mut self, now: Now, username: &str) -> Result<Ticket, Refused> {
        todo!()
    }
    /// The devices of the own account. → `Outcome::Devices`
    pub fn devices(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Revokes another device of the own account. → `Outcome::Done`
    pub fn revoke(&mut self, now: Now, device: DeviceId) -> Result<Ticket, Refused> {
        todo!()
    }
    /// How many key packages the server has of this device. → `Outcome::KeyPackages`
    pub fn key_packages(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Uploads fresh key packages now. → `Outcome::KeyPackages`
    pub fn refresh_key_packages(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }
    /// Deletes the account on the server. → `Outcome::Done`
    pub fn delete_account(&mut self, now: Now) -> Result<Ticket, Refused> {
        todo!()
    }

    /// This device's account, if it has one.
    pub fn whoami(&self) -> Option<(Username, Sender, Option<ServerId>)> {
        todo!()
    }
    /// The groups of this device, from the directory: cheap, no load.
    pub fn groups(&self) -> Vec<GroupSummary> {
        todo!()
    }
    /// Whether every log was read to its head and nothing is under way.
    pub fn is_idle(&self) -> bool {
        todo!()
    }
}
