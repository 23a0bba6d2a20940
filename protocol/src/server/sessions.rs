//! Logins, tokens, and the session of a connection.

use bytes::Bytes;

use super::Server;
use super::connection::{Auth, Call, Peer};
use super::job::ServerJob;
use super::stored::{Step, Task};
use super::timers::Timer;
use crate::auth::budget::Admitted;
use crate::auth::device::{opaque_context, session_statement};
use crate::auth::opaque::{OpaqueError, SessionKey};
use crate::auth::server::LoginState;
use crate::auth::token::{self, Claims, TokenError};
use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, DeviceId, Digest, Sender};
use crate::io::ConnId;
use crate::limits;
use crate::server::audit::AuditKind;
use crate::server::op::{StoreOp, StoreReply};
use crate::wire::message::{Reply, Token, Tokens, Username};

/// A login between its two steps, or on the way through one.
#[derive(Debug)]
pub(super) struct PendingLogin {
    /// `None` while its first step is computed.
    state: Option<LoginState>,
    admitted: Admitted,
    /// The account and its sealed key; `None` for an unknown username, which takes the same way up to the end.
    account: Option<(AccountId, Bytes)>,
}

/// A device's signature over [`session_statement`], to be checked once the key is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    sender: Sender,
    /// Presented with it (a login), else looked up.
    device_key: [u8; 32],
    token_hash: Digest,
    signature: [u8; 64],
}

/// A login that went through but for its tokens.
#[derive(Debug)]
pub(super) struct LoginDone {
    peer: Peer,
    sealed_account_key: Bytes,
    issue: Issue,
    admitted: Admitted,
}

/// Tokens to be issued once the refresh token is stored.
#[derive(Debug)]
pub(super) struct Issue {
    refresh: Token,
    at: UnixMillis,
}

/// A session about to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resuming {
    proof: Proof,
    claims: Claims,
    state_version: u64,
}

impl Server {
    pub(super) fn hello(&mut self, call: Call) {
        let Some(connection) = self.conns.get_mut(&call.conn) else { return };
        let nonce = *connection.nonce.get_or_insert_with(|| self.entropy.array());
        let reply = Reply::Hello { nonce, server: self.id(), time: self.now.wall };
        self.reply(call, reply);
    }

    /// The nonce of a connection; without `Hello` before it, the call is refused.
    pub(super) fn nonce(&mut self, call: Call) -> Option<[u8; 32]> {
        let nonce = self.conns.get(&call.conn)?.nonce;
        if nonce.is_none() {
            self.fail_with(call, ErrorCode::BadRequest, "say hello first");
        }
        nonce
    }

    pub(super) fn login_start(&mut self, call: Call, username: Username, ke1: Bytes) {
        if self.nonce(call).is_some()
            && let Some(admitted) = self.admit_login(call, &username)
        {
            let op = StoreOp::FindAccount { username: username.clone() };
            self.store(Step::LoginFind(call, admitted, username, ke1), op);
        }
    }

    pub(super) fn login_found(
        &mut self,
        call: Call,
        admitted: Admitted,
        username: Username,
        ke1: Bytes,
        reply: StoreReply,
    ) {
        let StoreReply::Account(row) = reply else { return self.unavailable(call) };
        let Some(connection) = self.conns.get(&call.conn) else { return };
        let Some(nonce) = connection.nonce else { return };
        let server = self.id();
        let context = opaque_context(&nonce, &connection.transport.binding, server);
        let (record, account) = match row {
            Some(row) => (Some(row.opaque_record), Some((row.account, row.sealed_account_key))),
            None => (None, None),
        };
        let login = PendingLogin { state: None, admitted, account };
        let job = ServerJob::LoginStart {
            opaque: self.opaque.clone(),
            record,
            username,
            server,
            ke1,
            context,
            entropy: self.entropy.fork(),
        };
        if !self.compute(Task::LoginStart(call, Box::new(login)), job) {
            self.too_busy(call);
        }
    }

    pub(super) fn login_started(
        &mut self,
        call: Call,
        mut login: PendingLogin,
        result: Result<(LoginState, Bytes), OpaqueError>,
    ) {
        let Some(connection) = self.conns.get_mut(&call.conn) else { return };
        match result {
            Ok((state, ke2)) => {
                login.state = Some(state);
                connection.login = Some(login);
                self.reply(call, Reply::LoginStart { ke2 });
            }
            Err(OpaqueError::Malformed) => self.fail(call, ErrorCode::BadRequest),
            Err(_) => self.unavailable(call),
        }
    }

