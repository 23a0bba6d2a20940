use bytes::Bytes;

use super::*;
use crate::id::{ChannelId, MessageId};
use crate::wire::message::{Body, Request, Submit, SubmitKind};

fn submit(len: usize) -> Frame {
    Frame {
        call: 7,
        body: Body::Request(Request::Submit(Submit {
            channel: ChannelId([1; 16]),
            generation: 2,
            epoch: 3,
            message: MessageId([4; 16]),
            kind: SubmitKind::Application,
            payload: Bytes::from(vec![5; len]),
        })),
    }
}

#[test]
fn a_frame_comes_back() {
    let mut bytes = Vec::new();
    encode(&submit(512), &mut bytes);
    assert_eq!(bytes.len(), encoded_len(&submit(512)));
    let mut decoder = Decoder::new();
    assert_eq!(decoder.next(&mut bytes.as_slice()), Ok(Some(submit(512))));
}
