//! Tests of authentication as a whole: both sides of OPAQUE against each other and against published vectors.

mod opaque;
mod sealed;
mod vectors;

use bytes::Bytes;

use super::client::{LoggedIn, Login, Password, Registered, Registration};
use super::opaque::{OpaqueError, SessionKey};
use super::server::OpaqueServer;
use crate::client::Stretching;
use crate::env::Entropy;
use crate::id::ServerId;
use crate::wire::message::Username;

const CHEAP: Stretching = Stretching { memory_kib: 8, passes: 1, lanes: 1 };
const SERVER: ServerId = ServerId([7; 32]);
const CONTEXT: &[u8] = b"this connection";
const PASSWORD: &str = "correct horse battery staple";

fn entropy(seed: u8) -> Entropy {
    Entropy::from_seed([seed; 32])
}

fn name(name: &str) -> Username {
    Username::prepare(name).unwrap()
}

fn password(text: &str) -> Password {
    Password::prepare(text).unwrap()
}

fn register(server: &OpaqueServer, user: &str, with: &str, seed: u8) -> (Registered, Bytes) {
    let mut entropy = entropy(seed);
    let (state, request) = Registration::start(&mut entropy, password(with)).unwrap();
    let response = server.register_start(&name(user), &request).unwrap();
    let done = state.finish(&response, &name(user), SERVER, CHEAP, &mut entropy).unwrap();
    let record = OpaqueServer::register_finish(&done.upload).unwrap();
    (done, record)
}

/// One login from start to end: what each side came to.
struct Attempt {
    ke1: Bytes,
    ke2: Bytes,
    client: Result<LoggedIn, OpaqueError>,
    server: Option<Result<SessionKey, OpaqueError>>,
}

fn login(
    server: &OpaqueServer,
    record: Option<&[u8]>,
    user: &str,
    with: &str,
    seed: u8,
) -> Attempt {
    let mut entropy = entropy(seed);
    let (client, ke1) = Login::start(&mut entropy, password(with)).unwrap();
    let (state, ke2) =
        server.login_start(record, &name(user), SERVER, &ke1, CONTEXT, &mut entropy).unwrap();
    let client = client.finish(&ke2, &name(user), SERVER, CONTEXT, CHEAP);
    let server = client.as_ref().ok().map(|done| state.finish(&done.ke3));
    Attempt { ke1, ke2, client, server }
}
