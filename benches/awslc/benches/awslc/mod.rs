//! All implementations of `qpc-benches`, and one more.

use mls_rs::CipherSuite;
use mls_rs_crypto_awslc::AwsLcCryptoProvider;
use qpc_benches::Error;
use qpc_benches::mls::mls_rs::{MlsRs, Setup};
use qpc_benches::mls::{self, Visitor};

/// X-Wing with AES-128-GCM and SHA-256 under mls-rs's private number: the same work as our 0x004F, in groups of its
/// own.
const HYBRID: CipherSuite = CipherSuite::new(65100);

pub fn visit_all(visitor: &mut impl Visitor) -> Result<(), Error> {
    mls::visit_all(visitor)?;
    let setup = Setup { hybrid: Some(HYBRID), ..Setup::new(AwsLcCryptoProvider::default()) };
    visitor.visit::<MlsRs<_>>("mls-rs, its AWS-LC", &setup)
}
