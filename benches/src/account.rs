//! An account with one device, which makes its calls one by one: registers, logs in, opens a session.

use core::fmt;
use core::time::Duration;

use qpc_protocol::auth::client::{Login, Password, Registration, seal_account_key};
use qpc_protocol::auth::device::{
    deletion_statement, opaque_context, registration_statement, session_statement,
};
use qpc_protocol::auth::token;
use qpc_protocol::client::Stretching;
use qpc_protocol::crypto::hybrid::EnvelopeSecrets;
use qpc_protocol::crypto::identity::{AccountKey, DeviceKey, DeviceRecord, Revocation};
use qpc_protocol::crypto::{Backend, fast};
use qpc_protocol::env::{Entropy, UnixMillis};
use qpc_protocol::id::{AccountId, DeviceId, Digest, Sender, ServerId};
use qpc_protocol::io::Binding;
use qpc_protocol::mls::Context;
use qpc_protocol::mls::group::LocalDevice;
use qpc_protocol::mls::key_package::KeyPackages;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::store::batch::Records;
use qpc_protocol::wire::message::{Failure, Reply, Request, Tokens, Username};

use crate::Error;

pub(crate) const BACKEND: fn() -> Backend = fast;
/// Logging in is not what is measured.
const STRETCHING: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
/// Everybody's password.
pub(crate) const PASSWORD: &str = "of a measurement";

/// What a server said to a call.
pub type Answer = Result<Reply, Failure>;

/// Makes a call and waits for its answer.
pub trait Caller {
    /// The answer, and how long it took from the call's bytes to those of the answer.
    ///
    /// # Errors
    /// If there is none.
    fn ask(&mut self, request: Request) -> Result<(Answer, Duration), Error>;

    /// The reply.
    ///
    /// # Errors
    /// If there is none, or a failure in its place.
    fn call(&mut self, request: Request) -> Result<Reply, Error> {
        Ok(self.ask(request)?.0.map_err(|failure| format!("{failure:?}"))?)
    }

    /// Makes a call that answers with nothing but that it is done.
    ///
    /// # Errors
    /// As [`Self::call`].
    fn done(&mut self, request: Request) -> Result<(), Error> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(format!("not done: {other:?}").into()),
        }
    }
}

/// An account and its device, on one connection after the other.
pub struct Account {
    username: Username,
    key: AccountKey,
    local: LocalDevice,
    nonce: [u8; 32],
    server: ServerId,
    binding: Binding,
    wall: UnixMillis,
    pub(crate) entropy: Entropy,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.username)
    }
}

