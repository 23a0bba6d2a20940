use core::time::Duration;

use super::*;
use crate::client::directory::Identity;
use crate::client::{Config, Stretching};
use crate::crypto::hybrid::EnvelopeSecrets;
use crate::crypto::identity::{AccountKey, DeviceKey};
use crate::crypto::portable;
use crate::env::Entropy;
use crate::id::{DeviceId, ServerId};
use crate::io::{Output, Target};
use crate::mls::suite::Suite;
use crate::wire::message::Username;

const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

/// A device of some account, and its keys.
fn device(seed: u8) -> (AccountKey, DeviceKey, DeviceRecord) {
    let mut entropy = Entropy::from_seed([seed; 32]);
    let account = AccountKey::generate(portable(), &mut entropy);
    let key = DeviceKey::generate(portable(), &mut entropy);
    let id = DeviceId([seed; 16]);
    let record = DeviceRecord::sign(portable(), &account, id, key.public(), 1, WALL);
    (account, key, record)
}

/// An account of many, in the order of their numbers.
pub(in crate::client) fn account(number: usize) -> AccountId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    AccountId(id)
}

/// What it is called.
pub(in crate::client) fn name(number: usize) -> Username {
    Username::prepare(&format!("number{number}")).unwrap()
}

/// The client of device 1, alone in a group.
pub(in crate::client) fn alone() -> (Client, ChannelId) {
    let (account_key, device_key, record) = device(1);
    let mut entropy = Entropy::from_seed([9; 32]);
    let identity = Identity {
        username: Username::prepare("alice").unwrap(),
        server: ServerId([0; 32]),
        account_key,
        device_key,
        record: record.encode(),
        envelope: EnvelopeSecrets::generate(&mut entropy),
        envelope_sequence: 1,
        registered: true,
        ended: false,
    };
    let config = Config {
        backend: portable(),
        server: Target("server".into()),
        stretching: Stretching::default(),
        insecure_plain: false,
        auto_connect: false,
        propose_first: false,
        update: crate::client::UpdatePolicy::default(),
    };
    let now = Now { mono: Duration::ZERO, wall: WALL };
    let records = vec![(directory::IDENTITY.to_vec(), crate::store::record::encode(&identity))];
    let mut client = Client::restore(config, records, entropy, now).unwrap();
    let id = ChannelId::group([5; 16]);
    client.make_group(id, Suite::Classical, vec![record.account], "alone").unwrap();
    (client, id)
}

/// Another word on the log of `id` than this client's, by a device.
fn contradiction(client: &Client, id: ChannelId, by: &DeviceRecord, key: &DeviceKey) -> Checkpoint {
    let own = client.checkpoint(id).unwrap();
    let chain = Digest([7; 32]);
    let lie = Checkpoint { by: by.sender(), chain, mark_chain: chain, ..own };
    lie.signed(portable(), key)
}

fn forks(client: &mut Client) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match client.poll(&mut Vec::new()) {
            Output::Event(event @ Event::ForkDetected { .. }) => events.push(event),
            Output::Persist(batch) => {
                let done = crate::io::Input::Persisted(batch.id, Ok(()));
                client.handle(Now { mono: Duration::ZERO, wall: WALL }, done).unwrap();
            }
            Output::Idle { .. } => return events,
            _ => {}
        }
    }
}

#[test]
fn a_members_contradiction_is_told_once_with_its_name() {
    let (mut client, id) = alone();
    let (_, key, record) = device(1);
    let lie = contradiction(&client, id, &record, &key);
    client.on_checkpoints(&record, vec![lie]);
    let told =
        Event::ForkDetected { channel: id, agreed: 0, seq: lie.mark, by: Some(record.sender()) };
    assert_eq!(forks(&mut client), [told]);
    assert!(client.claims.is_empty());
    assert_eq!(forks(&mut client), []);
}

