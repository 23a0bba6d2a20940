//! OpenMLS's own providers and ours in one group, in both suites, with handshakes private and public: whoever founds
//! it, each adds, updates, removes and talks, and all agree after every step.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

mod peers;

use openmls::prelude::{
    Ciphersuite, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, OpenMlsCrypto as _, OpenMlsProvider,
    PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, WireFormatPolicy,
};
use openmls_basic_credential::SignatureKeyPair;
use qpc_protocol::crypto::{Backend, portable};
use qpc_protocol::mls::suite::Suite;

use self::peers::openmls::{OpenMls, ours};
use self::peers::{Peer, live_together};

fn stock<P: OpenMlsProvider + Default>(
    kind: &str,
    name: &str,
    suite: Ciphersuite,
    wire: WireFormatPolicy,
) -> OpenMls<P, SignatureKeyPair> {
    let provider = P::default();
    provider.crypto().supports(suite).unwrap();
    let signer = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
    let public = signer.to_public_vec();
    OpenMls::new(format!("{kind}, {name}"), name, suite, wire, provider, signer, public)
}

fn backends() -> Vec<Backend> {
    vec![
        portable(),
        #[cfg(feature = "fast")]
        qpc_protocol::crypto::fast(),
    ]
}

fn both_ways<P: OpenMlsProvider + Default>(kind: &str, suite: Suite) {
    let suite = suite.ciphersuite();
    for backend in backends() {
        for wire in [PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY] {
            let mut our = ["alice", "bob"].map(|name| ours(backend, name, suite, wire));
            let mut their = ["carol", "dave"].map(|name| stock::<P>(kind, name, suite, wire));
            let ([alice, bob], [carol, dave]) = (our.each_mut(), their.each_mut());
            live_together([alice, carol, bob, dave]);

            let mut our = ["alice", "bob"].map(|name| ours(backend, name, suite, wire));
            let mut their = ["carol", "dave"].map(|name| stock::<P>(kind, name, suite, wire));
            let ([alice, bob], [carol, dave]) = (our.each_mut(), their.each_mut());
            let founder: &mut dyn Peer = carol;
            live_together([founder, alice, dave, bob]);
        }
    }
}

#[test]
fn rust_crypto_and_ours_in_a_classical_group() {
    both_ways::<openmls_rust_crypto::OpenMlsRustCrypto>("rust_crypto", Suite::Classical);
}

#[test]
fn rust_crypto_and_ours_in_a_hybrid_group() {
    both_ways::<openmls_rust_crypto::OpenMlsRustCrypto>("rust_crypto", Suite::Hybrid);
}

#[test]
fn libcrux_and_ours_in_a_classical_group() {
    both_ways::<openmls_libcrux_crypto::Provider>("libcrux", Suite::Classical);
}

#[test]
fn libcrux_and_ours_in_a_hybrid_group() {
    both_ways::<openmls_libcrux_crypto::Provider>("libcrux", Suite::Hybrid);
}
