//! What a server's operator should be able to look up later. No secrets, no content.

use serde::Serialize;

use crate::env::UnixMillis;
use crate::error::ErrorCode;
use crate::id::{AccountId, ChannelId, DeviceId};

/// Something worth a line in the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// When.
    pub at: UnixMillis,
    /// What.
    pub kind: AuditKind,
    /// By whom, if known.
    pub account: Option<AccountId>,
    /// With which device, if known.
    pub device: Option<DeviceId>,
    /// In which channel, if any.
    pub channel: Option<ChannelId>,
    /// Why it failed; `None` if it went through.
    pub error: Option<ErrorCode>,
}

/// Kinds of [`AuditEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditKind {
    /// A registration.
    Register,
    /// A login.
    Login,
    /// A session opened with a token.
    Session,
    /// Tokens renewed.
    Refresh,
    /// A logout.
    Logout,
    /// A device registered, or its record replaced.
    DeviceRegister,
    /// A device revoked.
    DeviceRevoke,
    /// An account deleted.
    AccountDelete,
    /// Key packages uploaded.
    KeyPackageUpload,
    /// Key packages claimed by another.
    KeyPackageFetch,
    /// A channel created.
    ChannelCreate,
    /// A commit.
    Commit,
    /// A submission.
    Submit,
    /// A limit was hit.
    Limit,
    /// The peer broke the protocol.
    PeerFault,
}