    pub(super) fn login_finish(
        &mut self,
        call: Call,
        ke3: Bytes,
        device: DeviceId,
        device_key: [u8; 32],
        signature: [u8; 64],
    ) {
        let Some(connection) = self.conns.get_mut(&call.conn) else { return };
        let login = connection.login.take();
        let Some((login, state)) = login.and_then(|mut login| {
            let state = login.state.take()?;
            Some((login, state))
        }) else {
            return self.fail_with(call, ErrorCode::BadRequest, "no login under way");
        };
        // A new device does not know its account yet, so the statement names none.
        let sender = Sender { account: AccountId([0; 32]), device };
        let proof = Proof { sender, device_key, token_hash: Digest::of(&[&ke3]), signature };
        let job = ServerJob::LoginFinish { state, ke3 };
        if !self.compute(Task::LoginFinish(call, Box::new(login), proof), job) {
            self.too_busy(call);
        }
    }

    pub(super) fn login_checked(
        &mut self,
        call: Call,
        login: PendingLogin,
        proof: Proof,
        result: Result<SessionKey, OpaqueError>,
    ) {
        let (Ok(_), Some((account, sealed_account_key))) = (result, login.account) else {
            self.audit(AuditKind::Login, Some(call.conn), None, Some(ErrorCode::LoginFailed));
            return self.fail(call, ErrorCode::LoginFailed);
        };
        let sender = Sender { account, device: proof.sender.device };
        if !self.proves(call.conn, &proof, &proof.device_key) {
            let error = Some(ErrorCode::ProofInvalid);
            self.audit_as(AuditKind::Login, Some(account), Some(sender), None, error);
            return self.fail(call, ErrorCode::ProofInvalid);
        }
        let peer = Peer { sender, device_key: proof.device_key };
        let issue = Issue { refresh: token::refresh(&mut self.entropy), at: self.now.wall };
        let op = StoreOp::PutRefresh {
            sender: peer.sender,
            device_key: peer.device_key,
            hash: token::hash(&issue.refresh),
            expires: issue.at.plus(self.config.refresh_token_time),
        };
        let done = LoginDone { peer, sealed_account_key, issue, admitted: login.admitted };
        self.store(Step::LoginTokens(call, Box::new(done)), op);
    }

    pub(super) fn logged_in(&mut self, call: Call, done: LoginDone, reply: StoreReply) {
        let LoginDone { peer, sealed_account_key, issue, admitted } = done;
        let account = peer.sender.account;
        let StoreReply::TokensFrom(from) = reply else {
            return self.refusal(call, Some(AuditKind::Login), None, &reply);
        };
        let tokens = self.issue(peer.sender, issue, from);
        self.admission.succeeded(admitted);
        self.audit_as(AuditKind::Login, Some(account), Some(peer.sender), None, None);
        if let Some(connection) = self.conns.get_mut(&call.conn)
            && !matches!(connection.auth, Auth::Session(_))
        {
            connection.auth = Auth::Login(peer);
        }
        self.reply(call, Reply::LoginFinish { account, sealed_account_key, tokens });
    }

    pub(super) fn resume(
        &mut self,
        call: Call,
        presented: &Token,
        sender: Sender,
        state_version: u64,
        signature: [u8; 64],
    ) {
        if self.nonce(call).is_none() {
            return;
        }
        if self.peer(call.conn).is_some() {
            return self.fail_with(call, ErrorCode::BadRequest, "the session is open");
        }
        let claims = match self.token_key.verify(presented, self.now.wall) {
            Ok(claims) if claims.sender == sender => claims,
            Ok(_) | Err(TokenError::Invalid) => {
                return self.deny(call, AuditKind::Session, sender, ErrorCode::TokenInvalid);
            }
            Err(TokenError::Expired) => {
                return self.deny(call, AuditKind::Session, sender, ErrorCode::TokenExpired);
            }
        };
        let token_hash = token::hash(presented);
        let proof = Proof { sender, device_key: [0; 32], token_hash, signature };
        let resuming = Resuming { proof, claims, state_version };
        // Version 0 raises nothing: whoever stole a token must not move the device's own mark before the
        // signature is seen to be the device's.
        let op = self.open_session(&resuming, 0);
        self.store(Step::ResumeRead(call, resuming), op);
    }

