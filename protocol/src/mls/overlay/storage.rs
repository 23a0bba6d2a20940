//! OpenMLS's storage trait on top of the map: one line per kind of record.

use openmls_traits::storage::{CURRENT_VERSION, Entity, Key, StorageProvider, traits};
use zeroize::Zeroizing;

use super::{Kind, Overlay, RecordFault, Value};

const V: u16 = CURRENT_VERSION;

/// Methods that set, get and delete one record under one key.
macro_rules! records {
    ($($set:ident $get:ident $delete:ident: $kind:ident, $key:ident => $value:ident;)*) => {$(
        fn $set<K: traits::$key<V>, T: traits::$value<V>>(
            &self,
            key: &K,
            value: &T,
        ) -> Result<(), RecordFault> {
            self.put(Kind::$kind, key, value)
        }

        fn $get<K: traits::$key<V>, T: traits::$value<V>>(
            &self,
            key: &K,
        ) -> Result<Option<T>, RecordFault> {
            self.get(Kind::$kind, key)
        }

        fn $delete<K: traits::$key<V>>(&self, key: &K) -> Result<(), RecordFault> {
            self.delete(Kind::$kind, key)
        }
    )*};
}

impl StorageProvider<V> for Overlay {
    type Error = RecordFault;

    records! {
        write_mls_join_config mls_group_join_config delete_group_config:
            JoinConfig, GroupId => MlsGroupJoinConfig;
        write_tree tree delete_tree: Tree, GroupId => TreeSync;
        write_interim_transcript_hash interim_transcript_hash delete_interim_transcript_hash:
            InterimTranscript, GroupId => InterimTranscriptHash;
        write_context group_context delete_context: Context, GroupId => GroupContext;
        write_confirmation_tag confirmation_tag delete_confirmation_tag:
            ConfirmationTag, GroupId => ConfirmationTag;
        write_message_secrets message_secrets delete_message_secrets:
            MessageSecrets, GroupId => MessageSecrets;
        write_resumption_psk_store resumption_psk_store delete_all_resumption_psk_secrets:
            ResumptionPsks, GroupId => ResumptionPskStore;
        write_own_leaf_index own_leaf_index delete_own_leaf_index:
            OwnLeafIndex, GroupId => LeafNodeIndex;
        write_group_epoch_secrets group_epoch_secrets delete_group_epoch_secrets:
            EpochSecrets, GroupId => GroupEpochSecrets;
        write_signature_key_pair signature_key_pair delete_signature_key_pair:
            SignatureKey, SignaturePublicKey => SignatureKeyPair;
        write_key_package key_package delete_key_package: KeyPackage, HashReference => KeyPackage;
    }

    // The trait names the parameters of these in another order than of those above.

    fn write_group_state<T: traits::GroupState<V>, K: traits::GroupId<V>>(
        &self,
        group: &K,
        state: &T,
    ) -> Result<(), RecordFault> {
        self.put(Kind::GroupState, group, state)
    }

    fn group_state<T: traits::GroupState<V>, K: traits::GroupId<V>>(
        &self,
        group: &K,
    ) -> Result<Option<T>, RecordFault> {
        self.get(Kind::GroupState, group)
    }

    fn delete_group_state<K: traits::GroupId<V>>(&self, group: &K) -> Result<(), RecordFault> {
        self.delete(Kind::GroupState, group)
    }

    fn write_encryption_key_pair<K: traits::EncryptionKey<V>, T: traits::HpkeKeyPair<V>>(
        &self,
        public: &K,
        pair: &T,
    ) -> Result<(), RecordFault> {
        self.put(Kind::EncryptionKey, public, pair)
    }

