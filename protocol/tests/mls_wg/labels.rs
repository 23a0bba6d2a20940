//! What RFC 9420 builds from primitives, written down here once more from its text, over our provider:
//! `crypto-basics.json` (§5.1.2, §5.1.3, §5.2, §8, §9) and `key-schedule.json` (§8).

use openmls_traits::OpenMlsProvider as _;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::types::{Ciphersuite, HpkeCiphertext};
use qpc_protocol::mls::Provider;
use serde_json::Value;
use tls_codec::{Serialize as _, VLByteSlice};

use super::{Failure, number, same, suite, text, unhex};

/// One suite over one provider.
struct Labelled<'a> {
    provider: &'a Provider,
    suite: Ciphersuite,
}

impl Labelled<'_> {
    fn extract(&self, salt: &[u8], ikm: &[u8]) -> Result<Vec<u8>, Failure> {
        let hash = self.suite.hash_algorithm();
        Ok(self.provider.crypto().hkdf_extract(hash, salt, ikm)?.as_slice().to_vec())
    }

    /// ExpandWithLabel, §8.
    fn expand(
        &self,
        secret: &[u8],
        label: &str,
        context: &[u8],
        len: usize,
    ) -> Result<Vec<u8>, Failure> {
        let info = [u16::try_from(len)?.to_be_bytes().to_vec(), labelled(label)?, vector(context)?];
        let hash = self.suite.hash_algorithm();
        let out = self.provider.crypto().hkdf_expand(hash, secret, &info.concat(), len)?;
        Ok(out.as_slice().to_vec())
    }

    /// DeriveSecret, §8.
    fn derive(&self, secret: &[u8], label: &str) -> Result<Vec<u8>, Failure> {
        self.expand(secret, label, b"", self.suite.hash_length())
    }

    fn hash(&self, data: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(self.provider.crypto().hash(self.suite.hash_algorithm(), data)?)
    }
}

/// `opaque<V>`, §2.1.2.
fn vector(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    Ok(VLByteSlice(bytes).tls_serialize_detached()?)
}

fn labelled(label: &str) -> Result<Vec<u8>, Failure> {
    vector(format!("MLS 1.0 {label}").as_bytes())
}

/// `crypto-basics.json`.
pub(crate) fn basics(provider: &Provider, case: &Value) -> Result<(), Failure> {
    let suite = suite(case).ok_or("no suite")?;
    let mls = Labelled { provider, suite };

    // RefHash, §5.2; its labels stand as they are.
    let part = &case["ref_hash"];
    let input = [vector(text(part, "label")?.as_bytes())?, vector(&unhex(&part["value"])?)?];
    same("ref_hash", &mls.hash(&input.concat())?, &part["out"])?;

    let part = &case["expand_with_label"];
    let (secret, context) = (unhex(&part["secret"])?, unhex(&part["context"])?);
    let out = mls.expand(&secret, text(part, "label")?, &context, number(part, "length")?)?;
    same("expand_with_label", &out, &part["out"])?;

    let part = &case["derive_secret"];
    let out = mls.derive(&unhex(&part["secret"])?, text(part, "label")?)?;
    same("derive_secret", &out, &part["out"])?;

    // DeriveTreeSecret, §9.
    let part = &case["derive_tree_secret"];
    let generation = u32::try_from(number(part, "generation")?)?.to_be_bytes();
    let (secret, length) = (unhex(&part["secret"])?, number(part, "length")?);
    let out = mls.expand(&secret, text(part, "label")?, &generation, length)?;
    same("derive_tree_secret", &out, &part["out"])?;

    sign_with_label(&mls, &case["sign_with_label"])?;
    encrypt_with_label(&mls, &case["encrypt_with_label"])
}

