use super::*;

#[test]
fn an_id_says_what_kind_of_channel_it_is_of() {
    for byte in 0..=255 {
        let (one, other) = (AccountId([byte; 32]), AccountId([byte ^ 1; 32]));
        let of = Sender { account: one, device: DeviceId([byte; 16]) };
        assert_eq!(ChannelId::group([byte; 16]).kind(), Some(ChannelKind::Group));
        assert_eq!(ChannelId::direct(one, other).kind(), Some(ChannelKind::Direct));
        assert_eq!(ChannelId::direct(one, other), ChannelId::direct(other, one));
        assert_eq!(ChannelId::inbox(of).kind(), Some(ChannelKind::Inbox));
        // The rest of a random id stays as it was drawn.
        let id = ChannelId::group([byte; 16]);
        assert_eq!((id.0[0], &id.0[1..]), (byte & 0x3F, [byte; 15].as_slice()));
    }
    assert_eq!(ChannelId([0xC0; 16]).kind(), None);
    assert_eq!(ChannelId([0xFF; 16]).kind(), None);
}

#[test]
fn the_marks_stand_in_two_bits_of_the_derived_ids() {
    let (one, other) = (AccountId([1; 32]), AccountId([2; 32]));
    let digest = Digest::of(&[b"qpc-direct-v1", &one.0, &other.0]);
    let direct = ChannelId::direct(other, one);
    assert_eq!(direct.0[0], digest.0[0] & 0x3F | 0x40);
    assert_eq!(direct.0[1..], digest.0[1..16]);
    let of = Sender { account: one, device: DeviceId([3; 16]) };
    let digest = Digest::of(&[b"qpc-inbox-v1", &one.0, &of.device.0]);
    let inbox = ChannelId::inbox(of);
    assert_eq!(inbox.0[0], digest.0[0] & 0x3F | 0x80);
    assert_eq!(inbox.0[1..], digest.0[1..16]);
}