    fn encryption_key_pair<T: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        public: &K,
    ) -> Result<Option<T>, RecordFault> {
        self.get(Kind::EncryptionKey, public)
    }

    fn delete_encryption_key_pair<K: traits::EncryptionKey<V>>(
        &self,
        public: &K,
    ) -> Result<(), RecordFault> {
        self.delete(Kind::EncryptionKey, public)
    }

    fn write_psk<K: traits::PskId<V>, T: traits::PskBundle<V>>(
        &self,
        id: &K,
        psk: &T,
    ) -> Result<(), RecordFault> {
        self.put(Kind::Psk, id, psk)
    }

    fn psk<T: traits::PskBundle<V>, K: traits::PskId<V>>(
        &self,
        id: &K,
    ) -> Result<Option<T>, RecordFault> {
        self.get(Kind::Psk, id)
    }

    fn delete_psk<K: traits::PskId<V>>(&self, id: &K) -> Result<(), RecordFault> {
        self.delete(Kind::Psk, id)
    }

    fn write_encryption_epoch_key_pairs<
        K: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
        pairs: &[T],
    ) -> Result<(), RecordFault> {
        self.put(Kind::EpochKeys, &(group, epoch, leaf), &pairs)
    }

    fn encryption_epoch_key_pairs<
        K: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
    ) -> Result<Vec<T>, RecordFault> {
        Ok(self.get(Kind::EpochKeys, &(group, epoch, leaf))?.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<K: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &K,
        epoch: &E,
        leaf: u32,
    ) -> Result<(), RecordFault> {
        self.delete(Kind::EpochKeys, &(group, epoch, leaf))
    }

    fn append_own_leaf_node<K: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &K,
        leaf: &T,
    ) -> Result<(), RecordFault> {
        self.append(Kind::OwnLeaves, group, leaf)
    }

    fn own_leaf_nodes<K: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &K,
    ) -> Result<Vec<T>, RecordFault> {
        self.list(Kind::OwnLeaves, group)
    }

    fn delete_own_leaf_nodes<K: traits::GroupId<V>>(&self, group: &K) -> Result<(), RecordFault> {
        self.delete(Kind::OwnLeaves, group)
    }

    fn queue_proposal<
        K: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        T: traits::QueuedProposal<V>,
    >(
        &self,
        group: &K,
        reference: &R,
        proposal: &T,
    ) -> Result<(), RecordFault> {
        self.put(Kind::Proposal, &(group, reference), proposal)?;
        let encoded = Kind::ProposalRefs.encode(reference)?;
        if self.items(Kind::ProposalRefs, group)?.contains(&encoded) {
            return Ok(());
        }
        self.append(Kind::ProposalRefs, group, reference)
    }

    fn queued_proposal_refs<K: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &K,
    ) -> Result<Vec<R>, RecordFault> {
        self.list(Kind::ProposalRefs, group)
    }

    fn queued_proposals<
        K: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        T: traits::QueuedProposal<V>,
    >(
        &self,
        group: &K,
    ) -> Result<Vec<(R, T)>, RecordFault> {
        let references: Vec<R> = self.list(Kind::ProposalRefs, group)?;
        let proposals = references.into_iter().map(|reference| {
            let proposal = self.get(Kind::Proposal, &(group, &reference))?;
            Ok((reference, proposal.ok_or(Kind::Proposal.fault())?))
        });
        proposals.collect()
    }

    fn remove_proposal<K: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &K,
        reference: &R,
    ) -> Result<(), RecordFault> {
        let mut items = self.items(Kind::ProposalRefs, group)?;
        let encoded = Kind::ProposalRefs.encode(reference)?;
        items.retain(|item| *item != encoded);
        self.put_items(Kind::ProposalRefs, group, &items)?;
        self.delete(Kind::Proposal, &(group, reference))
    }

    fn clear_proposal_queue<K: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &K,
    ) -> Result<(), RecordFault> {
        for reference in self.list::<R>(Kind::ProposalRefs, group)? {
            self.delete(Kind::Proposal, &(group, reference))?;
        }
        self.delete(Kind::ProposalRefs, group)
    }
}

/// Lists are one record of encoded items each: OpenMLS asks for whole lists and keeps them short.
impl Overlay {
    fn items(&self, kind: Kind, key: &impl Key<V>) -> Result<Vec<Value>, RecordFault> {
        let items: Option<Vec<Vec<u8>>> = self.get(kind, key)?;
        Ok(items.unwrap_or_default().into_iter().map(Zeroizing::new).collect())
    }

    fn put_items(&self, kind: Kind, key: &impl Key<V>, items: &[Value]) -> Result<(), RecordFault> {
        if items.is_empty() {
            return self.delete(kind, key);
        }
        let items: Vec<&[u8]> = items.iter().map(|item| item.as_slice()).collect();
        self.put(kind, key, &items)
    }

    fn append(
        &self,
        kind: Kind,
        key: &impl Key<V>,
        item: &impl Entity<V>,
    ) -> Result<(), RecordFault> {
        let mut items = self.items(kind, key)?;
        items.push(kind.encode(item)?);
        self.put_items(kind, key, &items)
    }

    fn list<T: Entity<V>>(&self, kind: Kind, key: &impl Key<V>) -> Result<Vec<T>, RecordFault> {
        self.items(kind, key)?.iter().map(|item| kind.decode(item)).collect()
    }
}
