//! The slow steps of a server, as values.

use core::fmt;

use bytes::Bytes;

use crate::auth::opaque::{OpaqueError, SessionKey};
use crate::auth::server::{LoginState, OpaqueServer};
use crate::crypto::Backend;
use crate::env::{Entropy, UnixMillis};
use crate::id::{GroupId, Sender, ServerId};
use crate::mls::MlsError;
use crate::mls::key_package::{self, CheckedKeyPackage};
use crate::mls::public::{CheckedCommit, PublicState};
use crate::server::op::Member;
use crate::store::batch::Records;
use crate::wire::message::Username;

/// A slow step of a server.
#[expect(missing_docs, reason = "a variant names its fields; the line above it says what they are")]
#[non_exhaustive]
pub enum ServerJob {
    /// OPAQUE registration, first step.
    RegisterStart { opaque: OpaqueServer, username: Username, request: Bytes },
    /// OPAQUE registration, last step; and the account key's signature over the statement.
    RegisterFinish {
        backend: Backend,
        upload: Bytes,
        account: [u8; 32],
        statement: Vec<u8>,
        proof: [u8; 64],
    },
    /// OPAQUE login, first step.
    LoginStart {
        opaque: OpaqueServer,
        record: Option<Bytes>,
        username: Username,
        server: ServerId,
        ke1: Bytes,
        context: Vec<u8>,
        entropy: Entropy,
    },
    /// OPAQUE login, last step.
    LoginFinish { state: LoginState, ke3: Bytes },
    /// Checks key packages; the last-resort one, if any, comes last.
    KeyPackages { backend: Backend, packages: Vec<Bytes>, wall: UnixMillis },
    /// Checks a new group.
    Create { backend: Backend, id: GroupId, creator: Member, group_info: Bytes, tree: Bytes },
    /// Checks a group that is to follow the one with these records.
    Reset {
        backend: Backend,
        records: Records,
        id: GroupId,
        founder: Member,
        group_info: Bytes,
        tree: Bytes,
    },
    /// Reads a group's public state.
    Restore { backend: Backend, records: Records },
    /// Checks a proposal.
    Propose { state: Box<PublicState>, sender: Sender, payload: Bytes, wall: UnixMillis },
    /// Checks a commit bundle.
    Commit {
        state: Box<PublicState>,
        sender: Sender,
        commit: Bytes,
        welcome: Option<Bytes>,
        group_info: Bytes,
    },
    /// Encodes a group's tree.
    Tree { state: Box<PublicState> },
}

/// What it came to.
#[expect(missing_docs, reason = "named as in `ServerJob`")]
#[non_exhaustive]
pub enum ServerJobOutput {
    RegisterStart(Result<Bytes, OpaqueError>),
    RegisterFinish(Result<Bytes, RegisterError>),
    LoginStart(Result<(LoginState, Bytes), OpaqueError>),
    LoginFinish(Result<SessionKey, OpaqueError>),
    KeyPackages(Result<Vec<(CheckedKeyPackage, Bytes)>, MlsError>),
    Create(Result<Box<PublicState>, MlsError>),
    /// With who was in the group before.
    Reset(Result<(Vec<Sender>, Box<PublicState>), MlsError>),
    Restore(Result<Box<PublicState>, MlsError>),
    Propose(Box<PublicState>, Result<Option<Member>, MlsError>),
    Commit(Box<PublicState>, Result<CheckedCommit, MlsError>),
    Tree(Box<PublicState>, Result<Vec<u8>, MlsError>),
}

/// Why a registration cannot be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The upload is malformed.
    Upload,
    /// The account key did not sign this registration.
    Proof,
}

