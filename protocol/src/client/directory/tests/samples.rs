//! One record of every kind, always the same.

use zeroize::Zeroizing;

use super::super::super::intent::Successor;
use super::super::super::metadata::{ProfileChange, Role};
use super::*;
use crate::crypto::checkpoint::Checkpoint;
use crate::crypto::identity::Revocation;
use crate::crypto::portable;
use crate::delivery::marks::Marks;
use crate::env::Entropy;
use crate::id::{MessageId, Sender};
use crate::wire::message::{Accepted, CommitBundle, Part, Submit, SubmitKind, Token};

const AT: UnixMillis = UnixMillis(1_800_000_000_000);

/// Bytes that count up from `first`.
fn bytes<const N: usize>(first: u8) -> [u8; N] {
    core::array::from_fn(|at| first.wrapping_add(u8::try_from(at).unwrap()))
}

fn group() -> ChannelId {
    ChannelId::group(bytes(0x10))
}

fn account_key() -> AccountKey {
    AccountKey::from_seed(portable(), Zeroizing::new(bytes(0x20)))
}

fn device_key(first: u8) -> DeviceKey {
    DeviceKey::from_seed(portable(), Zeroizing::new(bytes(first)))
}

fn device(first: u8) -> DeviceId {
    DeviceId(bytes(first))
}

fn sender() -> Sender {
    Sender { account: account_key().account(), device: device(0x30) }
}

fn bob() -> AccountId {
    AccountId(bytes(0x60))
}

fn name(name: &str) -> Username {
    Username::prepare(name).unwrap()
}

fn record_of(key: &DeviceKey, sequence: u32) -> Vec<u8> {
    let (account, device) = (account_key(), sender().device);
    DeviceRecord::sign(portable(), &account, device, key.public(), sequence, AT).encode()
}

fn metadata() -> Metadata {
    Metadata { key: Zeroizing::new(bytes(0x40)), sealed: bytes::<40>(0x50).to_vec() }
}

fn accepted() -> Accepted {
    Accepted { seq: 9, chain: Digest(bytes(0x70)), time: AT, proof: bytes(0x80) }
}

/// Every record of the file, in its order.
pub(super) fn one_of_each() -> Vec<Sample> {
    let mut samples = of_the_device();
    samples.extend(of_channels());
    samples.extend(intents());
    samples.extend(outbox());
    samples.extend(on_demand());
    samples
}

fn sample<T: Serialize>(
    kind: &'static [u8],
    variant: &'static str,
    rest: &[&[u8]],
    of: &T,
) -> Sample {
    Sample { kind, variant, key: key(kind, rest), value: record::encode(of) }
}

fn of_the_device() -> Vec<Sample> {
    let token = |first| Token(Zeroizing::new(bytes::<33>(first).to_vec()));
    let version = 7_u64.to_be_bytes().to_vec();
    let mut samples = vec![
        Sample { kind: VERSION_KEY, variant: "", key: VERSION_KEY.to_vec(), value: version },
        sample(IDENTITY, "", &[], &identity()),
        sample(
            TOKENS,
            "",
            &[],
            &Tokens {
                access: token(0x90),
                access_expires: AT,
                refresh: token(0xA0),
                refresh_expires: UnixMillis(AT.0 + 1),
            },
        ),
        sample(ROTATION, "", &[], &rotation()),
        sample(ENVELOPES, "", &[], &envelopes()),
        sample(
            PACKAGES,
            "",
            &[],
            &PackagePlan(BTreeMap::from([(
                Suite::Hybrid,
                Issued { at: AT, last_resort: UnixMillis(AT.0 + 1) },
            )])),
        ),
        sample(SWEEP, "", &[], &Sweep { at: Some(AT) }),
        sample(UNWELCOMED, "", &[], &Unwelcomed),
        sample(RESTORED, "", &[], &Restored { open: true, lead: 3, at: AT }),
    ];
    for listed in [Listing::Never, Listing::Due, Listing::Done] {
        let devices = [(device(0x31), 1, false), (device(0x32), 2, true)].into_iter();
        let devices =
            devices.map(|(device, sequence, revoked)| (device, OwnDevice { sequence, revoked }));
        let variant = listing(&listed);
        let fleet = Fleet { listing: listed, devices: devices.collect() };
        samples.push(sample(FLEET, variant, &[], &fleet));
    }
    for (first, trusted) in [
        (0x60, Trust::Seen),
        (0x61, Trust::Verified),
        (0x62, Trust::Changed { before: AccountId(bytes(0x63)), verified: true }),
    ] {
        let contact = Contact { username: name("bob"), trust: trusted, since: AT };
        samples.push(sample(CONTACT, trust(&trusted), &[&bytes::<32>(first)], &contact));
    }
    samples
}

