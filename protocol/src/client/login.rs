//! Registration and login: the steps of OPAQUE, the account key under its export key, the record of a new device.

use bytes::Bytes;

use super::Client;
use super::directory::{self, Identity};
use super::event::{Event, Failed};
use super::job::{ClientJob, LoginDone, LoginStep, RegisterDone, RegisterStep};
use super::net::Call;
use super::session::Phase;
use crate::auth::client::{Login, Password, Registration, open_account_key, seal_account_key};
use crate::auth::device::{opaque_context, registration_statement};
use crate::auth::opaque::ExportKey;
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord};
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Digest, Sender};
use crate::io::Ticket;
use crate::job::Job;
use crate::wire::message::{Request, Tokens, Username};

/// The password cannot be used with OPAQUE: it hashes to the neutral element, which nobody ever sees.
const UNUSABLE: Failed = Failed::Obsolete("this password cannot be used");

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
    pub(super) fn start_auth(&mut self) {
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
                Some(record) => match self.session_key() {
                    Some(key) => (record.device, key.clone()),
                    None => return,
                },
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
                self.begin_envelopes();
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
        if let Some(request) = self.tried_registration() {
            self.set_phase(Phase::Device);
            return self.call(Call::DeviceRegister, request);
        }
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
        self.on_tried();
        self.open_session();
    }

    /// The command failed; a session that this device had before goes on.
    pub(super) fn fail_auth(&mut self, failed: Failed) {
        if let Some(task) = self.auth.take() {
            self.event(Event::Failed(task.ticket, failed));
        }
        self.set_phase(Phase::Anonymous);
        self.advance_session();
    }

    /// A task that was interrupted starts over with the next connection.
    pub(super) fn rewind_auth(&mut self) {
        if let Some(task) = &mut self.auth {
            task.register_sent |= matches!(task.step, AuthStep::RegisterFinish);
            task.step = AuthStep::Waiting;
        }
    }
}