    fn open_session(&self, resuming: &Resuming, state_version: u64) -> StoreOp {
        let Claims { sender, issued, .. } = resuming.claims;
        StoreOp::OpenSession { sender, issued, state_version, at: self.now.wall }
    }

    pub(super) fn resume_read(&mut self, call: Call, mut resuming: Resuming, reply: StoreReply) {
        let sender = resuming.proof.sender;
        let StoreReply::Session { record, .. } = &reply else {
            return self.session_refused(call, sender, &reply);
        };
        if !self.proves(call.conn, &resuming.proof, &record.device_key) {
            return self.deny(call, AuditKind::Session, sender, ErrorCode::ProofInvalid);
        }
        resuming.proof.device_key = record.device_key;
        if resuming.state_version == 0 {
            return self.resumed(call, &resuming, reply);
        }
        let op = self.open_session(&resuming, resuming.state_version);
        self.store(Step::ResumeOpen(call, resuming), op);
    }

    pub(super) fn resumed(&mut self, call: Call, resuming: &Resuming, reply: StoreReply) {
        let sender = resuming.proof.sender;
        let StoreReply::Session { username, record, state_version } = reply else {
            return self.session_refused(call, sender, &reply);
        };
        if record.device_key != resuming.proof.device_key {
            return self.deny(call, AuditKind::Session, sender, ErrorCode::ProofInvalid);
        }
        let Some(connection) = self.conns.get_mut(&call.conn) else { return };
        if matches!(connection.auth, Auth::Session(_)) {
            return self.fail_with(call, ErrorCode::BadRequest, "the session is open");
        }
        connection.auth = Auth::Session(Peer { sender, device_key: record.device_key });
        connection.login = None;
        if let Some(timer) = connection.handshake.take() {
            self.timers.cancel(timer);
        }
        self.sessions.entry(sender).or_default().insert(call.conn);
        self.audit(AuditKind::Session, Some(call.conn), None, None);
        let time = self.now.wall;
        let token_expires = resuming.claims.expires;
        self.reply(call, Reply::Session { username, state_version, time, token_expires });
    }

    fn session_refused(&mut self, call: Call, sender: Sender, reply: &StoreReply) {
        match *reply {
            StoreReply::Refused { code, .. } => self.deny(call, AuditKind::Session, sender, code),
            _ => self.unavailable(call),
        }
    }

    pub(super) fn refresh(
        &mut self,
        call: Call,
        presented: &Token,
        sender: Sender,
        signature: [u8; 64],
    ) {
        if self.nonce(call).is_none() {
            return;
        }
        let Ok(hash) = token::refresh_hash(presented) else {
            return self.deny(call, AuditKind::Refresh, sender, ErrorCode::TokenInvalid);
        };
        let proof = Proof { sender, device_key: [0; 32], token_hash: hash, signature };
        let next = self.successor(presented);
        let op = StoreOp::FindRefresh { sender, hash, at: self.now.wall };
        self.store(Step::RefreshFind(call, proof, next), op);
    }

    /// The one refresh token that a refresh token buys. It is derived, so that a device whose answer was lost gets the
    /// same again with the token that it still has, until it uses the new one.
    fn successor(&self, old: &Token) -> Token {
        let random = self.config.backend.hmac_sha256(&*self.refresh_key, &[&old.0]);
        token::refresh_from(&random)
    }

    pub(super) fn refresh_found(
        &mut self,
        call: Call,
        proof: Proof,
        next: Token,
        reply: StoreReply,
    ) {
        if reply == StoreReply::refused(ErrorCode::TokenInvalid) {
            let (sender, hash) = (proof.sender, token::hash(&next));
            let op = StoreOp::FindRefresh { sender, hash, at: self.now.wall };
            return self.store(Step::RefreshAgain(call, proof, next), op);
        }
        self.rotate(call, proof, proof.token_hash, next, &reply);
    }

    pub(super) fn refresh_again(
        &mut self,
        call: Call,
        proof: Proof,
        next: Token,
        reply: StoreReply,
    ) {
        self.rotate(call, proof, token::hash(&next), next, &reply);
    }