#[test]
fn a_strangers_contradiction_and_one_that_is_not_signed_are_no_fork() {
    let (mut client, id) = alone();
    let (_, own_key, own) = device(1);
    let (_, key, stranger) = device(2);
    let strange = contradiction(&client, id, &stranger, &key);
    client.on_checkpoints(&stranger, vec![strange]);
    assert_eq!(client.claims.len(), 1, "it is the group that knows who is in it");
    assert_eq!(forks(&mut client), []);
    assert!(client.claims.is_empty());
    // In another's name, by another's key, of a channel that this device does not have.
    let of_own = contradiction(&client, id, &own, &own_key);
    let wrong_key = contradiction(&client, id, &own, &key);
    let elsewhere =
        Checkpoint { channel: ChannelId([1; 16]), ..of_own }.signed(portable(), &own_key);
    client.on_checkpoints(&stranger, vec![of_own]);
    client.on_checkpoints(&own, vec![wrong_key, elsewhere, Checkpoint { seq: 9, ..of_own }]);
    assert!(client.claims.is_empty());
    assert_eq!(forks(&mut client), []);
}

#[test]
fn what_is_ahead_waits_and_there_is_room_for_so_many() {
    let (mut client, id) = alone();
    let (_, key, own) = device(1);
    let ahead = Checkpoint { seq: 40, mark: 40, ..contradiction(&client, id, &own, &key) };
    client.on_checkpoints(&own, vec![ahead.signed(portable(), &key)]);
    assert_eq!(forks(&mut client), []);
    assert!(client.claims.values().all(|claim| claim.vetted));
    let (_, key, stranger) = device(2);
    let filler = contradiction(&client, id, &stranger, &key);
    for number in 1..CHECKPOINTS_KEPT as u64 {
        let by = Sender { account: own.account, device: DeviceId([0; 16]) };
        let by = Sender { device: DeviceId(u128::from(number).to_be_bytes()), ..by };
        let claim = Claim { checkpoint: Checkpoint { by, ..filler }, vetted: true };
        client.claims.insert((id, by), claim);
    }
    client.on_checkpoints(&stranger, vec![filler]);
    assert_eq!(client.claims.len(), CHECKPOINTS_KEPT);
    // Who is kept already may say more.
    let further = Checkpoint { seq: 41, mark: 41, ..ahead };
    let (_, key, _) = device(1);
    client.on_checkpoints(&own, vec![further.signed(portable(), &key)]);
    assert_eq!(client.claims.get(&(id, own.sender())).map(|claim| claim.checkpoint.seq), Some(41));
}

#[test]
fn another_history_in_the_same_epoch_is_a_contradiction_too() {
    let (mut client, id) = alone();
    let (_, key, record) = device(1);
    let own = client.checkpoint(id).unwrap();
    let other = Checkpoint { transcript: Digest([7; 32]), ..own };
    let later = Checkpoint { epoch: own.epoch + 1, ..other }.signed(portable(), &key);
    client.on_checkpoints(&record, vec![later]);
    assert_eq!(forks(&mut client), [], "of another epoch nothing is known");
    client.on_checkpoints(&record, vec![other.signed(portable(), &key)]);
    let told =
        Event::ForkDetected { channel: id, agreed: 0, seq: own.seq, by: Some(record.sender()) };
    assert_eq!(forks(&mut client), [told]);
}

/// What a member says to have read ahead waits; once it is out of the group nobody waits for it.
#[test]
fn what_one_who_is_out_said_to_be_ahead_is_forgotten() {
    let (mut client, id) = alone();
    let (_, key, own) = device(1);
    let (_, other_key, other) = device(2);
    let ahead = |client: &Client, by: &DeviceRecord, key: &DeviceKey| {
        let all = Checkpoint { seq: u64::MAX, ..contradiction(client, id, by, key) };
        Claim { checkpoint: all.signed(portable(), key), vetted: true }
    };
    let stays = ahead(&client, &own, &key);
    let goes = ahead(&client, &other, &other_key);
    client.claims.insert((id, own.sender()), stays);
    client.claims.insert((id, other.sender()), goes);
    let change = crate::mls::group::Change {
        epoch: 1,
        committer: own.sender(),
        added: Vec::new(),
        removed: vec![other.sender()],
        left: Vec::new(),
        updated: Vec::new(),
        data: None,
        rekeyed: true,
        rejoined: false,
        evicted: false,
    };
    client.on_change(id, &change);
    assert_eq!(client.claims.keys().copied().collect::<Vec<_>>(), [(id, own.sender())]);
    // Who is in it may have changed unseen: then nobody is taken for a member before it was looked up.
    client.doubt_claims(id);
    assert!(client.claims.values().all(|claim| !claim.vetted));
    client.erase(id);
    assert!(client.claims.is_empty());
}
