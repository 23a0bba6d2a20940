//! Both sides of OPAQUE against each other.

use super::*;
use crate::auth::opaque::{
    KE1, KE2, KE3, REGISTRATION_RECORD, REGISTRATION_REQUEST, REGISTRATION_RESPONSE,
};

#[test]
fn the_right_password_logs_in() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (registered, record) = register(&server, "alice", PASSWORD, 2);
    let attempt = login(&server, Some(&record), "alice", PASSWORD, 3);
    let client = attempt.client.unwrap();
    assert_eq!(client.export_key, registered.export_key);
    assert_eq!(client.session_key, attempt.server.unwrap().unwrap());

    let again = login(&server, Some(&record), "alice", PASSWORD, 4).client.unwrap();
    assert_eq!(again.export_key, registered.export_key);
    assert_ne!(again.session_key, client.session_key);
}

#[test]
fn messages_have_the_lengths_of_the_rfc() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, request) = Registration::start(&mut entropy(2), password(PASSWORD)).unwrap();
    assert_eq!(request.len(), REGISTRATION_REQUEST);
    let response = server.register_start(&name("alice"), &request).unwrap();
    assert_eq!(response.len(), REGISTRATION_RESPONSE);
    let (registered, record) = register(&server, "alice", PASSWORD, 2);
    assert_eq!(registered.upload.len(), REGISTRATION_RECORD);
    assert_eq!(record.len(), REGISTRATION_RECORD);
    let attempt = login(&server, Some(&record), "alice", PASSWORD, 3);
    assert_eq!(attempt.ke1.len(), KE1);
    assert_eq!(attempt.ke2.len(), KE2);
    assert_eq!(attempt.client.unwrap().ke3.len(), KE3);
}

#[test]
fn secrets_of_a_server_survive_their_encoding() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let encoded = server.encode();
    let restored = OpaqueServer::decode(&encoded).unwrap();
    assert_eq!(encoded, restored.encode());
    assert!(login(&restored, Some(&record), "alice", PASSWORD, 3).server.unwrap().is_ok());

    assert!(OpaqueServer::decode(&[]).is_none());
    assert!(OpaqueServer::decode(&encoded[..encoded.len() - 1]).is_none());
    assert!(OpaqueServer::decode(&[encoded.as_slice(), &[0]].concat()).is_none());
    let mut newer = encoded.to_vec();
    newer[0] += 1;
    assert!(OpaqueServer::decode(&newer).is_none());
}

#[test]
fn a_wrong_password_is_refused_by_the_client() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let attempt = login(&server, Some(&record), "alice", "incorrect horse", 3);
    assert_eq!(attempt.client.unwrap_err(), OpaqueError::Credentials);
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let known = login(&server, Some(&record), "alice", "incorrect horse", 3);
    let unknown = login(&server, None, "mallory", "incorrect horse", 3);
    assert_eq!(known.ke2.len(), unknown.ke2.len());
    assert_eq!(known.client.unwrap_err(), unknown.client.unwrap_err());

    // A client that answers all the same gets the same refusal.
    for (record, user) in [(Some(&*record), "alice"), (None, "mallory")] {
        let (state, _) = server
            .login_start(record, &name(user), SERVER, &known.ke1, CONTEXT, &mut entropy(4))
            .unwrap();
        assert_eq!(state.finish(&[0; KE3]).unwrap_err(), OpaqueError::Credentials);
    }
}

/// What the server draws from its entropy must not tell either: it would show in what it does next.
#[test]
fn an_unknown_user_draws_as_much_entropy() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let (_, ke1) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
    let after = |record| {
        let mut entropy = entropy(4);
        server.login_start(record, &name("alice"), SERVER, &ke1, CONTEXT, &mut entropy).unwrap();
        entropy.u64()
    };
    assert_eq!(after(Some(&record)), after(None));
}

/// RFC 9807 §10.9: the evaluated element of an unknown name stays the same, as a known one's does. The rest is
/// masked anew each time.
#[test]
fn an_unknown_user_evaluates_under_one_key() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, ke1) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
    let answer = |user: &str, seed| {
        let mut entropy = entropy(seed);
        server.login_start(None, &name(user), SERVER, &ke1, CONTEXT, &mut entropy).unwrap().1
    };
    assert_eq!(answer("mallory", 4)[..32], answer("mallory", 5)[..32]);
    assert_ne!(answer("mallory", 4)[..32], answer("trent", 4)[..32]);
    assert_ne!(answer("mallory", 4)[32..], answer("mallory", 5)[32..]);
}

#[test]
fn a_login_belongs_to_its_connection_server_and_name() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let finish = |user: &str, id, context: &[u8]| {
        let mut entropy = entropy(3);
        let (client, ke1) = Login::start(&mut entropy, password(PASSWORD)).unwrap();
        let (_, ke2) = server
            .login_start(Some(&record), &name("alice"), SERVER, &ke1, CONTEXT, &mut entropy)
            .unwrap();
        client.finish(&ke2, &name(user), id, context, CHEAP).map(|_| ())
    };
    assert_eq!(finish("alice", SERVER, CONTEXT), Ok(()));
    assert_eq!(finish("alice", SERVER, b"another"), Err(OpaqueError::Credentials));
    assert_eq!(finish("alice", ServerId([8; 32]), CONTEXT), Err(OpaqueError::Credentials));
    assert_eq!(finish("alicia", SERVER, CONTEXT), Err(OpaqueError::Credentials));
}