fn identity() -> Identity {
    let key = device_key(0x21);
    Identity {
        username: name("alice"),
        server: ServerId(bytes(0x22)),
        account_key: account_key(),
        record: record_of(&key, 1),
        device_key: key,
        envelope: EnvelopeSecrets::generate(&mut Entropy::from_seed([1; 32])),
        envelope_sequence: 2,
        registered: true,
        ended: false,
    }
}

/// By the fields in their order: they are private to their module, and a struct is stored as they are.
fn rotation() -> Rotation {
    let keys = |first, sequence| {
        let key = device_key(first);
        let record = record_of(&key, sequence);
        (key, record)
    };
    let stored = record::encode(&(Some((keys(0x23, 3), 5_u64)), vec![(keys(0x24, 2), AT)]));
    record::decode(ROTATION, &stored).unwrap()
}

fn envelopes() -> Envelopes {
    let secrets = |seed| EnvelopeSecrets::generate(&mut Entropy::from_seed([seed; 32]));
    let stored = record::encode(&(AT, Some(secrets(2)), vec![(secrets(3), AT)]));
    record::decode(ENVELOPES, &stored).unwrap()
}

fn of_channels() -> Vec<Sample> {
    let direct = ChannelId::direct(sender().account, bob());
    let inbox = ChannelId::inbox(sender());
    let behind = vec![Digest(bytes(0x72)), Digest(bytes(0x73))];
    let cursor = record::encode(&(9_u64, Digest(bytes(0x71)), behind));
    let row = ChannelRow {
        generation: 1,
        suite: Suite::Classical,
        epoch: 4,
        cursor: record::decode(CHANNEL, &cursor).unwrap(),
        member: true,
        leaving: false,
        metadata: Some(metadata()),
        name: Some("the group".into()),
        authenticator: bytes::<32>(0x74).to_vec(),
        members: 2,
        unread: 1,
        with: None,
    };
    let to_bob = ChannelRow {
        suite: Suite::Hybrid,
        member: false,
        leaving: true,
        metadata: None,
        name: None,
        with: Some(bob()),
        ..row.clone()
    };
    let mut marks = Marks::default();
    marks.note(16, Digest(bytes(0x75)));
    let ledger = Ledger {
        marks,
        transcript: Some(Digest(bytes(0x76))),
        carries: AT,
        considered: UnixMillis(AT.0 + 1),
    };
    let mut left = Left::unknown();
    left.note(device(0x31));
    let mut samples = vec![
        sample(CHANNEL, "group", &[&group().0], &row),
        sample(CHANNEL, "direct", &[&direct.0], &to_bob),
        sample(CHANNEL, "inbox", &[&inbox.0], &ChannelRow::fresh(inbox)),
        sample(LEAF, "", &[&group().0], &Leaf { since: AT, seq: 3 }),
        sample(ENDED, "", &[&group().0], &Ended { generation: 2, added: false }),
        sample(LEFT, "", &[&group().0], &left),
        sample(LEDGER, "", &[&group().0], &ledger),
        claim(),
    ];
    for (first, because) in [
        (0x11, Why::Restored),
        (0x12, Why::Gap),
        (0x13, Why::Damaged),
        (0x14, Why::Unopened),
        (0x15, Why::Missed),
        (0x16, Why::Asked),
        (0x17, Why::Added),
        (0x18, Why::Blocked),
    ] {
        let fall = Fall { why: Some(because), cut: true, made: false, last: AT };
        let of = ChannelId::group(bytes(first));
        samples.push(sample(FALL, why(&because), &[&of.0], &fall));
    }
    samples
}

fn claim() -> Sample {
    let by = Sender { account: bob(), device: device(0x33) };
    let checkpoint = Checkpoint {
        by,
        channel: group(),
        generation: 1,
        epoch: 4,
        transcript: Digest(bytes(0x77)),
        seq: 20,
        chain: Digest(bytes(0x78)),
        mark: 16,
        mark_chain: Digest(bytes(0x79)),
        signature: bytes(0x7A),
    };
    let value = (true, checkpoint.encode());
    sample(CLAIM, "", &[&group().0, &by.account.0, &by.device.0], &value)
}

