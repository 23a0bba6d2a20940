//! Messages into Cap'n Proto builders.

/// Sets the fields of a builder, one after another.
macro_rules! set {
    ($to:expr, $($field:ident: $value:expr),+ $(,)?) => {{
        let mut to = $to;
        $(to.$field($value);)+
    }};
}

mod reply;
mod request;

use super::generated::qpc_capnp as schema;
use super::message::{Body, Failure, Frame, Part};
use crate::id::Sender;
use crate::io::LinkRole;
use crate::limits;

/// Fills the root of a frame.
pub(super) fn frame(frame: &Frame, mut to: schema::frame::Builder<'_>) {
    to.set_version(limits::WIRE_VERSION);
    to.set_call(frame.call);
    match &frame.body {
        Body::Open(role) => to.set_open(link_role(*role)),
        Body::Request(of) => request::request(of, to.init_request()),
        Body::Reply(of) => reply::reply(of, to.init_reply()),
        Body::Failure(of) => failure(of, to.init_failure()),
        Body::Push(of) => reply::push(of, to.init_push()),
    }
}

/// At most `most` bytes of a text for people, cut between characters.
pub(super) fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn link_role(role: LinkRole) -> schema::LinkRole {
    match role {
        LinkRole::All => schema::LinkRole::All,
        LinkRole::Calls => schema::LinkRole::Calls,
        LinkRole::Pushes => schema::LinkRole::Pushes,
        LinkRole::Bulk => schema::LinkRole::Bulk,
    }
}

fn failure(failure: &Failure, mut to: schema::failure::Builder<'_>) {
    to.set_code(failure.code.number());
    to.set_detail(shortened(&failure.detail, limits::ERROR_DETAIL_BYTES));
    to.set_retry_after_ms(failure.retry_after_ms);
    to.set_epoch(failure.epoch);
}

fn sender(sender: Sender, mut to: schema::sender::Builder<'_>) {
    to.set_account(&sender.account.0);
    to.set_device(&sender.device.0);
}

fn part(part: &Part, mut to: schema::part::Builder<'_>) {
    match part {
        Part::Inline(bytes) => to.set_inline(bytes),
        Part::Blob { hash, len } => {
            let mut to = to.init_blob();
            to.set_hash(&hash.0);
            to.set_len(*len);
        }
    }
}

/// The length of a list, which is bounded far below.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