#[test]
fn a_record_opens_nothing_under_another_name_or_server() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let moved = login(&server, Some(&record), "bob", PASSWORD, 3);
    assert_eq!(moved.client.unwrap_err(), OpaqueError::Credentials);
    let other = OpaqueServer::generate(&mut entropy(9));
    let stolen = login(&other, Some(&record), "alice", PASSWORD, 3);
    assert_eq!(stolen.client.unwrap_err(), OpaqueError::Credentials);
}

#[test]
fn another_stretching_is_another_password() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let mut entropy = entropy(3);
    let (client, ke1) = Login::start(&mut entropy, password(PASSWORD)).unwrap();
    let (_, ke2) = server
        .login_start(Some(&record), &name("alice"), SERVER, &ke1, CONTEXT, &mut entropy)
        .unwrap();
    let costly = Stretching { passes: 2, ..CHEAP };
    let result = client.finish(&ke2, &name("alice"), SERVER, CONTEXT, costly);
    assert_eq!(result.unwrap_err(), OpaqueError::Credentials);
}

#[test]
fn impossible_stretching_is_its_own_error() {
    let server = OpaqueServer::generate(&mut entropy(1));
    for bad in [
        Stretching { memory_kib: 0, ..CHEAP },
        Stretching { passes: 0, ..CHEAP },
        Stretching { lanes: 0, ..CHEAP },
    ] {
        let mut entropy = entropy(2);
        let (state, request) = Registration::start(&mut entropy, password(PASSWORD)).unwrap();
        let response = server.register_start(&name("alice"), &request).unwrap();
        let result = state.finish(&response, &name("alice"), SERVER, bad, &mut entropy);
        assert_eq!(result.unwrap_err(), OpaqueError::Stretching);
    }
}

/// Two flips at every byte: refused, by whichever side sees it first, and never a panic.
#[test]
fn a_tampered_ke2_is_refused_at_every_byte() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let attempt = login(&server, Some(&record), "alice", PASSWORD, 3);
    for at in 0..KE2 {
        for flip in [0x01, 0x80] {
            let mut ke2 = attempt.ke2.to_vec();
            ke2[at] ^= flip;
            let (client, _) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
            let result = client.finish(&ke2, &name("alice"), SERVER, CONTEXT, CHEAP);
            assert!(result.is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_tampered_ke1_or_ke3_is_refused_at_every_byte() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let start = |ke1: &[u8]| {
        server.login_start(Some(&record), &name("alice"), SERVER, ke1, CONTEXT, &mut entropy(4))
    };
    let (client, ke1) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
    let (_, ke2) = start(&ke1).unwrap();
    let done = client.finish(&ke2, &name("alice"), SERVER, CONTEXT, CHEAP).unwrap();
    assert!(start(&ke1).unwrap().0.finish(&done.ke3).is_ok());
    for at in 0..KE1 {
        let mut bad = ke1.to_vec();
        bad[at] ^= 1;
        // Bytes that are still points only come out at the client or in KE3.
        if let Ok((state, ke2)) = start(&bad) {
            let (client, _) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
            let answer = client.finish(&ke2, &name("alice"), SERVER, CONTEXT, CHEAP);
            assert_eq!(answer.unwrap_err(), OpaqueError::Credentials, "byte {at}");
            assert_eq!(state.finish(&done.ke3).unwrap_err(), OpaqueError::Credentials);
        }
    }
    for at in 0..KE3 {
        let mut bad = done.ke3.to_vec();
        bad[at] ^= 1;
        let result = start(&ke1).unwrap().0.finish(&bad);
        assert_eq!(result.unwrap_err(), OpaqueError::Credentials, "byte {at}");
    }
}

#[test]
fn a_tampered_registration_response_never_yields_a_working_record() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (_, request) = Registration::start(&mut entropy(2), password(PASSWORD)).unwrap();
    let response = server.register_start(&name("alice"), &request).unwrap();
    for at in 0..REGISTRATION_RESPONSE {
        let mut bad = response.to_vec();
        bad[at] ^= 1;
        let (state, _) = Registration::start(&mut entropy(2), password(PASSWORD)).unwrap();
        let result = state.finish(&bad, &name("alice"), SERVER, CHEAP, &mut entropy(3));
        if let Ok(done) = result {
            let record = OpaqueServer::register_finish(&done.upload).unwrap();
            let attempt = login(&server, Some(&record), "alice", PASSWORD, 4);
            assert_eq!(attempt.client.unwrap_err(), OpaqueError::Credentials, "byte {at}");
        }
    }
}

/// A server that sends the blinded element back would learn a hash of the password.
#[test]
fn a_reflected_request_is_refused() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let (state, request) = Registration::start(&mut entropy(2), password(PASSWORD)).unwrap();
    let response = server.register_start(&name("alice"), &request).unwrap();
    let reflected = [&request, &response[32..]].concat();
    let result = state.finish(&reflected, &name("alice"), SERVER, CHEAP, &mut entropy(3));
    assert_eq!(result.unwrap_err(), OpaqueError::Malformed);
}

