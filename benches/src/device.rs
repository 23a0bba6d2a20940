//! A device that makes its calls one by one: registers, opens a session, founds a group, encrypts for it.

use core::fmt;

use qpc_protocol::auth::client::{Login, Password, Registration, seal_account_key};
use qpc_protocol::auth::device::{opaque_context, registration_statement, session_statement};
use qpc_protocol::auth::token;
use qpc_protocol::client::Stretching;
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use qpc_protocol::crypto::{Backend, fast};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{
    AccountId, ChannelId, DeviceId, Digest, GroupId, MessageId, Sender, ServerId,
};
use qpc_protocol::io::Binding;
use qpc_protocol::mls::Context;
use qpc_protocol::mls::data::GroupData;
use qpc_protocol::mls::group::{Group, LocalDevice, NewGroup};
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{
    ChannelKind, Reply, Request, Submit, SubmitKind, Tokens, Username,
};

use crate::Error;

const BACKEND: fn() -> Backend = fast;
/// Logging in is not what is measured.
const STRETCHING: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };

/// Makes a call and waits for its reply.
pub trait Caller {
    /// The reply; a failure is an error.
    fn call(&mut self, request: Request) -> Result<Reply, Error>;
}

/// A device with an open session and a group of its own.
pub struct Device {
    local: LocalDevice,
    group: Group,
    channel: ChannelId,
    entropy: Entropy,
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
        let mut entropy = Entropy::from_seed(seed);
        let username = Username::prepare(name).ok_or("not a username")?;
        let Reply::Hello { nonce, server, .. } = caller.call(Request::Hello)? else {
            return Err("no hello".into());
        };
        let account_key = AccountKey::generate(BACKEND(), &mut entropy);
        let login = LoginWith { username, nonce, server, binding };
        login.register(&account_key, &mut entropy, caller)?;
        let device = DeviceId(entropy.array());
        let key = DeviceKey::generate(BACKEND(), &mut entropy);
        let tokens = login.log_in(device, &key, &mut entropy, caller)?;

        let record = DeviceRecord::sign(BACKEND(), &account_key, device, key.public(), 1, wall);
        let sender = record.sender();
        let envelope = EnvelopeSecrets::generate(&mut entropy);
        let envelope_keys = envelope.publish(BACKEND(), &key, sender, 1, wall);
        let registered = Request::DeviceRegister { record: record.clone(), envelope_keys };
        expect_done(caller.call(registered)?)?;
        let signature = login.sign(&key, sender, token::hash(&tokens.access));
        let resume = Request::Resume { token: tokens.access, sender, state_version: 1, signature };
        let Reply::Session { .. } = caller.call(resume)? else { return Err("no session".into()) };

        let local = LocalDevice { key, record };
        let channel = ChannelId::group(entropy.array());
        let data = GroupData {
            version: 1,
            admins: vec![sender.account],
            open: false,
            metadata: Digest::of(&[b"a name"]),
        };
        let new = NewGroup { id: GroupId::of(channel, 1), suite: Suite::Hybrid, data };
        let cx = Context { backend: BACKEND(), entropy: &mut entropy, wall };
        let (group, founding) = Group::create(cx, &local, &new)?;
        let create = Request::ChannelCreate {
            channel,
            kind: ChannelKind::Group,
            generation: 1,
            group_info: founding.group_info.into(),
            tree: founding.tree.into(),
            with: None,
        };
        expect_done(caller.call(create)?)?;
        Ok(Self { local, group, channel, entropy })
    }

    /// The group's channel.
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// This device's account.
    pub fn account(&self) -> AccountId {
        self.local.record.account
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
            message: MessageId(self.entropy.array()),
            kind: SubmitKind::Application,
            payload: payload.into(),
        }
    }

    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        let mut entropy = self.entropy.fork();
        let cx = Context { backend: BACKEND(), entropy: &mut entropy, wall: UnixMillis(0) };
        let payload = self.group.encrypt(cx, &self.local, content)?;
        // Nothing of it is kept: a measurement does not restart.
        drop(self.group.take_ops());
        Ok(payload)
    }
}

/// What the steps of a registration and a login share.
struct LoginWith<'a> {
    username: Username,
    nonce: [u8; 32],
    server: ServerId,
    binding: &'a Binding,
}

impl LoginWith<'_> {
    fn password() -> Result<Password, Error> {
        Ok(Password::prepare("of a measurement").ok_or("not a password")?)
    }

    fn register(
        &self,
        key: &AccountKey,
        entropy: &mut Entropy,
        caller: &mut impl Caller,
    ) -> Result<(), Error> {
        let username = self.username.clone();
        let (registration, request) = Registration::start(entropy, Self::password()?)?;
        let Reply::RegisterStart { response } =
            caller.call(Request::RegisterStart { username: username.clone(), request })?
        else {
            return Err("no registration".into());
        };
        let done = registration.finish(&response, &username, self.server, STRETCHING, entropy)?;
        let sealed = seal_account_key(BACKEND(), &done.export_key, key)?;
        let statement = registration_statement(&self.nonce, self.server, key.account(), &username);
        expect_done(caller.call(Request::RegisterFinish {
            username,
            upload: done.upload,
            account: key.account(),
            sealed_account_key: sealed,
            proof: key.sign(BACKEND(), &statement),
        })?)
    }

    fn log_in(
        &self,
        device: DeviceId,
        key: &DeviceKey,
        entropy: &mut Entropy,
        caller: &mut impl Caller,
    ) -> Result<Tokens, Error> {
        let username = self.username.clone();
        let (login, ke1) = Login::start(entropy, Self::password()?)?;
        let Reply::LoginStart { ke2 } =
            caller.call(Request::LoginStart { username: username.clone(), ke1 })?
        else {
            return Err("no login".into());
        };
        let context = opaque_context(&self.nonce, self.binding, self.server);
        let ke3 = login.finish(&ke2, &username, self.server, &context, STRETCHING)?.ke3;
        let sender = Sender { account: AccountId([0; 32]), device };
        let signature = self.sign(key, sender, Digest::of(&[&ke3]));
        let finish = Request::LoginFinish { ke3, device, device_key: key.public(), signature };
        match caller.call(finish)? {
            Reply::LoginFinish { tokens, .. } => Ok(tokens),
            _ => Err("no tokens".into()),
        }
    }

    fn sign(&self, key: &DeviceKey, sender: Sender, token_hash: Digest) -> [u8; 64] {
        let statement =
            session_statement(&self.nonce, self.binding, self.server, sender, token_hash);
        key.sign(BACKEND(), &statement)
    }
}

fn expect_done(reply: Reply) -> Result<(), Error> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(format!("not done: {other:?}").into()),
    }
}
