use super::super::content::ContentBody;
use super::*;
use crate::id::{AccountId, DeviceId};

/// What people say, as `Debug` of bytes or of text would show it.
fn shows_nothing(printed: &str) {
    for trace in ["111, 110", "only for you", "6f6e6c79"] {
        assert!(!printed.contains(trace), "{printed}");
    }
}

#[test]
fn what_people_say_is_not_printed() {
    let body = || Zeroizing::new(b"only for you".to_vec());
    let what = OutWhat::Application { body: body(), says: Says::Body, sealed: None };
    let item = OutItem::new(ChannelId([1; 16]), MessageId([2; 16]), what, false);
    let message = StoredMessage {
        message: MessageId([2; 16]),
        sender: Sender { account: AccountId([3; 32]), device: DeviceId([4; 16]) },
        time: UnixMillis(0),
        epoch: 1,
        body: body(),
    };
    shows_nothing(&format!("{item:?} {item:#?}"));
    shows_nothing(&format!("{message:?} {message:#?}"));
    let content = ContentBody::Body(body());
    shows_nothing(&format!("{content:?} {content:#?}"));
    assert_eq!(format!("{content:?}"), "Body(12 bytes)");
}
