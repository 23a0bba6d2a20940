//! A device with a session and a group of its own: encrypts for it, changes who is in it.

use core::fmt;

use qpc_protocol::env::UnixMillis;
use qpc_protocol::id::{ChannelId, Digest, GroupId, MessageId};
use qpc_protocol::io::Binding;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, NewGroup, Plan};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::mls::{Context, MlsError};
use qpc_protocol::wire::message::{
    ChannelKind, CommitBundle, Part, Reply, Request, Submit, SubmitKind,
};

use crate::Error;
use crate::account::{Account, BACKEND, Caller};

/// A device with an open session and a group of its own.
pub struct Device {
    account: Account,
    group: Group,
    channel: ChannelId,
    wall: UnixMillis,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?})", self.channel)
    }
}

impl Device {
    /// Registers an account at the other end of `caller`, opens a session, and founds a group.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn enrol(
        name: &str,
        seed: [u8; 32],
        wall: UnixMillis,
        binding: &Binding,
        caller: &mut impl Caller,
    ) -> Result<Self, Error> {
        let mut account = Account::new(name, seed, wall, *binding, caller)?;
        account.register(caller)?;
        account.open(caller)?;
        let (this, create) = Self::found(account, wall)?;
        caller.done(create)?;
        Ok(this)
    }

    /// Founds a group, and the call that makes its channel.
    ///
    /// # Errors
    /// None with a sound library.
    pub fn found(mut account: Account, wall: UnixMillis) -> Result<(Self, Request), Error> {
        let channel = ChannelId::group(account.entropy.array());
        let data = GroupData {
            version: 1,
            admins: vec![account.id()],
            open: false,
            metadata: Digest::of(&[b"a name"]),
        };
        let new = NewGroup { id: GroupId::of(channel, 1), suite: Suite::Hybrid, data };
        let mut entropy = account.entropy.fork();
        let cx = Context { backend: BACKEND(), entropy: &mut entropy, wall };
        let (group, founding) = Group::create(cx, account.local(), &new)?;
        let create = Request::ChannelCreate {
            channel,
            kind: ChannelKind::Group,
            generation: 1,
            group_info: founding.group_info.into(),
            tree: founding.tree.into(),
            with: None,
        };
        Ok((Self { account, group, channel, wall }, create))
    }

    /// The group's channel.
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// This device's account.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// How many members the group has.
    pub fn members(&self) -> usize {
        self.group.members().len()
    }

    /// A commit bundle. The commit stays pending until [`Self::merge`].
    ///
    /// # Errors
    /// What the group refuses; a commit that is pending already.
    pub fn commit(&mut self, plan: &Plan) -> Result<Request, Error> {
        let (epoch, message) = (self.group.epoch(), MessageId(self.account.entropy.array()));
        let bundle = self.step(|group, cx, account| group.commit(cx, account.local(), plan))?;
        Ok(Request::Commit(CommitBundle {
            channel: self.channel,
            generation: 1,
            epoch,
            message,
            commit: Part::Inline(bundle.commit.into()),
            welcome: bundle.welcome.map(|welcome| Part::Inline(welcome.into())),
            group_info: bundle.group_info.into(),
        }))
    }

    /// The pending commit, if there is one, was accepted.
    ///
    /// # Errors
    /// None with a sound library.
    pub fn merge(&mut self) -> Result<(), Error> {
        if self.group.has_pending() {
            self.step(|group, cx, _| group.merge_pending(cx))?;
        }
        Ok(())
    }

    /// Commits and merges.
    ///
    /// # Errors
    /// What the group or the server refuses.
    pub fn change(&mut self, plan: &Plan, caller: &mut impl Caller) -> Result<(), Error> {
        let commit = self.commit(plan)?;
        match caller.call(commit)? {
            Reply::Accepted(_) => self.merge(),
            _ => Err("no commit".into()),
        }
    }

    /// A submission whose payload, a real ciphertext for the group, has `size` bytes.
    ///
    /// # Errors
    /// If no ciphertext is so small.
    pub fn submission(&mut self, size: usize) -> Result<Submit, Error> {
        let around = self.encrypt(&vec![0; size])?.len() - size;
        let content = size.checked_sub(around).ok_or("too small for a ciphertext")?;
        let payload = self.encrypt(&vec![7; content])?;
        if payload.len() != size {
            return Err("no content has a ciphertext of that size".into());
        }
        Ok(self.submit(payload))
    }

    /// Further submissions of that size.
    ///
    /// # Errors
    /// As [`Self::submission`].
    pub fn submissions(&mut self, size: usize, count: usize) -> Result<Vec<Submit>, Error> {
        let first = self.submission(size)?;
        let around = self.encrypt(&vec![0; size])?.len() - size;
        let content = vec![7; size - around];
        let mut all = vec![first];
        while all.len() < count {
            let payload = self.encrypt(&content)?;
            all.push(self.submit(payload));
        }
        Ok(all)
    }

    fn submit(&mut self, payload: Vec<u8>) -> Submit {
        Submit {
            channel: self.channel,
            generation: 1,
            epoch: self.group.epoch(),
            message: MessageId(self.account.entropy.array()),
            kind: SubmitKind::Application,
            payload: payload.into(),
        }
    }

    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        self.step(|group, cx, account| group.encrypt(cx, account.local(), content))
    }

    fn step<T>(
        &mut self,
        operation: impl FnOnce(&mut Group, Context<'_>, &Account) -> Result<T, MlsError>,
    ) -> Result<T, Error> {
        let mut entropy = self.account.entropy.fork();
        let cx = Context { backend: BACKEND(), entropy: &mut entropy, wall: self.wall };
        let result = operation(&mut self.group, cx, &self.account)?;
        // Nothing of it is kept: a measurement does not restart.
        drop(self.group.take_ops());
        Ok(result)
    }
}
