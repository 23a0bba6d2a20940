//! OPAQUE's messages, both ways, over its real primitives: they are not a backend's.

use std::sync::OnceLock;

use bytes::Bytes;
use qpc_protocol::auth::client::{Login, Password, Registration};
use qpc_protocol::auth::server::OpaqueServer;
use qpc_protocol::env::Entropy;
use qpc_protocol::id::ServerId;
use qpc_protocol::wire::message::Username;

use super::script::Script;
use crate::world::STRETCHING;

const SERVER: ServerId = ServerId([1; 32]);
const CONTEXT: &[u8] = b"the connection";

struct Account {
    server: OpaqueServer,
    username: Username,
    record: Bytes,
}

fn account() -> &'static Account {
    static MADE: OnceLock<Account> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut entropy = Entropy::from_seed([7; 32]);
        let server = OpaqueServer::generate(&mut entropy);
        let username = Username::prepare("alice").expect("a name");
        let (client, request) = Registration::start(&mut entropy, password()).expect("starts");
        let response = server.register_start(&username, &request).expect("sound");
        let done = client.finish(&response, &username, SERVER, STRETCHING, &mut entropy);
        let record = OpaqueServer::register_finish(&done.expect("sound").upload).expect("sound");
        Account { server, username, record }
    })
}

fn password() -> Password {
    Password::prepare("secret").expect("a password")
}

/// The bytes: which message is another one, and which.
pub(super) fn opaque(data: &[u8]) {
    let mut script = Script::new(data);
    let known = account();
    match script.pick(6) {
        0 => {
            let (_, request) = Registration::start(&mut entropy(), password()).expect("starts");
            let _ = known.server.register_start(&known.username, &script.edited(&request));
        }
        1 => {
            let (client, request) =
                Registration::start(&mut entropy(), password()).expect("starts");
            let response = known.server.register_start(&known.username, &request).expect("sound");
            let response = script.edited(&response);
            let _ = client.finish(&response, &known.username, SERVER, STRETCHING, &mut entropy());
        }
        2 => {
            let upload = script.edited(&known.record);
            if let Ok(record) = OpaqueServer::register_finish(&upload) {
                assert_eq!(record, upload, "kept as it was uploaded");
                login(&mut script, known, Some(&record), 9);
            }
        }
        3 => login(&mut script, known, None, 9),
        _ => {
            let changed = script.pick(3);
            login(&mut script, known, Some(&known.record), changed);
        }
    }
}

fn entropy() -> Entropy {
    Entropy::from_seed([8; 32])
}

/// A login in which one message (0: KE1, 1: KE2, 2: KE3) is another one. It goes through only if nothing was changed.
fn login(script: &mut Script, known: &Account, record: Option<&[u8]>, changed: usize) {
    let mut edit = |at: usize, message: Bytes| -> Bytes {
        if at == changed { script.edited(&message).into() } else { message }
    };
    let (client, first) = Login::start(&mut entropy(), password()).expect("starts");
    let ke1 = edit(0, first.clone());
    let mut own = entropy();
    let Account { server, username, .. } = known;
    let Ok((state, second)) = server.login_start(record, username, SERVER, &ke1, CONTEXT, &mut own)
    else {
        return;
    };
    let ke2 = edit(1, second.clone());
    let Ok(done) = client.finish(&ke2, username, SERVER, CONTEXT, STRETCHING) else { return };
    let ke3 = edit(2, done.ke3.clone());
    let Ok(key) = state.finish(&ke3) else { return };
    assert_eq!((ke1, ke2, ke3), (first, second, done.ke3), "a changed login went through");
    assert_eq!(record, Some(known.record.as_ref()), "a login with another record went through");
    assert!(key == done.session_key);
}
