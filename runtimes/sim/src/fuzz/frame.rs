//! The frame decoder.

use qpc_protocol::limits;
use qpc_protocol::wire::frame::{Decoder, encode, encoded_len};

use super::bend::bent;
use super::past::past;
use super::script::Script;

/// The bytes: how they are cut, and then frames of the stories, bent, or all of them as they are.
///
/// However a stream is cut, the same frames come of it, and the same fault; and what was decoded is encoded and decoded
/// to itself.
pub(super) fn frame(data: &[u8]) {
    let mut script = Script::new(data);
    let (how, cut) = (script.byte(), usize::from(script.u16()) + 1);
    let mut stream = Vec::new();
    if how % 2 == 0 {
        stream = script.take(usize::MAX);
    } else {
        let past = past();
        let frames: Vec<_> = past.up.iter().chain(&past.down).collect();
        while !script.is_done() && stream.len() < 1 << 16 {
            let (_, frame) = frames[script.pick(frames.len())];
            stream.extend(bent(&mut script, frame.clone()));
        }
    }
    let whole = decode(&stream, stream.len().max(1));
    assert_eq!(decode(&stream, cut), whole);
    for frame in &whole.0 {
        let mut again = Vec::new();
        encode(frame, &mut again);
        assert_eq!(again.len(), encoded_len(frame));
        assert_eq!(decode(&again, again.len()).0, core::slice::from_ref(frame));
    }
}

type Decoded = (Vec<qpc_protocol::wire::message::Frame>, Option<qpc_protocol::error::PeerFault>);

fn decode(stream: &[u8], cut: usize) -> Decoded {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for chunk in stream.chunks(cut) {
        let mut left = chunk;
        loop {
            match decoder.next(&mut left) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(fault) => return (frames, Some(fault)),
            }
        }
        assert!(decoder.held() <= limits::FRAME_BYTES + chunk.len());
    }
    (frames, None)
}