fn intents() -> Vec<Sample> {
    let package = || bytes::<24>(0xB0).to_vec();
    let revocation = Revocation::sign(portable(), &account_key(), device(0x31), AT).encode();
    let missing = || vec![(device(0x33), "no key package".to_owned())];
    let change = ProfileChange {
        name: Some("another name".into()),
        description: None,
        avatar: Some(Some(Digest(bytes(0xB1)))),
    };
    let successor = Successor {
        generation: 2,
        suite: Suite::Hybrid,
        group_info: bytes::<24>(0xB2).to_vec(),
        tree: bytes::<24>(0xB3).to_vec(),
        metadata: Some(metadata()),
        authenticator: bytes::<32>(0xB4).to_vec(),
        begun: true,
        absent: BTreeMap::from([(bob(), vec![device(0x33)])]),
    };
    let wants = [
        Want::Found { group_info: bytes::<24>(0xB5).to_vec(), tree: bytes::<24>(0xB6).to_vec() },
        Want::Add {
            username: name("bob"),
            account: Some(bob()),
            packages: Some(vec![package()]),
            missing: missing(),
        },
        Want::Remove { account: bob() },
        Want::Leave,
        Want::Update,
        Want::Flush,
        Want::LeaveAgain,
        Want::Describe { change: change.clone(), sealed: Some(metadata()) },
        Want::SetRole { account: bob(), role: Role::Admin },
        Want::Renew,
        Want::Rotate,
        Want::Rejoin,
        Want::Admit {
            device: Sender { device: device(0x32), ..sender() },
            package: Some(package()),
        },
        Want::Expel { revocation },
        Want::Reset { from: 1, suite: Some(Suite::Hybrid), next: Some(Box::new(successor)) },
        Want::Return {
            account: bob(),
            devices: vec![device(0x33)],
            packages: None,
            missing: missing(),
        },
        Want::Carry { change, over: Digest(bytes(0xB7)), sealed: Some(metadata()) },
    ];
    let numbered = (1_u64 << 20..).zip(wants);
    let samples = numbered.map(|(ticket, wanted)| {
        let variant = want(&wanted);
        let intent = Intent { channel: group(), want: wanted, losses: 1 };
        sample(INTENT, variant, &[&u64::to_be_bytes(ticket)], &intent)
    });
    samples.collect()
}

fn outbox() -> Vec<Sample> {
    let submit = |kind| Submit {
        channel: group(),
        generation: 1,
        epoch: 4,
        message: MessageId(bytes(0xC0)),
        kind,
        payload: bytes::<24>(0xC1).to_vec().into(),
    };
    let bundle = |welcome| CommitBundle {
        channel: group(),
        generation: 1,
        epoch: 4,
        message: MessageId(bytes(0xC2)),
        commit: Part::Inline(bytes::<24>(0xC3).to_vec().into()),
        welcome,
        group_info: bytes::<24>(0xC4).to_vec().into(),
    };
    let blob = Part::Blob { hash: Digest(bytes(0xC5)), len: 300_000 };
    let application = |says, sealed| OutWhat::Application {
        body: Zeroizing::new(b"Good morning!".to_vec()),
        says,
        sealed,
    };
    let whats = [
        ("Application Body", application(Says::Body, Some(submit(SubmitKind::Application)))),
        ("Application Metadata", application(Says::Metadata, None)),
        ("Application Checkpoints", application(Says::Checkpoints, None)),
        (
            "Proposal",
            OutWhat::Proposal { submit: submit(SubmitKind::Proposal), intent: (1 << 20) + 1 },
        ),
        ("Commit", OutWhat::Commit { bundle: bundle(Some(blob)), intents: vec![1 << 20] }),
        ("Rejoin", OutWhat::Rejoin { bundle: bundle(None) }),
    ];
    let numbered = (2_u64 << 20..).zip(whats);
    let samples = numbered.map(|(ticket, (variant, what))| {
        let item = OutItem {
            channel: group(),
            message: MessageId(bytes(0xC6)),
            accepted: (variant == "Commit").then(accepted),
            silent: variant == "Rejoin",
            since: matches!(what, OutWhat::Application { sealed: Some(_), .. }).then_some(AT),
            what,
        };
        sample(OUTBOX, variant, &[&u64::to_be_bytes(ticket)], &item)
    });
    samples.collect()
}

fn on_demand() -> Vec<Sample> {
    let seq = 9_u64.to_be_bytes();
    let proof = StoredProof {
        message: MessageId(bytes(0xD0)),
        hash: Digest(bytes(0xD1)),
        accepted: accepted(),
    };
    let message = StoredMessage {
        message: MessageId(bytes(0xD2)),
        sender: Sender { account: bob(), device: device(0x33) },
        time: AT,
        epoch: 4,
        body: Zeroizing::new(b"Hello, Alice.".to_vec()),
    };
    let chunk = bytes::<24>(0xD3).to_vec();
    vec![
        sample(b"p/", "", &[&group().0, &seq], &proof),
        sample(b"m/", "", &[&group().0, &seq], &message),
        Sample { kind: b"b/", variant: "", key: chunk_key(Digest::of(&[&chunk]), 0), value: chunk },
    ]
}
