//! The statements that bind an account, a device and a connection together.

use crate::id::{AccountId, DeviceId, Digest, Sender, ServerId};
use crate::io::Binding;
use crate::wire::message::Username;

/// What a device signs to open a session on a connection: `"qpc-session-v1" || server nonce (32) ||
/// binding kind (1) || binding (32) || server id (32) || account (32) || device (16) || SHA-256(token) (32)`.
///
/// A token stolen from another place opens nothing: the thief lacks the device key. A proof overheard is worth
/// nothing: it names this connection.
pub fn session_statement(
    nonce: &[u8; 32],
    binding: &Binding,
    server: ServerId,
    sender: Sender,
    token_hash: Digest,
) -> Vec<u8> {
    [
        b"qpc-session-v1".as_slice(),
        nonce,
        &[binding.kind.number()],
        &binding.value,
        &server.0,
        &sender.account.0,
        &sender.device.0,
        &token_hash.0,
    ]
    .concat()
}

/// OPAQUE's `context` on both sides: `"qpc-opaque-v1" || server nonce (32) || binding kind (1) || binding (32) ||
/// server id (32)`, so that a login cannot be moved to another connection.
pub fn opaque_context(nonce: &[u8; 32], binding: &Binding, server: ServerId) -> Vec<u8> {
    [b"qpc-opaque-v1".as_slice(), nonce, &[binding.kind.number()], &binding.value, &server.0]
        .concat()
}

/// What the account key signs at registration: `"qpc-register-v1" || server nonce (32) || server id (32) ||
/// account (32) || username`.
pub fn registration_statement(
    nonce: &[u8; 32],
    server: ServerId,
    account: AccountId,
    username: &Username,
) -> Vec<u8> {
    [b"qpc-register-v1".as_slice(), nonce, &server.0, &account.0, username.as_str().as_bytes()]
        .concat()
}

/// What the account key signs to delete itself: `"qpc-delete-v1" || server nonce (32) || server id (32) ||
/// account (32) || device (16)`.
pub fn deletion_statement(
    nonce: &[u8; 32],
    server: ServerId,
    account: AccountId,
    device: DeviceId,
) -> Vec<u8> {
    [b"qpc-delete-v1".as_slice(), nonce, &server.0, &account.0, &device.0].concat()
}
