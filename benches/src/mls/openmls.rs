//! OpenMLS with its own provider: RustCrypto's primitives and storage as JSON in memory.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use ::openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::{Deserialize as _, Serialize as _};

use super::{Invitation, Member, Suite};
use crate::Error;

/// A member over OpenMLS as it comes.
pub struct Stock {
    device: Device,
    provider: OpenMlsRustCrypto,
    group: Option<MlsGroup>,
    /// What was stored when bytes were last counted.
    before: Records,
}

#[derive(Clone)]
struct Device {
    suite: Ciphersuite,
    number: u32,
    signer: Arc<SignatureKeyPair>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// See [`Member::Saved`].
#[derive(Clone)]
pub struct Saved {
    device: Device,
    records: Records,
    group: Option<GroupId>,
}

impl Device {
    fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(self.number.to_be_bytes().to_vec()).into(),
            signature_key: self.signer.to_public_vec().into(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::builder().ciphersuites(vec![self.suite]).build()
    }
}

impl Stock {
    fn records(&self) -> Result<Records, Error> {
        let values = self.provider.storage().values.read().map_err(|_| "poisoned")?;
        Ok(values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// A commit that is merged at once, and its welcome.
    fn commit(
        &mut self,
        plan: impl for<'a> FnOnce(
            CommitBuilder<'a, Initial, &'a mut MlsGroup>,
        ) -> CommitBuilder<'a, Initial, &'a mut MlsGroup>,
    ) -> Result<(Vec<u8>, Option<Vec<u8>>), Error> {
        let (provider, signer) = (&self.provider, &*self.device.signer);
        let group = self.group.as_mut().ok_or("in no group")?;
        let messages = plan(group.commit_builder())
            .load_psks(provider.storage())?
            .build(provider.rand(), provider.crypto(), signer, |_| true)?
            .stage_commit(provider)?;
        let (commit, welcome, _) = messages.into_messages();
        group.merge_pending_commit(provider)?;
        let welcome = welcome.map(|welcome| welcome.tls_serialize_detached()).transpose()?;
        Ok((commit.tls_serialize_detached()?, welcome))
    }

    fn receive(&mut self, message: &[u8]) -> Result<ProcessedMessageContent, Error> {
        let message = parse(message)?.try_into_protocol_message()?;
        let group = self.group.as_mut().ok_or("in no group")?;
        Ok(group.process_message(&self.provider, message)?.into_content())
    }
}

fn parse(message: &[u8]) -> Result<MlsMessageIn, Error> {
    Ok(MlsMessageIn::tls_deserialize_exact(message)?)
}

const PAST_EPOCHS: usize = 2;

impl Member for Stock {
    type Kind = ();
    type Saved = Saved;

    fn does((): &(), suite: Suite) -> bool {
        OpenMlsRustCrypto::default().crypto().supports(suite.ciphersuite()).is_ok()
    }

    fn new((): &(), suite: Suite, number: u32) -> Result<Self, Error> {
        let suite = suite.ciphersuite();
        let signer = Arc::new(SignatureKeyPair::new(suite.signature_algorithm())?);
        let device = Device { suite, number, signer };
        Self::load(Saved { device, records: Records::new(), group: None })
    }

    fn key_package(&mut self) -> Result<Vec<u8>, Error> {
        let bundle =
            KeyPackage::builder().leaf_node_capabilities(self.device.capabilities()).build(
                self.device.suite,
                &self.provider,
                &*self.device.signer,
                self.device.credential(),
            )?;
        Ok(MlsMessageOut::from(bundle.into_key_package()).tls_serialize_detached()?)
    }

    fn found(&mut self) -> Result<(), Error> {
        let group = MlsGroup::builder()
            .ciphersuite(self.device.suite)
            .with_capabilities(self.device.capabilities())
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .use_ratchet_tree_extension(false)
            .build(&self.provider, &*self.device.signer, self.device.credential())?;
        self.group = Some(group);
        Ok(())
    }

    fn add(&mut self, packages: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
        let mut adds = Vec::with_capacity(packages.len());
        for package in packages {
            let MlsMessageBodyIn::KeyPackage(package) = parse(package)?.extract() else {
                return Err("not a key package".into());
            };
            adds.push(package.validate(self.provider.crypto(), ProtocolVersion::Mls10)?);
        }
        let (_, welcome) = self.commit(|builder| builder.propose_adds(adds))?;
        Ok(welcome.ok_or("no welcome")?)
    }

    fn tree(&self) -> Result<Vec<u8>, Error> {
        let group = self.group.as_ref().ok_or("in no group")?;
        Ok(group.export_ratchet_tree().tls_serialize_detached()?)
    }

    fn join(&mut self, invitation: &Invitation) -> Result<(), Error> {
        let MlsMessageBodyIn::Welcome(welcome) = parse(&invitation.welcome)?.extract() else {
            return Err("not a welcome".into());
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&invitation.tree)?;
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .use_ratchet_tree_extension(false)
            .build();
        let joining =
            StagedWelcome::new_from_welcome(&self.provider, &config, welcome, Some(tree))?;
        self.group = Some(joining.into_group(&self.provider)?);
        Ok(())
    }

    fn update(&mut self) -> Result<Vec<u8>, Error> {
        Ok(self.commit(|builder| builder.force_self_update(true))?.0)
    }

    fn process(&mut self, commit: &[u8]) -> Result<(), Error> {
        let ProcessedMessageContent::StagedCommitMessage(commit) = self.receive(commit)? else {
            return Err("not a commit".into());
        };
        let group = self.group.as_mut().ok_or("in no group")?;
        Ok(group.merge_staged_commit(&self.provider, *commit)?)
    }

    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        let (provider, signer) = (&self.provider, &*self.device.signer);
        let group = self.group.as_mut().ok_or("in no group")?;
        Ok(group.create_message(provider, signer, content)?.tls_serialize_detached()?)
    }

    fn decrypt(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match self.receive(message)? {
            ProcessedMessageContent::ApplicationMessage(content) => Ok(content.into_bytes()),
            _ => Err("not content".into()),
        }
    }

    fn saved(&self) -> Saved {
        let group = self.group.as_ref().map(|group| group.group_id().clone());
        let records = self.records().unwrap_or_default();
        Saved { device: self.device.clone(), records, group }
    }

    fn load(saved: Saved) -> Result<Self, Error> {
        let Saved { device, records, group } = saved;
        let provider = OpenMlsRustCrypto::default();
        let mut values = provider.storage().values.write().map_err(|_| "poisoned")?;
        values.extend(records.iter().map(|(key, value)| (key.clone(), value.clone())));
        drop(values);
        let group = match group {
            Some(id) => Some(MlsGroup::load(provider.storage(), &id)?.ok_or("no group stored")?),
            None => None,
        };
        Ok(Self { device, provider, group, before: records })
    }

    fn written(&mut self) -> usize {
        // The storage does not say what is written; what is new or other than before is a lower bound.
        let records = self.records().unwrap_or_default();
        let changed = records.iter().filter(|(key, value)| self.before.get(*key) != Some(*value));
        let written = changed.map(|(key, value)| key.len() + value.len()).sum();
        self.before = records;
        written
    }

    fn stored(&self) -> usize {
        let records = self.records().unwrap_or_default();
        records.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    fn authenticator(&self) -> Result<Vec<u8>, Error> {
        let group = self.group.as_ref().ok_or("in no group")?;
        Ok(group.epoch_authenticator().as_slice().to_vec())
    }
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stock({})", self.device.number)
    }
}