#[test]
fn every_other_length_and_the_identity_are_malformed() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let alice = name("alice");
    let bad = OpaqueError::Malformed;
    let (_, record) = register(&server, "alice", PASSWORD, 2);
    let (_, ke1) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
    let start = |ke1: &[u8]| {
        server.login_start(Some(&record), &alice, SERVER, ke1, CONTEXT, &mut entropy(4))
    };
    let (_, ke2) = start(&ke1).unwrap();
    // Lengths around the right one, with contents that are valid as far as they go.
    for (message, len) in [(&ke1, KE1), (&ke2, KE2), (&record, REGISTRATION_RECORD)] {
        for wrong in [&message[..0], &message[..len - 1], &[message, &[0][..]].concat()] {
            match len {
                KE1 => assert_eq!(start(wrong).unwrap_err(), bad),
                KE2 => {
                    let (client, _) = Login::start(&mut entropy(3), password(PASSWORD)).unwrap();
                    let result = client.finish(wrong, &alice, SERVER, CONTEXT, CHEAP);
                    assert_eq!(result.unwrap_err(), bad);
                }
                _ => {
                    assert_eq!(OpaqueServer::register_finish(wrong).unwrap_err(), bad);
                    let result = server.login_start(
                        Some(wrong),
                        &alice,
                        SERVER,
                        &ke1,
                        CONTEXT,
                        &mut entropy(4),
                    );
                    assert_eq!(result.unwrap_err(), OpaqueError::Record);
                }
            }
        }
    }
    for wrong in [0, 31, 33, 64] {
        assert_eq!(server.register_start(&alice, &vec![1; wrong]).unwrap_err(), bad);
    }
    for wrong in [0, 63, 65] {
        assert_eq!(start(&ke1).unwrap().0.finish(&vec![0; wrong]).unwrap_err(), bad);
    }
    // The encoding of the identity is all zeros (RFC 9496 §4.3.1); RFC 9497 §2.1 refuses it.
    assert_eq!(server.register_start(&alice, &[0; 32]).unwrap_err(), bad);
    assert_eq!(start(&[0; KE1]).unwrap_err(), bad);
    assert_eq!(OpaqueServer::register_finish(&[0; REGISTRATION_RECORD]).unwrap_err(), bad);
}

#[test]
fn passwords_are_prepared() {
    let server = OpaqueServer::generate(&mut entropy(1));
    // U+00E9, and e with U+0301: the same for a person (RFC 8265 §4.2.2, normalisation form C).
    let (_, record) = register(&server, "alice", "caf\u{e9}", 2);
    assert!(login(&server, Some(&record), "alice", "cafe\u{301}", 3).client.is_ok());
    assert!(login(&server, Some(&record), "alice", "CAF\u{e9}", 3).client.is_err());
    assert!(Password::prepare("").is_none());
    assert!(Password::prepare("bell\u{7}").is_none());
    assert!(Password::prepare(&"x".repeat(1024)).is_some());
    assert!(Password::prepare(&"x".repeat(1025)).is_none());
    assert!(Password::prepare(&"x".repeat(1 << 20)).is_none());
}

#[test]
fn nothing_secret_is_printed() {
    let server = OpaqueServer::generate(&mut entropy(1));
    let mut entropy = entropy(2);
    let (registration, _) = Registration::start(&mut entropy, password(PASSWORD)).unwrap();
    assert_eq!(format!("{registration:?}"), "Registration(…)");
    let (registered, record) = register(&server, "alice", PASSWORD, 2);
    let text = format!("{registered:?}");
    assert!(text.contains("export_key: ExportKey(…)"), "{text}");
    let (client, ke1) = Login::start(&mut entropy, password(PASSWORD)).unwrap();
    assert_eq!(format!("{client:?}"), "Login(…)");
    let (state, ke2) = server
        .login_start(Some(&record), &name("alice"), SERVER, &ke1, CONTEXT, &mut entropy)
        .unwrap();
    assert_eq!(format!("{state:?}"), "LoginState(…)");
    let text = format!("{:?}", client.finish(&ke2, &name("alice"), SERVER, CONTEXT, CHEAP));
    assert!(text.contains("ExportKey(…)") && text.contains("SessionKey(…)"), "{text}");
    assert_eq!(format!("{server:?}"), "OpaqueServer(…)");
    assert_eq!(format!("{:?}", password(PASSWORD)), "Password(…)");
}

/// Jobs carry these to other threads.
#[test]
fn states_may_move_to_other_threads() {
    fn movable<T: Send + 'static>() {}
    movable::<Registration>();
    movable::<Registered>();
    movable::<Login>();
    movable::<LoggedIn>();
    movable::<OpaqueServer>();
    movable::<crate::auth::server::LoginState>();
    movable::<SessionKey>();
}