// What is inside is worth guessing at (a password file) or large: a log line gets the name.
impl fmt::Debug for ServerJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RegisterStart { .. } => "RegisterStart(…)",
            Self::RegisterFinish { .. } => "RegisterFinish(…)",
            Self::LoginStart { .. } => "LoginStart(…)",
            Self::LoginFinish { .. } => "LoginFinish(…)",
            Self::KeyPackages { .. } => "KeyPackages(…)",
            Self::Create { .. } => "Create(…)",
            Self::Reset { .. } => "Reset(…)",
            Self::Restore { .. } => "Restore(…)",
            Self::Propose { .. } => "Propose(…)",
            Self::Commit { .. } => "Commit(…)",
            Self::Tree { .. } => "Tree(…)",
        })
    }
}

impl fmt::Debug for ServerJobOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn told<T, E: fmt::Debug>(
            f: &mut fmt::Formatter<'_>,
            name: &str,
            result: &Result<T, E>,
        ) -> fmt::Result {
            match result {
                Ok(_) => write!(f, "{name}(Ok)"),
                Err(error) => write!(f, "{name}(Err({error:?}))"),
            }
        }
        match self {
            Self::RegisterStart(result) => told(f, "RegisterStart", result),
            Self::RegisterFinish(result) => told(f, "RegisterFinish", result),
            Self::LoginStart(result) => told(f, "LoginStart", result),
            Self::LoginFinish(result) => told(f, "LoginFinish", result),
            Self::KeyPackages(result) => told(f, "KeyPackages", result),
            Self::Create(result) => told(f, "Create", result),
            Self::Reset(result) => told(f, "Reset", result),
            Self::Restore(result) => told(f, "Restore", result),
            Self::Propose(_, result) => told(f, "Propose", result),
            Self::Commit(_, result) => told(f, "Commit", result),
            Self::Tree(_, result) => told(f, "Tree", result),
        }
    }
}

impl ServerJob {
    /// Does the work.
    pub fn run(self) -> ServerJobOutput {
        use ServerJobOutput as Out;
        match self {
            Self::RegisterStart { opaque, username, request } => {
                Out::RegisterStart(opaque.register_start(&username, &request))
            }
            Self::RegisterFinish { backend, upload, account, statement, proof } => {
                let signed = backend.ed25519_verify(&account, &statement, &proof);
                Out::RegisterFinish(signed.map_err(|_| RegisterError::Proof).and_then(|()| {
                    OpaqueServer::register_finish(&upload).map_err(|_| RegisterError::Upload)
                }))
            }
            Self::LoginStart { opaque, record, username, server, ke1, context, mut entropy } => {
                let record = record.as_deref();
                Out::LoginStart(opaque.login_start(
                    record,
                    &username,
                    server,
                    &ke1,
                    &context,
                    &mut entropy,
                ))
            }
            Self::LoginFinish { state, ke3 } => Out::LoginFinish(state.finish(&ke3)),
            Self::KeyPackages { backend, packages, wall } => {
                let check =
                    |package: Bytes| Ok((key_package::check(backend, &package, wall)?, package));
                Out::KeyPackages(packages.into_iter().map(check).collect())
            }
            Self::Create { backend, id, creator, group_info, tree } => {
                let state = PublicState::create(backend, id, &creator, &group_info, &tree);
                Out::Create(state.map(Box::new))
            }
            Self::Reset { backend, records, id, founder, group_info, tree } => {
                let followed = PublicState::restore(backend, records).and_then(|before| {
                    let next = before.successor(id, &founder, &group_info, &tree)?;
                    let members = before.members().into_iter().map(|member| member.sender);
                    Ok((members.collect(), Box::new(next)))
                });
                Out::Reset(followed)
            }
            Self::Restore { backend, records } => {
                Out::Restore(PublicState::restore(backend, records).map(Box::new))
            }
            Self::Propose { mut state, sender, payload, wall } => {
                let result = state.propose(sender, &payload, wall);
                Out::Propose(state, result)
            }
            Self::Commit { mut state, sender, commit, welcome, group_info } => {
                let result = state.commit(sender, &commit, welcome.as_deref(), &group_info);
                Out::Commit(state, result)
            }
            Self::Tree { state } => {
                let tree = state.tree();
                Out::Tree(state, tree)
            }
        }
    }
}
