//! What reaches a live client: replies and pushes of every kind, in every state that commands, time and breaks bring it
//! into, from a server that is honest until it bends, drops, repeats or makes up what it says.

use qpc_protocol::wire::frame::encode;

use super::act::{act, span};
use super::bend::bent;
use super::past::{NAMES, Past, past};
use super::script::Script;
use super::stage::Stage;

/// Most things done in one execution.
const OPS: usize = 32;
/// Most bytes that a client's machine may show of itself, who has a handful of groups.
const SHOWN: usize = 100_000;

/// The client's bytes: first what is done, then what becomes of what the server says meanwhile.
pub(super) fn client(data: &[u8]) {
    let past = past();
    let mut script = Script::new(data);
    let mut stage = past.stage();
    let device = script.pick(NAMES.len() + 1);
    if device == NAMES.len() {
        stage.device();
    }
    let (mut acts, lies) = script.split();
    lie(past, &mut stage, device, lies);
    stage.start(device);
    stage.run();
    for _ in 0..OPS {
        if acts.is_done() {
            break;
        }
        step(past, &mut stage, device, &mut acts);
    }
    stage.run();
    let shown = format!("{:?}", stage.devices[device].client);
    assert!(shown.len() < SHOWN, "{shown}");
}

fn step(past: &Past, stage: &mut Stage, device: usize, script: &mut Script) {
    let now = stage.now;
    match script.pick(8) {
        0..4 => {
            if let Some(client) = stage.devices[device].client.as_mut() {
                act(&past.senders, client, now, script);
            }
        }
        4 => {
            let after = span(script);
            stage.pass(after);
        }
        5 => stage.cut(device),
        6 => stage.start(device),
        _ => {
            let told: Vec<_> = past.down.iter().filter(|(to, _)| *to == device).collect();
            if let Some((_, frame)) = script.of(&told) {
                let bytes = bent(script, frame.clone());
                stage.tell(device, script.pick(3), &bytes);
            }
        }
    }
    // Else several things happen before anything comes of the first.
    if script.byte() < 192 {
        stage.run();
    }
}

/// From here on the script decides over every frame to the device; at its end the server is honest again.
fn lie(past: &'static Past, stage: &mut Stage, device: usize, mut script: Script) {
    stage.tap = Some(Box::new(move |of, up, frame, on| {
        if up || of != device || script.is_done() {
            return encode(&frame, on);
        }
        match script.pick(8) {
            0..3 => encode(&frame, on),
            3 | 4 => on.extend(bent(&mut script, frame)),
            5 => {
                // What was an answer in a story is the answer to this.
                let nth = script.pick(past.down.len());
                let mut other = past.down[nth].1.clone();
                other.call = frame.call;
                on.extend(bent(&mut script, other));
            }
            6 => {
                encode(&frame, on);
                encode(&frame, on);
            }
            _ => {}
        }
    }));
}
