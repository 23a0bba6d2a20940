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
//! | `Resume` of a login | the same | another connection, and the login again |
//! | any | refused for good | `Anonymous`, and an event says why |
//!
//! A session stands for longer than its tokens live. They are renewed within it, so that the next one can be opened.

use core::time::Duration;

use super::directory::{self, Identity};
use super::event::{Event, Failed, Outcome};
use super::net::Call;
use super::{Client, WrongReply};
use crate::auth::device::session_statement;
use crate::auth::token;
use crate::crypto::identity::DeviceKey;
use crate::env::UnixMillis;
use crate::error::{CloseCode, ErrorCode};
use crate::id::{Digest, Sender, ServerId};
use crate::limits::REFRESH_TOKEN_TIME;
use crate::store::batch::Op;
use crate::wire::message::{Failure, Reply, Request, Tokens};

/// An access token that ends within this time opens nothing any more.
const SOON: Duration = Duration::from_secs(60);

/// How often tokens are renewed within a session at the most.
const RENEWED_AT_MOST: Duration = Duration::from_secs(60 * 60);

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

impl Client {
    /// The server's hello: remembers the nonce, checks who it is, and goes on with what there is to do.
    pub(super) fn on_hello(&mut self, nonce: [u8; 32], server: ServerId, time: UnixMillis) {
        if let Some(identity) = &self.identity
            && identity.server != server
        {
            self.give_up("the server is not the one this device belongs to".into());
            return;
        }
        self.server = Some(server);
        if let Some(conn) = &mut self.net.conn {
            conn.nonce = nonce;
            conn.greeted = Some((time, self.now.mono));
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
    pub(super) fn open_session(&mut self) {
        let Some(tokens) = self.tokens.clone() else { return };
        let refresh = tokens.access_expires <= self.server_time().plus(SOON);
        if refresh { self.refresh(&tokens) } else { self.resume(&tokens) }
    }

    /// What the server's calendar shows, which its tokens end by.
    fn server_time(&self) -> UnixMillis {
        let greeted = self.net.conn.as_ref().and_then(|conn| conn.greeted);
        greeted.map_or(self.now.wall, |(time, at)| time.plus(self.now.mono.saturating_sub(at)))
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
        let Some(request) = self.refresh_of(tokens) else { return };
        self.set_phase(Phase::Refresh);
        if let Some(conn) = &mut self.net.conn {
            conn.refreshed = true;
        }
        self.call(Call::Refresh, request);
    }

    fn refresh_of(&self, tokens: &Tokens) -> Option<Request> {
        let (sender, token) = (self.me()?, tokens.refresh.clone());
        let signature = self.sign_session(token::hash(&token))?;
        Some(Request::Refresh { token, sender, signature })
    }

    fn sign_session(&self, token_hash: Digest) -> Option<[u8; 64]> {
        self.sign_as(self.session_key()?, self.me()?, token_hash)
    }

    pub(super) fn sign_as(
        &self,
        key: &DeviceKey,
        sender: Sender,
        token_hash: Digest,
    ) -> Option<[u8; 64]> {
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

    /// When half of what is left of their life is over, tokens are renewed: whoever was connected for long can be away
    /// as long as that afterwards.
    pub(super) fn plan_renewal(&mut self) {
        let left = self.tokens.as_ref().map(|of| of.refresh_expires.since(self.server_time()));
        let wait = left.map(|left| (left.min(REFRESH_TOKEN_TIME) / 2).max(RENEWED_AT_MOST));
        let mono = self.now.mono;
        if let Some(conn) = &mut self.net.conn {
            conn.renew_at = wait.map(|wait| mono + wait);
        }
    }

    /// Renews the tokens within the session, if it is time.
    pub(super) fn check_tokens(&mut self) {
        let mono = self.now.mono;
        let Some(conn) = self.net.conn.as_mut().filter(|conn| conn.online()) else { return };
        if conn.renew_at.take_if(|at| *at <= mono).is_none() {
            return;
        }
        let request = self.tokens.as_ref().and_then(|tokens| self.refresh_of(tokens));
        if let Some(request) = request {
            self.call(Call::Renew, request);
        }
    }

    /// Tokens for the next session. Of what came too late the server keeps the same for whoever asks again.
    pub(super) fn on_renewed(&mut self, tokens: Tokens) {
        if self.phase() == Some(Phase::Online) {
            self.gate.stage(directory::put(directory::TOKENS.to_vec(), &tokens));
            self.tokens = Some(tokens);
            self.plan_renewal();
        }
    }

    /// The session is open.
    pub(super) fn on_session(&mut self, seen_version: u64) {
        self.set_phase(Phase::Online);
        self.plan_renewal();
        self.net.backoff.opened(self.now.mono);
        self.note_seen(seen_version);
        if let Some(conn) = self.net.conn.as_ref().map(|conn| conn.id) {
            self.event(Event::Online { conn });
        }
        self.on_tried();
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
        self.offer_key();
        self.begin_sync();
        self.ask_waiting();
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
                    // What a login brought is of the key that it proved: it begins again, with the new one.
                    _ if self.auth.is_some() => {
                        self.close_connection(CloseCode::DONE);
                        self.connect_soon();
                    }
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
                if *call == Call::DeviceRegister {
                    self.on_tried_refused(failure);
                }
                // A server forgets tokens that have ended: to it they are unknown.
                let ended = |tokens: &Tokens| tokens.refresh_expires <= self.server_time();
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

    /// Replies of the handshake.
    pub(super) fn on_session_reply(&mut self, call: Call, reply: Reply) -> Result<(), WrongReply> {
        match (call, reply) {
            (Call::Hello, Reply::Hello { nonce, server, time }) => {
                self.on_hello(nonce, server, time);
            }
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
