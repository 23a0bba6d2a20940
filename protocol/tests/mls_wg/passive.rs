//! A client that joins by a welcome with keys made elsewhere and follows what the others do: `passive-client-*.json`.

use openmls::group::ProcessedWelcome;
use openmls::prelude::{
    HpkePrivateKey, KeyPackageBundle, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup,
    MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    OpenMlsSignaturePublicKey, ProcessedMessageContent, RatchetTreeIn, StagedWelcome,
    Verifiable as _,
};
use openmls::schedule::PreSharedKeyId;
use openmls_traits::storage::StorageProvider as _;
use qpc_protocol::mls::Provider;
use serde_json::{Value, json};
use tls_codec::Deserialize as _;

use super::{Failure, same, unhex};

/// Joins, then follows every epoch; the epoch authenticator has to be the published one each time. After every step the
/// group is read again from what was stored.
pub(crate) fn follow(provider: &Provider, case: &Value) -> Result<(), Failure> {
    for psk in list(&case["external_psks"])? {
        // The nonce is each use's own and not stored.
        let id = PreSharedKeyId::external(unhex(&psk["psk_id"])?, Vec::new());
        id.store(provider, &unhex(&psk["psk"])?)?;
    }
    import_key_package(provider, case)?;
    let mut group = join(provider, case)?;
    same("authenticator", authenticator(&group), &case["initial_epoch_authenticator"])?;
    for (number, epoch) in list(&case["epochs"])?.iter().enumerate() {
        let failed = |failure| format!("epoch {number}: {failure}");
        for proposal in list(&epoch["proposals"])? {
            process(provider, &mut group, &unhex(proposal)?).map_err(failed)?;
        }
        process(provider, &mut group, &unhex(&epoch["commit"])?).map_err(failed)?;
        same("authenticator", authenticator(&group), &epoch["epoch_authenticator"])
            .map_err(failed)?;
    }
    Ok(())
}

/// Decrypts a welcome with an init key made elsewhere, and checks the signature of what is inside: `welcome.json`.
pub(crate) fn open_welcome(provider: &Provider, case: &Value) -> Result<(), Failure> {
    let mut case = case.clone();
    case["encryption_priv"] = "".into(); // the case tests nothing that would need it
    import_key_package(provider, &case)?;
    let MlsMessageBodyIn::Welcome(welcome) = message(&unhex(&case["welcome"])?)?.extract() else {
        return Err("not a welcome".into());
    };
    let suite = welcome.ciphersuite();
    let opened = ProcessedWelcome::new_from_welcome(provider, &join_config(), welcome)?;
    let signer = OpenMlsSignaturePublicKey::from_signature_key(
        unhex(&case["signer_pub"])?.into(),
        suite.signature_algorithm(),
    );
    opened.unverified_group_info().verify_no_out(provider.crypto(), &signer)?;
    Ok(())
}

/// A key package whose private halves are given. OpenMLS imports none (a device makes its own), but stores them; the
/// stored form is what is made here. Its lifetime is not compared with any clock.
fn import_key_package(provider: &Provider, case: &Value) -> Result<(), Failure> {
    let package = message(&unhex(&case["key_package"])?)?.extract();
    let MlsMessageBodyIn::KeyPackage(package) = package else {
        return Err("not a key package".into());
    };
    let init_key = HpkePrivateKey::from(unhex(&case["init_priv"])?);
    let leaf_key = HpkePrivateKey::from(unhex(&case["encryption_priv"])?);
    let bundle: KeyPackageBundle = serde_json::from_value(json!({
        "key_package": package,
        "private_init_key": init_key,
        "private_encryption_key": { "key": leaf_key },
    }))?;
    let reference = bundle.key_package().hash_ref(provider.crypto())?;
    Ok(provider.storage().write_key_package(&reference, &bundle)?)
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .number_of_resumption_psks(16)
        .use_ratchet_tree_extension(true)
        .build()
}

fn join(provider: &Provider, case: &Value) -> Result<MlsGroup, Failure> {
    let MlsMessageBodyIn::Welcome(welcome) = message(&unhex(&case["welcome"])?)?.extract() else {
        return Err("not a welcome".into());
    };
    let mut builder = StagedWelcome::build_from_welcome(provider, &join_config(), welcome)?
        .skip_lifetime_validation();
    if !case["ratchet_tree"].is_null() {
        let tree = RatchetTreeIn::tls_deserialize_exact(unhex(&case["ratchet_tree"])?)?;
        builder = builder.with_ratchet_tree(tree);
    }
    reload(provider, &builder.build()?.into_group(provider)?)
}

fn process(provider: &Provider, group: &mut MlsGroup, bytes: &[u8]) -> Result<(), Failure> {
    let message = message(bytes)?.try_into_protocol_message()?;
    match group.process_message(provider, message)?.into_content() {
        ProcessedMessageContent::ProposalMessage(proposal) => {
            group.store_pending_proposal(provider.storage(), *proposal)?;
        }
        ProcessedMessageContent::StagedCommitMessage(commit) => {
            group.merge_staged_commit(provider, *commit)?;
        }
        _ => return Err("neither proposal nor commit".into()),
    }
    *group = reload(provider, group)?;
    Ok(())
}

fn reload(provider: &Provider, group: &MlsGroup) -> Result<MlsGroup, Failure> {
    let stored = MlsGroup::load(provider.storage(), group.group_id())?;
    stored.ok_or_else(|| "nothing was stored".into())
}

fn authenticator(group: &MlsGroup) -> &[u8] {
    group.epoch_authenticator().as_slice()
}

fn message(bytes: &[u8]) -> Result<MlsMessageIn, Failure> {
    Ok(MlsMessageIn::tls_deserialize_exact(bytes)?)
}

fn list(value: &Value) -> Result<&[Value], Failure> {
    Ok(value.as_array().ok_or_else(|| format!("not a list: {value}"))?)
}
