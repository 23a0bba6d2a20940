//! Every kind of record that a client stores, pinned by bytes. The records of OpenMLS, below `g/`, `r/` and `k/`, are
//! pinned in `mls/tests/records.rs`.

mod samples;

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::checkpoint::{Claim, Ledger};
use super::super::envelope::Envelopes;
use super::super::intent::{Intent, Want};
use super::super::left::Left;
use super::super::rotation::Rotation;
use super::super::submission::{OutItem, OutWhat, Says, StoredMessage, StoredProof};
use super::*;
use crate::store::gate::VERSION_KEY;
use crate::tests::{hex, read, readable, same, unhex, values, write};
use crate::wire::message::Tokens;

const FILE: &str = "records-client.json";
const LIST: &str = "records";

/// A record of its kind, with the variant that it shows if there are several.
struct Sample {
    kind: &'static [u8],
    variant: &'static str,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Sample {
    fn name(&self) -> String {
        let kind = core::str::from_utf8(self.kind).unwrap();
        if self.variant.is_empty() { kind.to_owned() } else { format!("{kind} {}", self.variant) }
    }
}

/// Names the variants of an enum: a new one does not compile before it has a name, nor pass before it has a sample.
macro_rules! variants {
    ($($name:ident of $of:ident: $($variant:ident)*;)*) => {$(
        fn $name(of: &$of) -> &'static str {
            match of {
                $($of::$variant { .. } => stringify!($variant),)*
            }
        }

        impl Variants for $of {
            const ALL: &'static [&'static str] = &[$(stringify!($variant)),*];
        }
    )*};
}

trait Variants {
    const ALL: &'static [&'static str];
}

variants! {
    want of Want: Found Add Remove Leave Update Flush LeaveAgain Describe SetRole Renew Rotate Rejoin Admit Expel Reset
        Return Carry;
    out of OutWhat: Application Proposal Commit Rejoin;
    says of Says: Body Metadata Checkpoints;
    why of Why: Restored Gap Damaged Unopened Missed Asked Added Blocked;
    trust of Trust: Seen Verified Changed;
    listing of Listing: Never Due Done;
}

/// Reads a record by its key: the bytes that it is written as again, its fields, and the variants in it.
fn again(key: &[u8], value: &[u8]) -> (Vec<u8>, Value, Vec<&'static str>) {
    fn of<T: Serialize + DeserializeOwned>(
        key: &[u8],
        value: &[u8],
        shows: impl Fn(&T) -> Vec<&'static str>,
    ) -> (Vec<u8>, Value, Vec<&'static str>) {
        let name = key.escape_ascii().to_string();
        let decoded: T = readable(FILE, &name, record::decode(key, value));
        (record::encode(&decoded), values(&decoded), shows(&decoded))
    }
    fn plain<T: Serialize + DeserializeOwned>(
        key: &[u8],
        value: &[u8],
    ) -> (Vec<u8>, Value, Vec<&'static str>) {
        of::<T>(key, value, |_| Vec::new())
    }
    match kind_of(key) {
        VERSION_KEY => {
            let version = u64::from_be_bytes(value.try_into().unwrap());
            (version.to_be_bytes().to_vec(), version.into(), Vec::new())
        }
        IDENTITY => plain::<Identity>(key, value),
        TOKENS => plain::<Tokens>(key, value),
        ROTATION => plain::<Rotation>(key, value),
        ENVELOPES => plain::<Envelopes>(key, value),
        PACKAGES => plain::<PackagePlan>(key, value),
        SWEEP => plain::<Sweep>(key, value),
        FLEET => of::<Fleet>(key, value, |fleet| vec![listing(&fleet.listing)]),
        UNWELCOMED => plain::<Unwelcomed>(key, value),
        RESTORED => plain::<Restored>(key, value),
        CONTACT => of::<Contact>(key, value, |contact| vec![trust(&contact.trust)]),
        CHANNEL => plain::<ChannelRow>(key, value),
        LEAF => plain::<Leaf>(key, value),
        FALL => of::<Fall>(key, value, |fall| fall.why.iter().map(why).collect()),
        ENDED => plain::<Ended>(key, value),
        LEFT => plain::<Left>(key, value),
        LEDGER => plain::<Ledger>(key, value),
        CLAIM => {
            let stored: (bool, Vec<u8>) = record::decode(key, value).unwrap();
            assert!(Claim::read(stored).is_some());
            plain::<(bool, Vec<u8>)>(key, value)
        }
        INTENT => of::<Intent>(key, value, |intent| vec![want(&intent.want)]),
        OUTBOX => of::<OutItem>(key, value, |item| match &item.what {
            what @ OutWhat::Application { says: content, .. } => vec![out(what), says(content)],
            what => vec![out(what)],
        }),
        b"p/" => plain::<StoredProof>(key, value),
        b"m/" => plain::<StoredMessage>(key, value),
        // A chunk is what it is.
        b"b/" => (value.to_vec(), hex(value), Vec::new()),
        other => panic!("how is {} read?", other.escape_ascii()),
    }
}

