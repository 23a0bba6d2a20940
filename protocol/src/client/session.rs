//! From a fresh connection to a session: the one table of a connection's phases.
//!
//! | phase | event | next |
//! |---|---|---|
//! | `Connecting` | connected | `Hello`: asks for the nonce |
//! | `Hello` | reply, a login task waits | `Login` |
//! | `Hello` | reply, tokens at hand | `Resume`, or `Refresh` if the access token has ended |
//! | `Hello` | reply, neither | `Anonymous`: pings only, until a task comes |
//! | `Anonymous` | login task | `Login` |
//! | `Login` | registered | `Login` (now logs in) |
//! | `Login` | logged in, record unknown to the server | `Device` |
//! | `Login`, `Refresh` | done | `Resume` |
//! | `Device` | done | `Resume` |
//! | `Resume` | reply | `Online` |
//! | `Resume` | `TokenExpired`, `TokenInvalid` | `Refresh`, once |
//! | `Resume`, `Refresh` | `ProofInvalid`, a rotation under way | the same, with the next key |
//! | any | refused for good | `Anonymous`, and an event says why |

use bytes::Bytes;

use super::directory::{self, Identity};
use super::event::{Event, Failed, Outcome};
use super::job::{ClientJob, LoginDone, LoginStep, RegisterDone, RegisterStep};
use super::net::Call;
use super::{Client, WrongReply};
use crate::auth::client::{Login, Password, Registration, open_account_key, seal_account_key};
use crate::auth::device::{opaque_context, registration_statement, session_statement};
use crate::auth::opaque::ExportKey;
use crate::auth::token;
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Digest, Sender, ServerId};
use crate::io::Ticket;
use crate::job::Job;
use crate::store::batch::Op;
use crate::wire::message::{Failure, Reply, Request, Tokens, Username};

/// The password cannot be used with OPAQUE: it hashes to the neutral element, which nobody ever sees.
const UNUSABLE: Failed = Failed::Obsolete("this password cannot be used");

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Hello,
    Anonymous,
    Login,
    Refresh,
    Device,
    Resume,
    Online,
}

/// A registration or login under way.
pub(super) struct AuthTask {
    pub ticket: Ticket,
    pub username: Username,
    pub password: Password,
    /// Register first.
    pub register: bool,
    /// The registration may have reached the server although no answer came: "taken" may mean "by us".
    pub register_sent: bool,
    pub step: AuthStep,
}

impl core::fmt::Debug for AuthTask {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AuthTask({:?}, {:?})", self.username, self.step)
    }
}

/// The steps of a task.
#[derive(Debug)]
pub(super) enum AuthStep {
    Waiting,
    RegisterStart(Registration),
    RegisterJob,
    RegisterFinish,
    LoginStart(Login),
    LoginJob { device: DeviceId, key: DeviceKey },
    LoginFinish { device: DeviceId, key: DeviceKey, export_key: ExportKey },
}

impl Client {
    /// The server's hello: remembers the nonce, checks who it is, and goes on with what there is to do.
    pub(super) fn on_hello(&mut self, nonce: [u8; 32], server: ServerId) {
        if let Some(identity) = &self.identity
            && identity.server != server
        {
            self.give_up("the server is not the one this device belongs to".into());
            return;
        }
        self.server = Some(server);
        if let Some(conn) = &mut self.net.conn {
            conn.nonce = nonce;
            conn.phase = Phase::Anonymous;
        }
        self.advance_session();
    }

    /// Starts whatever a connection that knows its nonce can do next.
    pub(super) fn advance_session(&mut self) {
        if self.phase() != Some(Phase::Anonymous) {
            return;
        }
        if self.auth.is_some() {
            self.set_phase(Phase::Login);
            self.start_auth();
        } else if self.identity.as_ref().is_some_and(|identity| !identity.ended) {
            self.open_session();
        }
        self.ask_waiting();
    }

    /// Resumes, after a refresh if the access token has ended.
    fn open_session(&mut self) {
        let Some(tokens) = self.tokens.clone() else { return };
        let refresh =
            tokens.access_expires <= self.now.wall.plus(core::time::Duration::from_secs(60));
        if refresh { self.refresh(&tokens) } else { self.resume(&tokens) }
    }

    fn resume(&mut self, tokens: &Tokens) {
        let Some(sender) = self.me() else { return };
        let Some(signature) = self.sign_session(token::hash(&tokens.access)) else { return };
        self.set_phase(Phase::Resume);
        let state_version = self.presented_version();
        let token = tokens.access.clone();
        self.call(Call::Resume, Request::Resume { token, sender, state_version, signature });
    }