    /// Puts `next` in the place of the token that the store has, if the device proves itself.
    fn rotate(&mut self, call: Call, proof: Proof, old: Digest, next: Token, reply: &StoreReply) {
        let sender = proof.sender;
        let device_key = match *reply {
            StoreReply::RefreshKey(key) => key,
            StoreReply::Refused { code, .. } => {
                return self.deny(call, AuditKind::Refresh, sender, code);
            }
            _ => return self.unavailable(call),
        };
        if !self.proves(call.conn, &proof, &device_key) {
            return self.deny(call, AuditKind::Refresh, sender, ErrorCode::ProofInvalid);
        }
        self.rotate_from(call, sender, old, Issue { refresh: next, at: self.now.wall });
    }

    fn rotate_from(&mut self, call: Call, sender: Sender, old: Digest, issue: Issue) {
        let op = StoreOp::RotateRefresh {
            sender,
            old,
            new: token::hash(&issue.refresh),
            expires: issue.at.plus(self.config.refresh_token_time),
            at: issue.at,
        };
        self.store(Step::RefreshRotate(call, sender, old, issue), op);
    }

    pub(super) fn refreshed(
        &mut self,
        call: Call,
        sender: Sender,
        old: Digest,
        issue: Issue,
        reply: StoreReply,
    ) {
        let next = token::hash(&issue.refresh);
        match reply {
            StoreReply::TokensFrom(from) => {
                let tokens = self.issue(sender, issue, from);
                let account = Some(sender.account);
                self.audit_as(AuditKind::Refresh, account, Some(sender), None, None);
                self.reply(call, Reply::Tokens(tokens));
            }
            // The same device, on a connection that it has given up since, was first.
            StoreReply::Refused { code: ErrorCode::TokenInvalid, .. } if old != next => {
                self.rotate_from(call, sender, next, issue);
            }
            StoreReply::Refused { code, .. } => {
                self.deny(call, AuditKind::Refresh, sender, code);
            }
            _ => self.unavailable(call),
        }
    }

    pub(super) fn logout(&mut self, call: Call, sender: Sender) {
        let op = StoreOp::EndTokens { sender, at: self.now.wall };
        self.store(Step::Logout(call, sender), op);
    }

    pub(super) fn logged_out(&mut self, call: Call, sender: Sender, reply: StoreReply) {
        if reply != StoreReply::Done {
            return self.refusal(call, Some(AuditKind::Logout), None, &reply);
        }
        self.audit_as(AuditKind::Logout, Some(sender.account), Some(sender), None, None);
        self.end_sessions(sender, Some(call.conn));
        self.close_session(call.conn);
        self.reply(call, Reply::Done);
    }

    /// The session of a connection ends by its own wish: what it had subscribed goes, and another session has to
    /// be proved in time.
    pub(super) fn close_session(&mut self, conn: ConnId) {
        self.leave_session(conn);
        self.end_subscriptions(conn);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.low = None;
        if connection.handshake.is_none() {
            let deadline = self.now.mono + limits::HANDSHAKE_TIME;
            connection.handshake = Some(self.timers.set(deadline, Timer::Handshake(conn)));
        }
        for call in self.polls_of(conn) {
            self.poll_over(call);
        }
    }

    /// Whether the device signed the session of this connection.
    fn proves(&self, conn: ConnId, proof: &Proof, device_key: &[u8; 32]) -> bool {
        let Some(connection) = self.conns.get(&conn) else { return false };
        let Some(nonce) = connection.nonce else { return false };
        let binding = &connection.transport.binding;
        let statement =
            session_statement(&nonce, binding, self.id(), proof.sender, proof.token_hash);
        self.config.backend.ed25519_verify(device_key, &statement, &proof.signature).is_ok()
    }

    /// Fresh tokens for a device whose refresh token is stored. The access token is dated behind those that a logout
    /// has ended, also within the same millisecond and by a clock that was set back since.
    fn issue(&mut self, sender: Sender, issue: Issue, from: UnixMillis) -> Tokens {
        let Issue { refresh, at } = issue;
        let refresh_expires = at.plus(self.config.refresh_token_time);
        let (at, life) = (at.max(from), self.config.access_token_time);
        let (access, access_expires) = self.token_key.issue(sender, at, life, &mut self.entropy);
        Tokens { access, access_expires, refresh, refresh_expires }
    }

    /// Refuses a call of somebody who says to be that device.
    fn deny(&mut self, call: Call, kind: AuditKind, sender: Sender, code: ErrorCode) {
        self.audit_as(kind, Some(sender.account), Some(sender), None, Some(code));
        self.fail(call, code);
    }
}