/// The kinds of records that this file is about: single ones by their key, others by its beginning.
const KINDS: [&[u8]; 23] = [
    VERSION_KEY,
    IDENTITY,
    TOKENS,
    ROTATION,
    ENVELOPES,
    PACKAGES,
    SWEEP,
    FLEET,
    UNWELCOMED,
    RESTORED,
    CONTACT,
    CHANNEL,
    LEAF,
    FALL,
    ENDED,
    LEFT,
    LEDGER,
    CLAIM,
    INTENT,
    OUTBOX,
    b"p/",
    b"m/",
    b"b/",
];

fn kind_of(key: &[u8]) -> &'static [u8] {
    let kind = KINDS.into_iter().find(|kind| key.starts_with(kind));
    kind.unwrap_or_else(|| panic!("no kind of record: {}", key.escape_ascii()))
}

#[test]
fn the_pinned_records_are_read_and_written() {
    let pinned = read(FILE, LIST);
    let mut shown = BTreeSet::new();
    let names = pinned.iter().map(|vector| vector["name"].as_str().unwrap().to_owned());
    let wanted = samples::one_of_each().iter().map(Sample::name).collect::<Vec<_>>();
    assert_eq!(names.collect::<Vec<_>>(), wanted, "{FILE}");
    for vector in &pinned {
        let name = vector["name"].as_str().unwrap();
        let (key, value) = (unhex(&vector["key"]), unhex(&vector["bytes"]));
        let (bytes, fields, variants) = again(&key, &value);
        same(FILE, name, &vector["bytes"], &hex(&bytes));
        same(FILE, &format!("{name} (its values)"), &vector["values"], &fields);
        shown.extend(variants);
    }
    let all = [Want::ALL, OutWhat::ALL, Says::ALL, Why::ALL, Trust::ALL, Listing::ALL];
    assert_eq!(shown, all.concat().into_iter().collect(), "variants without a record");
}

/// A key that is named in the code is a kind of record, and every kind is pinned, here or among OpenMLS's.
#[test]
fn no_kind_is_missing() {
    let code = include_str!("../directory.rs").lines().filter(|line| !line.starts_with("//"));
    let literals = code.flat_map(|line| line.split("b\"").skip(1));
    let literals = literals.filter_map(|rest| rest.split('"').next()).map(str::as_bytes);
    let mut named: BTreeSet<_> = literals.filter(|key| *key != DIRECTORY).collect();
    named.insert(VERSION_KEY);
    let pinned = read(FILE, LIST).into_iter().map(|vector| kind_of(&unhex(&vector["key"])));
    let elsewhere: [&[u8]; 3] = [b"g/", b"r/", PACKAGE_KEYS];
    let pinned = pinned.chain(elsewhere).collect::<BTreeSet<_>>();
    assert_eq!(pinned, named);
}

#[test]
fn a_machine_starts_from_what_is_pinned() {
    use crate::client::{Client, Config, Stretching, UpdatePolicy};
    use crate::env::{Entropy, Now};
    let records = read(FILE, LIST).into_iter();
    let records = records.map(|vector| (unhex(&vector["key"]), unhex(&vector["bytes"])));
    let directory = records.filter(|(key, _)| key.starts_with(DIRECTORY)).collect();
    let config = Config {
        backend: crate::crypto::portable(),
        server: crate::io::Target("server".into()),
        stretching: Stretching { memory_kib: 8, passes: 1, lanes: 1 },
        insecure_plain: false,
        auto_connect: false,
        update: UpdatePolicy::default(),
        propose_first: false,
    };
    let entropy = Entropy::from_seed([1; 32]);
    let client = Client::restore(config, directory, entropy, Now::default()).unwrap();
    assert_eq!(client.whoami().unwrap().0.as_str(), "alice");
}

#[test]
#[ignore = "rewrites vectors/qpc/records-client.json"]
fn bless_the_clients_records() {
    let vectors = samples::one_of_each().into_iter().map(|sample| {
        let (name, Sample { kind, key, value, .. }) = (sample.name(), sample);
        let versioned = kind != VERSION_KEY && kind != b"b/";
        let version = versioned.then(|| value[0]);
        let (_, fields, _) = again(&key, &value);
        vec![
            ("name", name.into()),
            ("key", hex(&key)),
            ("version", version.map(Value::from).unwrap_or_default()),
            ("values", fields),
            ("bytes", hex(&value)),
        ]
    });
    write(FILE, LIST, &vectors.collect::<Vec<_>>());
}
