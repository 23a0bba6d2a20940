//! What reaches a live server: requests of every kind, from strangers and members, in and out of order, bent and
//! broken.

use qpc_protocol::io::{ConnId, Input, LinkId, LinkRole, Links};
use qpc_protocol::wire::frame::encode;
use qpc_protocol::wire::message::{Body, Frame, Reply, Request};

use super::act::span;
use super::bend::bent;
use super::past::{NAMES, Past, past};
use super::script::Script;
use super::stage::Stage;

/// Most things done in one execution.
const OPS: usize = 64;

/// The server's bytes: links opened, requests of the stories made on them as the script says, time.
pub(super) fn server(data: &[u8]) {
    let past = past();
    let mut script = Script::new(data);
    let mut stage = past.server();
    let mut lines = vec![session(past, &mut stage, script.pick(NAMES.len() + 1))];
    for _ in 0..OPS {
        if script.is_done() {
            break;
        }
        let at = lines.len() - 1;
        let (_, link) = lines[at];
        match script.pick(12) {
            0..6 => {
                let nth = script.pick(past.up.len());
                let bytes = bent(&mut script, past.up[nth].1.clone());
                stage.say(link, &bytes);
            }
            6 => {
                let bytes = script.text();
                stage.say(link, &bytes);
            }
            7 => lines.push(session(past, &mut stage, script.pick(NAMES.len() + 1))),
            8 => {
                let conn = lines[at].0;
                let roles = [LinkRole::All, LinkRole::Calls, LinkRole::Pushes, LinkRole::Bulk];
                let role = script.of(&roles).unwrap_or(LinkRole::All);
                lines.push((conn, open(&mut stage, conn, role)));
            }
            9 => {
                let line = script.pick(lines.len());
                lines.swap(line, at);
            }
            10 => {
                let after = span(&mut script);
                stage.pass(after);
            }
            _ => match script.pick(4) {
                0 => stage.hang_up(link, script.byte().is_multiple_of(2)),
                1 => {
                    let channel = script.of(&past.channels).expect("there are some");
                    stage.to_server(Input::Notified(channel, script.number()));
                }
                _ => drop(stage.run()),
            },
        }
        // Else several arrive before anything is answered.
        if script.byte() < 192 {
            stage.run();
        }
    }
    stage.run();
    answers(&mut stage);
}

/// A connection with a link; of a device, if there is one of that number, then with its session.
pub(super) fn session(past: &Past, stage: &mut Stage, device: usize) -> (ConnId, LinkId) {
    let conn =
        stage.dial(device as u8, if device.is_multiple_of(2) { Links::Many } else { Links::One });
    let role = if device.is_multiple_of(2) { LinkRole::Calls } else { LinkRole::All };
    let link = open(stage, conn, role);
    if let Some(resume) = past.resume(device) {
        say(stage, link, &Frame { call: 1, body: Body::Request(Request::Hello) });
        stage.run();
        say(stage, link, resume);
        stage.run();
    }
    (conn, link)
}

fn open(stage: &mut Stage, conn: ConnId, role: LinkRole) -> LinkId {
    let link = stage.link(conn, None, None);
    say(stage, link, &Frame { call: 0, body: Body::Open(role) });
    link
}

/// A frame on a link of the fuzzer's.
pub(super) fn say(stage: &mut Stage, link: LinkId, frame: &Frame) {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes);
    stage.say(link, &bytes);
}

/// Whatever happened, the server serves the next one.
pub(super) fn answers(stage: &mut Stage) {
    let conn = stage.dial(200, Links::One);
    let link = open(stage, conn, LinkRole::All);
    say(stage, link, &Frame { call: 7, body: Body::Request(Request::Health) });
    stage.run();
    let heard = stage.heard(link);
    let answered =
        heard.iter().any(|frame| matches!(frame.body, Body::Reply(Reply::Health { .. })));
    assert!(answered, "the server does not answer any more: {heard:?}");
}
