//! Cap'n Proto readers into messages, checking every bound that the schema names.

mod field;
mod reply;
mod request;

use super::generated::qpc_capnp as schema;
use super::message::{Body, Failure, Frame};
use crate::error::{ErrorCode, PeerFault};
use crate::io::LinkRole;
use crate::limits;
use field::{malformed, unreadable};

/// The message of a frame.
pub(super) fn frame(from: schema::frame::Reader<'_>) -> Result<Frame, PeerFault> {
    use schema::frame::Which;
    let version = from.get_version();
    if version != limits::WIRE_VERSION {
        return Err(PeerFault::Version(version));
    }
    let call = from.get_call();
    let body = match from.which().map_err(|_| malformed("unknown body"))? {
        Which::Open(role) => Body::Open(link_role(role)?),
        Which::Request(of) => Body::Request(request::request(of.map_err(unreadable)?)?),
        Which::Reply(of) => Body::Reply(reply::reply(of.map_err(unreadable)?)?),
        Which::Failure(of) => Body::Failure(failure(of.map_err(unreadable)?)?),
        Which::Push(of) => Body::Push(reply::push(of.map_err(unreadable)?)?),
    };
    if call != 0 && matches!(body, Body::Open(_) | Body::Push(_)) {
        return Err(malformed("call of what is no call"));
    }
    Ok(Frame { call, body })
}

/// Why a frame cannot be read; for what the frame decoder finds by itself.
pub(super) use field::unreadable as why;

fn link_role(role: Result<schema::LinkRole, capnp::NotInSchema>) -> Result<LinkRole, PeerFault> {
    Ok(match role.map_err(|_| malformed("unknown link role"))? {
        schema::LinkRole::All => LinkRole::All,
        schema::LinkRole::Calls => LinkRole::Calls,
        schema::LinkRole::Pushes => LinkRole::Pushes,
        schema::LinkRole::Bulk => LinkRole::Bulk,
    })
}

fn failure(from: schema::failure::Reader<'_>) -> Result<Failure, PeerFault> {
    Ok(Failure {
        // A newer server may know more codes; its call has failed all the same.
        code: ErrorCode::from_number(from.get_code()).unwrap_or(ErrorCode::BadRequest),
        detail: field::text(from.get_detail(), limits::ERROR_DETAIL_BYTES, "error detail")?,
        retry_after_ms: from.get_retry_after_ms(),
        epoch: from.get_epoch(),
    })
}
