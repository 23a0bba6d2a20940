use std::collections::BTreeSet;

use qpc_protocol::wire::message::{Body, Frame};

use super::past::past;

/// The names of what frames carry.
fn kinds(frames: &[(usize, Frame)]) -> BTreeSet<String> {
    let name = |(_, frame): &(usize, Frame)| {
        let text = match &frame.body {
            Body::Request(request) => format!("request {request:?}"),
            Body::Reply(reply) => format!("reply {reply:?}"),
            Body::Push(push) => format!("push {push:?}"),
            Body::Failure(_) => "failure".to_owned(),
            Body::Open(_) => "open".to_owned(),
        };
        text.split([' ', '(', '{']).take(2).collect::<Vec<_>>().join(" ")
    };
    frames.iter().map(name).collect()
}

/// What no story says would be reached by a fuzzer's own frames alone.
#[test]
fn the_stories_say_everything_there_is_to_say() {
    let (up, down) = (kinds(&past().up), kinds(&past().down));
    let missing = |said: &BTreeSet<String>, kind: &str, names: &str| {
        let names = names.split_whitespace().map(|name| format!("{kind} {name}"));
        names.filter(|name| !said.contains(name)).collect::<Vec<_>>()
    };
    let requests = "Ping Health Hello RegisterStart RegisterFinish LoginStart LoginFinish \
        DeviceRegister Resume Refresh Logout DeviceList DeviceRevoke AccountLookup AccountDelete \
        KeyPackageUpload KeyPackageStatus KeyPackageFetch ChannelCreate ChannelInfo ChannelList \
        Submit Commit Fetch Subscribe Unsubscribe Ack GroupInfoFetch BlobPut BlobGet";
    assert_eq!(missing(&up, "request", requests), Vec::<String>::new());
    let replies = "Done Pong Health Hello RegisterStart LoginStart LoginFinish Tokens Session \
        Devices Account KeyPackages ClaimedKeyPackages Channel Channels Accepted Entries Subscribed \
        GroupInfo BlobPut Blob";
    assert_eq!(missing(&down, "reply", replies), Vec::<String>::new());
    assert_eq!(missing(&down, "push", "Entries"), Vec::<String>::new());
}
