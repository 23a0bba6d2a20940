//! The slow steps of a client, as values.

use bytes::Bytes;

use super::Stretching;
use crate::auth::client::{Login, Registration};
use crate::auth::opaque::ExportKey;
use crate::env::Entropy;
use crate::id::ServerId;
use crate::wire::message::Username;

/// A slow step of a client.
#[derive(Debug)]
pub enum ClientJob {
    /// The last step of an OPAQUE registration: stretches the password.
    Register(RegisterStep),
    /// The last step of an OPAQUE login: stretches the password.
    Login(LoginStep),
}

/// What it came to.
#[derive(Debug)]
pub enum ClientJobOutput {
    /// `None`: the server's response does not hold.
    Register(Option<RegisterDone>),
    /// `None`: wrong password, unknown user, or a server that lies.
    Login(Option<LoginDone>),
}

/// See [`ClientJob::Register`].
pub struct RegisterStep {
    pub(super) registration: Registration,
    pub(super) response: Bytes,
    pub(super) username: Username,
    pub(super) server: ServerId,
    pub(super) stretching: Stretching,
    pub(super) entropy: Entropy,
}

/// See [`ClientJob::Login`].
pub struct LoginStep {
    pub(super) login: Login,
    pub(super) ke2: Bytes,
    pub(super) username: Username,
    pub(super) server: ServerId,
    pub(super) context: Vec<u8>,
    pub(super) stretching: Stretching,
}

/// The outcome of a registration step.
pub struct RegisterDone {
    pub(super) upload: Bytes,
    pub(super) export_key: ExportKey,
}

/// The outcome of a login step.
pub struct LoginDone {
    pub(super) ke3: Bytes,
    pub(super) export_key: ExportKey,
}

macro_rules! redacted {
    ($($name:ident),*) => {
        $(
            impl core::fmt::Debug for $name {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    f.write_str(concat!(stringify!($name), "(…)"))
                }
            }
        )*
    };
}

redacted!(RegisterStep, LoginStep, RegisterDone, LoginDone);

impl ClientJob {
    /// Does the work.
    pub fn run(self) -> ClientJobOutput {
        match self {
            Self::Register(step) => ClientJobOutput::Register(step.run()),
            Self::Login(step) => ClientJobOutput::Login(step.run()),
        }
    }
}

impl RegisterStep {
    fn run(mut self) -> Option<RegisterDone> {
        let finished = self
            .registration
            .finish(&self.response, &self.username, self.server, self.stretching, &mut self.entropy)
            .ok()?;
        Some(RegisterDone { upload: finished.upload, export_key: finished.export_key })
    }
}

impl LoginStep {
    fn run(self) -> Option<LoginDone> {
        let finished = self
            .login
            .finish(&self.ke2, &self.username, self.server, &self.context, self.stretching)
            .ok()?;
        Some(LoginDone { ke3: finished.ke3, export_key: finished.export_key })
    }
}