    fn refresh(&mut self, tokens: &Tokens) {
        let Some(sender) = self.me() else { return };
        let Some(signature) = self.sign_session(token::hash(&tokens.refresh)) else { return };
        self.set_phase(Phase::Refresh);
        if let Some(conn) = &mut self.net.conn {
            conn.refreshed = true;
        }
        let token = tokens.refresh.clone();
        self.call(Call::Refresh, Request::Refresh { token, sender, signature });
    }

    fn sign_session(&self, token_hash: Digest) -> Option<[u8; 64]> {
        let identity = self.identity.as_ref()?;
        self.sign_as(&identity.device_key, self.me()?, token_hash)
    }

    fn sign_as(&self, key: &DeviceKey, sender: Sender, token_hash: Digest) -> Option<[u8; 64]> {
        let conn = self.net.conn.as_ref()?;
        let binding = &conn.transport.as_ref()?.binding;
        let statement = session_statement(&conn.nonce, binding, self.server?, sender, token_hash);
        Some(key.sign(self.config.backend, &statement))
    }

    /// New tokens: stored, and used.
    pub(super) fn on_tokens(&mut self, tokens: Tokens) {
        self.gate.stage(directory::put(directory::TOKENS.to_vec(), &tokens));
        self.tokens = Some(tokens.clone());
        self.resume(&tokens);
    }

    /// The session is open.
    pub(super) fn on_session(&mut self, seen_version: u64) {
        self.set_phase(Phase::Online);
        self.net.backoff.opened(self.now.mono);
        self.note_seen(seen_version);
        if let Some(conn) = self.net.conn.as_ref().map(|conn| conn.id) {
            self.event(Event::Online { conn });
        }
        if let Some(task) = self.auth.take()
            && let Some(identity) = &self.identity
            && let Some(record) = identity.device_record()
        {
            let outcome = Outcome::Account {
                username: identity.username.clone(),
                account: record.account,
                device: record.device,
            };
            // Told once others can add this device: when its key packages are on the server.
            self.greeting = Some((task.ticket, outcome));
        }
        self.open_pushes();
        self.forget_old_keys();
        self.offer_key();
        self.begin_sync();
        self.ask_waiting();
    }

    // ---- registration and login ---------------------------------------------------------------

    fn start_auth(&mut self) {
        let Some(task) = &mut self.auth else { return };
        let username = task.username.clone();
        let password = task.password.clone();
        if task.register {
            let started = Registration::start(&mut self.entropy, password);
            let Ok((registration, request)) = started else { return self.fail_auth(UNUSABLE) };
            task.step = AuthStep::RegisterStart(registration);
            self.call(Call::RegisterStart, Request::RegisterStart { username, request });
        } else {
            let started = Login::start(&mut self.entropy, password);
            let Ok((login, ke1)) = started else { return self.fail_auth(UNUSABLE) };
            task.step = AuthStep::LoginStart(login);
            self.call(Call::LoginStart, Request::LoginStart { username, ke1 });
        }
    }

    /// The server's half of the registration.
    pub(super) fn on_register_start(&mut self, response: Bytes) {
        let (Some(task), Some(server)) = (&mut self.auth, self.server) else { return };
        let AuthStep::RegisterStart(registration) =
            core::mem::replace(&mut task.step, AuthStep::RegisterJob)
        else {
            return;
        };
        let step = RegisterStep {
            registration,
            response,
            username: task.username.clone(),
            server,
            stretching: self.config.stretching,
            entropy: self.entropy.fork(),
        };
        self.compute(Job::Client(ClientJob::Register(step)));
    }

    /// The registration is computed: makes the account and sends it.
    pub(super) fn on_register_done(&mut self, done: Option<RegisterDone>) {
        let Some(RegisterDone { upload, export_key }) = done else {
            self.fail_auth(Failed::Untrusted("the server's registration response does not hold"));
            return;
        };
        let backend = self.config.backend;
        let key = AccountKey::generate(backend, &mut self.entropy);
        let account = key.account();
        let (Some(server), Some(conn)) = (self.server, &self.net.conn) else { return };
        let nonce = conn.nonce;
        let Ok(sealed_account_key) = seal_account_key(backend, &export_key, &key) else {
            return self.fail_auth(Failed::SealedKey);
        };
        let Some(task) = &mut self.auth else { return };
        if !matches!(task.step, AuthStep::RegisterJob) {
            return;
        }
        task.step = AuthStep::RegisterFinish;
        let username = task.username.clone();
        let statement = registration_statement(&nonce, server, account, &username);
        let request = Request::RegisterFinish {
            username,
            upload,
            account,
            sealed_account_key,
            proof: key.sign(backend, &statement),
        };
        self.call(Call::RegisterFinish, request);
    }

