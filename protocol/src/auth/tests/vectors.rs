//! Published vectors: RFC 9807 appendix C through our own steps, RFC 9497 through the OPRF below them.

use data_encoding::HEXLOWER;
use opaque_ke::rand::{CryptoRng, Error, RngCore};
use opaque_ke::{Identifiers, ServerSetup};
use serde_json::Value;
use zeroize::Zeroizing;

use super::*;
use crate::auth::opaque::Stretch;

/// Hands out given bytes in order, and nothing else.
struct Script(Vec<u8>);

impl Script {
    fn new(parts: &[&[u8]]) -> Self {
        Self(parts.concat())
    }

    fn done(self) {
        assert!(self.0.is_empty(), "bytes left over");
    }
}

impl RngCore for Script {
    fn next_u32(&mut self) -> u32 {
        panic!("not scripted")
    }

    fn next_u64(&mut self) -> u64 {
        panic!("not scripted")
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&self.0);
        self.0 = rest;
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Script {}

fn cases(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

/// A scalar is drawn as 64 bytes and reduced; a canonical one with 32 zeros behind it comes out as itself.
fn scalar(value: &Value) -> Vec<u8> {
    [hex(value), vec![0; 32]].concat()
}

fn names(inputs: &Value) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    (inputs.get("client_identity").map(hex), inputs.get("server_identity").map(hex))
}

fn setup(inputs: &Value, unknown_user: &Value) -> OpaqueServer {
    let parts = [hex(&inputs["oprf_seed"]), hex(&inputs["server_private_key"]), hex(unknown_user)];
    OpaqueServer::from_setup(ServerSetup::deserialize(&parts.concat()).unwrap())
}

fn raw_password(inputs: &Value) -> Password {
    Password(Zeroizing::new(String::from_utf8(hex(&inputs["password"])).unwrap()))
}

const OPAQUE: &str = include_str!("../../../../vectors/opaque/rfc9807-ristretto255.json");

/// RFC 9807 appendix C.1.1 and C.1.2.
#[test]
fn rfc_9807_real_records() {
    let cases = cases(OPAQUE);
    let real: Vec<_> = cases.iter().filter(|case| case["config"]["Fake"] == "False").collect();
    assert_eq!(real.len(), 2);
    for case in real {
        let (inputs, outputs) = (&case["inputs"], &case["outputs"]);
        let context = hex(&case["config"]["Context"]);
        let (client, server) = names(inputs);
        let names = Identifiers { client: client.as_deref(), server: server.as_deref() };
        let credential = hex(&inputs["credential_identifier"]);
        let opaque = setup(inputs, &inputs["server_public_key"]);

        let mut rng = Script::new(&[&scalar(&inputs["blind_registration"])]);
        let (state, request) = Registration::start_with(&mut rng, raw_password(inputs)).unwrap();
        rng.done();
        assert_eq!(request, hex(&outputs["registration_request"]));
        let response = opaque.register_start_with(&credential, &request).unwrap();
        assert_eq!(response, hex(&outputs["registration_response"]));
        let mut rng = Script::new(&[&hex(&inputs["envelope_nonce"])]);
        let done = state.finish_with(&mut rng, &response, names, &Stretch::Identity).unwrap();
        rng.done();
        assert_eq!(done.upload, hex(&outputs["registration_upload"]));
        assert_eq!(done.export_key.0.as_slice(), hex(&outputs["export_key"]));
        let record = OpaqueServer::register_finish(&done.upload).unwrap();

        let mut rng = Script::new(&[
            &scalar(&inputs["blind_login"]),
            &hex(&inputs["client_keyshare_seed"]),
            &hex(&inputs["client_nonce"]),
        ]);
        let (state, ke1) = Login::start_with(&mut rng, raw_password(inputs)).unwrap();
        rng.done();
        assert_eq!(ke1, hex(&outputs["KE1"]));
        // The fake record's masking key is drawn for known users too.
        let mut rng = Script::new(&[
            &[0xee; 64],
            &hex(&inputs["masking_nonce"]),
            &hex(&inputs["server_keyshare_seed"]),
            &hex(&inputs["server_nonce"]),
        ]);
        let (waiting, ke2) = opaque
            .login_start_with(&mut rng, Some(&record), &credential, names, &ke1, &context)
            .unwrap();
        rng.done();
        assert_eq!(ke2, hex(&outputs["KE2"]));
        let done = state.finish_with(&ke2, names, &context, &Stretch::Identity).unwrap();
        assert_eq!(done.ke3, hex(&outputs["KE3"]));
        assert_eq!(done.export_key.0.as_slice(), hex(&outputs["export_key"]));
        assert_eq!(done.session_key.0.as_slice(), hex(&outputs["session_key"]));
        assert_eq!(waiting.finish(&done.ke3).unwrap(), done.session_key);
    }
}

/// RFC 9807 appendix C.2.1: the answer to an unknown user.
#[test]
fn rfc_9807_fake_record() {
    let cases = cases(OPAQUE);
    let fake: Vec<_> = cases.iter().filter(|case| case["config"]["Fake"] == "True").collect();
    assert_eq!(fake.len(), 1);
    for case in fake {
        let inputs = &case["inputs"];
        let (client, server) = names(inputs);
        let names = Identifiers { client: client.as_deref(), server: server.as_deref() };
        let mut rng = Script::new(&[
            &hex(&inputs["masking_key"]),
            &hex(&inputs["masking_nonce"]),
            &hex(&inputs["server_keyshare_seed"]),
            &hex(&inputs["server_nonce"]),
        ]);
        let (_, ke2) = setup(inputs, &inputs["client_public_key"])
            .login_start_with(
                &mut rng,
                None,
                &hex(&inputs["credential_identifier"]),
                names,
                &hex(&inputs["KE1"]),
                &hex(&case["config"]["Context"]),
            )
            .unwrap();
        rng.done();
        assert_eq!(ke2, hex(&case["outputs"]["KE2"]));
    }
}

/// RFC 9497 appendix A.1.1.
#[test]
fn rfc_9497_oprf() {
    use voprf::{OprfClient, OprfServer, Ristretto255};
    let suites = cases(include_str!("../../../../vectors/voprf/rfc9497-ristretto255-oprf.json"));
    assert_eq!(suites[0]["vectors"].as_array().unwrap().len(), 2);
    let (seed, info) = (hex(&suites[0]["seed"]), hex(&suites[0]["keyInfo"]));
    let server = OprfServer::<Ristretto255>::new_from_seed(&seed, &info).unwrap();
    assert_eq!(server.serialize().as_slice(), hex(&suites[0]["skSm"]));
    for case in suites[0]["vectors"].as_array().unwrap() {
        let input = hex(&case["Input"]);
        let mut rng = Script::new(&[&scalar(&case["Blind"])]);
        let blinded = OprfClient::<Ristretto255>::blind(&input, &mut rng).unwrap();
        assert_eq!(blinded.message.serialize().as_slice(), hex(&case["BlindedElement"]));
        let evaluated = server.blind_evaluate(&blinded.message);
        assert_eq!(evaluated.serialize().as_slice(), hex(&case["EvaluationElement"]));
        let output = blinded.state.finalize(&input, &evaluated).unwrap();
        assert_eq!(output.as_slice(), hex(&case["Output"]));
        // Our own first step blinds in the same way.
        let mut rng = Script::new(&[&scalar(&case["Blind"])]);
        let password = Password(Zeroizing::new(String::from_utf8(input).unwrap()));
        let (_, request) = Registration::start_with(&mut rng, password).unwrap();
        assert_eq!(request, hex(&case["BlindedElement"]));
    }
}
