//! The ways of being dishonest: what a server can tell a device, and a device a server, in place of what they mean.

use core::time::Duration;

use bytes::Bytes;
use qpc_protocol::error::ErrorCode;
use qpc_protocol::wire::message::{
    Body, Entries, EntryKind, Failure, Frame, Part, Push, Reply, Request, SubmitKind,
};

/// A way of being dishonest.
pub struct Way {
    /// Its name, for people.
    pub name: &'static str,
    /// What is sent in place of a frame; `None`: this frame gives no occasion.
    pub(super) change: fn(&mut Tale, &Frame) -> Option<Vec<Frame>>,
}

/// What a liar remembers.
#[derive(Default)]
pub(super) struct Tale {
    held: Option<Frame>,
    shift: u64,
    /// How long what is told now is held back.
    pub(super) late: Duration,
}

/// What a server can do to a device.
pub const OF_SERVERS: &[Way] = &[
    Way { name: "drops entries", change: |_, frame| pushed(frame).map(|_| Vec::new()) },
    Way {
        name: "repeats entries",
        change: |_, frame| pushed(frame).map(|_| vec![frame.clone(), frame.clone()]),
    },
    Way {
        name: "reorders entries",
        change: |tale, frame| {
            pushed(frame)?;
            Some(match tale.held.take() {
                None => {
                    tale.held = Some(frame.clone());
                    Vec::new()
                }
                Some(held) => vec![frame.clone(), held],
            })
        },
    },
    Way {
        name: "replays entries under new seqs",
        change: |tale, frame| {
            with_entries(frame, |entries| {
                let first = entries.entries.first()?.clone();
                tale.shift += 1;
                let shift = tale.shift;
                entries.entries.iter_mut().for_each(|entry| entry.seq += shift);
                entries.entries.insert(0, first);
                entries.head += shift;
                Some(())
            })
        },
    },
    Way {
        name: "leaves entries out and counts on",
        change: |tale, frame| {
            with_entries(frame, |entries| {
                (entries.entries.len() > 1).then_some(())?;
                entries.entries.remove(0);
                tale.shift += 1;
                let shift = tale.shift;
                entries.entries.iter_mut().for_each(|entry| entry.seq -= shift);
                Some(())
            })
        },
    },
    Way {
        name: "names another sender",
        change: |_, frame| {
            with_entries(frame, |entries| {
                entries.entries.iter_mut().for_each(|entry| entry.sender.device.0[0] ^= 1);
                Some(())
            })
        },
    },
    Way {
        name: "changes a payload",
        change: |_, frame| {
            with_entries(frame, |entries| spoil_part(&mut entries.entries.first_mut()?.payload))
        },
    },
    Way {
        name: "changes a commit",
        change: |_, frame| {
            with_entries(frame, |entries| {
                let mut commits = entries.entries.iter_mut();
                let commit = commits.find(|entry| entry.kind == EntryKind::Commit)?;
                spoil_part(&mut commit.payload)
            })
        },
    },
    Way {
        name: "says that entries are gone",
        change: |_, frame| {
            with_entries(frame, |entries| {
                entries.entries.clear();
                entries.first = entries.head + 1;
                Some(())
            })
        },
    },
    Way {
        name: "says that the epoch has passed",
        change: |_, frame| accepted_as(frame, ErrorCode::EpochConflict),
    },
    Way {
        name: "says that a member is none",
        change: |_, frame| accepted_as(frame, ErrorCode::NotMember),
    },
    Way {
        name: "signs no delivery proof",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::Accepted(accepted) => {
                    accepted.proof[7] ^= 1;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "claims to have seen later state",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::Session { state_version, .. } => {
                    *state_version += 1_000;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "changes key packages",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::ClaimedKeyPackages(claimed) => {
                    spoil(claimed.iter_mut().find_map(|claimed| claimed.package.as_mut())?)
                }
                _ => None,
            })
        },
    },
    Way {
        name: "hides key packages",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::ClaimedKeyPackages(claimed) => {
                    claimed.clear();
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "gives a name to another account",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::Account { account, .. } => {
                    account.0[3] ^= 1;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "invents a device",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::Devices(devices) => {
                    let mut more = devices.first()?.clone();
                    more.record.device.0[0] ^= 1;
                    devices.push(more);
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "changes a GroupInfo",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::GroupInfo { group_info, .. } => spoil(group_info),
                _ => None,
            })
        },
    },
    Way {
        name: "changes a tree",
        change: |_, frame| {
            with_reply(frame, |reply| match reply {
                Reply::Blob { chunk, .. } => spoil(chunk),
                _ => None,
            })
        },
    },
    Way {
        name: "answers other calls",
        change: |tale, frame| {
            matches!(frame.body, Body::Reply(_)).then_some(())?;
            let held = tale.held.replace(frame.clone())?;
            Some(vec![Frame { call: frame.call, body: held.body }])
        },
    },
    Way {
        name: "says that it cannot now",
        change: |_, frame| {
            matches!(frame.body, Body::Reply(_))
                .then(|| vec![failed(frame, ErrorCode::Unavailable)])
        },
    },
    Way {
        name: "holds entries back",
        change: |tale, frame| pushed(frame).map(|_| held_back(tale, frame)),
    },
    Way {
        name: "holds answers back",
        change: |tale, frame| matches!(frame.body, Body::Reply(_)).then(|| held_back(tale, frame)),
    },
];