    /// Registered: the same task now logs in.
    pub(super) fn on_registered(&mut self) {
        if let Some(task) = &mut self.auth {
            task.register = false;
        }
        self.start_auth();
    }

    /// The server's half of the login.
    pub(super) fn on_login_start(&mut self, ke2: Bytes) {
        let (device, key) = match &self.identity {
            Some(identity) => match identity.device_record() {
                Some(record) => (record.device, identity.device_key.clone()),
                None => return,
            },
            None => (
                DeviceId(self.entropy.array()),
                DeviceKey::generate(self.config.backend, &mut self.entropy),
            ),
        };
        let (Some(server), Some(conn)) = (self.server, &self.net.conn) else { return };
        let Some(transport) = &conn.transport else { return };
        let context = opaque_context(&conn.nonce, &transport.binding, server);
        let Some(task) = &mut self.auth else { return };
        let AuthStep::LoginStart(login) =
            core::mem::replace(&mut task.step, AuthStep::LoginJob { device, key })
        else {
            return;
        };
        let step = LoginStep {
            login,
            ke2,
            username: task.username.clone(),
            server,
            context,
            stretching: self.config.stretching,
        };
        self.compute(Job::Client(ClientJob::Login(step)));
    }

    /// The login is computed. A wrong password shows here: the server's answer does not open.
    pub(super) fn on_login_done(&mut self, done: Option<LoginDone>) {
        let Some(LoginDone { ke3, export_key }) = done else {
            self.fail_auth(Failed::Server {
                code: ErrorCode::LoginFailed,
                detail: ErrorCode::LoginFailed.text().into(),
            });
            return;
        };
        let Some(task) = &mut self.auth else { return };
        let AuthStep::LoginJob { device, key } =
            core::mem::replace(&mut task.step, AuthStep::Waiting)
        else {
            return;
        };
        // The account is not known yet on a new device: the proof names the device and its key alone.
        let sender = Sender { account: AccountId([0; 32]), device };
        let Some(signature) = self.sign_as(&key, sender, Digest::of(&[&ke3])) else { return };
        let device_key = key.public();
        if let Some(task) = &mut self.auth {
            task.step = AuthStep::LoginFinish { device, key, export_key };
        }
        let request = Request::LoginFinish { ke3, device, device_key, signature };
        self.call(Call::LoginFinish, request);
    }

    /// Logged in: opens the account key, makes this device's record if there is none, stores all of it.
    pub(super) fn on_logged_in(&mut self, account: AccountId, sealed: &[u8], tokens: Tokens) {
        let backend = self.config.backend;
        let Some(server) = self.server else { return };
        let Some(task) = &mut self.auth else { return };
        let AuthStep::LoginFinish { device, key, export_key } =
            core::mem::replace(&mut task.step, AuthStep::Waiting)
        else {
            return;
        };
        let username = task.username.clone();
        let account_key = match open_account_key(backend, &export_key, account, sealed) {
            Ok(account_key) => account_key,
            Err(_) => return self.fail_auth(Failed::SealedKey),
        };
        let identity = match self.identity.take() {
            Some(mut identity) => {
                if identity.account_key.account() != account {
                    self.identity = Some(identity);
                    return self.fail_auth(Failed::Untrusted(
                        "the login leads to another account than this device belongs to",
                    ));
                }
                identity.ended = false;
                identity
            }
            None => {
                let wall = self.now.wall;
                let record =
                    DeviceRecord::sign(backend, &account_key, device, key.public(), 1, wall);
                Identity {
                    username: username.clone(),
                    server,
                    account_key,
                    device_key: key,
                    record: record.encode(),
                    envelope: EnvelopeSecrets::generate(&mut self.entropy),
                    envelope_sequence: 1,
                    registered: false,
                    ended: false,
                }
            }
        };
        self.store_identity(identity);
        // A new device knows nobody yet, and an old one knows itself.
        let _ = self.learn(account, username);
        self.gate.stage(directory::put(directory::TOKENS.to_vec(), &tokens));
        self.tokens = Some(tokens);
        self.ensure_inbox();
        self.register_device_or_resume();
    }

    fn register_device_or_resume(&mut self) {
        let Some(identity) = &self.identity else { return };
        if identity.registered {
            return self.open_session();
        }
        let (Some(record), Some(sender)) = (identity.device_record(), self.me()) else { return };
        let envelope_keys = identity.envelope.publish(
            self.config.backend,
            &identity.device_key,
            sender,
            identity.envelope_sequence,
            self.now.wall,
        );
        self.set_phase(Phase::Device);
        self.call(Call::DeviceRegister, Request::DeviceRegister { record, envelope_keys });
    }

    /// The server knows this device.
    pub(super) fn on_device_registered(&mut self) {
        if let Some(mut identity) = self.identity.take() {
            identity.registered = true;
            self.store_identity(identity);
        }
        self.open_session();
    }

