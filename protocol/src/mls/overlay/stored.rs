//! How the records of an overlay are stored: each under its key, the large ones in blocks.

use std::collections::BTreeMap;

use openmls::treesync::TreeSync;
use postcard::Result;
use serde::Serialize;
use zeroize::Zeroizing;

use super::blocks::{BLOCK, Blocks, HEAD, Saved, Scattered, Sum, Tree, block_name};
use super::cut::cut;
use super::members::Members;
use super::{Kind, State, Stored, Undo};
use crate::store::batch::{Op, Records};

const TREE: u8 = Kind::Tree as u8;
const SECRETS: u8 = Kind::MessageSecrets as u8;

/// The tree of the one group in these records, whatever the others are like.
pub(in crate::mls) fn tree_in(stored: Records) -> Option<TreeSync> {
    let (mut blocks, mut head, mut whole) = (Scattered::default(), None, None);
    for (key, value) in stored {
        match (key.as_slice(), block_name(&key)) {
            (_, Some(name)) => blocks.push(name, value),
            ([HEAD, TREE, ..], _) => head = Some(value),
            ([TREE, ..], _) => whole = Some(Zeroizing::new(value)),
            _ => {}
        }
    }
    let none = || Tree { sum: Sum::default(), members: None };
    let joined = |head| Some(Blocks::read(head, &mut blocks, none)?.join());
    Kind::Tree.decode(&head.and_then(joined).or(whole)?).ok()
}

impl State {
    pub(super) fn read(stored: Records) -> Self {
        let (mut heads, mut blocks) = (Vec::new(), Scattered::default());
        let mut state = Self::default();
        let mut sound = true;
        for (key, value) in stored {
            match (key.first(), block_name(&key)) {
                (_, Some(name)) => blocks.push(name, value),
                (Some(&BLOCK), None) => sound = false,
                (Some(&HEAD), _) => heads.push((key[1..].to_vec(), value)),
                _ => drop(state.records.insert(key, Stored::Whole(Zeroizing::new(value)))),
            }
        }
        // Every scope has a block: what is around its vectors has their lengths at least.
        state.next_scope = blocks.last_scope().map_or(0, |scope| scope.saturating_add(1));
        // What leans on a tree comes after it.
        heads.sort_by_key(|(key, _)| key.first() != Some(&TREE));
        let mut read = Vec::new();
        for (key, head) in heads {
            let beside = with_kind(&key, TREE);
            let tree = || Tree { sum: state.sum(&beside), members: state.members(&beside) };
            let value = Blocks::read(head, &mut blocks, tree);
            sound &= value.is_some() && !state.records.contains_key(&key);
            state.records.insert(key.clone(), value.map_or(Stored::Damaged, Stored::Blocks));
            read.push(key);
        }
        if !sound || !blocks.is_empty() {
            // Whose blocks they are is not known any more.
            state.records.extend(read.into_iter().map(|key| (key, Stored::Damaged)));
        }
        state
    }

    pub(super) fn cut<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<Blocks> {
        let none = Blocks::default();
        let old = match self.records.get(key) {
            Some(Stored::Blocks(blocks)) => blocks,
            _ => &none,
        };
        cut(value, old, &mut self.next_scope)
    }

    /// What has to be written where `before` stood, in order of keys; and what is stored of each record in blocks then.
    pub(super) fn changes(&self, mut before: Undo) -> (Vec<Op>, BTreeMap<Vec<u8>, Saved>) {
        let trees: Vec<_> =
            before.keys().filter(|key| key.first() == Some(&TREE)).cloned().collect();
        for tree in &trees {
            let leaning = with_kind(tree, SECRETS);
            if let Some(stored @ Stored::Blocks(blocks)) = self.records.get(&leaning)
                && blocks.leans()
            {
                before.entry(leaning).or_insert_with(|| Some(stored.clone()));
            }
        }
        let (mut ops, mut saved) = (Vec::new(), BTreeMap::new());
        let others = before.keys().filter(|key| key.first() != Some(&TREE));
        for key in trees.iter().chain(others) {
            self.change(key, &before, &mut ops, &mut saved);
        }
        ops.sort_by(|a, b| key_of(a).cmp(key_of(b)));
        (ops, saved)
    }

    fn change(
        &self,
        key: &[u8],
        before: &Undo,
        ops: &mut Vec<Op>,
        saved: &mut BTreeMap<Vec<u8>, Saved>,
    ) {
        let old = before.get(key).and_then(Option::as_ref);
        match (old, self.records.get(key)) {
            (Some(Stored::Whole(old)), Some(Stored::Whole(new))) if old == new => return,
            (_, Some(Stored::Whole(new))) => ops.push(Op::Put(key.to_vec(), new.to_vec())),
            (Some(Stored::Whole(_)), _) => ops.push(Op::Delete(key.to_vec())),
            _ => {}
        }
        let none = Blocks::default();
        let blocks = if let Some(Stored::Blocks(old)) = old { old } else { &none };
        if let Some(Stored::Blocks(new)) = self.records.get(key) {
            let tree = self.tree_beside(key, before, saved, new, blocks);
            let (changes, now) = new.changes(key, blocks, &tree);
            ops.extend(changes);
            saved.insert(key.to_vec(), now);
        } else if let Some(Stored::Blocks(_)) = old {
            ops.extend(blocks.removal(key));
        }
    }

    /// What lists of members lean on, and whether those that are stored hold still.
    fn tree_beside(
        &self,
        key: &[u8],
        before: &Undo,
        saved: &BTreeMap<Vec<u8>, Saved>,
        new: &Blocks,
        old: &Blocks,
    ) -> Tree {
        let beside = with_kind(key, TREE);
        let same = new.leans_as(old) && old.leans_as(new) && !before.contains_key(&beside);
        if !new.leans() {
            return Tree { sum: Sum::default(), members: (!same).then(Members::default) };
        }
        let members = || self.members(&beside).unwrap_or_default();
        let sum = saved.get(&beside).map_or_else(|| self.sum(&beside), |saved| saved.sum);
        Tree { sum, members: (!same).then(members) }
    }

    /// The sum of a record as it is stored.
    fn sum(&self, key: &[u8]) -> Sum {
        match self.records.get(key) {
            Some(Stored::Blocks(Blocks { saved: Some(saved), .. })) => saved.sum,
            _ => Sum::default(),
        }
    }

    /// The members in a tree.
    fn members(&self, tree: &[u8]) -> Option<Members> {
        match self.records.get(tree)? {
            Stored::Whole(_) => Some(Members::default()),
            Stored::Blocks(tree) => Some(tree.leaves()),
            Stored::Damaged => None,
        }
    }
}

/// The key of a group's record of another kind.
fn with_kind(key: &[u8], kind: u8) -> Vec<u8> {
    [&[kind], key.get(1..).unwrap_or_default()].concat()
}

fn key_of(op: &Op) -> &[u8] {
    match op {
        Op::Put(key, _) | Op::Delete(key) | Op::DeletePrefix(key) => key,
    }
}