/// What a device can do to the server, and by it to others.
pub const OF_MEMBERS: &[Way] = &[
    Way {
        name: "changes its commit",
        change: |_, frame| with_commit(frame, |bytes| bytes.len() / 2),
    },
    Way {
        name: "signs its commit wrongly",
        change: |_, frame| with_commit(frame, |bytes| bytes.len().saturating_sub(100)),
    },
    Way {
        name: "sends a broken GroupInfo",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Commit(bundle) => spoil(&mut bundle.group_info),
                _ => None,
            })
        },
    },
    Way {
        name: "sends no welcome",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Commit(bundle) => bundle.welcome.take().map(drop),
                _ => None,
            })
        },
    },
    Way {
        name: "sends a broken message",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Submit(submit) => spoil(&mut submit.payload),
                _ => None,
            })
        },
    },
    Way {
        name: "calls a message a proposal",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Submit(submit) => {
                    submit.kind = SubmitKind::Proposal;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "submits to another epoch",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Submit(submit) => {
                    submit.epoch += 1;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "acknowledges what is not there",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Ack { seq, .. } => {
                    *seq += 1_000;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "reads what is others'",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Subscribe { channel, .. } | Request::Fetch { channel, .. } => {
                    channel.0[5] ^= 1;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "reads from before it joined",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::Subscribe { after, .. } | Request::Fetch { after, .. } if *after > 0 => {
                    *after = 0;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "uploads broken key packages",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::KeyPackageUpload { packages, .. } => spoil(packages.first_mut()?),
                _ => None,
            })
        },
    },
    Way {
        name: "registers a forged device",
        change: |_, frame| {
            with_request(frame, |request| match request {
                Request::DeviceRegister { record, .. } => {
                    record.signature[9] ^= 1;
                    Some(())
                }
                _ => None,
            })
        },
    },
    Way {
        name: "says everything twice",
        change: |_, frame| {
            matches!(frame.body, Body::Request(_)).then(|| vec![frame.clone(), frame.clone()])
        },
    },
    Way { name: "says nothing", change: |_, _| Some(Vec::new()) },
];

// ---- changing frames ----------------------------------------------------------------------------

/// The same frame, each time ten seconds later than the last time: beyond the time that a call waits, in the end.
fn held_back(tale: &mut Tale, frame: &Frame) -> Vec<Frame> {
    tale.late += Duration::from_secs(10);
    vec![frame.clone()]
}

fn pushed(frame: &Frame) -> Option<&Entries> {
    match &frame.body {
        Body::Push(Push::Entries(entries)) if !entries.entries.is_empty() => Some(entries),
        _ => None,
    }
}

fn with_entries(
    frame: &Frame,
    change: impl FnOnce(&mut Entries) -> Option<()>,
) -> Option<Vec<Frame>> {
    pushed(frame)?;
    let mut frame = frame.clone();
    if let Body::Push(Push::Entries(entries)) = &mut frame.body {
        change(entries)?;
    }
    Some(vec![frame])
}

fn with_reply(frame: &Frame, change: impl FnOnce(&mut Reply) -> Option<()>) -> Option<Vec<Frame>> {
    let mut frame = frame.clone();
    let Body::Reply(reply) = &mut frame.body else { return None };
    change(reply)?;
    Some(vec![frame])
}

fn with_request(
    frame: &Frame,
    change: impl FnOnce(&mut Request) -> Option<()>,
) -> Option<Vec<Frame>> {
    let mut frame = frame.clone();
    let Body::Request(request) = &mut frame.body else { return None };
    change(request)?;
    Some(vec![frame])
}

fn with_commit(frame: &Frame, at: fn(&[u8]) -> usize) -> Option<Vec<Frame>> {
    with_request(frame, |request| match request {
        Request::Commit(bundle) => match &mut bundle.commit {
            Part::Inline(bytes) => {
                let mut spoiled = bytes.to_vec();
                let at = at(&spoiled);
                *spoiled.get_mut(at)? ^= 0x40;
                *bytes = spoiled.into();
                Some(())
            }
            Part::Blob { .. } => None,
        },
        _ => None,
    })
}

fn accepted_as(frame: &Frame, code: ErrorCode) -> Option<Vec<Frame>> {
    matches!(frame.body, Body::Reply(Reply::Accepted(_))).then(|| vec![failed(frame, code)])
}

fn failed(frame: &Frame, code: ErrorCode) -> Frame {
    Frame { call: frame.call, body: Body::Failure(Failure::from(code)) }
}

fn spoil_part(part: &mut Part) -> Option<()> {
    match part {
        Part::Inline(bytes) => spoil(bytes),
        Part::Blob { hash, .. } => {
            hash.0[0] ^= 1;
            Some(())
        }
    }
}

fn spoil(bytes: &mut Bytes) -> Option<()> {
    let mut spoiled = bytes.to_vec();
    let at = spoiled.len().checked_sub(9)?;
    spoiled[at] ^= 1;
    *bytes = spoiled.into();
    Some(())
}
