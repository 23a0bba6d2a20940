//! Nothing that the machines say of themselves holds what is to stay secret: planted values are looked for in the
//! debug output of every output, event and machine of a whole conversation.

use crate::talk::*;
use qpc_protocol::client::event::Outcome;
use qpc_protocol::io::Page;
use qpc_protocol::mls::suite::Suite;
use qpc_protocol::wire::message::{Body, Reply, Request};
use qpc_sim::world::{Rules, World};
use std::cell::RefCell;
use std::rc::Rc;

const BODY: &str = "planted-plaintext-7c1e";
const PASSWORD: &str = "planted-password-93ab";
const NAME: &str = "planted-group-name-51d0";

/// The forms in which bytes get into a log.
fn forms(secret: &[u8]) -> Vec<String> {
    let hex = data_hex(secret);
    let decimal = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut forms = vec![hex.to_uppercase(), hex, decimal];
    forms.extend(String::from_utf8(secret.to_vec()).ok());
    forms
}

fn data_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn look(said: &str, what: &str, secret: &[u8]) {
    for form in forms(secret) {
        assert!(form.len() >= 8, "{what} is too short to be looked for");
        if let Some(at) = said.find(&form) {
            let from = said.floor_char_boundary(at.saturating_sub(200));
            panic!("{what} is said: {}", &said[from..said.floor_char_boundary(at + 40)]);
        }
    }
}

/// Adds what all machines show of themselves at this moment.
fn show(world: &mut World) {
    let mut said = String::new();
    for device in &world.devices {
        said.push_str(&format!("{:?}\n", device.client));
        said.push_str(&format!("{:?}\n", device.log.last()));
    }
    said.push_str(&format!("{:?}\n", world.server));
    world.said.as_mut().unwrap().push_str(&said);
}

/// Tokens in logs (RUSTSEC-2022-0062).
#[test]
fn regression_27_what_machines_say_holds_no_secret() {
    for suite in [Suite::Classical, Suite::Hybrid] {
        let mut world = World::new(Rules::new(1));
        world.said = Some(String::new());
        let tokens: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
        let seen = tokens.clone();
        world.liar = Some(Box::new(move |_, _, frame| {
            let keep = |token: &qpc_protocol::wire::message::Token| {
                seen.borrow_mut().push(token.0.to_vec());
            };
            match &frame.body {
                Body::Reply(Reply::LoginFinish { tokens, .. } | Reply::Tokens(tokens)) => {
                    keep(&tokens.access);
                    keep(&tokens.refresh);
                }
                Body::Request(Request::Resume { token, .. }) => keep(token),
                _ => {}
            }
            vec![frame]
        }));
        for name in ["alice", "bob"] {
            let device = world.device();
            let password = PASSWORD.to_owned();
            let ticket = world.command(device, |c, now| c.register(now, name, password.into()));
            show(&mut world);
            world.outcome(device, ticket);
        }
        let made = world.done(ALICE, |client, now| client.create_group(now, NAME, suite));
        let Outcome::Group(channel) = made else { panic!("{made:?}") };
        world.command(ALICE, |client, now| client.invite(now, channel, "bob"));
        show(&mut world);
        world.settle();
        // Caught at every stage: not sealed yet, on its way, in the log, unread, read.
        world.cut(ALICE);
        say(&mut world, ALICE, channel, BODY);
        show(&mut world);
        for _ in 0..40 {
            world.pass(std::time::Duration::from_millis(20));
            show(&mut world);
        }
        world.settle();
        assert_eq!(world.bodies(BOB), [BODY]);
        show(&mut world);
        // Read again from the disk, group and keys included.
        for device in [ALICE, BOB] {
            world.crash(device);
            world.start(device);
            show(&mut world);
        }
        said(&mut world, BOB, channel, BODY);
        world.done(BOB, |client, now| client.update(now, channel));
        world.settle();
        show(&mut world);

        let said = world.said.take().unwrap();
        assert!(said.contains("Message(") && said.contains("Persist"), "nothing was looked at");
        look(&said, "the plaintext", BODY.as_bytes());
        look(&said, "the password", PASSWORD.as_bytes());
        look(&said, "the group's name", NAME.as_bytes());
        assert!(tokens.borrow().len() >= 4);
        for token in tokens.borrow().iter() {
            look(&said, "a token", token);
        }
        for device in [ALICE, BOB] {
            let disk = &world.devices[device].disk;
            for key in
                private_keys(&Page { prefix: Vec::new(), after: None, most: usize::MAX }.read(disk))
            {
                look(&said, "a private key", &key);
            }
        }
    }
}

/// Secrets of a device's records: every stretch of 32 bytes that follows a length of 32 in those that hold keys.
fn private_keys(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    for (key, value) in records {
        if key.starts_with(b"d/identity") {
            keys.extend(seeds(value));
        }
    }
    assert!(keys.len() >= 2, "an account key and a device key: {}", keys.len());
    keys
}

/// A seed is what its public key, which follows it, is made from.
fn seeds(record: &[u8]) -> Vec<Vec<u8>> {
    let backend = qpc_protocol::crypto::portable();
    let mut seeds = Vec::new();
    for window in record.windows(64) {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        seed.copy_from_slice(&window[..32]);
        if backend.ed25519_public(&seed) == window[32..] {
            seeds.push(window[..32].to_vec());
        }
    }
    seeds
}