impl Account {
    /// Nobody yet, on a connection of its own with that binding.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn new(
        name: &str,
        seed: [u8; 32],
        wall: UnixMillis,
        binding: Binding,
        caller: &mut impl Caller,
    ) -> Result<Self, Error> {
        let mut entropy = Entropy::from_seed(seed);
        let username = Username::prepare(name).ok_or("not a username")?;
        let key = AccountKey::generate(BACKEND(), &mut entropy);
        let local = device_of(&key, wall, &mut entropy);
        let (nonce, server) = ([0; 32], ServerId([0; 32]));
        let mut this = Self { username, key, local, nonce, server, binding, wall, entropy };
        this.greet(caller)?;
        Ok(this)
    }

    /// Says hello on another connection of the same binding.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn greet(&mut self, caller: &mut impl Caller) -> Result<(), Error> {
        let Reply::Hello { nonce, server, .. } = caller.call(Request::Hello)? else {
            return Err("no hello".into());
        };
        (self.nonce, self.server) = (nonce, server);
        Ok(())
    }

    /// The account's id.
    pub fn id(&self) -> AccountId {
        self.key.account()
    }

    /// Its name.
    pub fn username(&self) -> &Username {
        &self.username
    }

    /// The device, as its groups know it.
    pub fn local(&self) -> &LocalDevice {
        &self.local
    }

    /// Takes another device for what follows; its id is the one before's in return.
    pub fn next_device(&mut self) -> DeviceId {
        let next = device_of(&self.key, self.wall, &mut self.entropy);
        core::mem::replace(&mut self.local, next).record.device
    }

    /// The first step of a registration.
    ///
    /// # Errors
    /// None with a sound library.
    pub fn register_start(&mut self) -> Result<(Registration, Request), Error> {
        let (registration, request) = Registration::start(&mut self.entropy, password(PASSWORD)?)?;
        let username = self.username.clone();
        Ok((registration, Request::RegisterStart { username, request }))
    }

    /// The last step of a registration, after its first was made.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn register_finish(&mut self, caller: &mut impl Caller) -> Result<Request, Error> {
        let (registration, start) = self.register_start()?;
        let Reply::RegisterStart { response } = caller.call(start)? else {
            return Err("no registration".into());
        };
        let username = self.username.clone();
        let done = registration.finish(
            &response,
            &username,
            self.server,
            STRETCHING,
            &mut self.entropy,
        )?;
        let account = self.id();
        let statement = registration_statement(&self.nonce, self.server, account, &username);
        Ok(Request::RegisterFinish {
            username,
            upload: done.upload,
            account,
            sealed_account_key: seal_account_key(BACKEND(), &done.export_key, &self.key)?,
            proof: self.key.sign(BACKEND(), &statement),
        })
    }

    /// Registers the account.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn register(&mut self, caller: &mut impl Caller) -> Result<(), Error> {
        let finish = self.register_finish(caller)?;
        caller.done(finish)
    }

    /// The first step of a login.
    ///
    /// # Errors
    /// None with a sound library.
    pub fn login_start(&mut self) -> Result<(Login, Request), Error> {
        login_start(&self.username, PASSWORD, &mut self.entropy)
    }

    /// The last step of a login, after its first was made.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn login_finish(&mut self, caller: &mut impl Caller) -> Result<Request, Error> {
        let (login, start) = self.login_start()?;
        let Reply::LoginStart { ke2 } = caller.call(start)? else { return Err("no login".into()) };
        let context = opaque_context(&self.nonce, &self.binding, self.server);
        let ke3 = login.finish(&ke2, &self.username, self.server, &context, STRETCHING)?.ke3;
        let device = self.local.record.device;
        let signature =
            self.prove(Sender { account: AccountId([0; 32]), device }, Digest::of(&[&ke3]));
        let device_key = self.local.key.public();
        Ok(Request::LoginFinish { ke3, device, device_key, signature })
    }

    /// Logs the device in.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn log_in(&mut self, caller: &mut impl Caller) -> Result<Tokens, Error> {
        let finish = self.login_finish(caller)?;
        match caller.call(finish)? {
            Reply::LoginFinish { tokens, .. } => Ok(tokens),
            _ => Err("no tokens".into()),
        }
    }

    /// Registers the device that logged in.
    pub fn device_register(&mut self) -> Request {
        let (key, record) = (&self.local.key, &self.local.record);
        let secrets = EnvelopeSecrets::generate(&mut self.entropy);
        let envelope_keys = secrets.publish(BACKEND(), key, record.sender(), 1, self.wall);
        Request::DeviceRegister { record: record.clone(), envelope_keys }
    }

    /// Opens a session.
    pub fn resume(&self, tokens: &Tokens) -> Request {
        let sender = self.local.record.sender();
        let signature = self.prove(sender, token::hash(&tokens.access));
        Request::Resume { token: tokens.access.clone(), sender, state_version: 1, signature }
    }

    /// Buys new tokens.
    pub fn refresh(&self, tokens: &Tokens) -> Request {
        let sender = self.local.record.sender();
        let signature = self.prove(sender, token::hash(&tokens.refresh));
        Request::Refresh { token: tokens.refresh.clone(), sender, signature }
    }

    /// Logs the device in, registers it and opens its session.
    ///
    /// # Errors
    /// What the server refuses.
    pub fn open(&mut self, caller: &mut impl Caller) -> Result<Tokens, Error> {
        let tokens = self.log_in(caller)?;
        caller.done(self.device_register())?;
        match caller.call(self.resume(&tokens))? {
            Reply::Session { .. } => Ok(tokens),
            _ => Err("no session".into()),
        }
    }

    /// Revokes a device of the account.
    pub fn device_revoke(&self, device: DeviceId) -> Request {
        let revocation = Revocation::sign(BACKEND(), &self.key, device, self.wall);
        Request::DeviceRevoke { revocation }
    }

    /// Deletes the account.
    pub fn delete(&self) -> Request {
        let device = self.local.record.device;
        let statement = deletion_statement(&self.nonce, self.server, self.id(), device);
        Request::AccountDelete { proof: self.key.sign(BACKEND(), &statement) }
    }

    /// Fresh key packages of the device, hybrid; nothing is kept that could join by them.
    ///
    /// # Errors
    /// None with a sound library.
    pub fn key_packages(&mut self, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let mut packages = KeyPackages::restore(Records::default())?;
        let mut generate = || {
            let cx = Context { backend: BACKEND(), entropy: &mut self.entropy, wall: self.wall };
            Ok(packages.generate(cx, &self.local, Suite::Hybrid, false)?)
        };
        (0..count).map(|_| generate()).collect()
    }

    fn prove(&self, sender: Sender, token_hash: Digest) -> [u8; 64] {
        let statement =
            session_statement(&self.nonce, &self.binding, self.server, sender, token_hash);
        self.local.key.sign(BACKEND(), &statement)
    }
}

/// The first step of anybody's login with that password.
///
/// # Errors
/// If it is no password.
pub fn login_start(
    username: &Username,
    text: &str,
    entropy: &mut Entropy,
) -> Result<(Login, Request), Error> {
    let (login, ke1) = Login::start(entropy, password(text)?)?;
    Ok((login, Request::LoginStart { username: username.clone(), ke1 }))
}

fn password(text: &str) -> Result<Password, Error> {
    Ok(Password::prepare(text).ok_or("not a password")?)
}

fn device_of(key: &AccountKey, wall: UnixMillis, entropy: &mut Entropy) -> LocalDevice {
    let device = DeviceId(entropy.array());
    let device_key = DeviceKey::generate(BACKEND(), entropy);
    let record = DeviceRecord::sign(BACKEND(), key, device, device_key.public(), 1, wall);
    LocalDevice::new(device_key, record)
}