    pub(super) fn store_identity(&mut self, identity: Identity) {
        self.gate.stage(directory::put(directory::IDENTITY.to_vec(), &identity));
        self.identity = Some(identity);
    }

    /// A step of the handshake was refused.
    pub(super) fn on_session_refused(&mut self, call: &Call, failure: &Failure) {
        let code = failure.code;
        let retried_taken = *call == Call::RegisterFinish
            && matches!(code, ErrorCode::UsernameTaken)
            && self.auth.as_ref().is_some_and(|task| task.register_sent);
        match call {
            Call::RegisterStart | Call::RegisterFinish if retried_taken => self.on_registered(),
            Call::RegisterStart | Call::RegisterFinish | Call::LoginStart | Call::LoginFinish => {
                self.fail_auth(Failed::from(failure));
            }
            Call::Resume
                if matches!(code, ErrorCode::TokenExpired | ErrorCode::TokenInvalid)
                    && self.auth.is_none()
                    && self.net.conn.as_ref().is_some_and(|conn| !conn.refreshed) =>
            {
                if let Some(tokens) = self.tokens.clone() {
                    self.refresh(&tokens);
                }
            }
            Call::Resume | Call::Refresh
                if code == ErrorCode::ProofInvalid && self.try_next_key() =>
            {
                match self.tokens.clone() {
                    Some(tokens) if *call == Call::Refresh => self.refresh(&tokens),
                    Some(tokens) => self.resume(&tokens),
                    None => {}
                }
            }
            _ if matches!(
                code,
                ErrorCode::Unavailable | ErrorCode::Busy | ErrorCode::ShuttingDown
            ) =>
            {
                self.drop_connection(code.text().into());
            }
            _ => {
                // A server forgets tokens that have ended: to it they are unknown.
                let ended = |tokens: &Tokens| tokens.refresh_expires <= self.now.wall;
                let expired = *call == Call::Refresh && self.tokens.as_ref().is_some_and(ended);
                self.end_session(if expired { ErrorCode::TokenExpired } else { code });
            }
        }
    }

    /// Logged out, or the account is gone: nothing more happens here until a login.
    pub(super) fn end_quietly(&mut self) {
        if let Some(mut identity) = self.identity.take() {
            identity.ended = true;
            self.store_identity(identity);
        }
        self.greet();
        self.tokens = None;
        self.void_calls();
        self.interrupt_transfers();
        for channel in self.channels.values_mut() {
            channel.disconnected();
        }
        self.synced = false;
        self.gate.stage(Op::Delete(directory::TOKENS.to_vec()));
        self.set_phase(Phase::Anonymous);
    }

    /// The session is over for good: only a login can open another.
    pub(super) fn end_session(&mut self, code: ErrorCode) {
        self.end_quietly();
        let failed = Failed::Server { code, detail: code.text().into() };
        if let Some(task) = self.auth.take() {
            self.event(Event::Failed(task.ticket, failed.clone()));
        }
        self.fail_asks(&failed);
        self.event(Event::SessionEnded(code));
    }

    fn fail_auth(&mut self, failed: Failed) {
        if let Some(task) = self.auth.take() {
            self.event(Event::Failed(task.ticket, failed));
        }
        self.set_phase(Phase::Anonymous);
    }

    /// A task that was interrupted starts over with the next connection.
    pub(super) fn rewind_auth(&mut self) {
        if let Some(task) = &mut self.auth {
            task.register_sent |= matches!(task.step, AuthStep::RegisterFinish);
            task.step = AuthStep::Waiting;
        }
    }

    /// Replies of the handshake.
    pub(super) fn on_session_reply(&mut self, call: Call, reply: Reply) -> Result<(), WrongReply> {
        match (call, reply) {
            (Call::Hello, Reply::Hello { nonce, server, .. }) => self.on_hello(nonce, server),
            (Call::RegisterStart, Reply::RegisterStart { response }) => {
                self.on_register_start(response);
            }
            (Call::RegisterFinish, Reply::Done) => self.on_registered(),
            (Call::LoginStart, Reply::LoginStart { ke2 }) => self.on_login_start(ke2),
            (Call::LoginFinish, Reply::LoginFinish { account, sealed_account_key, tokens }) => {
                self.on_logged_in(account, &sealed_account_key, tokens);
            }
            (Call::DeviceRegister, Reply::Done) => self.on_device_registered(),
            (Call::Refresh, Reply::Tokens(tokens)) => self.on_tokens(tokens),
            (Call::Resume, Reply::Session { state_version, .. }) => self.on_session(state_version),
            _ => return Err(WrongReply),
        }
        Ok(())
    }
}