/// §5.1.2.
fn sign_with_label(mls: &Labelled<'_>, part: &Value) -> Result<(), Failure> {
    let (crypto, scheme) = (mls.provider.crypto(), mls.suite.signature_algorithm());
    let content = [labelled(text(part, "label")?)?, vector(&unhex(&part["content"])?)?].concat();
    let (public, theirs) = (unhex(&part["pub"])?, unhex(&part["signature"])?);
    crypto.verify_signature(scheme, &content, &public, &theirs)?;
    let ours = crypto.sign(scheme, &content, &unhex(&part["priv"])?)?;
    crypto.verify_signature(scheme, &content, &public, &ours)?;
    // Ed25519 is deterministic (RFC 8032 §5.1.6).
    same("signature", &ours, &part["signature"])
}

/// §5.1.3.
fn encrypt_with_label(mls: &Labelled<'_>, part: &Value) -> Result<(), Failure> {
    let (crypto, config) = (mls.provider.crypto(), mls.suite.hpke_config());
    let info = [labelled(text(part, "label")?)?, vector(&unhex(&part["context"])?)?].concat();
    let (secret, plaintext) = (unhex(&part["priv"])?, unhex(&part["plaintext"])?);
    let theirs = HpkeCiphertext {
        kem_output: unhex(&part["kem_output"])?.into(),
        ciphertext: unhex(&part["ciphertext"])?.into(),
    };
    let opened = crypto.hpke_open(mls.suite.hpke_config(), &theirs, &secret, &info, b"")?;
    same("plaintext", &opened, &part["plaintext"])?;
    let ours = crypto.hpke_seal(config, &unhex(&part["pub"])?, &info, b"", &plaintext)?;
    let opened = crypto.hpke_open(mls.suite.hpke_config(), &ours, &secret, &info, b"")?;
    same("own plaintext", &opened, &part["plaintext"])
}

/// `key-schedule.json`: the figure of §8, epoch after epoch; the init secret of one goes into the next.
pub(crate) fn key_schedule(provider: &Provider, case: &Value) -> Result<(), Failure> {
    let suite = suite(case).ok_or("no suite")?;
    let mls = Labelled { provider, suite };
    let mut init_secret = unhex(&case["initial_init_secret"])?;
    for epoch in case["epochs"].as_array().ok_or("no epochs")? {
        let context = unhex(&epoch["group_context"])?;
        let length = suite.hash_length();
        let with_commit = mls.extract(&init_secret, &unhex(&epoch["commit_secret"])?)?;
        let joiner = mls.expand(&with_commit, "joiner", &context, length)?;
        same("joiner_secret", &joiner, &epoch["joiner_secret"])?;
        let member = mls.extract(&joiner, &unhex(&epoch["psk_secret"])?)?;
        same("welcome_secret", &mls.derive(&member, "welcome")?, &epoch["welcome_secret"])?;
        let secret = mls.expand(&member, "epoch", &context, length)?;
        for (field, label) in [
            ("sender_data_secret", "sender data"),
            ("encryption_secret", "encryption"),
            ("exporter_secret", "exporter"),
            ("external_secret", "external"),
            ("confirmation_key", "confirm"),
            ("membership_key", "membership"),
            ("resumption_psk", "resumption"),
            ("epoch_authenticator", "authentication"),
            ("init_secret", "init"),
        ] {
            same(field, &mls.derive(&secret, label)?, &epoch[field])?;
        }
        let external = mls.derive(&secret, "external")?;
        let pair = provider.crypto().derive_hpke_keypair(suite.hpke_config(), &external)?;
        same("external_pub", &pair.public, &epoch["external_pub"])?;
        // MLS-Exporter, §8.5.
        let exporter = &epoch["exporter"];
        let base = mls.derive(&mls.derive(&secret, "exporter")?, text(exporter, "label")?)?;
        let hashed = mls.hash(&unhex(&exporter["context"])?)?;
        let exported = mls.expand(&base, "exported", &hashed, number(exporter, "length")?)?;
        same("exported secret", &exported, &exporter["secret"])?;
        init_secret = mls.derive(&secret, "init")?;
    }
    Ok(())
}
