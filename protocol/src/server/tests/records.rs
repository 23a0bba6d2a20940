//! What a server keeps beside the columns of its rows, pinned by bytes: its secrets, its tokens, and the statements
//! that rows hold as they were signed. The records of groups are pinned in `mls/tests/records.rs`.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::auth::token::{self, TokenKey};
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::{AccountKey, DeviceKey, DeviceRecord, EnvelopeKeys, Revocation};
use crate::crypto::portable;
use crate::env::{Entropy, UnixMillis};
use crate::id::{DeviceId, Sender};
use crate::server::ServerSecrets;
use crate::tests::{Vector, hex, read, readable, same, unhex, write};
use crate::wire::message::Token;

const FILE: &str = "records-server.json";
const LIST: &str = "records";
const AT: UnixMillis = UnixMillis(1_800_000_000_000);
const TOKEN_KEY: [u8; 32] = [0x42; 32];

/// Name and bytes of each.
fn one_of_each() -> Vec<(&'static str, Vec<u8>)> {
    let mut entropy = Entropy::from_seed([9; 32]);
    let backend = portable();
    let account = AccountKey::generate(backend, &mut entropy);
    let key = DeviceKey::generate(backend, &mut entropy);
    let sender = Sender { account: account.account(), device: DeviceId(entropy.array()) };
    let record = DeviceRecord::sign(backend, &account, sender.device, key.public(), 1, AT);
    let envelope = EnvelopeSecrets::generate(&mut entropy);
    let life = crate::limits::ACCESS_TOKEN_TIME;
    let tokens = TokenKey::new(backend, Zeroizing::new(TOKEN_KEY));
    vec![
        ("secrets", ServerSecrets::generate(&mut entropy).encode().to_vec()),
        ("access token", tokens.issue(sender, AT, life, &mut entropy).0.0.to_vec()),
        ("refresh token", token::refresh(&mut entropy).0.to_vec()),
        ("device record", record.encode()),
        ("envelope keys", envelope.publish(backend, &key, sender, 1, AT).encode()),
        ("revocation", Revocation::sign(backend, &account, sender.device, AT).encode()),
    ]
}

/// Reads a record, and whether it holds: the bytes that it is written as again, and its fields.
fn again(name: &str, bytes: &[u8]) -> (Vec<u8>, Value) {
    let backend = portable();
    let of = |sender: Sender| json!([hex(&sender.account.0), hex(&sender.device.0)]);
    match name {
        "secrets" => {
            let secrets = readable(FILE, name, ServerSecrets::decode(bytes).ok_or("damaged"));
            let fields = json!({
                "proofKey": hex(&*secrets.proof_key),
                "tokenKey": hex(&*secrets.token_key),
                "opaqueSetup": hex(&secrets.opaque_setup.encode()),
            });
            (secrets.encode().to_vec(), fields)
        }
        "access token" => {
            let tokens = TokenKey::new(backend, Zeroizing::new(TOKEN_KEY));
            let token = Token(Zeroizing::new(bytes.to_vec()));
            let claims = readable(FILE, name, tokens.verify(&token, AT));
            let fields = json!({
                "tokenKey": hex(&TOKEN_KEY),
                "sender": of(claims.sender),
                "issued": claims.issued.0,
                "expires": claims.expires.0,
            });
            (token.0.to_vec(), fields)
        }
        "refresh token" => {
            let token = Token(Zeroizing::new(bytes.to_vec()));
            let hash = readable(FILE, name, token::refresh_hash(&token));
            (token.0.to_vec(), json!({ "storedAs": hex(&hash.0) }))
        }
        "device record" => {
            let record = readable(FILE, name, DeviceRecord::decode(bytes).ok_or("damaged"));
            record.verify(backend).unwrap();
            let fields = json!({
                "sender": of(record.sender()),
                "deviceKey": hex(&record.device_key),
                "sequence": record.sequence,
                "notBefore": record.not_before.0,
                "signature": hex(&record.signature),
            });
            (record.encode(), fields)
        }
        "envelope keys" => {
            let keys = readable(FILE, name, EnvelopeKeys::decode(bytes).ok_or("damaged"));
            let fields = json!({
                "sender": of(keys.sender),
                "sequence": keys.sequence,
                "notBefore": keys.not_before.0,
                "x25519": hex(&keys.x25519),
                "mlkem768": hex(&*keys.mlkem768),
                "signature": hex(&keys.signature),
            });
            (keys.encode(), fields)
        }
        "revocation" => {
            let revocation = readable(FILE, name, Revocation::decode(bytes).ok_or("damaged"));
            revocation.verify(backend).unwrap();
            let fields = json!({
                "sender": of(revocation.sender()),
                "at": revocation.at.0,
                "signature": hex(&revocation.signature),
            });
            (revocation.encode(), fields)
        }
        other => panic!("how is {other} read?"),
    }
}

#[test]
fn the_pinned_records_are_read_and_written() {
    let pinned = read(FILE, LIST);
    let names = pinned.iter().map(|vector| vector["name"].as_str().unwrap().to_owned());
    let wanted: Vec<_> = one_of_each().into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.collect::<Vec<_>>(), wanted, "{FILE}");
    for (vector, (name, made)) in pinned.iter().zip(one_of_each()) {
        let (bytes, fields) = again(name, &unhex(&vector["bytes"]));
        same(FILE, name, &vector["bytes"], &hex(&bytes));
        same(FILE, &format!("{name} (its values)"), &vector["values"], &fields);
        same(FILE, &format!("{name} (made anew)"), &vector["bytes"], &hex(&made));
    }
}

#[test]
#[ignore = "rewrites vectors/qpc/records-server.json"]
fn bless_the_servers_records() {
    let vectors = one_of_each().into_iter().map(|(name, bytes)| {
        let (_, fields) = again(name, &bytes);
        vec![("name", name.into()), ("values", fields), ("bytes", hex(&bytes))]
    });
    write(FILE, LIST, &vectors.collect::<Vec<Vector>>());
}
