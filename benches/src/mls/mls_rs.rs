//! mls-rs with whatever primitives, over a store of ours in memory that counts.

use core::convert::Infallible;
use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::mls_rs::client_builder::{
    BaseConfig, WithCryptoProvider, WithGroupStateStorage, WithIdentityProvider, WithKeyPackageRepo,
};
use ::mls_rs::crypto::{SignaturePublicKey, SignatureSecretKey};
use ::mls_rs::extension::ExtensionType;
use ::mls_rs::group::proposal::ProposalType;
use ::mls_rs::group::{ExportedTree, ReceivedMessage};
use ::mls_rs::identity::SigningIdentity;
use ::mls_rs::identity::basic::{BasicCredential, BasicIdentityProvider};
use ::mls_rs::mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions};
use ::mls_rs::storage_provider::KeyPackageData;
use ::mls_rs::{
    CipherSuite, CipherSuiteProvider as _, Client, CryptoProvider, Group, GroupStateStorage,
    KeyPackageStorage, MlsMessage,
};
use mls_rs_core::group::{EpochRecord, GroupState};
use zeroize::Zeroizing;

use super::{Invitation, Member, Suite};
use crate::Error;

/// How a client of mls-rs is set up.
#[derive(Clone, Debug)]
pub struct Setup<C> {
    /// Primitives.
    pub crypto: C,
    /// Its own suite that comes closest to our hybrid one, if its primitives do one.
    pub hybrid: Option<CipherSuite>,
    /// The ratchet tree goes into welcomes.
    pub tree_in_welcome: bool,
    /// Commits come with a GroupInfo with external_pub, without the tree.
    pub group_info: bool,
    /// Proposals and commits are PrivateMessages.
    pub private_handshakes: bool,
    /// Extension types that it says it can do.
    pub extensions: Vec<ExtensionType>,
    /// Proposal types beyond RFC 9420 that it says it can do.
    pub proposals: Vec<ProposalType>,
    /// How long its key packages live, counted from the time they are made with; `None` for what mls-rs does by itself.
    pub life: Option<Duration>,
}

impl<C> Setup<C> {
    /// As it is measured: like the others.
    pub fn new(crypto: C) -> Self {
        Self {
            crypto,
            hybrid: None,
            tree_in_welcome: false,
            group_info: false,
            private_handshakes: false,
            extensions: Vec::new(),
            proposals: Vec::new(),
            life: None,
        }
    }
}

/// The signing key of a client, and what its credential says.
#[derive(Clone)]
pub struct Identity {
    /// Content of its basic credential.
    pub credential: Vec<u8>,
    /// Signs.
    pub secret: SignatureSecretKey,
    /// Its public half.
    pub public: SignaturePublicKey,
}

/// What a client of ours is made of.
pub type Config<C> = WithCryptoProvider<
    C,
    WithIdentityProvider<
        BasicIdentityProvider,
        WithGroupStateStorage<Disk, WithKeyPackageRepo<Disk, BaseConfig>>,
    >,
>;

/// A member over mls-rs.
pub struct MlsRs<C: CryptoProvider + Clone> {
    setup: Setup<C>,
    suite: CipherSuite,
    identity: Identity,
    disk: Disk,
    /// Its client.
    pub client: Client<Config<C>>,
    /// Its group, if it is in one.
    pub group: Option<Group<Config<C>>>,
}

/// See [`Member::Saved`].
#[derive(Clone)]
pub struct Saved<C> {
    setup: Setup<C>,
    suite: CipherSuite,
    identity: Identity,
    stored: Stored,
    group: Option<Vec<u8>>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Stored>>);

#[derive(Clone, Default)]
struct Stored {
    packages: BTreeMap<Vec<u8>, KeyPackageData>,
    groups: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    epochs: BTreeMap<(Vec<u8>, u64), Zeroizing<Vec<u8>>>,
    written: usize,
}

const PAST_EPOCHS: usize = 2;

