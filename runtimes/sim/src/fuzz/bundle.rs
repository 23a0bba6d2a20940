//! What a server has to understand of MLS: key packages, new groups, proposals, commits with all that belongs to them.

use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Frame, Request, SubmitKind};

use super::bend::bend;
use super::past::past;
use super::script::Script;
use super::server::{answers, session};

/// Most requests of one execution.
const OPS: usize = 12;

/// The members' requests that carry MLS, their fields bent, or with texts of the fuzzer's own.
pub(super) fn bundle(data: &[u8]) {
    let past = past();
    let mut script = Script::new(data);
    let mut stage = past.server();
    let carriers: Vec<_> = past.up.iter().filter(|(_, frame)| carries(frame)).collect();
    let mut lines: Vec<Option<_>> = vec![None; past.senders.len()];
    for call in 10..10 + OPS as u32 {
        if script.is_done() {
            break;
        }
        let Some((device, frame)) = script.of(&carriers) else { return };
        let Some(slot) = lines.get_mut(*device) else { continue };
        let (_, link) = *slot.get_or_insert_with(|| session(past, &mut stage, *device));
        let mut frame = Frame { call, body: frame.body.clone() };
        for _ in 0..script.pick(4) {
            bend(&mut script, &mut frame);
        }
        let mut bytes = Vec::new();
        encode(&frame, &mut bytes);
        stage.say(link, &bytes);
        stage.run();
    }
    answers(&mut stage);
}

/// Whether a request carries MLS for the server to judge.
pub(super) fn carries(frame: &Frame) -> bool {
    match &frame.body {
        Body::Request(Request::Submit(submit)) => submit.kind == SubmitKind::Proposal,
        Body::Request(request) => matches!(
            request,
            Request::KeyPackageUpload { .. } | Request::ChannelCreate { .. } | Request::Commit(_)
        ),
        _ => false,
    }
}