impl Disk {
    fn get(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupStateStorage for Disk {
    type Error = Infallible;

    fn state(&self, group: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Infallible> {
        Ok(self.get().groups.get(group).cloned())
    }

    fn epoch(&self, group: &[u8], epoch: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Infallible> {
        Ok(self.get().epochs.get(&(group.to_vec(), epoch)).cloned())
    }

    fn write(
        &mut self,
        state: GroupState,
        inserts: Vec<EpochRecord>,
        updates: Vec<EpochRecord>,
    ) -> Result<(), Infallible> {
        let mut stored = self.get();
        for record in inserts.into_iter().chain(updates) {
            stored.written += record.data.len() + size_of::<u64>();
            stored.epochs.insert((state.id.clone(), record.id), record.data);
        }
        while stored.epochs.len() > PAST_EPOCHS {
            stored.epochs.pop_first(); // there is one group
        }
        stored.written += state.id.len() + state.data.len();
        stored.groups.insert(state.id, state.data);
        Ok(())
    }

    fn max_epoch_id(&self, group: &[u8]) -> Result<Option<u64>, Infallible> {
        let stored = self.get();
        Ok(stored.epochs.keys().rev().find(|(id, _)| id == group).map(|(_, epoch)| *epoch))
    }
}

impl KeyPackageStorage for Disk {
    type Error = Infallible;

    fn delete(&mut self, id: &[u8]) -> Result<(), Infallible> {
        self.get().packages.remove(id);
        Ok(())
    }

    fn insert(&mut self, id: Vec<u8>, package: KeyPackageData) -> Result<(), Infallible> {
        let mut stored = self.get();
        stored.written += id.len() + package_len(&package);
        stored.packages.insert(id, package);
        Ok(())
    }

    fn get(&self, id: &[u8]) -> Result<Option<KeyPackageData>, Infallible> {
        Ok(Self::get(self).packages.get(id).cloned())
    }
}

fn package_len(package: &KeyPackageData) -> usize {
    let keys = package.init_key.len() + package.leaf_node_key.len();
    package.key_package_bytes.len() + keys + size_of::<u64>()
}

impl<C: CryptoProvider + Clone> MlsRs<C> {
    /// A client with this identity, in no group.
    pub fn with_identity(setup: Setup<C>, suite: CipherSuite, identity: Identity) -> Self {
        Self::over(setup, suite, identity, Disk::default())
    }

    /// Draws a signing key. Fails if the primitives do not do the suite.
    ///
    /// # Errors
    /// See the trait.
    pub fn draw(crypto: &C, suite: CipherSuite, credential: Vec<u8>) -> Result<Identity, Error> {
        let suite = crypto.cipher_suite_provider(suite).ok_or("no such suite")?;
        let drawn = suite.signature_key_generate().map_err(|error| format!("{error:?}"))?;
        Ok(Identity { credential, secret: drawn.0, public: drawn.1 })
    }

    fn over(setup: Setup<C>, suite: CipherSuite, identity: Identity, disk: Disk) -> Self {
        let rules = DefaultMlsRules::new()
            .with_commit_options(
                CommitOptions::new()
                    .with_ratchet_tree_extension(setup.tree_in_welcome)
                    .with_allow_external_commit(setup.group_info)
                    .with_always_out_of_band_ratchet_tree(true),
            )
            .with_encryption_options(EncryptionOptions::new(
                setup.private_handshakes,
                ::mls_rs::client_builder::PaddingMode::None,
            ));
        let credential = BasicCredential::new(identity.credential.clone()).into_credential();
        let signing = SigningIdentity::new(credential, identity.public.clone());
        let mut builder = Client::builder()
            .key_package_repo(disk.clone())
            .group_state_storage(disk.clone())
            .identity_provider(BasicIdentityProvider)
            .crypto_provider(setup.crypto.clone())
            .mls_rules(rules)
            .extension_types(setup.extensions.clone())
            .custom_proposal_types(setup.proposals.clone())
            .signing_identity(signing, identity.secret.clone(), suite);
        if let Some(life) = setup.life {
            builder = builder.key_package_lifetime(life);
        }
        Self { setup, suite, identity, disk, client: builder.build(), group: None }
    }

    /// Its group.
    ///
    /// # Errors
    /// If it is in none.
    pub fn group(&mut self) -> Result<&mut Group<Config<C>>, Error> {
        Ok(self.group.as_mut().ok_or("in no group")?)
    }

    /// Writes the group's state to the disk.
    ///
    /// # Errors
    /// If it is in none.
    pub fn persist(&mut self) -> Result<(), Error> {
        Ok(self.group()?.write_to_storage()?)
    }

    /// Deletes its group, from the disk too: mls-rs takes nobody back into a group of which it has past epochs.
    pub fn leave_behind(&mut self) {
        self.group = None;
        let mut stored = self.disk.get();
        stored.groups.clear();
        stored.epochs.clear();
    }

    /// Forgets the group, and reads it from the disk.
    ///
    /// # Errors
    /// If none was written.
    pub fn restart(&mut self) -> Result<(), Error> {
        let id = self.group()?.group_id().to_vec();
        self.group = Some(self.client.load_group(&id)?);
        Ok(())
    }
}

impl<C: CryptoProvider + Clone> Member for MlsRs<C> {
    type Kind = Setup<C>;
    type Saved = Saved<C>;

    fn does(setup: &Setup<C>, suite: Suite) -> bool {
        suite == Suite::Classical || setup.hybrid.is_some()
    }

    fn new(setup: &Setup<C>, suite: Suite, number: u32) -> Result<Self, Error> {
        let suite = match suite {
            Suite::Classical => CipherSuite::CURVE25519_AES128,
            Suite::Hybrid => setup.hybrid.ok_or("no hybrid suite")?,
        };
        let identity = Self::draw(&setup.crypto, suite, number.to_be_bytes().to_vec())?;
        Ok(Self::with_identity(setup.clone(), suite, identity))
    }

    fn key_package(&mut self) -> Result<Vec<u8>, Error> {
        let none = Default::default;
        Ok(self.client.generate_key_package_message(none(), none(), None)?.to_bytes()?)
    }

    fn found(&mut self) -> Result<(), Error> {
        self.group = Some(self.client.group_builder()?.build()?);
        self.persist()
    }

    fn add(&mut self, packages: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
        let mut builder = self.group()?.commit_builder();
        for package in packages {
            builder = builder.add_member(MlsMessage::from_bytes(package)?)?;
        }
        let output = builder.build()?;
        self.persist()?;
        self.group()?.apply_pending_commit()?;
        self.persist()?;
        Ok(output.welcome_messages().first().ok_or("no welcome")?.to_bytes()?)
    }

    fn tree(&self) -> Result<Vec<u8>, Error> {
        Ok(self.group.as_ref().ok_or("in no group")?.export_tree().to_bytes()?)
    }

    fn join(&mut self, invitation: &Invitation) -> Result<(), Error> {
        let tree = ExportedTree::from_bytes(&invitation.tree)?;
        let welcome = MlsMessage::from_bytes(&invitation.welcome)?;
        self.group = Some(self.client.join_group(Some(tree), &welcome, None)?.0);
        self.persist()
    }

    fn update(&mut self) -> Result<Vec<u8>, Error> {
        let output = self.group()?.commit_builder().build()?;
        self.persist()?;
        self.group()?.apply_pending_commit()?;
        self.persist()?;
        Ok(output.commit_message().to_bytes()?)
    }

    fn process(&mut self, commit: &[u8]) -> Result<(), Error> {
        let commit = MlsMessage::from_bytes(commit)?;
        match self.group()?.process_incoming_message(commit)? {
            ReceivedMessage::Commit(_) => self.persist(),
            _ => Err("not a commit".into()),
        }
    }

    fn encrypt(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        let message = self.group()?.encrypt_application_message(content, Vec::new())?;
        self.persist()?;
        Ok(message.to_bytes()?)
    }

    fn decrypt(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let message = MlsMessage::from_bytes(message)?;
        let ReceivedMessage::ApplicationMessage(content) =
            self.group()?.process_incoming_message(message)?
        else {
            return Err("not content".into());
        };
        self.persist()?;
        Ok(content.data().to_vec())
    }

    fn saved(&self) -> Saved<C> {
        Saved {
            setup: self.setup.clone(),
            suite: self.suite,
            identity: self.identity.clone(),
            stored: self.disk.get().clone(),
            group: self.group.as_ref().map(|group| group.group_id().to_vec()),
        }
    }

    fn load(saved: Saved<C>) -> Result<Self, Error> {
        let Saved { mut stored, .. } = saved;
        stored.written = 0;
        let disk = Disk(Arc::new(Mutex::new(stored)));
        let mut this = Self::over(saved.setup, saved.suite, saved.identity, disk);
        if let Some(id) = &saved.group {
            this.group = Some(this.client.load_group(id)?);
        }
        Ok(this)
    }

    fn written(&mut self) -> usize {
        core::mem::take(&mut self.disk.get().written)
    }

    fn stored(&self) -> usize {
        let stored = self.disk.get();
        let groups: usize = stored.groups.iter().map(|(key, value)| key.len() + value.len()).sum();
        groups + stored.epochs.values().map(|epoch| epoch.len() + size_of::<u64>()).sum::<usize>()
    }

    fn authenticator(&self) -> Result<Vec<u8>, Error> {
        let group = self.group.as_ref().ok_or("in no group")?;
        Ok(group.epoch_authenticator()?.as_bytes().to_vec())
    }
}

impl<C: CryptoProvider + Clone> fmt::Debug for MlsRs<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MlsRs({:?})", self.suite)
    }
}
